"""`upcycle`: an edit that makes a mixture of experts from a dense layer."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import edit, random, tree
from wslax.errors import WeightSpaceError
from wslax.globs import pick
from wslax.symmetry import layout
from wslax.symmetry.find import locate
from wslax.symmetry.states.moves import Moves
from wslax.symmetry.types import Group, Groups, Site
from wslax.symmetry.validate import shapes_of
from wslax.typing import Array, Key, Params, Where

ROUTER_STD = 0.02  # of sparse upcycling's fresh routers


class _Plan(NamedTuple):
    """What is repeated, what is new, and what breaks the experts' symmetry."""

    leaves: Groups
    experts: int
    routers: Mapping[str, tuple[int, ...]]
    axis: int
    key: Key
    drop: float
    hidden: Mapping[str, tuple[tuple[Group, Site], ...]]
    noise: float


def _space(leaf: Array, key: Key) -> Any:
    """The namespace of what comes of a leaf: host arrays stay ones unless the key is traced."""
    return np if isinstance(leaf, np.ndarray) and not isinstance(key, jax.core.Tracer) else jnp


def _normal(plan: _Plan, label: str, shape: tuple[int, ...], dtype: Any, xp: Any) -> Array:
    words = random.bits(plan.key, f"grow/{label}", math.prod(shape), xp=jnp)
    return xp.asarray(random.normal(words).reshape(shape)).astype(dtype)


def _dropped(plan: _Plan, group: Group, xp: Any) -> Array:
    """Which units of a hidden group each expert draws anew, `[experts, units]`."""
    name, shape = f"grow/drop/{group.sites[0].name}", (plan.experts, group.size)
    words = random.bits(plan.key, name, math.prod(shape), xp=xp).reshape(shape)
    return xp.argsort(xp.argsort(words, -1), -1) < int(plan.drop * group.size)


def _redrawn(leaf: Array, name: str, plan: _Plan, xp: Any) -> Array:
    """Experts `[experts, ...]` with dropped units' weights drawn from their own statistics."""
    for group, site in plan.hidden.get(name, ()):
        units = layout.units(site, leaf.shape[site.axis + 1])
        chosen = _dropped(plan, group, xp)[:, units] & (units >= 0)[None]
        shape = [n if a in (0, site.axis + 1) else 1 for a, n in enumerate(leaf.shape)]
        chosen = xp.broadcast_to(chosen.reshape(shape), leaf.shape)
        over: dict[str, Any] = {"axis": tuple(range(1, leaf.ndim)), "keepdims": True}
        mean, std = leaf.mean(where=chosen, **over), leaf.std(where=chosen, **over)
        drawn = mean + std * _normal(plan, f"redrawn/{name}", leaf.shape, leaf.dtype, xp)
        leaf = xp.where(chosen, drawn, leaf)
    return leaf


def _experts(leaf: Array, name: str, plan: _Plan, weight: bool, old_only: bool) -> Array:
    """A leaf with an axis of experts: copies, changed where it holds floating-point weights."""
    changed = weight and tree.is_float(leaf)
    xp = _space(leaf, plan.key if changed else 0)
    out = xp.broadcast_to(leaf[None], (plan.experts, *leaf.shape))
    if changed and (plan.drop or plan.noise):
        wide = _redrawn(out.astype(tree.wide(leaf)), name, plan, xp)
        noise = _normal(plan, f"noise/{name}", wide.shape, wide.dtype, xp)
        out = (wide * (1 + plan.noise * noise)).astype(leaf.dtype)
    out = xp.moveaxis(xp.zeros_like(out) if old_only else out, 0, plan.axis)
    return np.ascontiguousarray(out) if xp is np else tree.cast_like(out, leaf)


def _router(name: str, plan: _Plan, weight: bool, like: Array) -> Array:
    xp, shape = _space(like, plan.key), (*plan.routers[name], plan.experts)
    if not weight:
        return xp.zeros(shape, like.dtype)
    return (ROUTER_STD * _normal(plan, f"router/{name}", shape, np.float32, xp)).astype(like.dtype)


def _inserted(node: Any, path: tuple[str, ...], leaf: Any, name: str) -> Any:
    """A tree of dicts with one leaf more."""
    if not isinstance(node, Mapping):
        raise WeightSpaceError(
            f"{name}: a router can stand in dicts only, and one of its parents is a "
            f"{type(node).__name__}"
        )
    head, *rest = path
    child = _inserted(node.get(head, {}), tuple(rest), leaf, name) if rest else leaf
    return type(node)({**node, head: child})  # type: ignore[call-arg]


