"""Acting along groups: permute the units, or take some of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.find import check_id, locate
from wslax.symmetry.gather import gather
from wslax.symmetry.scaling import scaled
from wslax.symmetry.types import Groups
from wslax.typing import Array, Params


def checked_index(groups: Groups, id: int, index: Array, permutation: bool) -> Array:
    """An index of one group; its values are checked unless they are traced."""
    group = check_id(groups, id)
    traced = isinstance(index, jax.core.Tracer)
    index = index if traced else np.asarray(index)
    outer = tuple(groups.all[i].size for i in group.per)
    counts = index.shape[-1:] == (group.size,) if permutation else index.shape[-1:] > (0,)
    integer = jnp.issubdtype(index.dtype, jnp.integer)
    if not (integer and counts and index.shape[:-1] in ((), outer)):
        count = str(group.size) if permutation else "count"
        each = f" or [{', '.join(map(str, [*outer, count]))}]" if outer else ""
        raise WeightSpaceError(
            f"group {id}: expected integers of shape [{count}]{each}, got {tree.aval(index)}"
        )
    if traced:
        return index
    if index.min() < 0 or index.max() >= group.size:
        raise WeightSpaceError(f"group {id}: units are 0 to {group.size - 1}, got {index.tolist()}")
    if permutation and (np.sort(index, -1) != np.arange(group.size)).any():
        raise WeightSpaceError(f"group {id}: not a permutation, {index.tolist()}")
    return index


def _apply(params: Params, groups: Groups, indices: Mapping[int, Array], permutation: bool) -> Any:
    found = locate(params, groups)
    plan: dict[str, list[Any]] = {}
    for id in indices:
        index = checked_index(groups, id, indices[id], permutation)
        for now, sites in layout.steps(groups, id, index.shape[-1]):
            plan.setdefault(sites[0].name, []).append((now, now.all[id], sites[0], index))
        groups = layout.resize(groups, {id: index.shape[-1]})

    def change(name: str, leaf: Any) -> Any:
        for now, group, site, index in plan.get(found.get(name, ""), ()):
            leaf = gather(now, group, site, leaf, index)
        return leaf

    return tree.map_named(change, params)


def permute(
    params: Params,
    groups: Groups,
    permutations: Mapping[int, Array],
    signs: Mapping[int, Array] | None = None,
) -> Params:
    r"""Reorder the units of groups; a free group's order does not change the model's function.

    Unit \(j\) becomes the old unit \(p_j\) at every site: \(w'_{\ldots j \ldots} = w_{\ldots p_j
    \ldots}\). With signs it is then multiplied at each site \(s\) by \(\prod_k
    \sigma_{kj}^{e_{ks}}\) with the exponents \(e_k\) of the group's `signs`.

    Args:
      params: the tree that the groups were made for, or one that holds copies of it (`locate`); an
        optimizer state goes through `tree.map_like(lambda p: permute(p, ...), state, params)`.
      groups: the groups.
      permutations: group id to integers `[size]`, or `[*sizes of per, size]` for a permutation of
        its own at each outer unit. Applied in this order, each to what the one before it leaves.
      signs: group id to -1 or 1 `[symmetries, size]`, one row for each entry of `Group.signs`, or
        `[symmetries, *sizes of per, size]`; None changes none.

    Returns:
      The tree, every leaf with the shape, dtype and weak type it had. Works under `jax.jit`, and
      under `jax.vmap` over populations and permutations.

    Raises:
      WeightSpaceError: if a group or leaf is missing, what is not traced is no permutation, or
        signs are given for a group without any.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.array([[1.0, 2.0, 3.0]])}
        >>> groups = Groups.from_sites(params, [[("w", 1, "produced")]])
        >>> permute(params, groups, {0: jnp.array([2, 0, 1])})["w"]
        Array([[3., 1., 2.]], dtype=float32)
    """
    params = _apply(params, groups, permutations, permutation=True)
    return scaled(params, groups, signs, signs=True) if signs else params


def take(params: Params, groups: Groups, indices: Mapping[int, Array]) -> Params:
    r"""Keep the given units of groups, in the given order: pruning and slices of a supernet.

    Unit \(j\) becomes the old unit \(i_j\) at every site; units may be left out or repeated, and
    no weight is rescaled. `resize(groups, {id: count})` are the groups of the result.

    Args:
      params: as for `permute`.
      groups: the groups.
      indices: group id to integers `[count]`, or `[*sizes of per, count]`; the count is static.

    Returns:
      The tree with axes of other lengths.

    Raises:
      WeightSpaceError: if a group or leaf is missing, a unit that is not traced does not exist, or
        a piece behind a resized one would no longer start at a whole unit.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.array([[1.0, 2.0, 3.0]])}
        >>> groups = Groups.from_sites(params, [[("w", 1, "produced")]])
        >>> take(params, groups, {0: jnp.array([2, 0])})["w"]
        Array([[3., 1.]], dtype=float32)
    """
    return _apply(params, groups, indices, permutation=False)
