"""Which axes of a leaf make a matrix, whose weights are ranked together."""

import math
from typing import Any

import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.globs import pick
from wslax.select.layers import summed_axes
from wslax.symmetry.matrices import MatrixAxes, from_matrices, to_matrices
from wslax.symmetry.types import Groups
from wslax.typing import Params, Where

PLAIN = MatrixAxes((-2,), (-1,))


def found(params: Params, groups: Groups | None) -> dict[str, MatrixAxes]:
    """Leaf name to axes, of the leaves that are matrices of floats.

    With groups, `select.inputs` to outputs. Without groups each leaf with two axes. Axes count from
    the end, so that they stay theirs where an edit stacks leaves.

    Example:
        >>> found({"b": np.zeros(3), "w": np.zeros((2, 3))}, None)
        {'w': MatrixAxes(consumed=(-2,), produced=(-1,))}
    """
    named = tree.named_leaves(params)
    return {
        name: MatrixAxes(*(tuple(a - len(named[name].shape) for a in part) for part in axes))
        for name, axes in summed_axes(params, groups).items()
        if tree.is_float(named[name]) and 0 not in named[name].shape
    }


def check_floats(name: str, leaf: Any) -> None:
    """Raise unless a leaf holds floats that can be selected from."""
    if not tree.is_float(leaf) or 0 in leaf.shape:
        raise WeightSpaceError(
            f"{name}: expected floats to select from, got {tree.aval(leaf)}; let where= pick "
            "others alone"
        )
    if leaf.size > np.iinfo(np.int32).max:
        raise WeightSpaceError(f"{name}: more than 2^31 weights; split the leaf")


def of_leaves(params: Params, where: Where, groups: Groups | None) -> list[MatrixAxes | None]:
    """For each leaf the axes of a matrix, None where nothing is selected from.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      where: globs; by default all leaves that are matrices. A vector that is picked ranks whole.
      groups: of the model. Without them leaves with more than two axes are no matrices.

    Raises:
      WeightSpaceError: if that is nothing, or a leaf without floats, or one with more axes than two
        of which the groups make no matrix.

    Example:
        >>> of_leaves({"b": np.zeros(3), "w": np.zeros((4, 5))}, "b", None)
        [MatrixAxes(consumed=(), produced=(-1,)), None]
    """
    named, axes = tree.named_leaves(params), found(params, groups)
    if where is None:
        taken = list(axes)
    else:
        taken = [name for name, mine in zip(named, pick(tuple(named), where), strict=True) if mine]
    if not taken:
        raise WeightSpaceError(
            "there is no matrix of floats to select from"
            + ("" if groups else "; leaves with more than two axes are matrices by groups=")
        )
    for name in taken:
        leaf = named[name]
        check_floats(name, leaf)
        if name not in axes and len(leaf.shape) < 2:
            axes[name] = MatrixAxes((), tuple(range(-len(leaf.shape), 0)))
        elif name not in axes:
            what = (
                "not in the groups; let where= pick others alone"
                if groups
                else "open; give groups=wslax.symmetry.infer(apply, params, inputs)"
            )
            raise WeightSpaceError(
                f"{name}: which axes of {tree.aval(leaf)} make a matrix is {what}"
            )
    return [axes[name] if name in taken else None for name in named]


def ranked(leaf: Any, axes: MatrixAxes) -> tuple[int, ...]:
    """Rows and columns of a matrix of a leaf; the length of a vector.

    Example:
        >>> ranked(np.zeros((3, 4, 2, 5)), MatrixAxes((-3,), (-2, -1)))
        (4, 10)
    """
    sizes = [math.prod(leaf.shape[a] for a in part) for part in axes]
    return tuple(sizes) if axes.consumed else (sizes[1],)


def _from_start(axes: MatrixAxes, ndim: int) -> MatrixAxes:
    return MatrixAxes(*(tuple(a + ndim for a in part) for part in axes))


def as_matrices(leaf: Any, axes: MatrixAxes) -> Any:
    """A leaf as `[*batch, rows, columns]`.

    Example:
        >>> as_matrices(np.zeros((2, 3, 4)), MatrixAxes((-1,), (-3, -2))).shape
        (4, 6)
    """
    return leaf if axes == PLAIN else to_matrices(leaf, _from_start(axes, leaf.ndim))


def as_leaf(matrices: Any, axes: MatrixAxes, shape: tuple[int, ...]) -> Any:
    """The leaf of that shape whose `as_matrices` is given.

    Example:
        >>> as_leaf(np.zeros((4, 6)), MatrixAxes((-1,), (-3, -2)), (2, 3, 4)).shape
        (2, 3, 4)
    """
    plain = axes == PLAIN
    return matrices if plain else from_matrices(matrices, _from_start(axes, len(shape)), shape)
