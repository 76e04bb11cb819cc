"""The groups of a model after its blocks were copied, dropped or reordered."""

import dataclasses
from collections.abc import Iterable, Iterator

from wslax.grow.layers import DepthPlan
from wslax.grow.stacks import numbered
from wslax.symmetry import layout
from wslax.symmetry.types import Average, Group, Groups, Site


class _Names:
    """Where leaf names lie in the numbered blocks of a plan, and what they are called after."""

    def __init__(self, plan: DepthPlan) -> None:
        self.plan, stack = plan, plan.stack
        self.block = stack.members()
        self.prefixes = {leaf.partition("*")[0] for leaf in stack.leaves}

    def at(self, leaf: str, layer: int) -> str:
        """A leaf of a block in a block of the new model."""
        return leaf.replace("*", self.plan.stack.number(layer))

    def outside(self, name: str) -> str:
        """A leaf outside of the blocks: later members of the family get other numbers."""
        stack = self.plan.stack
        for prefix in self.prefixes:
            found = numbered(name, prefix)
            if found is not None and found[0] >= stack.first + stack.depth:
                number = found[0] - stack.depth + len(self.plan.layers)
                return f"{prefix}{stack.text(number)}{found[1]}"
        return name

    def moved(self, name: str, layer: int | None) -> str:
        """A leaf as seen from a block of the new model, or from outside of the blocks."""
        if name in self.block and layer is not None:
            return self.at(self.block[name][1], layer)
        return self.outside(name)

    def averages(self, averages: Iterable[Average], layer: int | None) -> Iterator[Average]:
        """Means as they are in one new block, or of all blocks where that is None."""
        for average in averages:
            blocks = {self.block[name][0] for name in average.gains if name in self.block}
            each = self.copies(blocks.pop()) if layer is None and blocks else [layer]
            for at in each:
                gains = tuple(self.moved(name, at) for name in average.gains)
                yield dataclasses.replace(average, gains=gains)

    def levers(
        self, group: Group, order: Iterable[tuple[int, int | None]]
    ) -> tuple[tuple[str, ...], ...]:
        """The levers of new sites, each given by the old one and the new block it lies in."""
        if not group.levers:
            return ()
        return tuple(tuple(self.moved(n, j) for n in group.levers[k]) for k, j in order)

    def copies(self, block: int) -> list[int]:
        """The new blocks that come from an old one."""
        return [j for j, layer in enumerate(self.plan.layers) if layer.sources[0] == block]


def _shared(group: Group, inside: dict[int, dict[int, str]], names: _Names) -> Group | None:
    """A group through all blocks, alike in each, extended to the new ones."""
    alike = [
        {(leaf, dataclasses.replace(group.sites[k], name="")) for k, leaf in places.items()}
        for places in inside.values()
    ]
    if len(inside) < names.plan.stack.depth or any(part != alike[0] for part in alike):
        return None
    within = {k for places in inside.values() for k in places}
    head = min(within)
    outside = [k for k in range(len(group.sites)) if k not in within]
    # Each new site: the old one it comes from, and the new block it lies in.
    order: list[tuple[int, int | None]] = [(k, None) for k in outside if k < head]
    for j, layer in enumerate(names.plan.layers):
        order += [(k, j) for k in inside[layer.sources[0]]]
    order += [(k, None) for k in outside if k > head]
    sites = []
    for k, j in order:
        site = group.sites[k]
        name = names.outside(site.name) if j is None else names.at(names.block[site.name][1], j)
        sites.append(dataclasses.replace(site, name=name))

    def extended(vectors: tuple[tuple[int, ...], ...]) -> Iterator[tuple[int, ...]]:
        for powers in vectors:
            support = {k for k, power in enumerate(powers) if power}
            home = [i for i, places in inside.items() if support <= places.keys()]
            if home:
                for only in names.copies(home[0]):
                    yield tuple(powers[k] if j == only else 0 for k, j in order)
            else:
                yield tuple(powers[k] for k, _ in order)

    return dataclasses.replace(
        group,
        sites=tuple(sites),
        scales=tuple(extended(group.scales)),
        signs=tuple(extended(group.signs)),
        averages=tuple(names.averages(group.averages, None)),
        levers=names.levers(group, order),
    )


def _renamed(group: Group, layer: int | None, names: _Names) -> Group:
    """A group that lies in one block or in none, in a new block."""
    order = [(k, layer) for k in range(len(group.sites))]
    return dataclasses.replace(
        group,
        sites=tuple(dataclasses.replace(s, name=names.moved(s.name, layer)) for s in group.sites),
        averages=tuple(names.averages(group.averages, layer)),
        levers=names.levers(group, order),
    )


def _numbered(groups: Groups, plan: DepthPlan) -> Groups | None:
    names = _Names(plan)
    made: dict[tuple[int, int | None], Group] = {}
    for group in groups.all:
        inside: dict[int, dict[int, str]] = {}
        for k, site in enumerate(group.sites):
            if site.name in names.block:
                i, leaf = names.block[site.name]
                inside.setdefault(i, {})[k] = leaf
        if not inside:
            made[group.id, None] = _renamed(group, None, names)
        elif len(inside) == 1 and sum(map(len, inside.values())) == len(group.sites):
            for j in names.copies(next(iter(inside))):
                made[group.id, j] = _renamed(group, j, names)
        else:
            shared = _shared(group, inside, names)
            if shared is None:
                return None
            made[group.id, None] = shared
    ids = {place: id for id, place in enumerate(made)}
    done = []
    for (old, j), group in made.items():
        places = [(other, j) if (other, j) in ids else (other, None) for other in group.per]
        if any(place not in ids for place in places):
            return None
        per = tuple(ids[place] for place in places)
        done.append(dataclasses.replace(group, id=ids[old, j], per=per))
    return Groups(tuple(done), tuple(_shapes(groups, names)))


def _shapes(groups: Groups, names: _Names) -> Iterator[tuple[str, tuple[int, ...]]]:
    by_block: dict[int, list[str]] = {}
    for name in groups.shape:
        if name in names.block:
            i, leaf = names.block[name]
            by_block.setdefault(i, []).append(leaf)
    begun = False
    for name, shape in groups.shapes:
        if name not in names.block:
            yield names.outside(name), shape
        elif not begun:
            begun = True
            for j, layer in enumerate(names.plan.layers):
                i = layer.sources[0]
                for leaf in by_block.get(i, ()):
                    old = leaf.replace("*", names.plan.stack.number(i))
                    yield names.at(leaf, j), groups.shape[old]


def _is_layer_axis(site: Site, depth: int) -> bool:
    return (site.outer, site.start, site.size, site.inner) == (1, 0, depth, 1)


def regrouped(groups: Groups, plan: DepthPlan) -> Groups | None:
    """The groups after the edit, or None where one runs from block to block without a stream.

    Args:
      groups: before.
      plan: the blocks.

    Returns:
      Groups whose ids count in the order of the old ones; a group inside a block has one of its
      own in each copy.
    """
    stack = plan.stack
    if stack.axes is None:
        return _numbered(groups, plan)
    wanted = set(zip(stack.leaves, stack.axes, strict=True))
    for group in groups.all:
        sites = {(site.name, site.axis) for site in group.sites}
        if sites == wanted and all(_is_layer_axis(site, stack.depth) for site in group.sites):
            return layout.resize(groups, {group.id: len(plan.layers)})
    return None
