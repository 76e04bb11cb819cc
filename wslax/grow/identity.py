"""Which leaves of a block must be zero for it to add nothing to the residual stream."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.grow.stacks import Stack
from wslax.symmetry.types import Group, Groups, Site


class _Part(NamedTuple):
    """What a group has in one block: `(place among the group's sites, leaf of the stack, site)`."""

    sites: tuple[tuple[int, str, Site], ...]

    def leaves(self, role: str) -> set[str]:
        return {leaf for _, leaf, site in self.sites if site.role == role}

    def only(self, role: str) -> list[int]:
        """The places of the sites of that role and of the elementwise ones."""
        return [k for k, _, site in self.sites if site.role in (role, "elementwise")]


def _parts(stack: Stack, group: Group) -> Iterator[_Part]:
    """The group in each block; in a scan all blocks are one."""
    for i in range(stack.depth if stack.axes is None else 1):
        names = {leaf.replace("*", stack.number(i)): leaf for leaf in stack.leaves}
        if stack.axes is not None:
            names = {leaf: leaf for leaf in stack.leaves}
        found = enumerate(group.sites)
        yield _Part(tuple((k, names[s.name], s) for k, s in found if s.name in names))


def _confined(group: Group, places: Sequence[int], place: int) -> bool:
    """Whether a scale symmetry moves that site and no other than those of `places`."""
    vectors = np.array(group.scales, float).reshape(len(group.scales), len(group.sites))
    outside = np.delete(vectors, places, axis=1).T
    if not len(vectors):
        return False
    _, values, basis = np.linalg.svd(np.vstack([outside, np.zeros((1, len(vectors)))]))
    null = basis[(values > 1e-9).sum() :]
    return bool((np.abs(null @ vectors[:, place]) > 1e-9).any())


def _with_its_output(group: Group, part: _Part, place: int) -> bool | None:
    """Whether a site scales with a projection (a bias) or against it (a gain after it).

    None where no scale symmetry shows that it belongs to one.
    """
    inside = {k: site for k, _, site in part.sites if site.role in ("produced", "elementwise")}
    for powers in group.scales:
        support = {k for k, power in enumerate(powers) if power}
        signs = {powers[k] > 0 for k in support & inside.keys() if inside[k].role == "produced"}
        if place in support and support <= inside.keys() and len(signs) == 1:
            return (powers[place] > 0) in signs
    return None


def _parent(leaf: str, stack: Stack) -> str:
    """The module inside the block that holds a leaf; empty at the block itself."""
    _, _, rest = leaf.partition("*") if stack.axes is None else ("", "", leaf)
    rest = rest if stack.axes is None else rest.removeprefix(stack.name)
    return rest.strip("/.").replace(".", "/").rpartition("/")[0]


def _zeroed(stack: Stack, group: Group, part: _Part) -> set[str]:
    """A block's leaves to zero on one stream."""
    produced = part.leaves("produced")
    homes = {_parent(leaf, stack) for leaf in produced} - {""}
    zero = set(produced)
    for place, leaf, site in part.sites:
        if site.role != "elementwise" or leaf in produced:
            continue
        if _confined(group, part.only("consumed"), place):
            continue
        added = _with_its_output(group, part, place)
        if added is None and _parent(leaf, stack) in homes:
            added = True
        if added is None:
            raise WeightSpaceError(
                f"{leaf}: meets the stream of {stack.name} element by element, and the groups do "
                "not show whether it is a bias of a last projection, to be zeroed with it, or acts "
                "on the sum (a norm after it), where zero projections do not make a block an "
                "identity. If the block is `x + f(x)`, name its last projections and their biases "
                "by zero=, and let `grow.check` compare the outputs"
            )
        if added:
            zero.add(leaf)
    return zero


def _runs_between(groups: Groups, stack: Stack, group: Group) -> bool:
    """Whether a group in the blocks of a scan is one for all layers, not one in each."""
    pairs = zip(stack.leaves, stack.axes or (), strict=True)
    if {layer.id for leaf, axis in pairs for layer in groups.at(leaf, axis)} & set(group.per):
        return False
    return group.frozen_by is None or any(site.name not in stack.leaves for site in group.sites)


def last_projections(groups: Groups, stack: Stack) -> frozenset[str]:
    """The leaves of a block that put out onto the stream through all blocks.

    A stream is a group that every block both consumes and produces. Of the leaves that meet it
    element by element, those are left out whose scale the block's own consumers can undo (gains
    and biases of a norm before a branch) or that scale against a projection (a gain behind it);
    biases are what scales with a projection or lies in one module with it.

    Args:
      groups: of the model, as `symmetry.infer` gives them.
      stack: the blocks.

    Returns:
      Names as in `stack.leaves`.

    Raises:
      WeightSpaceError: if there is no stream, or the groups do not show what a leaf does on it.
    """
    zero: set[str] = set()
    for group in groups.all:
        parts = list(_parts(stack, group))
        if not all(part.leaves("produced") and part.leaves("consumed") for part in parts):
            continue
        if stack.axes is not None and not _runs_between(groups, stack, group):
            continue
        both = set.union(*(part.leaves("produced") & part.leaves("consumed") for part in parts))
        if stack.axes is not None and both:
            raise WeightSpaceError(
                f"{min(both)}: is read and written by the carry of the scan, as in a plain stack "
                "of layers as well as in one with a residual stream, and the groups do not show "
                "which; with a residual stream name the last projections by zero=, without one no "
                "zero makes a layer an identity: take method='copy'"
            )
        for part in parts:
            zero |= _zeroed(stack, group, part)
    if not zero:
        raise WeightSpaceError(
            f"{stack.name}: no group runs into and out of every block, so there is no residual "
            "stream through them and zero projections would put out zeros, not the input; "
            "method='copy' or 'stack' repeats layers without keeping the function"
        )
    return frozenset(zero)
