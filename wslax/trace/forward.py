"""Running a model on leaves that are never written out."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from wslax.errors import WeightSpaceError
from wslax.trace import jaxpr
from wslax.trace.interpret import VIEWS, Interpreter, Rule, View
from wslax.trace.leaves import Dot, is_factored
from wslax.trace.model import traced


def _dot_general(run: Interpreter, eqn: Any, lhs: Any, rhs: Any) -> list[Any] | None:
    if isinstance(lhs, View) and isinstance(rhs, View):
        return None
    side = 1 if isinstance(rhs, View) else 0
    view, x = (rhs, lhs) if side else (lhs, rhs)

    def met(pairs: Any) -> list[tuple[int, int]]:
        """Axes of the leaf, ascending, and those of `x` that they meet."""
        return sorted((view.order[m], f) for m, f in zip(pairs[side], pairs[1 - side], strict=True))

    contracted, batched = eqn.params["dimension_numbers"]
    summed, each = met(contracted), met(batched)
    n = len(each)
    if [axis for axis, _ in each] != list(range(n)):
        return None
    taken = [f for _, f in (*each, *summed)]
    free_x = [axis for axis in range(x.ndim) if axis not in taken]
    x = jnp.transpose(x, (*taken[:n], *free_x, *taken[n:]))
    out = _contract(view.leaf, x, n, tuple(axis - n for axis, _ in summed), _dot(eqn))
    if out is None:
        return None
    known = {axis for axis, _ in (*each, *summed)}
    stored = [axis for axis in range(len(view.order)) if axis not in known]
    wanted = [axis for axis in view.order if axis not in known]
    theirs = list(range(n, n + len(free_x)))
    mine = [n + len(free_x) + stored.index(axis) for axis in wanted]
    first = [view.order[m] for m in batched[side]]
    out = jnp.transpose(out, [*first, *theirs, *mine] if side else [*first, *mine, *theirs])
    return [out.astype(eqn.outvars[0].aval.dtype)]


def _dot(eqn: Any) -> Dot:
    """The product that an equation asks for, of arrays of any two dtypes."""

    def dot(a: Any, b: Any, left: tuple[int, ...], right: tuple[int, ...]) -> Any:
        dtype = jnp.promote_types(a.dtype, b.dtype)
        return jax.lax.dot_general(
            a.astype(dtype),
            b.astype(dtype),
            ((left, right), ((), ())),
            eqn.params["precision"],
            preferred_element_type=jnp.promote_types(dtype, eqn.outvars[0].aval.dtype),
        )

    return dot


def _contract(leaf: Any, x: Any, batch: int, axes: tuple[int, ...], dot: Dot) -> Any:
    """`Factored.contract` for each of the first axes of `x` and the leaf."""
    if batch == 0:
        return leaf.contract(x, axes, dot)
    each = leaf.slices()
    if each is None:
        return None
    return jax.vmap(lambda leaf, x: _contract(leaf, x, batch - 1, axes, dot))(each, x)


def _gather(run: Interpreter, eqn: Any, view: Any, index: Any) -> list[Any] | None:
    """Whole rows, as an embedding takes them."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(view, View) or view.order != tuple(range(len(view.order))):
        return None
    shape, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    rest = len(shape) - 1
    rows = (
        numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and tuple(sizes[1:]) == tuple(shape[1:])
        and numbers.offset_dims == tuple(range(len(out) - rest, len(out)))
    )
    if not rows:
        return None
    return [view.leaf.rows(index[..., 0]).astype(eqn.outvars[0].aval.dtype)]


RULES: dict[str, Rule] = {**VIEWS, "dot_general": _dot_general, "gather": _gather}


def factored(
    apply: Callable[..., Any], *, on_dense: Literal["warn", "error", "allow"] = "warn"
) -> Callable[..., Any]:
    r"""A model that runs on leaves kept as base and change, without writing them out.

    `apply` is traced on the shapes of the bases and its program run again, where a factored leaf
    meets a product: \(x(W + sDU) = xW + s(xD)U\). Members of a population that share a base
    then share its product too; only the thin factors are a member's own. Embeddings take rows of
    base and factors; scans over stacked layers scan the factors.

    Args:
      apply: any traceable `(params, *inputs) -> outputs`.
      on_dense: what to do where an operation needs the leaf written out (a convolution, an
        elementwise product): `"warn"` and go on, raise an `"error"`, or `"allow"` it.

    Returns:
      The same function over trees whose leaves may be factored (`LowRank` and its like). Works
      under `jax.jit`, `jax.grad` (with respect to the factors) and `jax.vmap` (`over_members`).

    Raises:
      WeightSpaceError: from the call, with `on_dense="error"`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from wslax.trace import LowRank, over_members
        >>> run = factored(lambda p, x: jnp.tanh(x @ p["w"]))
        >>> ones = lambda *shape: jnp.ones(shape)
        >>> params = {"w": LowRank(ones(4, 3), ones(8, 4, 2), ones(8, 2, 3))}  # 8 members
        >>> many = jax.vmap(run, in_axes=(over_members(params), None))
        >>> many(params, ones(5, 4)).shape
        (8, 5, 3)
    """

    def run(params: Any, *inputs: Any) -> Any:
        model = traced(apply, params, inputs)
        values = [
            View(x, name, tuple(range(len(x.shape)))) if is_factored(x) else x
            for name, x in model.leaves.items()
        ]
        found = Interpreter(RULES, _said(on_dense)).run(model.program, [*values, *model.inputs])
        found = [v.dense() if isinstance(v, View) else v for v in found]
        return jax.tree.unflatten(jax.tree.structure(model.out), found)

    return run


def _said(on_dense: str) -> Callable[[View, Any], None]:
    """What to say when a leaf has to be written out."""

    def say(view: View, eqn: Any) -> None:
        said = (
            f"{view.name}: {eqn.primitive.name} at {jaxpr.source(eqn) or 'an unknown line'} needs "
            "the leaf written out"
        )
        if on_dense == "error":
            raise WeightSpaceError(f'{said}; `on_dense="warn"` does so and goes on')
        if on_dense == "warn":
            warnings.warn(f"{said}: this costs a dense copy a member", stacklevel=2)

    return say
