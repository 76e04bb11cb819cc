"""Scores to masks: which weights are kept, exactly as many as asked for, without a sort."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.globs import matches, pick
from wslax.numerics.threshold import largest, top_k_mask
from wslax.select.budget import (
    Budget,
    Choice,
    at_least_one,
    by_leaf,
    checked,
    count_of,
    picked,
    share,
    static_number,
)
from wslax.select.matrices import of_leaves, ranked
from wslax.symmetry.matrices import MatrixAxes
from wslax.symmetry.types import Groups
from wslax.typing import Mask, Params, Where


@functools.partial(jax.jit, static_argnames=("axes", "count", "sizes"))
def _along(scores: Any, axes: tuple[int, ...], count: int, sizes: bool = False) -> Any:
    """The mask of `count` entries along some axes, for each index of the others."""
    # By vmap and not by a reshape, which would gather scores that are spread over devices.
    choose = lambda part: top_k_mask(part, count) if sizes else largest([part], count)[0]
    others = [i for i in range(scores.ndim) if i not in axes]
    for mapped, axis in reversed([*enumerate(others)]):
        choose = jax.vmap(choose, axis - mapped, axis - mapped)
    return choose(scores)


def _own(axes: MatrixAxes, ndim: int) -> tuple[int, ...]:
    return tuple(sorted(a % ndim for part in axes for a in part))


def of_matrices(scores: Any, choice: Choice, *, sizes: bool = False) -> Any:
    """The mask of the highest scores of each matrix of one leaf, or of a vector.

    Args:
      scores: of a leaf.
      choice: how many, of which axes.
      sizes: whether none is below 0, which takes half the time; NaN is then the highest.

    Example:
        >>> choice = Choice(1, MatrixAxes((-2,), (-1,)))
        >>> of_matrices(jnp.array([[3.0, 0.1], [0.1, 1.0]]), choice).tolist()
        [[True, False], [False, False]]
    """
    return _along(scores, _own(choice.axes, scores.ndim), choice.count, sizes)


@functools.partial(jax.jit, static_argnames="count")
def _together(scores: list[Any], count: int) -> list[Any]:
    return largest(scores, count)


def _axes(name: str, leaf: Any, axis: Any) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(leaf.ndim))
    axes = tuple(static_number(name, "axis", a, int) for a in np.atleast_1d(np.asarray(axis)))
    if any(not -leaf.ndim <= a < leaf.ndim for a in axes) or not axes:
        raise WeightSpaceError(f"{name}: axis {axis} of {tree.aval(leaf)}")
    return tuple(sorted({a % leaf.ndim for a in axes}))


def _joint_count(
    leaves: dict[str, Any], budgets: list[Budget], matrices: dict[str, MatrixAxes]
) -> int:
    """Of leaves that are ranked together; `matrices` for a budget of LoRA's."""
    rows = list(zip(leaves.items(), budgets, strict=True))
    (name, _), first = rows[0]
    if first.count is not None:
        if any(budget.count != first.count for budget in budgets):
            raise WeightSpaceError(f"{name}: leaves ranked together have one count=, not one each")
        return count_of(name, (sum(leaf.size for leaf in leaves.values()),), first)
    if first.density is not None:
        return max(1, round(sum(share(name, b.density) * x.size for (name, x), b in rows)))
    shapes = {name: ranked(x, matrices[name]) for (name, x), _ in rows}
    return sum(
        count_of(name, shapes[name], b) * (x.size // math.prod(shapes[name]))
        for (name, x), b in rows
    )


def _groups(names: Sequence[str], scope: Any) -> list[list[str]]:
    if scope == "model":
        return [list(names)]
    if isinstance(scope, str):
        raise WeightSpaceError(
            f"scope {scope!r} is unknown; give 'leaf', 'model', or a list of globs of leaves that "
            "are ranked together"
        )
    for glob in scope:
        pick(names, glob)
    found: dict[str, list[str]] = {glob: [] for glob in scope}
    for name in names:
        hit = next((glob for glob in scope if matches(name, glob)), None)
        if hit is None:
            raise WeightSpaceError(f"{name}: scope has no glob for it; end the list with '*'")
        found[hit].append(name)
    return [group for group in found.values() if group]


def _joint(
    named: dict[str, Any], budgets: dict[str, Budget], scope: Any, matrices: dict[str, MatrixAxes]
) -> dict[str, Any]:
    found = {}
    for group in _groups(tuple(named), scope):
        leaves = {name: named[name] for name in group}
        if sum(leaf.size for leaf in leaves.values()) > np.iinfo(np.int32).max:
            raise WeightSpaceError(
                f"{group[0]} and those ranked with it: more than 2^31 weights; use scope='leaf'"
            )
        count = _joint_count(leaves, [budgets[name] for name in group], matrices)
        found |= zip(
            group, _together([jnp.asarray(x) for x in leaves.values()], count), strict=True
        )
    return found


def _filled(scores: Params, found: dict[str, Any], rest: bool) -> Mask:
    """A mask of whole leaves, `rest` in those that are not selected from."""
    return tree.map_named(
        lambda name, x: found[name] if name in found else jnp.full(jnp.shape(x), rest), scores
    )


def _picked(scores: Params, where: Where) -> dict[str, Any]:
    rows = zip(tree.named_leaves(scores).items(), picked(scores, where), strict=True)
    return {name: leaf for (name, leaf), mine in rows if mine}


def top(
    scores: Params,
    *,
    density: Any = None,
    count: Any = None,
    lora_rank: Any = None,
    axis: Any = None,
    scope: Any = "leaf",
    where: Where = None,
    rest: bool = False,
    groups: Groups | None = None,
) -> Mask:
    r"""The k weights of highest score: exactly k, of equal ones the lowest index first.

    How many is said in one of three ways, each a static number or `wslax.by_leaf` of it, for every
    set of weights that is ranked by itself: \(k = \mathrm{round}(\text{density} \cdot n)\) (at
    least one) of its \(n\), `count`, or as many as LoRA trains for a matrix \([m, n]\),
    \(\min((m + n) \cdot \text{lora\_rank}, m n)\). NaN is the lowest score.

    Args:
      scores: a tree of floats, higher is better, as from `wslax.select.scores`. Leaves without
        floats are never selected from.
      density: above 0 and at most 1.
      count: at least 1.
      lora_rank: at least 1; each matrix is ranked by itself.
      axis: for `scope="leaf"` the axes of a leaf that are ranked together, for each index of the
        others: `(-2, -1)` for each matrix of a stack, `0` for each output of a kernel
        `[in, out]`; by default all. Or `wslax.by_leaf` of it.
      scope: `"leaf"`; `"model"`, all leaves in one ranking, of equal scores the first leaf's
        first; or a list of globs, the leaves of each (the first that matches) in one ranking.
        Scores of leaves ranked together must be comparable.
      where: globs of the leaves to select from; by default all that are matrices of floats.
      rest: what the mask is elsewhere: False to leave the rest alone, True to keep it in pruning.
      groups: the model's symmetry, for `lora_rank`: which axes make a matrix, as in
        `principal_mask`. Without them those of leaves with two axes.

    Returns:
      A tree of bools, each leaf of the shape of the scores.

    Raises:
      WeightSpaceError: if a number is missing, out of its range or traced, if `where` or `scope`
        fits no leaf, if `axis` is given for several leaves together, or for `lora_rank` and a leaf
        that is no matrix.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> scores = {"a": jnp.array([[3.0, 1.0]]), "b": jnp.array([[2.0, 4.0]])}
        >>> ws.select.masks.top(scores, density=0.5, scope="model")
        {'a': Array([[ True, False]], dtype=bool), 'b': Array([[False,  True]], dtype=bool)}
    """
    named = _picked(scores, where)
    names = tree.leaf_names(scores)
    every = by_leaf(checked(Budget(density, count, lora_rank)), names)
    budgets = dict(zip(names, every, strict=True))
    matrices = {}
    if lora_rank is not None and axis is None:
        axes = of_leaves(scores, list(named), groups)
        matrices = {name: own for name, own in zip(names, axes, strict=True) if own is not None}
    if scope != "leaf":
        if axis is not None:
            raise WeightSpaceError("axis= is for scope='leaf'; leaves ranked together rank whole")
        return _filled(scores, _joint(named, budgets, scope, matrices), rest)
    along = dict(zip(names, tree.resolve(axis, names, "axis"), strict=True))
    found = {}
    for name, leaf in named.items():
        if name in matrices:
            k = count_of(name, ranked(leaf, matrices[name]), budgets[name])
            found[name] = of_matrices(leaf, Choice(k, matrices[name]))
            continue
        axes = _axes(name, leaf, along[name])
        k = count_of(name, tuple(leaf.shape[a] for a in axes), budgets[name])
        found[name] = _along(leaf, axes, k)
    return _filled(scores, found, rest)


@functools.partial(jax.jit, static_argnames=("n", "m", "axis"))
def _best_of(scores: Any, n: int, m: int, axis: int) -> Any:
    shape = (*scores.shape[:axis], -1, m, *scores.shape[axis + 1 :])
    runs = jnp.moveaxis(scores.reshape(shape), axis + 1, -1)
    runs = jnp.where(jnp.isnan(runs), -jnp.inf, runs)
    mine, other = runs[..., :, None], runs[..., None, :]
    earlier = jnp.tri(m, k=-1, dtype=bool).reshape((1,) * (runs.ndim - 1) + (m, m))
    ahead = jnp.sum((other > mine) | ((other == mine) & earlier), axis=-1, dtype=jnp.int32)
    return jnp.moveaxis(ahead < n, -1, axis + 1).reshape(scores.shape)


def n_of_m(
    scores: Params, n: int, m: int, *, axis: int = -2, where: Where = None, rest: bool = False
) -> Mask:
    """The n highest scores of each m consecutive ones along an axis, of equal ones the first.

    2 of 4 along the inputs is what NVIDIA's sparse matrix units take.

    Args:
      scores: as in `top`.
      n: how many of each run are kept, 1 to m.
      m: length of a run; the axis is a multiple of it.
      axis: of each leaf; by default the inputs of a kernel `[in, out]`.
      where: as in `top`.
      rest: as in `top`.

    Returns:
      A tree of bools.

    Raises:
      WeightSpaceError: for an axis that is no multiple of m, or n outside of 1 to m.

    Example:
        >>> import jax.numpy as jnp
        >>> n_of_m({"w": jnp.array([[1.0, 4.0, 3.0, 2.0]])}, 2, 4, axis=-1)["w"].tolist()
        [[False, True, True, False]]
    """
    n, m = at_least_one("n_of_m", "n", n), at_least_one("n_of_m", "m", m)
    if n > m:
        raise WeightSpaceError(f"n_of_m: n: expected at most m = {m}, got {n}")
    found = {}
    for name, leaf in _picked(scores, where).items():
        (at,) = _axes(name, leaf, axis)
        if leaf.shape[at] % m:
            raise WeightSpaceError(
                f"{name}: axis {axis} of {tree.aval(leaf)} is no multiple of {m}; leave the leaf "
                "out by where="
            )
        found[name] = _best_of(leaf, n, m, at)
    return _filled(scores, found, rest)


def blocks(
    scores: Params,
    shape: tuple[int, int],
    *,
    density: Any = None,
    count: Any = None,
    scope: Any = "leaf",
    where: Where = None,
    rest: bool = False,
) -> Mask:
    """Whole blocks of each matrix, those of the highest sums of scores.

    Args:
      scores: as in `top`, leaves `[..., m, n]`.
      shape: of a block, over the last two axes, which are multiples of it.
      density: share of the blocks of a matrix; as in `top`.
      count: number of blocks of a matrix; as in `top`.
      scope: as in `top`.
      where: as in `top`.
      rest: as in `top`.

    Returns:
      A tree of bools.

    Raises:
      WeightSpaceError: as `top`; for a leaf that is no matrix or whose axes are no multiples.

    Example:
        >>> import jax.numpy as jnp
        >>> scores = {"w": jnp.array([[9.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 4.0]])}
        >>> blocks(scores, (2, 2), density=0.5)["w"].astype(int).tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    high, wide = (at_least_one("blocks", "shape", side) for side in shape)
    taken = _picked(scores, where)

    def summed(name: str, leaf: Any) -> Any:
        if name not in taken:
            return leaf
        if leaf.ndim < 2 or leaf.shape[-2] % high or leaf.shape[-1] % wide:
            raise WeightSpaceError(
                f"{name}: {tree.aval(leaf)} is not made of blocks {high} x {wide}; leave the leaf "
                "out by where="
            )
        *stack, rows, columns = leaf.shape
        return leaf.reshape(*stack, rows // high, high, columns // wide, wide).sum((-3, -1))

    sums = tree.map_named(summed, scores)
    axis = (-2, -1) if scope == "leaf" else None
    found = top(
        sums, density=density, count=count, axis=axis, scope=scope, where=list(taken), rest=rest
    )
    return tree.map_named(
        lambda name, mask: mask.repeat(high, -2).repeat(wide, -1) if name in taken else mask, found
    )


def erdos_renyi(params: Params, density: float, where: Where = None) -> tree.ByLeaf:
    r"""Densities by leaf in the proportions of Erdős-Rényi kernels, \(\sum_i d_i / \prod_i d_i\).

    Small leaves stay dense, large ones pay: leaves whose share would pass 1 are kept whole, and the
    others share what is left, so that `density` of all weights are kept. For `top`.

    Args:
      params: the parameters or their shapes.
      density: of all weights of the picked leaves; above 0 and at most 1.
      where: as in `top`.

    Returns:
      `wslax.by_leaf` densities; 1 for all other leaves.

    Raises:
      WeightSpaceError: as `top`.

    References:
      Evci et al. 2020, Rigging the Lottery, arXiv:1911.11134, section 3.

    Example:
        >>> import numpy as np
        >>> params = {"a": np.zeros((8, 8)), "b": np.zeros((64, 64))}
        >>> [round(share, 3) for _, share in erdos_renyi(params, 0.1).rules[:2]]
        [0.722, 0.09]
    """
    named = _picked(params, where)
    budget = Budget(density=density)
    wanted = sum(count_of(name, x.shape, budget) for name, x in named.items())
    raw = {name: sum(x.shape) / x.size for name, x in named.items()}
    whole: set[str] = set()
    while True:
        open_ = [name for name in named if name not in whole]
        left = wanted - sum(named[name].size for name in whole)
        scale = left / sum(raw[name] * named[name].size for name in open_) if open_ else 0.0
        over = {name for name in open_ if scale * raw[name] > 1}
        if not over:
            break
        whole |= over
    shares = {name: 1.0 if name in whole else scale * raw[name] for name in named}
    return tree.by_leaf({**shares, "*": 1.0})
