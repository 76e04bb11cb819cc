"""What makes groups sound, and the sentence for each way they are not."""

import itertools
from collections import defaultdict
from collections.abc import Iterable

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.symmetry import layout
from wslax.symmetry.types import REDUCTIONS, ROLES, Group, Groups, Site
from wslax.typing import Params


def shapes_of(params: Params) -> dict[str, tuple[int, ...]]:
    """Leaf name to shape, of the leaves that have one."""
    leaves = tree.named_leaves(params).items()
    return {name: tuple(leaf.shape) for name, leaf in leaves if hasattr(leaf, "shape")}


def _known(word: str, known: Iterable[str], what: str) -> None:
    if word not in known:
        raise WeightSpaceError(f"{what} {word!r} is unknown.{did_you_mean(word, known)}")


def resolve_site(site: Site | tuple[str, int, str], shapes: dict[str, tuple[int, ...]]) -> Site:
    """A `Site` from itself, or from `(name, axis, role)` and the leaf's shape."""
    if isinstance(site, Site):
        return site
    name, axis, role = site
    _known(name, shapes, "leaf")
    shape = shapes[name]
    if not -len(shape) <= axis < len(shape):
        raise WeightSpaceError(f"{name}: has {len(shape)} axes {list(shape)}, got axis {axis}")
    return Site(name, axis % len(shape), size=shape[axis], role=role)


def _check_site(site: Site, shapes: dict[str, tuple[int, ...]]) -> None:
    _known(site.name, shapes, "leaf")
    _known(site.role, ROLES, f"{site.name}: role")
    shape = shapes[site.name]
    if site.axis not in range(len(shape)):
        raise WeightSpaceError(f"{site.name}: has {len(shape)} axes, got axis {site.axis}")
    length = shape[site.axis]
    if min(site.outer, site.size, site.inner) < 1 or site.start < 0:
        raise WeightSpaceError(f"{site}: outer, size and inner are at least 1, start at least 0")
    if length % site.outer or (site.start + site.size) * site.inner > length // site.outer:
        raise WeightSpaceError(
            f"{site}: does not fit the axis of length {length}; it needs length = outer * tile and "
            f"(start + size) * inner <= tile, and a whole axis is size={length}"
        )


def _check_powers(group: Group) -> None:
    if group.frozen_by is not None and (group.scales or group.signs):
        raise WeightSpaceError(f"group {group.id}: is frozen, so it has no scales or signs")
    for kind in ("scales", "signs"):
        for powers in getattr(group, kind):
            at: dict[tuple[object, ...], int] = {}
            fits = len(powers) == len(group.sites) and any(powers)
            for site, power in zip(group.sites, powers, strict=False):
                fits = fits and at.setdefault(layout.place(site), power) == power
                fits = fits and (kind == "scales" or power in (0, 1))
            if not fits:
                raise WeightSpaceError(
                    f"group {group.id}: {kind} {list(powers)} do not fit its {len(group.sites)} "
                    "sites; expected one integer a site, not all zero, the same where sites differ "
                    "in role alone, and 0 or 1 for signs"
                )


def _check_group(group: Group, place: int, groups: Groups) -> None:
    if group.id != place:
        raise WeightSpaceError(f"group {group.id} stands at place {place}; ids are places")
    if not group.sites:
        raise WeightSpaceError(f"group {group.id} is empty: give it at least one site")
    for site in group.sites:
        _check_site(site, groups.shape)
        if site.size != group.size:
            raise WeightSpaceError(
                f"{site}: has {site.size} units, group {group.id} has {group.size}; an axis that "
                "holds the group several times needs outer= or inner="
            )
    _check_powers(group)
    if group.levers and len(group.levers) != len(group.sites):
        raise WeightSpaceError(f"group {group.id}: expected levers for each of its sites, or none")
    for word in group.reductions:
        _known(word, REDUCTIONS, f"group {group.id}: reduction")
    for other in group.per:
        if other not in range(len(groups.all)) or other == group.id:
            raise WeightSpaceError(f"group {group.id}: per={other} is not another group")
        for name in {site.name for site in group.sites}:
            if all(site.name != name for site in groups.all[other].sites):
                raise WeightSpaceError(
                    f"{name}: group {group.id} runs through it and is per group {other}, which "
                    "does not"
                )


def validated(groups: Groups) -> Groups:
    """The same groups, or an error that names the leaf at fault."""
    axes = defaultdict(list)
    for place, group in enumerate(groups.all):
        _check_group(group, place, groups)
        for site in group.sites:
            axes[site.name, site.axis].append((group.id, site))
    for (name, axis), sites in axes.items():
        length = groups.shape[name][axis]
        for (i, a), (j, b) in itertools.combinations(sites, 2):
            relation = layout.relation(a, b, length)
            tied = relation == "same" and i == j and a.role != b.role
            if relation is None or (relation == "same" and not tied):
                raise WeightSpaceError(
                    f"{name}: the sites of groups {i} and {j} overlap on axis {axis} of length "
                    f"{length} ({a}; {b}); they may nest, lie apart, or differ in role alone"
                )
    return groups
