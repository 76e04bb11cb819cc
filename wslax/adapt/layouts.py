"""Leaves of any layout as matrices `[in, out]`, and what was made of them as leaves."""

from collections.abc import Callable
from typing import Any

import jax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.symmetry.matrices import MatrixAxes, from_matrices, to_matrices
from wslax.trace.kinds import Matrices
from wslax.trace.leaves import is_factored

PLAIN = MatrixAxes((0,), (1,))


def batch(leaf: Any, axes: MatrixAxes) -> tuple[int, ...]:
    """Sizes of the axes of a leaf that are neither rows nor columns.

    Example:
        >>> import numpy as np
        >>> batch(np.zeros((3, 4, 5)), MatrixAxes((1,), (2,)))
        (3,)
    """
    inside = (*axes.consumed, *axes.produced)
    return tuple(n for axis, n in enumerate(leaf.shape) if axis not in inside)


def over(fn: Callable[..., Any], sizes: tuple[int, ...]) -> Callable[..., Any]:
    """A function of one matrix as one of a batch of these sizes."""
    for _ in sizes:
        fn = jax.vmap(fn)
    return fn


def matrices(name: str, leaf: Any, axes: MatrixAxes) -> Any:
    """An array or a factored leaf as `[*batch, in, out]`; factored ones with stacked arrays."""
    if len(leaf.shape) == 2 and axes == PLAIN:
        return leaf
    if not is_factored(leaf):
        return to_matrices(leaf, axes)
    if isinstance(leaf, Matrices) and (leaf.rows_at, leaf.columns_at) == axes:
        return leaf.base
    raise WeightSpaceError(
        f"{name}: {tree.aval(leaf)} is factored along other axes than {axes}; fuse the adapter "
        "that it has first"
    )


def laid(new: Any, leaf: Any, axes: MatrixAxes) -> Any:
    """What was made of `matrices` in the layout of the leaf."""
    if len(leaf.shape) == 2 and axes == PLAIN:
        return new
    if is_factored(new):
        return Matrices(new, tuple(leaf.shape), *axes)
    return from_matrices(new, axes, leaf.shape)
