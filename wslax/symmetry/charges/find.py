"""Which signs and scales of a model's units may change."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from wslax.symmetry import layout
from wslax.symmetry.charges.forms import Form, System
from wslax.symmetry.charges.redundant import independent
from wslax.symmetry.charges.solve import solutions
from wslax.symmetry.charges.walk import run
from wslax.symmetry.gather import outer_units
from wslax.symmetry.types import Group, Groups, Site
from wslax.trace.jaxpr import Program


def _outer(groups: Groups, group: Group, site: Site) -> tuple[int, ...]:
    """The units of the groups it is `per` that a site lies at, where these are single ones."""
    length = groups.shape[site.name][site.axis]
    own = layout.units(site, length) >= 0
    found = []
    for id in group.per:
        axis, units = outer_units(groups, site, id, np.arange(length))
        at = set(units[own].tolist()) if axis == site.axis else set()
        found.append(at.pop() if len(at) == 1 else -1)
    return tuple(found)


def _kinds(groups: Groups, group: Group) -> list[int]:
    """Sites that have one exponent in common: one place, or one place at each outer unit."""
    seen: dict[tuple[object, ...], list[object]] = {}
    keys = []
    for site in group.sites:
        like = (site.name, site.axis, site.inner, _outer(groups, group, site))
        before = seen.setdefault(like, [])
        if layout.place(site) not in before:
            before.append(layout.place(site))
        alone = () if -1 not in like[-1] and group.per else layout.place(site)
        keys.append((*like[:3], before.index(layout.place(site)), alone))
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def charged(groups: Groups, program: Program, exact: Mapping[str, bool], inputs: int) -> Groups:
    """The groups with the exponents of every independent scale and sign symmetry.

    It is enough to look at the first unit of each group, at all outer units alike: units of a free
    group may change places, and what it is `per` never meets another of its units on the way.

    Args:
      groups: of the program.
      program: over leaves, then inputs.
      exact: for each leaf in order, whether it is of a type that can be scaled.
      inputs: how many.

    Returns:
      The groups.
    """
    kinds = {group.id: _kinds(groups, group) for group in groups.free}
    unknowns = [id for id, found in kinds.items() for _ in range(max(found) + 1)]
    first = {id: unknowns.index(id) for id in kinds}
    leaves: dict[str, dict[int, np.ndarray]] = {name: {} for name in exact}
    for group in groups.free:
        places = {
            layout.place(s): (s, k) for s, k in zip(group.sites, kinds[group.id], strict=True)
        }
        for site, kind in places.values():
            shape = groups.shape[site.name]
            here = layout.units(site, shape[site.axis]) == 0
            here = layout.across(here.astype(float), site.axis, len(shape))
            own, unknown = leaves[site.name], first[group.id] + kind
            own[unknown] = own.get(unknown, 0) + here
    found = {}
    for signs in (False, True):
        system = System(unknowns, signs=signs)
        forms: list[Form] = [*leaves.values(), *[{}] * inputs]
        system.vanish(*(leaves[name] for name in exact if not exact[name]))
        system.vanish(*run(system, program, forms))
        found[signs] = _solved(system, first, kinds)
    claimed = [
        dataclasses.replace(g, scales=found[False].get(g.id, ()), signs=found[True].get(g.id, ()))
        for g in groups.all
    ]
    groups = dataclasses.replace(groups, all=tuple(claimed))
    return dataclasses.replace(groups, all=tuple(_irredundant(groups, g) for g in groups.all))


def _irredundant(groups: Groups, group: Group) -> Group:
    scales, signs = (independent(groups, group, signs=signs) for signs in (False, True))
    return dataclasses.replace(group, scales=scales, signs=signs)


def _solved(
    system: System, first: Mapping[int, int], kinds: Mapping[int, Sequence[int]]
) -> dict[int, tuple[tuple[int, ...], ...]]:
    """Group id to the exponents of each symmetry, one a site."""
    rows: dict[int, list[tuple[tuple[int, float], ...]]] = {id: [] for id in first}
    for row in system.rows:
        id = system.groups[row[0][0]]
        rows[id].append(tuple((u - first[id], n) for u, n in row))
    return {
        id: tuple(
            tuple(values[k] for k in kinds[id])
            for values in solutions(rows[id], max(kinds[id]) + 1, signs=system.signs)
        )
        for id in first
    }
