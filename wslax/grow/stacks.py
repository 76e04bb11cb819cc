"""Finding the leaves that form a repeated block: numbered siblings, or the layer axis of a scan."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.globs import pick
from wslax.symmetry.types import Group, Groups
from wslax.symmetry.validate import shapes_of
from wslax.typing import Params, Where

_NUMBER = re.compile(r"\d+(?=[./]|$)")


class Stack(NamedTuple):
    """Blocks of equal structure, one after another; made by `blocks`.

    Attributes:
      name: what the blocks have in common, with `*` for their numbers: `"block_*"`, `"layers/*"`;
        `"stages_[3-5]"` where the family has blocks of other structure; for a scan, the path above
        its leaves.
      depth: the number of blocks.
      leaves: one block's leaves by name, with `*` for the number; for a scan, the leaves.
      shapes: their shapes; for a scan, with the layer axis.
      axes: for a scan, the layer axis of each leaf; None for numbered blocks.
      first: the first block's number.
      digits: the least number of digits of a number (2 for `00`, `01`).

    Example:
        >>> import numpy as np
        >>> params = {"block_0": {"w": np.zeros((2, 3))}, "block_1": {"w": np.zeros((2, 3))}}
        >>> print(blocks(params)[0])
        block_*: 2 blocks
          block_*/w [2, 3]
    """

    name: str
    depth: int
    leaves: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[int, ...] | None = None
    first: int = 0
    digits: int = 1

    def __str__(self) -> str:
        scan = "" if self.axes is None else ", stacked for a scan"
        lines = [f"{self.name}: {self.depth} blocks{scan}"]
        lines += [f"  {n} {list(s)}" for n, s in zip(self.leaves, self.shapes, strict=True)]
        return "\n".join(lines)

    def text(self, number: int) -> str:
        """A number as it stands in names."""
        return f"{number:0{self.digits}d}"

    def number(self, block: int) -> str:
        """The number of a block, as text."""
        return self.text(self.first + block)

    def members(self) -> dict[str, tuple[int, str]]:
        """Each leaf of numbered blocks by name: its block, and its name with `*`."""
        each = itertools.product(self.leaves, range(self.depth))
        return {leaf.replace("*", self.number(i)): (i, leaf) for leaf, i in each}

    @property
    def groups(self) -> Groups:
        """All its leaves as groups without sites, for `symmetry.locate`."""
        named = zip(self.leaves, self.shapes, strict=True)
        if self.axes is None:
            at = range(self.depth)
            named = ((n.replace("*", self.number(i)), s) for n, s in [*named] for i in at)
        return Groups((), tuple(named))


class _Family(NamedTuple):
    """Leaves whose names agree up to a number and what follows it."""

    texts: dict[int, str]
    blocks: dict[int, dict[str, str]]


def numbered(name: str, prefix: str) -> tuple[int, str] | None:
    """The number that a name has after a prefix, and what follows it; None where it has none."""
    found = re.match(r"(\d+)((?:[./].*)?)$", name.removeprefix(prefix))
    return (int(found[1]), found[2]) if found and name.startswith(prefix) else None


def _numbered(name: str, collections: bool) -> Iterator[tuple[str, str, str]]:
    """`(family, number, leaf with * for the number)` at every number in a name."""
    for found in _NUMBER.finditer(name):
        start, end = found.span()
        family = name[:start].partition("/")[2] if collections else name[:start]
        yield family, found[0], f"{name[:start]}*{name[end:]}"


def _families(avals: Mapping[str, str], collections: bool) -> dict[str, _Family]:
    families: dict[str, _Family] = {}
    for name, aval in avals.items():
        for key, text, leaf in _numbered(name, collections):
            family = families.setdefault(key, _Family({}, {}))
            family.texts[int(text)] = text
            family.blocks.setdefault(int(text), {})[leaf] = aval
    return families


def _runs(family: _Family) -> Iterator[range]:
    """Numbers of consecutive blocks of equal structure, two at least."""
    numbers, start = sorted(family.blocks), 0
    for i in range(1, len(numbers) + 1):
        last = numbers[i - 1]
        if family.blocks[last] != family.blocks.get(last + 1):
            if i - start > 1:
                yield range(numbers[start], last + 1)
            start = i


def _inside(name: str, key: str, collections: bool, runs: Mapping[str, list[range]]) -> bool:
    """Whether a leaf of a family lies in a block of a family further out."""
    return any(
        int(text) in run
        for family, text, _ in _numbered(name, collections)
        if len(family) < len(key)
        for run in runs[family]
    )


def _lists(
    avals: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[list[Stack], list[Stack]]:
    """Stacks of numbered blocks: the outermost ones, and those inside them."""
    collections = "params" in {name.partition("/")[0] for name in avals}
    families = _families(avals, collections)
    runs = {key: [*_runs(family)] for key, family in families.items()}
    outer: list[Stack] = []
    inner: list[Stack] = []
    for key, family in families.items():
        digits = max(len(text) if text[0] == "0" else 1 for text in family.texts.values())
        if any(f"{number:0{digits}d}" != text for number, text in family.texts.items()):
            continue
        for run in runs[key]:
            text = family.texts[run[0]]
            named = {leaf: leaf.replace("*", text, 1) for leaf in family.blocks[run[0]]}
            leaves = tuple(leaf for leaf, name in named.items() if name in shapes)
            if collections:
                leaves = tuple(sorted(leaves, key=lambda leaf: not leaf.startswith("params/")))
            if leaves:
                label = "*" if len(run) == len(family.blocks) else f"[{run[0]}-{run[-1]}]"
                name = leaves[0].partition("*")[0] + label
                of_one = tuple(shapes[named[leaf]] for leaf in leaves)
                stack = Stack(name, len(run), leaves, of_one, None, run[0], digits)
                nested = _inside(named[leaves[0]], key, collections, runs)
                (inner if nested else outer).append(stack)
    return outer, inner


def layer_groups(groups: Groups) -> list[Group]:
    """The groups that are the layer axis of a scan, the outermost ones."""
    found = [
        group
        for group in groups.all
        if (group.frozen_by or "").startswith("scan ")
        and group.size > 1
        and all(
            (s.outer, s.start, s.size, s.role)
            == (1, 0, groups.shape[s.name][s.axis], "elementwise")
            for s in group.sites
        )
    ]
    first: dict[str, int] = {}
    for group in found:
        for site in group.sites:
            first[site.name] = min(site.axis, first.get(site.name, site.axis))
    return [g for g in found if all(s.axis == first[s.name] for s in g.sites)]


def _scanned(
    names: list[str], axes: list[int], shapes: Mapping[str, tuple[int, ...]], name: str
) -> Stack:
    depths = {shapes[n][axis] for n, axis in zip(names, axes, strict=True)}
    if len(depths) > 1:
        each = ", ".join(f"{n} {list(shapes[n])}" for n in names)
        raise WeightSpaceError(
            f"{name}: leaves stacked for one scan have leading axes of one length, got {each}"
        )
    stacked = tuple(shapes[n] for n in names)
    return Stack(name, depths.pop(), tuple(names), stacked, tuple(axes))


def _of_groups(groups: Groups) -> list[Stack]:
    stacks = []
    for group in layer_groups(groups):
        names = [site.name for site in group.sites]
        name = os.path.commonpath(names) if len(names) > 1 else names[0]
        axes = [site.axis for site in group.sites]
        stacks.append(_scanned(names, axes, groups.shape, name or "*"))
    return stacks


def _apart(stacks: list[Stack], outer: list[Stack]) -> tuple[list[Stack], list[Stack]]:
    """The stacks that do not lie within the leaves of others, and those that do."""
    within = [any(s.groups.shape.keys() <= o.groups.shape.keys() for o in outer) for s in stacks]
    pairs = [*zip(stacks, within, strict=True)]
    return [s for s, inside in pairs if not inside], [s for s, inside in pairs if inside]


def every(
    model: Groups | Params, groups: Groups | None, scanned: Where
) -> tuple[list[Stack], list[Stack]]:
    """The stacks of a model, and those that lie inside blocks of others."""
    if isinstance(model, Groups):
        groups, shapes = model, model.shape
        avals = {name: str(shape) for name, shape in shapes.items()}
    else:
        shapes = shapes_of(model)
        avals = {name: tree.aval(leaf) for name, leaf in tree.named_leaves(model).items()}
    scans = [] if groups is None else _of_groups(groups)
    if scanned is not None:
        stacked = [name for name, shape in shapes.items() if shape]
        names = [n for n, hit in zip(stacked, pick(stacked, scanned), strict=True) if hit]
        label = scanned if isinstance(scanned, str) else ", ".join(scanned)
        scans.append(_scanned(names, [0] * len(names), shapes, label))
    lists, inner = _lists(avals, shapes)
    lists, more = _apart(lists, scans)
    scans, last = _apart(scans, lists)
    return [*lists, *scans], [*inner, *more, *last]


def blocks(
    model: Groups | Params, groups: Groups | None = None, *, scanned: Where = None
) -> tuple[Stack, ...]:
    """The stacks of repeated blocks in a model, found by itself.

    - *Numbered blocks*: siblings whose names end in consecutive numbers (`block_0`, `layers_1`,
      `h.3`, the places of a list; also inside the names of a flat checkpoint) and which hold the
      same leaves of the same shapes and dtypes. Several families under one parent are several
      stacks, and so are runs of equal blocks in one family. Of nested ones the outermost. Where
      the tree has a `"params"` at its top, what stands beside it (`batch_stats`) are collections
      of the same blocks.
    - *Stacked leaves of a scan*: leaves alone cannot tell a layer axis from a width, the groups
      can (`symmetry.infer` freezes it by the scan).

    Args:
      model: parameters, their `ShapeDtypeStruct`s, or the groups alone (then by shape, of leaves
        that groups run through).
      groups: the model's groups, for scans.
      scanned: globs of leaves whose leading axis is a layer axis, where no groups say so.

    Returns:
      The stacks, in the order of leaves; empty if there is none.

    Raises:
      WeightSpaceError: if `scanned` picks nothing or leaves of different leading axes.

    Example:
        >>> import jax, wslax as ws
        >>> net = ws.nets.transformer(11, 6, width=8, heads=2, depth=3)
        >>> params = net.init(jax.random.key(0))
        >>> [(stack.name, stack.depth) for stack in blocks(params)]
        [('block_*', 3)]
    """
    return tuple(every(model, groups, scanned)[0])


def choose(model: Groups | Params, name: str | None) -> Stack:
    """The stack of that name, or the only one; an error that lists them otherwise."""
    outer, inner = every(model, None, None)
    if name is not None:
        named = {stack.name: stack for stack in (*inner, *outer)}
        if name not in named:
            raise WeightSpaceError(f"no stack {name!r}.{did_you_mean(name, named)}")
        return named[name]
    if len(outer) == 1:
        return outer[0]
    if outer:
        found = ", ".join(repr(stack.name) for stack in outer)
        raise WeightSpaceError(f"several stacks of blocks: {found}; say which by stack=")
    raise WeightSpaceError(
        "no stack of repeated blocks: no siblings whose names end in consecutive numbers are "
        "alike, and no group is the layer axis of a scan; for leaves that are stacked for a scan "
        "pass the groups of `symmetry.infer`, or stack=grow.blocks(params, scanned=...)[0]"
    )
