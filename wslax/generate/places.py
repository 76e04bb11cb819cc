"""Where each weight stands in its net: layer, row and column, at any width."""

from collections.abc import Mapping

import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.symmetry.find import check_id
from wslax.symmetry.layout import resize
from wslax.symmetry.matrices import MatrixAxes
from wslax.symmetry.types import Groups
from wslax.typing import Params


def weight_axes(name: str, ndim: int, groups: Groups) -> MatrixAxes:
    """Which axes of a leaf count its inputs and which its outputs; others are its kernel's window.

    Free groups tell; what they leave open is read as Flax stores it, `[..., in, out]`.
    """
    sites = [site for group in groups.free for site in group.sites if site.name == name]
    of = lambda *roles: {site.axis for site in sites if site.role in roles}
    consumed = of("consumed") - of("produced")
    produced = of("produced", "elementwise") - consumed
    if not produced and ndim and ndim - 1 not in consumed:
        produced = {ndim - 1}
    if not consumed and ndim > 1 and ndim - 2 not in produced:
        consumed = {ndim - 2}
    return MatrixAxes(tuple(sorted(consumed)), tuple(sorted(produced)))


def shapes_at(
    params: Params, groups: Groups, sizes: Mapping[int, int] | None
) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf of floats once groups have other sizes."""
    leaves = {n: leaf.shape for n, leaf in tree.named_leaves(params).items() if tree.is_float(leaf)}
    for id, size in (sizes or {}).items():
        if check_id(groups, id) and size < 1:
            raise WeightSpaceError(f"group {id}: expected at least 1 unit, got {size}")
    changed = resize(groups, dict(sizes or {})).shape
    return {name: changed.get(name, tuple(shape)) for name, shape in leaves.items()}


def extents(shape: tuple[int, ...], axes: MatrixAxes) -> tuple[int, int]:
    """How many inputs and outputs a leaf counts."""
    count = lambda which: int(np.prod([shape[axis] for axis in which], dtype=int))
    return count(axes.consumed), count(axes.produced)


def coordinates(
    params: Params, groups: Groups, sizes: Mapping[int, int] | None = None
) -> dict[str, np.ndarray]:
    r"""The coordinates \((l, i, j, L, C_{out}, C_{in})\) of the weights of a net of any width.

    \(l\) of \(L\) is the leaf's place among the leaves of floats, \(i\) of \(C_{out}\) the output
    and \(j\) of \(C_{in}\) the input that the weight joins. Several axes of inputs (heads and their
    widths) are counted through, major to minor. The weights of one window of a convolution share
    their coordinates; a bias or scale has \(j = 0, C_{in} = 1\).

    Args:
      params: the net at full size, arrays or `ShapeDtypeStruct`s.
      groups: its groups.
      sizes: group id to another number of units; None for full size.

    Returns:
      Leaf name to float32 `[C_in, C_out, 6]`.

    Raises:
      WeightSpaceError: if a group is unknown or frozen, a size below 1, or a piece behind a resized
        one would no longer start at a whole unit.

    References:
      Yang and Wang 2024, Neural Metamorphosis, arXiv:2410.11878, section 3.2.

    Example:
        >>> import numpy as np, wslax as ws
        >>> params = {"a": {"kernel": np.zeros((3, 8))}, "b": {"kernel": np.zeros((8, 2))}}
        >>> groups = ws.symmetry.feed_forward(params, ["a", "b"])
        >>> coordinates(params, groups, {0: 5})["b/kernel"][4, 1].tolist()
        [1.0, 1.0, 4.0, 2.0, 2.0, 5.0]
    """
    shapes = shapes_at(params, groups, sizes)
    found = {}
    for layer, (name, shape) in enumerate(shapes.items()):
        inputs, outputs = extents(shape, weight_axes(name, len(shape), groups))
        columns, rows = np.meshgrid(np.arange(inputs), np.arange(outputs), indexing="ij")
        rest = [np.full_like(rows, n) for n in (len(shapes), outputs, inputs)]
        parts = [np.full_like(rows, layer), rows, columns, *rest]
        found[name] = np.stack(parts, -1).astype(np.float32)
    return found
