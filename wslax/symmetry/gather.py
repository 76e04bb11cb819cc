"""One gather along one site of one leaf, the same for all outer units or different at each.

`scatter` is its transpose: where units become copies of one, their weights add up.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array


def outer_units(groups: Groups, site: Site, id: int, at: np.ndarray) -> tuple[int, np.ndarray]:
    """The axis of the leaf that an outer group lies on, and its unit at each place there.

    `at` gives the old place of each place of the site's own new axis.
    """
    outer = [s for s in groups.all[id].sites if s.name == site.name]
    axes = sorted({s.axis for s in outer})
    if len(axes) != 1:
        raise WeightSpaceError(
            f"{site.name}: group {id} runs through axes {axes}, so which one chooses the index is "
            "open; give one index [size] for all"
        )
    length = groups.shape[site.name][axes[0]]
    units = np.max([layout.units(s, length) for s in outer], axis=0)
    return axes[0], units[at] if axes[0] == site.axis else units


def owners(groups: Groups, group: Group, site: Site) -> np.ndarray:
    """For each element of a leaf the flat index into `[*sizes of per, size]` of who owns it.

    Axes along which it is the same have length 1; what no unit owns has the index after the last.
    """
    shape = groups.shape[site.name]

    def over(axis: int, values: np.ndarray) -> np.ndarray:
        return layout.across(values, axis, len(shape))

    own = over(site.axis, layout.units(site, shape[site.axis]))
    index, inside = np.zeros((1,) * len(shape), int), own >= 0
    for id in group.per:
        axis, units = outer_units(groups, site, id, np.arange(shape[site.axis]))
        index = index * groups.all[id].size + over(axis, units)
        inside = inside & (over(axis, units) >= 0)
    count = math.prod(groups.all[id].size for id in group.per) * group.size
    return np.where(inside, index * group.size + own, count)


def _per_unit(groups: Groups, group: Group, site: Site, index: Any, xp: Any) -> Any:
    """Sources along the site's axis, an array over all axes of the leaf that they depend on."""
    shape = groups.shape[site.name]

    def over(axis: int, values: np.ndarray) -> np.ndarray:
        return layout.across(values, axis, len(shape))

    source = layout.along(site, shape[site.axis], index, xp)
    # Outer units hold whole units of the group or lie within one, so any of its units tells them.
    any_unit = np.zeros(index.shape[-1], int)
    at = layout.along(site, shape[site.axis], any_unit)
    picks = [over(*outer_units(groups, site, id, at)) for id in group.per]
    places = over(site.axis, np.arange(len(at)))
    outside = np.zeros((1,) * len(shape), bool)
    for pick in picks:
        outside = outside | (pick < 0)
    if outside.any() and index.shape[-1] != site.size:
        raise WeightSpaceError(
            f"{site}: lies partly outside the groups {list(group.per)} that choose its index, so "
            f"it cannot get {index.shape[-1]} units there; give one index [size] for all"
        )
    return xp.where(outside, places, source[(*picks, places)])


def gather(groups: Groups, group: Group, site: Site, leaf: Array, index: Array) -> Array:
    """A leaf whose units along one site are `index` of the old ones.

    Args:
      groups: the groups that hold now.
      group: one of them.
      site: one of its sites, on this leaf.
      leaf: an array; a host array stays one where the index is one too.
      index: `[new size]`, or `[*sizes of per, new size]`.

    Returns:
      The leaf, longer or shorter along the site's axis; NaN where a traced index is out of range.
    """
    host = isinstance(index, np.ndarray)
    xp: Any = np if host and isinstance(leaf, np.ndarray) else jnp
    on = np if host else jnp
    if index.ndim > 1:
        return xp.take_along_axis(leaf, _per_unit(groups, group, site, index, on), site.axis)
    source = layout.along(site, leaf.shape[site.axis], index, on)
    return xp.take(leaf, source, site.axis)


def scatter(groups: Groups, group: Group, site: Site, leaf: Array, index: Array) -> Array:
    """The transpose of `gather`: unit `index[i]` becomes the sum of all old units `i` that name it.

    What a leaf computes from units that `gather` copies, its scatter computes from the originals.

    Args:
      groups: the groups that hold before and after: the number of units stays.
      group: one of them.
      site: one of its sites, on this leaf.
      leaf: floats.
      index: `[size]`, or `[*sizes of per, size]`.

    Returns:
      An array like the leaf; elements outside the site stay.
    """
    pull = lambda x: gather(groups, group, site, x, index)
    return jax.linear_transpose(pull, leaf)(leaf)[0]
