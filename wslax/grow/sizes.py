"""Which sizes an edit changed: of axes, of groups, and the eps that its gains ask for."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from wslax import symmetry, tree
from wslax.grow import reasons
from wslax.symmetry.types import Groups
from wslax.typing import Params

Shape = tuple[int, ...]


class Growth(NamedTuple):
    """What an edit did to sizes.

    Attributes:
      leaves: name to old and new shape, of leaves that both models have.
      groups: leaf name to `(old, new)` sizes of the groups that run through it.
      products: old sizes of groups over which activations are contracted with each other.
      shares: leaf name of a norm's gain to `(old size, new size, factor of eps)`.
    """

    leaves: dict[str, tuple[Shape, Shape]]
    groups: dict[str, frozenset[tuple[int, int]]]
    products: frozenset[int]
    shares: dict[str, tuple[int, int, float]]

    def under(self, path: str) -> dict[str, tuple[Shape, Shape]]:
        """The leaves below a module's path."""
        inside = f"/{path}/" if path else "/"
        return {name: both for name, both in self.leaves.items() if inside in f"/{name}/"}

    def changed(self, path: str = "") -> frozenset[tuple[int, int]]:
        """Old and new sizes of axes, runs of axes and groups below a path, where they differ."""
        found = set()
        for name, (old, new) in self.under(path).items():
            found |= self.groups.get(name, frozenset())
            for i in range(len(old)):
                for j in range(i + 1, len(old) + 1):
                    found.add((math.prod(old[i:j]), math.prod(new[i:j])))
        return frozenset(pair for pair in found if pair[0] != pair[1] and pair[0] > 1)


def _shares(
    groups: Groups, old: dict[str, Any], new: dict[str, Any]
) -> dict[str, tuple[int, int, float]]:
    """By which factor the edit shrank the squares of gains, the same for all old units."""
    found = {}
    for group in groups.all:
        gains = {name for average in group.averages for name in average.gains}
        for site in (s for s in group.sites if s.name in gains & old.keys()):
            a, b = (np.asarray(x[site.name], np.float64) for x in (old, new))
            size = a.shape[site.axis] if a.ndim == b.ndim else 0
            if not size or a.shape == b.shape or site.outer * site.inner != 1:
                continue
            b = np.take(b, range(size), site.axis)
            if a.shape != b.shape or not a.any():
                continue
            ratio = (b[a != 0] / a[a != 0]) ** 2
            if np.ptp(ratio) < 1e-2 * ratio.mean() and abs(ratio.mean() - 1) > 1e-2:
                found[site.name] = (size, group.size, float(ratio.mean()))
    return found


def growth(
    apply: Callable[..., Any], params: Params, inputs: tuple[Any, ...], groups: Any, grown: Params
) -> Growth:
    """Compare the old model's leaves and groups with those that an edit leaves.

    Args:
      apply: the old model.
      params: of it.
      inputs: of it.
      groups: after the edit, or None.
      grown: parameters after the edit.

    Returns:
      The sizes.
    """
    old, new = tree.named_leaves(params), tree.named_leaves(grown)
    leaves = {
        name: (tuple(old[name].shape), tuple(new[name].shape))
        for name in old
        if name in new and hasattr(old[name], "shape") and old[name].ndim == new[name].ndim
    }
    if groups is None:
        return Growth(leaves, {}, frozenset(), {})
    before = symmetry.infer(apply, params, *inputs)
    pairs: dict[str, set[tuple[int, int]]] = {}
    for name, (shape, _) in leaves.items():
        for axis in range(len(shape)):
            a, b = before.at(name, axis), groups.at(name, axis)
            if len(a) == len(b):
                both = zip(a, b, strict=True)
                pairs.setdefault(name, set()).update((x.size, y.size) for x, y in both)
    products = frozenset(group.size for group in before.all if reasons.is_product(group))
    frozen = {name: frozenset(found) for name, found in pairs.items()}
    return Growth(leaves, frozen, products, _shares(groups, old, new))
