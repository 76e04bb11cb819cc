"""Smooth weights: units in an order in which neighbours are alike, and how smooth they are."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.generate.places import weight_axes
from wslax.symmetry import layout
from wslax.symmetry.find import locate
from wslax.symmetry.matrices import to_matrices
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array, Params

_LARGEST = 2**16 - 1  # distances of the solver are 16-bit integers


def _distances(group: Group, leaves: dict[str, Any]) -> np.ndarray:
    """The L1 distances between units over all weights that belong to them."""
    from scipy.spatial.distance import cdist

    total = np.zeros((group.size, group.size))
    for site in {layout.place(site): site for site in group.sites}.values():
        leaf = leaves[site.name]
        if tree.is_float(leaf):
            along = np.moveaxis(np.asarray(leaf, np.float64), site.axis, 0)
            units = layout.units(site, len(along))
            inside = np.flatnonzero(units >= 0)
            order = inside[np.argsort(units[inside], kind="stable")]
            rows = along[order].reshape(group.size, -1)
            total += cdist(rows, rows, "cityblock")
    return total


def _path(distances: np.ndarray, seconds: float) -> np.ndarray:
    """The shortest way through all: a tour with one more city near to all, cut there."""
    try:
        from fast_tsp import find_tour
    except ImportError as error:
        raise WeightSpaceError(
            'fast-tsp finds the shortest paths and is missing: pip install "wslax[generate]"'
        ) from error
    n, largest = len(distances), distances.max()
    if largest == 0:
        return np.arange(n, dtype=np.int32)
    cities = np.pad(np.rint(distances / largest * _LARGEST).astype(np.int64), (0, 1))
    tour = np.array(find_tour(cities, seconds, stop_when_converged=True), np.int32)
    path = np.roll(tour, -1 - int(np.flatnonzero(tour == n)[0]))[:-1]
    return path if path[0] < path[-1] else path[::-1]


def shortest_path(params: Params, groups: Groups, *, seconds: float = 1.0) -> dict[int, np.ndarray]:
    r"""The order of each free group's units in which weights vary least from one to the next.

    A unit is the vector of all weights at its sites, and the order is a shortest Hamiltonian path
    through the units by L1 distance. `symmetry.permute` applies it: the model's function stays,
    and its `total_variation` falls, so that a function of coordinates can carry the weights.

    Up to 19 units the path is the shortest; longer ones are found by fast-tsp's local search, near
    to the shortest, and may differ between runs. Runs on the host, not under `jit`. A group that
    may be permuted at each outer unit on its own gets one order for all of them.

    Args:
      params: the trained net.
      groups: its groups.
      seconds: longest search for one group, where it does not converge before.

    Returns:
      Group id to int32 `[size]`, for `symmetry.permute`; the direction of a path is the one that
      begins with the lower id.

    Raises:
      WeightSpaceError: naming the leaf, if the tree is not the groups' model or a weight is not
        finite; if fast-tsp is missing (`pip install "wslax[generate]"`).

    References:
      Yang and Wang 2024, Neural Metamorphosis, arXiv:2410.11878, section 3.4.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> params = {"w": jnp.array([[1.0, 9.0, 2.0, 8.0]])}
        >>> groups = ws.symmetry.Groups.from_sites(params, [[("w", 1, "produced")]])
        >>> order = shortest_path(params, groups)
        >>> ws.symmetry.permute(params, groups, order)["w"].tolist()
        [[1.0, 2.0, 8.0, 9.0]]
    """
    named = tree.named_leaves(params)
    leaves = {original: named[name] for name, original in locate(params, groups).items()}
    for name, leaf in leaves.items():
        if tree.is_float(leaf) and not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise WeightSpaceError(f"{name}: holds NaN or Inf, so units have no distances")
    return {group.id: _path(_distances(group, leaves), seconds) for group in groups.free}


def total_variation(params: Params, groups: Groups) -> Array:
    r"""How much weights differ from their neighbours, the mean over leaves of floats.

    \(\frac1L \sum_l \sum |W_{i+1,j} - W_{i,j}| + \sum |W_{i,j+1} - W_{i,j}|\), over the axes that
    count inputs and outputs.

    Args:
      params: the net.
      groups: its groups.

    Returns:
      A float32 scalar.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> params = {"w": jnp.array([[1.0, 9.0, 2.0, 8.0]])}
        >>> groups = ws.symmetry.Groups.from_sites(params, [[("w", 1, "produced")]])
        >>> float(total_variation(params, groups))
        21.0
    """
    found = []
    for name, leaf in tree.named_leaves(params).items():
        if tree.is_float(leaf):
            axes = weight_axes(name, leaf.ndim, groups)
            matrices = to_matrices(jnp.asarray(leaf, jnp.float32), axes)
            steps = (jnp.abs(jnp.diff(matrices, axis=axis)).sum() for axis in (-2, -1))
            found.append(sum(steps))
    return jnp.stack(found).mean()
