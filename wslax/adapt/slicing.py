"""An adapter's parts after its base was pruned."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.adapt.layouts import PLAIN
from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.actions import checked_index
from wslax.symmetry.matrices import MatrixAxes, matrix_axes
from wslax.symmetry.types import Groups
from wslax.typing import Array

# What lies along the axes of a part: inputs, outputs, or what is the part's own.
_RUNS = {
    "down": ("in", "rank"),
    "first_down": ("in", "rank"),
    "up": ("rank", "out"),
    "first_up": ("rank", "out"),
    "inputs": ("in",),
    "outputs": ("out",),
}


class _Kept(NamedTuple):
    """Which entries of an axis of a leaf are kept.

    Attributes:
      name: of the leaf.
      shape: of the leaf.
      axes: which of its axes are rows, and which columns.
      axis: the one that gets shorter.
      source: the entries.
    """

    name: str
    shape: tuple[int, ...]
    axes: MatrixAxes
    axis: int
    source: Array


def _order(kept: _Kept, part: str) -> tuple[list[int], list[tuple[Any, ...]]]:
    """Axes of the leaf along a part: its batch, and those that each further axis is made of."""
    if part == "change":
        return list(range(len(kept.shape))), []
    if part not in _RUNS:
        raise WeightSpaceError(
            f"{kept.name}: no units run through its {part!r}; fuse the adapter before its base is "
            f"pruned, or use one whose parts are among {', '.join(('change', *_RUNS))}"
        )
    sides = {"in": kept.axes.consumed, "out": kept.axes.produced, "rank": (None,)}
    inside = (*kept.axes.consumed, *kept.axes.produced)
    batch = [axis for axis in range(len(kept.shape)) if axis not in inside]
    return batch, [sides[side] for side in _RUNS[part]]


def _sliced(kept: _Kept, part: str, x: Array) -> Array:
    """One part, unfolded to axes of the leaf and folded again."""
    batch, folds = _order(kept, part)
    order = [*batch, *(axis for fold in folds for axis in fold)]
    known = math.prod(kept.shape[axis] for axis in order if axis is not None)
    size = lambda axis: x.size // known if axis is None else kept.shape[axis]
    expected = (*map(size, batch), *(math.prod(map(size, fold)) for fold in folds))
    if x.shape != expected:
        raise WeightSpaceError(
            f"{kept.name}: expected {part} {list(expected)} for a leaf {list(kept.shape)}, got "
            f"{tree.aval(x)}; make the adapter with these groups="
        )
    if kept.axis not in order:
        return x
    taken = jnp.take(x.reshape([*map(size, order)]), kept.source, order.index(kept.axis))
    left = dict(zip(order, taken.shape, strict=True))
    folded = (math.prod(left[axis] for axis in fold) for fold in folds)
    return taken.reshape(*taken.shape[: len(batch)], *folded)


def take(parts: Any, groups: Groups, indices: Mapping[int, Array]) -> Any:
    r"""Keep the given units of groups in an adapter's parts, as `symmetry.take` does in its base.

    Of a thin product \(D U\) the rows of \(D\) and the columns of \(U\) are kept, so that fusing
    what was taken is taking from what was fused. `lora`, `pissa`, `ia3`, `whole`, `splora` and
    `sppara` have such parts.

    Args:
      parts: `train` or `fixed`, of an adapter made with the same `groups=`, or of one whose leaves
        lie `[in, out]`; an optimizer state of it goes through
        `tree.map_like(lambda t: take(t, groups, indices), state, train)`.
      groups: the groups of the base.
      indices: group id to integers `[count]`, as for `symmetry.take`.

    Returns:
      The parts with axes of other lengths, for an adapter made with the groups that
      `symmetry.resize` gives, where it has groups.

    Raises:
      WeightSpaceError: if a group is missing or frozen, a unit that is not traced does not exist,
        indices differ between outer units, or a part does not run along its leaf.

    References:
      Hedegaard et al. 2022, "Structured Pruning Adapters", arXiv:2211.10155, section 4.

    Example:
        >>> import wslax as ws
        >>> params = {"a": np.ones((2, 3), np.float32), "b": np.ones((3, 2), np.float32)}
        >>> sites = [("a", 1, "produced"), ("b", 0, "consumed")]
        >>> groups = ws.symmetry.Groups.from_sites(params, [sites])
        >>> train, _ = ws.adapt.splora(1).init(jax.random.key(0), params)
        >>> jax.tree.map(jax.numpy.shape, take(train, groups, {0: np.array([2, 0])}))
        {'a': {'down': (2, 1), 'up': (1, 2)}, 'b': {'down': (2, 1), 'up': (1, 2)}}
    """
    parts = dict(parts)
    spec = {n: jax.ShapeDtypeStruct(shape, np.float32) for n, shape in groups.shape.items()}
    axes = matrix_axes(spec, groups)
    for id, index in indices.items():
        index = checked_index(groups, id, index, permutation=False)
        if index.ndim > 1:
            raise WeightSpaceError(
                f"group {id}: expected one index [count] for all outer units, got "
                f"{tree.aval(index)}; a part of an adapter is the same for all of them"
            )
        for now, (site, *_) in layout.steps(groups, id, index.shape[0]):
            if site.name in parts:
                shape = now.shape[site.name]
                source = layout.along(site, shape[site.axis], index, jnp)
                kept = _Kept(site.name, shape, axes.get(site.name, PLAIN), site.axis, source)
                old = parts[site.name]
                parts[site.name] = {part: _sliced(kept, part, x) for part, x in old.items()}
        groups = layout.resize(groups, {id: index.shape[0]})
    return parts
