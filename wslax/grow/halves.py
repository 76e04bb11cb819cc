"""Two nets side by side: where each of them lies along the axes of the net of twice their width."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.find import check_id
from wslax.symmetry.types import Groups
from wslax.typing import Array


class Doubled(NamedTuple):
    """An axis that gets twice as long.

    Attributes:
      axis: of the leaf.
      index: for each element of the long axis its place in both short ones one after the other, or
        None where that is their order.
    """

    axis: int
    index: np.ndarray | None


class Blocks(NamedTuple):
    """The blocks of one leaf of the wide net, each as large as the leaf of the narrow one.

    Attributes:
      axes: the doubled axes; none where the leaves of both nets are added up.
      halves: of each block, which half it is along each axis: the two on the diagonal first.
      sets: of each block, which half it is along the produced axis (the first axis without one).
      mixed: whether the leaf is a matrix and so has blocks off the diagonal, or two sides.
    """

    axes: tuple[Doubled, ...]
    halves: tuple[tuple[int, ...], ...]
    sets: tuple[int, ...]
    mixed: bool


SUM = Blocks((), ((), ()), (0, 1), False)

Places = dict[tuple[str, int], tuple[np.ndarray, np.ndarray]]


def _places(groups: Groups, ids: Sequence[int]) -> Places:
    """Leaf and axis to the half (-1: of no group) and the old place of each element."""
    found: Places = {}
    grown = groups
    for id in ids:
        size = groups.all[id].size
        for now, (site, *_) in layout.steps(grown, id, 2 * size):
            length, at = now.shape[site.name][site.axis], (site.name, site.axis)
            half, place = found.get(at, (np.full(length, -1), np.arange(length)))
            source = layout.along(site, length, np.tile(np.arange(size), 2))
            after = dataclasses.replace(site, size=2 * size)
            unit = layout.units(after, len(source))
            half, place = half[source], place[source]
            if (half[unit >= 0] >= 0).any():
                raise WeightSpaceError(
                    f"{site}: group {id} lies along the same elements as another group that is to "
                    "grow; choose one of them with ids="
                )
            found[at] = np.where(unit >= 0, unit // size, half), place
        grown = layout.resize(grown, {id: 2 * size})
    return found


def _doubled(name: str, axis: int, half: np.ndarray, place: np.ndarray) -> Doubled:
    if (half < 0).any():
        raise WeightSpaceError(
            f"{name}: only a part of its axis {axis} belongs to groups that grow, and the rest "
            "would belong to both halves; let the rest grow too, or leave this group out of ids="
        )
    length = len(half) // 2
    index = half * length + place
    plain = np.array_equal(index, np.arange(len(half)))
    return Doubled(axis, None if plain else index.astype(np.int32))


def plan(groups: Groups, ids: Sequence[int]) -> dict[str, Blocks]:
    """The blocks of every leaf that the groups run through and that the wide net has.

    Args:
      groups: of the narrow net.
      ids: those that double.

    Returns:
      Leaf name to blocks. Leaves that no such group runs through are there without axes where they
      add to what a head puts out, and missing otherwise.

    Raises:
      WeightSpaceError: for an unknown or frozen group, or an axis that is no two halves.
    """
    for id in ids:
        check_id(groups, id)
    axes: dict[str, list[Doubled]] = {}
    for (name, axis), places in sorted(_places(groups, ids).items()):
        axes[name] = [*axes.get(name, ()), _doubled(name, axis, *places)]
    roles = {
        (site.name, site.axis, site.role) for id in ids for site in groups.all[id].sites
    }  # of the doubled axes
    found = {name: _blocks(name, of, roles) for name, of in axes.items()}
    heads = {name for name, _, role in roles if role == "consumed"}
    outputs = {
        group.id
        for group in groups.all
        for site in group.sites
        if group.id not in ids and site.role == "produced" and site.name in heads
    }
    for name in groups.shape:
        own = {
            group.id
            for group in groups.all
            for site in group.sites
            if site.name == name and site.role != "consumed"
        }
        if name not in found and own and own <= outputs:
            found[name] = SUM
    return found


def _blocks(name: str, axes: Sequence[Doubled], roles: set[tuple[str, int, str]]) -> Blocks:
    produced = [i for i, at in enumerate(axes) if (name, at.axis, "produced") in roles]
    consumed = any((name, at.axis, "consumed") in roles for at in axes)
    first = produced[0] if produced else 0
    n = len(axes)
    others = [half for half in itertools.product((0, 1), repeat=n) if len(set(half)) > 1]
    halves = ((0,) * n, (1,) * n, *sorted(others, key=lambda half: half[first]))
    sets = tuple(half[first] for half in halves)
    return Blocks(tuple(axes), halves, sets, bool(produced or consumed or n > 1))


def join(blocks: Blocks, part: Callable[[int], Array]) -> Array:
    """The leaf of the wide net from its blocks.

    Args:
      blocks: how they lie.
      part: number of a block to its array.

    Returns:
      The leaf; where there are no axes, the sum of both.
    """
    if not blocks.axes:
        return part(0) + part(1)

    def along(at: tuple[int, ...]) -> Array:
        if len(at) == len(blocks.axes):
            return part(blocks.halves.index(at))
        axis, index = blocks.axes[len(at)]
        whole = jnp.concatenate([along((*at, 0)), along((*at, 1))], axis)
        return whole if index is None else jnp.take(whole, index, axis)

    return along(())
