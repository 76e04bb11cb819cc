"""`aki`: new units that come from the next block."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from wslax import edit, tree
from wslax.errors import WeightSpaceError
from wslax.grow.copies import fpi
from wslax.grow.stacks import Stack, blocks
from wslax.grow.width import widened
from wslax.symmetry import layout
from wslax.symmetry.along import space
from wslax.symmetry.find import locate
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Key, Params


class _Donor(NamedTuple):
    """Where a leaf of a block has its new units from.

    Attributes:
      name: of the leaf that gives them.
      number: where in it the block's number begins.
      layer: for a scan, the axis of the blocks.
      new: the sites along which there are new units, with the number of old ones.
    """

    name: str
    number: int
    layer: int | None
    new: dict[Site, int]


def _takes(group: Group, site: Site, inside: frozenset[str]) -> bool:
    """Whether a leaf of a block puts units out here, or biases those of the blocks alone."""
    read = {layout.place(s) for s in group.sites if s.role == "consumed"}
    confined = all(s.name in inside for s in group.sites)
    return layout.place(site) not in read and (site.role == "produced" or confined)


def _leaves(stack: Stack) -> Iterator[tuple[str, str, int]]:
    """`(leaf, the same of the next block, where the number begins)`; the last block has itself."""
    for name, (block, leaf) in stack.members().items():
        number = stack.number(min(block + 1, stack.depth - 1))
        yield name, leaf.replace("*", number), leaf.index("*")


def _donors(groups: Groups, grown: Groups) -> dict[str, _Donor]:
    """Each leaf of a block that has new units, with the leaf that gives them."""
    stacks = blocks(groups)
    if not stacks:
        raise WeightSpaceError(
            "aki takes new units from the next block, and no leaves form repeated blocks; use fpi"
        )
    inside = frozenset(name for stack in stacks for name in stack.groups.shape)
    new: dict[str, dict[Site, int]] = {name: {} for name in inside}
    for group, before in zip(grown.all, groups.all, strict=True):
        for site in group.sites if group.size > before.size else ():
            if site.name in inside and _takes(group, site, inside):
                new[site.name][site] = before.size
    found = {}
    for stack in stacks:
        if stack.axes is not None:
            for name, axis in zip(stack.leaves, stack.axes, strict=True):
                found[name] = _Donor(name, 0, axis, new[name])
            continue
        for name, donor, number in _leaves(stack):
            same = {dataclasses.replace(s, name=donor): n for s, n in new[name].items()}
            if same != new[donor]:
                one, other = (grown.shape[leaf] for leaf in (name, donor))
                raise WeightSpaceError(
                    f"{name}: aki takes its new units from {donor}, but they would be {list(one)} "
                    f"and {list(other)}; widen the groups of all blocks alike, or use fpi"
                )
            found[name] = _Donor(donor, number, None, new[name])
    return {name: donor for name, donor in found.items() if donor.new}


def _taken(leaf: Array, donor: Array, new: Mapping[Site, int]) -> Array:
    """A leaf with the entries of new units from another."""
    mask: Any = np.zeros((), bool)
    for site, old in new.items():
        units = layout.units(site, leaf.shape[site.axis])
        mask = mask | layout.across(units >= old, site.axis, leaf.ndim)
    out = space(leaf, donor).where(mask, donor, leaf)
    return out if isinstance(out, np.ndarray) else tree.cast_like(out, leaf)


def _spliced(grown: Groups, donors: Mapping[str, _Donor], params: Params) -> Params:
    found, leaves = locate(params, grown), tree.named_leaves(params)

    def splice(name: str, leaf: Any) -> Any:
        original = found.get(name, "")
        donor = donors.get(original)
        if donor is None or not hasattr(leaf, "shape"):
            return leaf
        if donor.layer is None:
            head = name[: len(name) - len(original) + donor.number]
            return _taken(leaf, leaves[head + donor.name[donor.number :]], donor.new)
        depth = leaf.shape[donor.layer]
        following = np.minimum(np.arange(1, depth + 1), depth - 1)
        return _taken(leaf, space(leaf).take(leaf, following, donor.layer), donor.new)

    return tree.map_named(splice, params)


def aki(groups: Groups, sizes: Mapping[int, int], *, key: Key, noise: float = 0.0) -> edit.Edit:
    r"""Give groups more units, those of each block from the next one; the function changes.

    Advanced knowledge initialisation (bert2BERT, Chen et al., arXiv:2110.07143): blocks \(l\) and
    \(l + 1\) are both widened by FPI, \(\tilde U\), and what block \(l\) puts out is

    \[U^l_j = \tilde U^l_j \text{ for old units}, \qquad
      U^l_j = \tilde U^{l+1}_j \text{ for new ones},\]

    with \(l + 1\) the last block for the last one. Neighbours do much the same, so knowledge stays
    though the function does not, and new units differ from the old ones, which copies do not.

    Which leaves form repeated blocks is known by `blocks`, lists and scans alike. New entries come
    from the next block in all that a block produces, and in biases and statistics of units that
    exist in blocks alone. What stands outside of blocks, and norms and biases along a stream that
    runs through them, is as by FPI.

    Args:
      groups: of the narrow model.
      sizes: group id to its new number of units; static. Alike in all blocks of a list.
      key: as for `widen`.
      noise: as for `widen(method="fpi")`; default none.

    Returns:
      An `Edit` as from `widen`. Take `policy="reset"`, with its warm-up: `"exact"` moves moments as
      weights, new units' from the next block, but where the function changes so do gradients, and
      on the nets of the tests what is moved is off by more than the largest gradient.

    Raises:
      WeightSpaceError: where `widen(..., method="fpi")` does, if there are no repeated blocks, or
        if a block's new units and those of the next would not be as many.

    Example:
        >>> import numpy as np
        >>> from wslax import grow, symmetry
        >>> params = {f"block_{i}": {"up": np.full((1, 2), i), "down": np.ones((2, 1))}
        ...           for i in range(2)}
        >>> sites = [[(f"block_{i}/up", 1, "produced"), (f"block_{i}/down", 0, "consumed")]
        ...          for i in range(2)]
        >>> groups = symmetry.Groups.from_sites(params, sites)
        >>> wide = grow.aki(groups, {0: 3, 1: 3}, key=0).apply(params)
        >>> [wide[name]["up"].tolist() for name in wide]
        [[[0, 0, 1]], [[1, 1, 1]]]
    """

    def taken(grown: Groups) -> Callable[[Params], Params]:
        return functools.partial(_spliced, grown, _donors(groups, grown))

    return widened(groups, sizes, fpi, key, noise, taken)
