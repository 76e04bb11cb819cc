"""Leaves as matrices from inputs to outputs, windows of convolutions among the inputs."""

import math
from collections.abc import Mapping

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.symmetry.find import locate
from wslax.symmetry.matrices import MatrixAxes, apart, matrix_axes, sides_of
from wslax.symmetry.types import Groups
from wslax.typing import Array, Params


def summed_axes(params: Params, groups: Groups | None) -> dict[str, MatrixAxes]:
    """`matrix_axes`, with windows of convolutions among what is consumed, and axes of length 1.

    Those have no group. They count on the side that would otherwise be empty.

    Example:
        >>> import numpy as np
        >>> summed_axes({"w": np.zeros((2, 3))}, None)
        {'w': MatrixAxes(consumed=(0,), produced=(1,))}
    """
    if groups is None:
        return matrix_axes(params)
    sides, found = sides_of(groups, windows=True), {}
    for name, original in locate(params, groups).items():
        consumed, produced = sides[original]
        ones = {a for a, n in enumerate(groups.shape[original]) if n == 1}
        if produced:
            consumed = consumed | ones
        elif consumed:
            produced = ones
        if axes := apart(consumed, produced):
            found[name] = axes
    return found


def inputs(params: Params, groups: Groups | None = None) -> tree.ByLeaf:
    """The axes over which each output of a leaf sums, for `masks.top(axis=...)`.

    Args:
      params: the parameters or their shapes.
      groups: of the model; without them, each leaf `[..., in, out]` as Flax stores it.

    Returns:
      `wslax.by_leaf` axes: those that consume, with the windows of convolutions.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters.

    Example:
        >>> import numpy as np, wslax as ws
        >>> axes = inputs({"b": np.zeros(3), "w": np.zeros((2, 3))})
        >>> ws.tree.resolve(axes, ["b", "w"])
        (-2, (0,))
    """
    found = summed_axes(params, groups)
    return tree.by_leaf({**{name: own.consumed for name, own in found.items()}, "*": -2})


def met(params: Params, grams: Mapping[str, Array], groups: Groups | None) -> dict[str, MatrixAxes]:
    """The axes of each leaf with a Gram matrix, checked against it.

    Raises:
      WeightSpaceError: naming a leaf that is missing, is no matrix, or has another size.

    Example:
        >>> import numpy as np
        >>> met({"w": np.zeros((2, 3))}, {"w": np.zeros((2, 2))}, None)
        {'w': MatrixAxes(consumed=(0,), produced=(1,))}
    """
    named, found = tree.named_leaves(params), summed_axes(params, groups)
    for name, gram in grams.items():
        if name not in named:
            raise WeightSpaceError(f"{name}: has a Gram matrix, and the parameters lack it")
        leaf = named[name]
        if name not in found:
            raise WeightSpaceError(
                f"{name}: is {tree.aval(leaf)}, and which axes it sums over is open; give groups=, "
                "or leave its Gram matrix out"
            )
        inside = (*found[name].consumed, *found[name].produced)
        batch = tuple(n for a, n in enumerate(leaf.shape) if a not in inside)
        count = math.prod(leaf.shape[a] for a in found[name].consumed)
        if tuple(gram.shape) != (*batch, count, count):
            raise WeightSpaceError(
                f"{name}: is {tree.aval(leaf)} and sums over its axes {list(found[name].consumed)};"
                f" expected a Gram matrix {[*batch, count, count]}, got {tree.aval(gram)}; "
                'read it by trace.taps(..., read="gram"); a convolution over groups of features '
                "has none, leave it out"
            )
    return {name: found[name] for name in grams}
