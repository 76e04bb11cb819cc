"""From the nodes of a walked model to groups: where in each leaf the units of an atom lie."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from wslax.symmetry.axes import Axes, Nodes
from wslax.symmetry.types import REDUCTIONS, Average, Group, Groups, Site
from wslax.symmetry.validate import validated
from wslax.symmetry.walk import Value, Walk


class Loop(NamedTuple):
    """One atom along an axis: its units are `stride` elements apart."""

    node: int
    stride: int


class Cell(NamedTuple):
    """A block of an axis: elements `base + sum of unit * stride`, and the pieces it lies in."""

    base: int
    loops: tuple[Loop, ...]
    pieces: tuple[int, ...]


def _parts(axes: Axes, node: int) -> Iterator[Cell]:
    """The cells of one factor."""
    pieces = axes.pieces(node)
    if pieces is None:
        yield Cell(0, (Loop(node, 1),), ())
        return
    base = 0
    for piece in pieces:
        for cell in cells(axes, [piece]):
            yield Cell(base + cell.base, cell.loops, (*cell.pieces, axes.find(piece)))
        base += axes.size[piece]


def cells(axes: Axes, nodes: Nodes) -> list[Cell]:
    """The blocks that an axis falls into."""
    found, inner = [Cell(0, (), ())], 1
    for node in reversed(axes.factors(nodes)):
        found = [
            Cell(
                part.base * inner + cell.base,
                (*(Loop(n, s * inner) for n, s in part.loops), *cell.loops),
                (*part.pieces, *cell.pieces),
            )
            for part in _parts(axes, node)
            for cell in found
        ]
        inner *= axes.size[node]
    return [done for cell in found for done in _instanced(axes, cell)]


def _instanced(axes: Axes, cell: Cell) -> list[Cell]:
    """The cell with each atom replaced by what it means at the cell's pieces."""
    here = {p for piece in cell.pieces for p in axes.pieces(piece) or [axes.find(piece)]}
    for i, loop in enumerate(cell.loops):
        for known in axes.instances(loop.node):
            covered = set(axes.pieces(known.piece) or [axes.find(known.piece)])
            if covered & here:
                rest = (*cell.loops[:i], *cell.loops[i + 1 :])
                made = [
                    Cell(
                        cell.base + part.base * loop.stride,
                        (*(Loop(n, s * loop.stride) for n, s in part.loops), *rest),
                        (*cell.pieces, *part.pieces),
                    )
                    for part in cells(axes, [known.node])
                ]
                return [done for each in made for done in _instanced(axes, each)]
    return [cell]


def _starts(axes: Axes, cell: Cell, loop: Loop) -> np.ndarray:
    """The elements that unit 0 of a loop owns in a cell."""
    found = np.array([cell.base])
    for other in cell.loops:
        if other is not loop:
            steps = np.arange(axes.size[other.node]) * other.stride
            found = (found[:, None] + steps).reshape(-1)
    return found