def _starts(found: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each copy of the model in a tree: its prefix there, and the collection it leaves off."""
    seen = set()
    for name, original in found.items():
        if name.endswith(original):
            start = (name.removesuffix(original), "")
        else:
            collection = original.partition("/")[0] + "/"
            start = (name.removesuffix(original.removeprefix(collection)), collection)
        if start not in seen:
            seen.add(start)
            yield start


def _carry(
    params: Params, *, plan: _Plan, weight: int = 0, gradient: int = 0, old_only: bool = False
) -> Params:
    """`Moves.carry`: copies move as they are, as the share of each expert depends on the router."""
    found = locate(params, plan.leaves)
    is_weight = (weight, gradient) == (1, 0)

    def repeat(name: str, leaf: Any) -> Any:
        if name not in found or not hasattr(leaf, "shape"):
            return leaf
        return _experts(leaf, found[name], plan, is_weight, old_only)

    leaves = tree.named_leaves(params)
    out = tree.map_named(repeat, params)
    for prefix, collection in _starts(found):
        likes = [leaves[n] for n in found if n.startswith(prefix) and hasattr(leaves[n], "shape")]
        for name in plan.routers:
            if name.startswith(collection) and likes:
                leaf = _router(name, plan, is_weight, likes[0])
                path = (prefix + name.removeprefix(collection)).split("/")
                out = _inserted(out, tuple(path), leaf, name)
    return out


def _hidden(
    model: Groups | Params, names: list[str], drop: float
) -> dict[str, tuple[tuple[Group, Site], ...]]:
    """The groups that lie in the repeated leaves alone: the units inside the experts."""
    if not isinstance(model, Groups):
        raise WeightSpaceError(
            "drop: which units lie inside the experts is read from the groups; pass "
            "`symmetry.infer(apply, params, *inputs)` for the parameters"
        )
    inside = [g for g in model.free if all(site.name in names for site in g.sites)]
    inside = [g for g in inside if int(drop * g.size)]
    if not inside:
        raise WeightSpaceError(
            f"drop: no free group lies within the leaves that `where` picks, or {drop} of its "
            "units is not one"
        )
    return {
        name: tuple((g, site) for g in inside for site in g.sites if site.name == name)
        for name in names
    }


def upcycle(
    model: Groups | Params,
    experts: int,
    *,
    where: Where,
    router: Mapping[str, int | tuple[int, ...]],
    key: Key,
    axis: int = 0,
    drop: float = 0.0,
    noise: float = 0.0,
) -> edit.Edit:
    r"""Make a mixture of experts from dense layers: every expert is a copy, the router is fresh.

    Sparse upcycling (arXiv:2212.05055): \(W_e = W\) for each expert \(e\), router weights
    \(N(0, 0.02^2)\), everything else as it is. The function is kept exactly where the combine
    weights of each token sum to one (a top-k softmax that is renormalised) and no token is
    dropped. Without renormalisation the output is multiplied by the chosen experts' share
    \(p < 1\), and the loss jumps.

    *The trap*: with experts that are equal and weights that sum to one, the router's gradient is
    zero. With k > 1 it appears as soon as experts differ, but equal experts get gradients that
    differ only by the tokens they see; with k = 1 and renormalisation the weight is always 1 and
    the router never learns. So break the symmetry:

    - `drop`: Drop-Upcycling (arXiv:2502.19261): each expert draws that share of its hidden units
      anew, \(w \sim N(\mu, \sigma^2)\) with the mean and deviation of the old weights of those
      units, leaf by leaf; the paper's best is 0.5. One choice of units an expert, for all of its
      leaves (the published code chooses for each leaf on its own).
    - `noise`: weights are multiplied by \(1 + \text{noise} \cdot z\), \(z \sim N(0, 1)\).

    or use a load-balancing loss.

    Args:
      model: the groups (needed for `drop`), or the parameters or their `ShapeDtypeStruct`s.
      experts: how many.
      where: globs of the leaves of the dense layers, kernels and biases.
      router: name of each new leaf to the sizes of its axes before the experts, as in
        `{"block_0/router/kernel": width}`, or `(layers, width)` in a scanned stack. It takes the
        dtype of the first repeated leaf. Its parents are dicts, made where there are none.
      key: for the router, `drop` and `noise`; may be traced.
      axis: where the axis of experts stands in the repeated leaves; 1 in a scanned stack.
      drop: share of hidden units to draw anew; 0 (default) keeps the function.
      noise: relative deviation; 0 (default) keeps the function.

    Returns:
      An `Edit`. `apply(tree)` takes parameters, collections and trees that hold copies of them;
      `optimizer_state(state, policy="exact")` repeats the moments an expert and starts
      the router at zero; `groups` is None: infer those of the new model.

    Raises:
      WeightSpaceError: for fewer than two experts, an axis or share out of range, a router whose
        name is taken, or `drop` without groups; from `apply`, naming the leaf.

    Example:
        >>> import numpy as np
        >>> from wslax import grow
        >>> params = {"mlp": {"up": np.ones((3, 8)), "down": np.ones((8, 3))}}
        >>> edit = grow.upcycle(params, 4, where="mlp/*", router={"router": 3}, key=0)
        >>> mixture = edit.apply(params)
        >>> mixture["mlp"]["up"].shape, mixture["router"].shape
        ((4, 3, 8), (3, 4))
    """
    shapes = model.shape if isinstance(model, Groups) else shapes_of(model)
    every = list(shapes)
    names = [name for name, hit in zip(every, pick(every, where), strict=True) if hit]
    if experts < 2:
        raise WeightSpaceError(f"experts: expected at least 2, got {experts}")
    for name in names:
        if not 0 <= axis <= len(shapes[name]):
            raise WeightSpaceError(
                f"{name}: has axes {list(shapes[name])}, so the experts' is one of 0 to "
                f"{len(shapes[name])}, got axis={axis}"
            )
    for name in router:
        if any(f"{taken}/".startswith(f"{name}/") for taken in every):
            raise WeightSpaceError(f"{name}: the model has a leaf or branch of this name already")
    if not 0 <= drop <= 1 or not noise >= 0:
        raise WeightSpaceError(
            f"drop is a share of units between 0 and 1 and noise at least 0, got {drop} and {noise}"
        )
    sizes = {n: (size,) if isinstance(size, int) else tuple(size) for n, size in router.items()}
    leaves = Groups((), tuple((name, shapes[name]) for name in names))
    hidden = _hidden(model, names, drop) if drop else {}
    plan = _Plan(leaves, experts, sizes, axis, key, drop, hidden, noise)
    carry = functools.partial(_carry, plan=plan)

    def optimizer_state(state: Any, policy: str = "exact") -> Any:
        from wslax.symmetry.states.moving import move_state

        return move_state(state, Moves(frozenset(names), carry), policy)

    return edit.from_map(functools.partial(carry, weight=1), optimizer_state)
