"""How alike the units of two models are, along one group."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.symmetry import layout
from wslax.symmetry.gather import outer_units
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array


def owned(groups: Groups, group: Group, site: Site) -> np.ndarray | None:
    """Flat elements of a leaf that each unit owns, `[outer units, size, rest]`.

    None where the site is a whole axis and the group has one permutation for all: there a product
    over the other axes serves. Outer units that the site does not touch have -1.
    """
    shape = groups.shape[site.name]
    if not group.per and (site.outer, site.start, site.size) == (1, 0, shape[site.axis]):
        return None
    flat = np.arange(math.prod(shape)).reshape(shape)

    def over(axis: int, values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(layout.across(values, axis, len(shape)), shape)

    unit = over(site.axis, layout.units(site, shape[site.axis]))
    outer, inside = np.zeros(shape, int), unit >= 0
    for id in group.per:
        axis, units = outer_units(groups, site, id, np.arange(shape[site.axis]))
        outer = outer * groups.all[id].size + over(axis, units)
        inside &= over(axis, units) >= 0
    count = math.prod(groups.all[id].size for id in group.per)
    owner = np.where(inside, outer * group.size + unit, -1).reshape(-1)
    order = np.argsort(owner, kind="stable")[(owner < 0).sum() :]
    per_unit = np.bincount(owner[owner >= 0], minlength=count * group.size)
    rest = per_unit.max()
    index = np.full((count * group.size, rest), -1)
    held = np.repeat(per_unit > 0, rest).reshape(-1, rest)
    index[held] = flat.reshape(-1)[order]
    return index.reshape(count, group.size, rest)


def _by_unit(leaf: Array, index: np.ndarray) -> Array:
    """A leaf as `[outer units, size, rest]`, zero where the site does not touch an outer unit."""
    values = leaf.reshape(-1)[np.maximum(index, 0)]
    return jnp.where(index >= 0, values, 0)


def places(group: Group) -> list[Site]:
    """The sites of a group, a place with several roles once."""
    return list({layout.place(site): site for site in group.sites}.values())


def similarity(groups: Groups, group: Group, a: dict[str, Any], b: dict[str, Any]) -> Array:
    r"""Inner products of units, \(S_{ij} = \sum_{\text{sites}} \langle a_i, b_j \rangle\).

    Args:
      groups: of the model.
      group: one of them.
      a: float leaves by their names in the groups.
      b: the same of the other model.

    Returns:
      `[outer units, size, size]`, in float32 or wider.
    """
    total: Any = 0.0
    for site in places(group):
        if site.name not in a:
            continue
        x, y = a[site.name], b[site.name]
        index = owned(groups, group, site)
        if index is None:
            rest = [axis for axis in range(x.ndim) if axis != site.axis]
            total = total + jnp.tensordot(x, y, (rest, rest))[None]
        else:
            x, y = _by_unit(x, index), _by_unit(y, index)
            total = total + jnp.einsum("oir,ojr->oij", x, y)
    return total


def pairs(group: Group) -> list[tuple[Site, Site]]:
    """Places of a group on two axes of one leaf, the lower axis first."""
    found = places(group)
    return [(s, t) for s in found for t in found if s.name == t.name and s.axis < t.axis]


def _along_both(leaf: Array, low: Site, high: Site) -> Array:
    """A leaf as `[size, size, rest]` over two places on two of its axes."""
    for site, axis in ((high, high.axis), (low, low.axis + 1)):
        shape = leaf.shape
        tiles = (site.outer, shape[axis] // site.outer // site.inner, site.inner)
        leaf = leaf.reshape(*shape[:axis], *tiles, *shape[axis + 1 :])
        units = jnp.moveaxis(leaf, axis + 1, 0)
        leaf = units[site.start : site.start + site.size]
    return leaf.reshape(low.size, high.size, -1)


def swap_gains(groups: Groups, group: Group, a: dict[str, Any], b: dict[str, Any]) -> Array:
    r"""What swapping units i and j of `b` adds to \(\langle a, b \rangle\), exactly.

    Where the group lies on one axis of a leaf that is \(S_{ij} + S_{ji} - S_{ii} - S_{jj}\). Where
    it lies on two, rows and columns move at once, so what is in both is counted anew.

    Returns:
      `[size, size]`, symmetric.
    """
    score = similarity(groups, group, a, b)[0]
    diagonal = jnp.diagonal(score)
    gain = score + score.T - diagonal[:, None] - diagonal[None]
    for low, high in pairs(group):
        if low.name not in a:
            continue
        x, y = (_along_both(side[low.name], low, high) for side in (a, b))
        dx, dy = (jnp.einsum("iir->ir", m) for m in (x, y))
        same, own = jnp.einsum("ijr,ijr->ij", x, y), jnp.einsum("ir,ir->i", dx, dy)
        still = same + same.T + own[:, None] + own[None]
        cross, swapped = jnp.einsum("ir,jr->ij", dx, dy), jnp.einsum("ijr,jir->ij", x, y)
        corner = cross + cross.T + swapped + swapped.T - still
        rows = jnp.einsum("ir,jir->ij", dx, y) + jnp.einsum("jir,ir->ij", x, dy)
        columns = jnp.einsum("ir,ijr->ij", dx, y) + jnp.einsum("ijr,ir->ij", x, dy)
        counted = rows + rows.T + columns + columns.T - 2 * still
        gain = gain + corner - counted
    return gain


def float_leaves(params: Any, found: dict[str, str]) -> dict[str, Any]:
    """The float leaves that groups speak of, by their names there, in float32 or wider."""
    leaves = tree.named_leaves(params)
    return {
        original: jnp.asarray(leaves[name]).astype(tree.wide(leaves[name]))
        for name, original in found.items()
        if tree.is_float(leaves[name])
    }
