"""Arithmetic of composite axes: which elements a site owns, and what resizing one does to others.

An axis of length L holds `outer` tiles of L / outer elements. Unit u of a site owns, in every tile,
the elements `(start + u) * inner` up to `(start + u + 1) * inner`.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.symmetry.types import Groups, Site


def place(site: Site) -> tuple[str, int, int, int, int, int]:
    """All of a site but its role."""
    return (site.name, site.axis, site.outer, site.start, site.size, site.inner)


def bounds(site: Site, length: int) -> tuple[int, int, int]:
    """The tile's length, and where in it the site's elements begin and end."""
    first = site.start * site.inner
    return length // site.outer, first, first + site.size * site.inner


def units(site: Site, length: int) -> np.ndarray:
    """The unit that each element of the axis belongs to, -1 outside the site."""
    tile, first, last = bounds(site, length)
    place_in_tile = np.arange(length) % tile
    inside = (first <= place_in_tile) & (place_in_tile < last)
    return np.where(inside, (place_in_tile - first) // site.inner, -1)


def relation(a: Site, b: Site, length: int) -> str | None:
    """Where `b` lies as seen from `a`, both on one axis of that length.

    Returns:
      `"same"` elements in the same order; `"minor"`: every unit of `a` holds whole tiles of `b`;
      `"major"`: the reverse; `"before"` or `"after"` `a` in the same tiles; `"mixed"`: they share
      no element, or one lies inside a single unit of the other; None: they cross.
    """
    if place(a) == place(b):
        return "same"
    tile_a, first_a, last_a = bounds(a, length)
    tile_b, first_b, last_b = bounds(b, length)
    if a.inner % tile_b == 0 and tile_a % tile_b == 0:
        return "minor"
    if b.inner % tile_a == 0 and tile_b % tile_a == 0:
        return "major"
    if a.outer == b.outer and last_b <= first_a:
        return "before"
    if a.outer == b.outer and last_a <= first_b:
        return "after"
    in_a, in_b = units(a, length) + 1, units(b, length) + 1
    apart = not (in_a * in_b).any()
    return "mixed" if apart or _inside(a, b, length) or _inside(b, a, length) else None


def _inside(a: Site, b: Site, length: int) -> bool:
    """Whether all of `b` lies in one unit of one tile of `a`."""
    tile, (_, first, last) = length // a.outer, bounds(b, length)
    owners = set(units(a, length)[first:last].tolist())
    one_tile = first // tile == (last - 1) // tile
    return b.outer == 1 and one_tile and len(owners) == 1 and -1 not in owners


def across(values: Any, axis: int, ndim: int) -> Any:
    """A vector along one axis, shaped to meet an array of `ndim` axes."""
    return values.reshape([-1 if a == axis else 1 for a in range(ndim)])


def _range(*bounds: int) -> np.ndarray:
    return np.arange(*bounds, dtype=np.int32)


def along(site: Site, length: int, index: Any, xp: Any = np) -> Any:
    """For each element of the new axis, the element of the old axis that it is copied from.

    Args:
      site: on an axis of `length` elements.
      length: of the old axis.
      index: `[..., new size]` units of the old group.
      xp: `numpy` or `jax.numpy`.

    Returns:
      `[..., new length]`; elements outside the site keep their order.
    """
    tile, first, last = bounds(site, length)
    lead, index = index.shape[:-1], index.astype(np.int32)
    unit = xp.expand_dims(index, -1) * site.inner + _range(site.inner).reshape(
        (1,) * index.ndim + (-1,)
    )
    head = np.broadcast_to(_range(first), (*lead, first))
    tail = np.broadcast_to(_range(last, tile), (*lead, tile - last))
    one = xp.concatenate([head, first + unit.reshape(*lead, -1), tail], -1)
    starts = _range(site.outer).reshape((1,) * len(lead) + (-1, 1)) * tile
    return (starts + xp.expand_dims(one, -2)).reshape(*lead, -1)


def spread(site: Site, length: int, values: Any, xp: Any = np) -> Any:
    """A number per unit as a number per element of the axis; 1 outside the site.

    Args:
      site: on an axis of `length` elements.
      length: of the axis.
      values: `[size]`.
      xp: `numpy` or `jax.numpy`.

    Returns:
      `[length]`.
    """
    tile, first, last = bounds(site, length)
    ones = np.ones(tile, values.dtype)
    one = xp.concatenate([ones[:first], xp.repeat(values, site.inner), ones[last:]])
    return xp.tile(one, site.outer)


def _moved(site: Site, other: Site, length: int, size: int) -> Site:
    """`other` after `site` on the same axis got `size` units."""
    more = (size - site.size) * site.inner
    tile, tile_other = length // site.outer, length // other.outer
    match relation(site, other, length):
        case "same":
            return dataclasses.replace(other, size=size)
        case "minor":
            return dataclasses.replace(other, outer=(length + site.outer * more) // tile_other)
        case "major":
            return dataclasses.replace(other, inner=other.inner // tile * (tile + more))
        case "after":
            if more % other.inner:
                raise WeightSpaceError(
                    f"{other}: {site} cannot get {size} units, because the {more} elements more "
                    f"before it are no multiple of {other.inner}"
                )
            return dataclasses.replace(other, start=other.start + more // other.inner)
        case "mixed":
            raise WeightSpaceError(
                f"{site}: cannot get another size, because {other} lies on the same axis and is "
                "tiled in another way"
            )
        case _:
            return other


def _resized_site(groups: Groups, site: Site, size: int, near: Iterable[int]) -> Groups:
    """The groups after one site got `size` units; `near` are those with sites on its axis."""
    shape = groups.shape[site.name]
    length = shape[site.axis]
    key = (site.name, site.axis)
    changed = list(groups.all)
    for id in near:
        sites = tuple(
            _moved(site, s, length, size) if (s.name, s.axis) == key else s
            for s in groups.all[id].sites
        )
        changed[id] = dataclasses.replace(groups.all[id], sites=sites)
    longer = length + site.outer * (size - site.size) * site.inner
    new = (*shape[: site.axis], longer, *shape[site.axis + 1 :])
    at = groups.shapes.index((site.name, shape))
    shapes = (*groups.shapes[:at], (site.name, new), *groups.shapes[at + 1 :])
    return Groups(tuple(changed), shapes)


def _near(groups: Groups, id: int) -> dict[tuple[str, int], list[int]]:
    """Which groups have sites on each axis that a group has sites on."""
    near: dict[tuple[str, int], list[int]] = {(s.name, s.axis): [] for s in groups.all[id].sites}
    for group in groups.all:
        for key in {(s.name, s.axis) for s in group.sites} & near.keys():
            near[key].append(group.id)
    return near


Steps = list[tuple[Groups, tuple[Site, ...]]]


def resized(groups: Groups, id: int, size: int) -> tuple[Steps, Groups]:
    """The single-axis changes that give group `id` another size, in an order to apply them.

    Args:
      groups: before the change.
      id: the group.
      size: its new number of units.

    Returns:
      For each change `(groups before it, sites)`: all sites at one place (they differ in the role
      alone), in the coordinates that hold when it is their turn. And the groups after all.
    """
    done: set[int] = set()
    steps: Steps = []
    near = _near(groups, id)
    for k in range(len(groups.all[id].sites)):
        if k in done:
            continue
        sites = groups.all[id].sites
        alike = [j for j in range(k, len(sites)) if place(sites[j]) == place(sites[k])]
        done.update(alike)
        steps.append((groups, tuple(sites[j] for j in alike)))
        if size != sites[k].size:
            axis = (sites[k].name, sites[k].axis)
            groups = _resized_site(groups, sites[k], size, near[axis])
    group = dataclasses.replace(groups.all[id], size=size)
    everyone = (*groups.all[:id], group, *groups.all[id + 1 :])
    return steps, dataclasses.replace(groups, all=everyone)


def steps(groups: Groups, id: int, size: int) -> Steps:
    """The changes of `resized` alone."""
    return resized(groups, id, size)[0]


def resize(groups: Groups, sizes: dict[int, int]) -> Groups:
    """The groups of the model after groups got new sizes; everything on a shared axis moves along.

    Args:
      groups: before.
      sizes: group id to new number of units.

    Returns:
      The groups after.

    Raises:
      WeightSpaceError: if a piece behind a resized one would no longer start at a whole unit.

    Example:
        >>> groups = Groups.from_sites({"w": np.zeros((3, 5))}, [
        ...     [Site("w", 1, size=2, role="produced")],
        ...     [Site("w", 1, start=2, size=3, role="produced")],
        ... ])
        >>> str(resize(groups, {0: 4}).all[1].sites[0])
        'w[1: 4:7] produced'
    """
    for id, size in sizes.items():
        _, groups = resized(groups, id, size)
    return groups
