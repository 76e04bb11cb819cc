"""Leaves as matrices: consumed times produced axes, by the roles of their sites."""

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from wslax import tree
from wslax.symmetry.find import locate
from wslax.symmetry.types import WINDOW, Groups
from wslax.typing import Array, Params, Where


class MatrixAxes(NamedTuple):
    """Which axes of a leaf make its rows and its columns; the others are a batch of matrices.

    Attributes:
      consumed: axes contracted with the activations that come in: the rows.
      produced: axes of what comes out: the columns.
    """

    consumed: tuple[int, ...]
    produced: tuple[int, ...]


def matrix_axes(params: Params, groups: Groups | None = None) -> dict[str, MatrixAxes]:
    """The leaves of floats that are matrices.

    With groups a leaf whose sites consume along some axes and produce along others; one that does
    both along one axis (a tied embedding) or only looks up (an embedding) is none. Without groups
    each leaf with two axes, read as Flax stores it, `[in, out]`.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s of one model.
      groups: its groups, from `wslax.symmetry.infer`.

    Returns:
      Leaf name to axes.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters.

    Example:
        >>> import numpy as np
        >>> matrix_axes({"b": np.zeros(3), "w": np.zeros((2, 3))})
        {'w': MatrixAxes(consumed=(0,), produced=(1,))}
    """
    leaves = {n: leaf for n, leaf in tree.named_leaves(params).items() if tree.is_float(leaf)}
    if groups is None:
        return {n: MatrixAxes((0,), (1,)) for n, leaf in leaves.items() if len(leaf.shape) == 2}
    sides, found = sides_of(groups), {}
    for name, original in locate(params, groups).items():
        if name in leaves and (axes := apart(*sides[original])):
            found[name] = axes
    return found


def sides_of(groups: Groups, *, windows: bool = False) -> dict[str, tuple[set[int], set[int]]]:
    """For each leaf of the groups the axes that are consumed and those that are produced.

    Args:
      groups: the groups.
      windows: whether windows of convolutions count as consumed.

    Example:
        >>> import numpy as np
        >>> sites = [[("w", 0, "consumed")], [("w", 1, "produced")]]
        >>> sides_of(Groups.from_sites({"w": np.zeros((2, 3))}, sites))
        {'w': ({0}, {1})}
    """
    sides: dict[str, tuple[set[int], set[int]]] = {}
    for group in groups.all:
        window = windows and (group.frozen_by or "").startswith(WINDOW)
        for site in group.sites:
            consumed, produced = sides.setdefault(site.name, (set(), set()))
            if window or site.role == "consumed":
                consumed.add(site.axis)
            elif site.role == "produced":
                produced.add(site.axis)
    return sides


def apart(consumed: set[int], produced: set[int]) -> MatrixAxes | None:
    """The axes of a matrix, if it has both and none is on both sides.

    Example:
        >>> apart({0}, {1}), apart({0, 1}, {1})
        (MatrixAxes(consumed=(0,), produced=(1,)), None)
    """
    if not consumed or not produced or consumed & produced:
        return None
    return MatrixAxes(tuple(sorted(consumed)), tuple(sorted(produced)))


def warn_left_out(what: str, named: Mapping[str, Any], where: Where, groups: Groups | None) -> None:
    """Warn of leaves with more axes than two that nobody named, and that stay as they are.

    Args:
      what: does not happen to them: `"lift: nothing is selected from"`.
      named: leaf name to leaf.
      where: globs that say which leaves are meant; then nobody is warned.
      groups: the same.
    """
    if where is not None or groups is not None:
        return
    out = [name for name, leaf in named.items() if tree.is_float(leaf) and len(leaf.shape) > 2]
    if out:
        warnings.warn(
            f"{what} {', '.join(out)}: which of their axes make a matrix is open; give "
            "groups=wslax.symmetry.infer(apply, params, inputs), or where= to say which leaves "
            "train",
            stacklevel=3,
        )


def to_matrices(leaf: Array, axes: MatrixAxes) -> Array:
    """A leaf as `[*batch, rows, columns]`.

    Example:
        >>> import jax.numpy as jnp
        >>> to_matrices(jnp.zeros((4, 2, 3, 5)), MatrixAxes((1, 2), (3,))).shape
        (4, 6, 5)
    """
    order = _order(leaf.ndim, axes)
    batch = [leaf.shape[i] for i in order[: leaf.ndim - len(axes.consumed) - len(axes.produced)]]
    rows = math.prod(leaf.shape[i] for i in axes.consumed)
    return jnp.transpose(leaf, order).reshape(*batch, rows, -1)


def from_matrices(matrices: Array, axes: MatrixAxes, shape: tuple[int, ...]) -> Array:
    """The leaf of that shape whose `to_matrices` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> axes = MatrixAxes((1, 2), (0,))
        >>> from_matrices(jnp.zeros((6, 5)), axes, (5, 2, 3)).shape
        (5, 2, 3)
    """
    order = _order(len(shape), axes)
    back = sorted(range(len(shape)), key=order.__getitem__)
    return jnp.transpose(matrices.reshape([shape[i] for i in order]), back)


def _order(ndim: int, axes: MatrixAxes) -> tuple[Any, ...]:
    inside = (*axes.consumed, *axes.produced)
    return (*(i for i in range(ndim) if i not in inside), *inside)