def _sites(starts: np.ndarray, size: int, inner: int, length: int) -> list[tuple[int, int]] | None:
    """`(outer, start)` of sites whose unit 0 owns those elements; None where none fit."""
    starts = np.sort(starts)
    runs = starts[::inner]
    if len(starts) % inner or (starts.reshape(-1, inner) != runs[:, None] + np.arange(inner)).any():
        return None
    if (runs % inner).any():
        return None
    outer = len(runs)
    tile = length // outer
    even = length % outer == 0 and (runs == runs[0] + np.arange(outer) * tile).all()
    if even and runs[0] + size * inner <= tile and runs[0] % inner == 0:
        return [(outer, int(runs[0]) // inner)]
    return [(1, int(run) // inner) for run in runs]


def _collapse(axes: Axes, leaves: dict[str, Value]) -> None:
    """Give up instances that no site can express: at pieces along another axis of a leaf."""
    for value in leaves.values():
        for a, nodes in enumerate(value.axes):
            beside = {n for b, ns in enumerate(value.axes) if b != a for n in axes.factors(ns)}
            for atom in axes.atoms(nodes):
                for known in axes.instances(atom):
                    if axes.find(known.cut) in beside:
                        axes.unite([known.node], [atom])


def _per(axes: Axes, root: int, places: dict[int, dict[str, set[int]]]) -> list[int]:
    """Atoms that lie on exactly one axis of every leaf that the root lies on."""
    leaves = places[root]
    return [
        other
        for other in axes.per(root)
        if other in places
        and other != root
        and all(len(places[other].get(name, ())) == 1 for name in leaves)
    ]


def _averages(walk: Walk, node: int) -> tuple[Average, ...]:
    """The means over units of an atom, alike ones once."""
    of = {"square": "squares", "square centred": "deviations"}
    found = []
    for reduction in walk.reductions:
        atoms = set(walk.axes.atoms(reduction.nodes))
        if reduction.kind not in ("mean", "variance") or node not in atoms:
            continue
        kind = (
            "deviations" if reduction.kind == "variance" else of.get(reduction.of or "", "values")
        )
        gains = tuple(sorted(reduction.gains))
        divides = bool(gains) and not reduction.astray
        whole = atoms == {node}
        joined = any(walk.axes.pieces(n) for n in walk.axes.factors(reduction.nodes))
        eps = reduction.eps
        found.append(Average(kind, reduction.linear, whole, not joined, eps, gains, divides))
    return tuple(dict.fromkeys(found))


def _levers(walk: Walk, sites: Sequence[Site]) -> tuple[tuple[str, ...], ...]:
    """For each consumed site the leaves that scale all that it reads."""
    own = {(site.name, site.axis) for site in sites if site.role == "elementwise"}
    found = []
    for site in sites:
        reads = walk.reads.get((site.name, site.axis), []) if site.role == "consumed" else []
        levers = set(reads)
        lever = levers.pop() & own if len(levers) == 1 else frozenset()
        found.append(tuple(sorted(name for name, _ in lever)))
    spoiled = {n for n, _ in walk.astray} | {n for (n, _), uses in walk.uses.items() if uses > 1}
    return tuple(names if spoiled.isdisjoint(names) else () for names in found)


def export(walk: Walk, leaves: dict[str, Value], shapes: dict[str, tuple[int, ...]]) -> Groups:
    """The groups of a walked model.

    Args:
      walk: after the model.
      leaves: what was made for each leaf.
      shapes: of the leaves.

    Returns:
      Groups, numbered in the order of leaves and axes.
    """
    axes = walk.axes
    for reduction in walk.reductions:
        axes.reduce(reduction.nodes, reduction.kind)
    axes.settle()
    _collapse(axes, leaves)
    axes.settle()
    axes.freeze(axes.unused(), "the trace, in which these units are not used")
    sites: dict[int, list[Site]] = {}
    places: dict[int, dict[str, set[int]]] = {}
    for name, value in leaves.items():
        for a, nodes in enumerate(value.axes):
            length = shapes[name][a]
            starts: dict[tuple[int, int], list[np.ndarray]] = {}
            for cell in cells(axes, nodes):
                for loop in cell.loops:
                    starts.setdefault(tuple(loop), []).append(_starts(axes, cell, loop))
            for (node, inner), found in starts.items():
                size = axes.size[node]
                placed = _sites(np.concatenate(found), size, inner, length)
                if placed is None:
                    axes.freeze([node], f"a layout of {name} that sites cannot express")
                    continue
                places.setdefault(node, {}).setdefault(name, set()).add(a)
                roles = sorted(walk.roles.get((name, a), {"elementwise"}), key=_ROLES.index)
                for (outer, start), role in itertools.product(placed, roles):
                    site = Site(name, a, outer, start, size=size, inner=inner, role=role)
                    sites.setdefault(node, []).append(site)
    ids = {node: id for id, node in enumerate(sites)}
    groups = []
    for node, found in sites.items():
        frozen = axes.frozen(node)
        per = [] if frozen else sorted(ids[other] for other in _per(axes, node, places))
        kinds = tuple(kind for kind in REDUCTIONS if kind in axes.reductions(node))
        group = Group(ids[node], axes.size[node], tuple(found), tuple(per), kinds, frozen)
        groups.append(
            dataclasses.replace(
                group, averages=_averages(walk, node), levers=_levers(walk, group.sites)
            )
        )
    used = {site.name for found in sites.values() for site in found}
    return validated(Groups(tuple(groups), tuple((n, shapes[n]) for n in shapes if n in used)))


_ROLES: Sequence[str] = ("produced", "consumed", "elementwise")
