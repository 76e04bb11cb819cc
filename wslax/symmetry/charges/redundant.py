"""Symmetries that say nothing new: scaling a head is scaling all units of its width alike."""

import numpy as np

from wslax.symmetry import layout
from wslax.symmetry.charges.forms import Row, distinct
from wslax.symmetry.charges.solve import solutions
from wslax.symmetry.gather import outer_units
from wslax.symmetry.types import Group, Groups

Powers = tuple[int, ...]


def _exponents(groups: Groups, group: Group, powers: Powers, name: str, outer: int) -> np.ndarray:
    """How a leaf changes where the first unit of group `outer` gets a factor.

    `group` is that one, or an inner one all of whose units get the factor there.
    """
    shape = groups.shape[name]
    total = np.zeros((1,) * len(shape))

    def over(axis: int, values: np.ndarray) -> np.ndarray:
        return layout.across(values, axis, len(shape))

    places = {layout.place(site): (site, n) for site, n in zip(group.sites, powers, strict=True)}
    for site, power in places.values():
        if site.name != name or not power:
            continue
        own = layout.units(site, shape[site.axis])
        if group.id == outer:
            here = over(site.axis, own == 0)
        else:
            axis, units = outer_units(groups, site, outer, np.arange(len(own)))
            here = over(site.axis, own >= 0) & over(axis, units == 0)
        total = total + power * here
    return total


def independent(groups: Groups, group: Group, *, signs: bool) -> tuple[Powers, ...]:
    """The symmetries of a group that those of groups within its units do not give."""
    kind = "signs" if signs else "scales"
    own: tuple[Powers, ...] = getattr(group, kind)
    inside = [g for g in groups.free if group.id in g.per and set(group.per) <= set(g.per)]
    acting = [(g, powers) for g in (group, *inside) for powers in getattr(g, kind)]
    if len(acting) == len(own):
        return own
    rows: set[Row] = set()
    for name in dict.fromkeys(site.name for g in (group, *inside) for site in g.sites):
        found = distinct([_exponents(groups, g, p, name, group.id) for g, p in acting])
        rows |= {tuple((i, n) for i, n in enumerate(row) if n) for row in found}
    given = {
        next(i for i, n in enumerate(s) if n) for s in solutions(rows, len(acting), signs=signs)
    }
    return tuple(powers for i, powers in enumerate(own) if i not in given)
