"""Cells of behaviour, the best member of each, and how good they are together.

Cells are `Members` with one slot a cell and the members' own descriptors. An empty cell has the
fitness and descriptors NaN, the id `NOBODY`, and a copy of some member.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.strategy import Members, carried
from wslax.population import devices
from wslax.typing import Array, Scalar

NOBODY = np.uint32(2**32 - 1)
"""The id in an empty cell."""


def grid(low: Sequence[float | int], high: Sequence[float | int], bins: Sequence[int]) -> Array:
    """Middles of the cells of a regular grid; the last feature varies fastest.

    Args:
      low: lowest value of each feature.
      high: highest value of each; what lies outside belongs to the outermost cells.
      bins: how many cells along each.

    Returns:
      float32 `[cells, features]`, for `map_elites`.

    Raises:
      WeightSpaceError: if lengths differ, a range is empty or a number of bins is below 1.

    Example:
        >>> import wslax as ws
        >>> ws.evolve.grid([0, -1], [1, 1], [1, 2]).tolist()
        [[0.5, -0.5], [0.5, 0.5]]
    """
    if not len(low) == len(high) == len(bins) > 0:
        raise WeightSpaceError(
            f"grid: expected low, high and bins for each feature, got {len(low)}, {len(high)} and "
            f"{len(bins)}"
        )
    if not all(a < b and n >= 1 for a, b, n in zip(low, high, bins, strict=True)):
        raise WeightSpaceError(
            f"grid: expected low < high and at least 1 bin, got {low}, {high} and {bins}"
        )
    middles = [
        a + (np.arange(n) + 0.5) * ((b - a) / n) for a, b, n in zip(low, high, bins, strict=True)
    ]
    axes = np.meshgrid(*middles, indexing="ij")
    return np.stack([x.ravel() for x in axes], 1).astype(np.float32)


def settle(now: Members, new: Members, centroids: Array) -> tuple[Members, Array]:
    """New members into their cells, where they are the best; and the cell each took, or -1.

    Example:
        >>> import jax.numpy as jnp
        >>> one = lambda *x: jnp.array(x)
        >>> now = Members(one(0.0), one(5.0), one(0), descriptors=one([0.5]))
        >>> at = one([0.1], [0.2])
        >>> new = Members(one(1.0, 2.0), one(6.0, 7.0), one(1, 2), descriptors=at)
        >>> settle(now, new, one([0.5]))[0].params.tolist()
        [2.0]
    """
    at: Any = new.descriptors
    far = jnp.square(at[:, None] - centroids[None]).sum(2)
    known = ~jnp.isnan(new.fitness) & jnp.isfinite(at).all(1)
    cell = jnp.argmin(far, 1).astype(jnp.int32)
    value = jnp.where(known, new.fitness, -jnp.inf)
    # Of several in one cell the best competes, and of equals the first.
    n, rows = centroids.shape[0], jnp.arange(cell.shape[0], dtype=jnp.int32)
    best = jax.ops.segment_max(value, cell, n)
    ahead = known & (value == best[cell])
    first = jax.ops.segment_min(jnp.where(ahead, rows, rows.size), cell, n)
    held = now.fitness[cell]
    born = ahead & (first[cell] == rows) & (jnp.isnan(held) | (value > held))
    taken = jnp.where(born, cell, -1)
    if devices() > 1:
        return carried(now, new, taken), taken
    place = jnp.where(born, cell, n)

    def write(old: jax.Array, new: Array) -> Array:
        return tree.cast_like(old.at[place].set(new, mode="drop"), old)

    return jax.tree.map(write, now, new), taken


def coverage(repertoire: Members) -> Array:
    """The share of cells that are filled.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> now = ws.evolve.Members(jnp.zeros(4), jnp.array([1, jnp.nan, 2, 3]), jnp.arange(4))
        >>> float(ws.evolve.coverage(now))
        0.75
    """
    return (~jnp.isnan(repertoire.fitness)).mean()


def qd_score(repertoire: Members, *, offset: Scalar = 0.0) -> Array:
    r"""The QD score \(\sum_c (f_c - \mathrm{offset})\) over filled cells c.

    Args:
      repertoire: the members of a state or a run.
      offset: the lowest possible fitness, so that a filled cell never lowers the score.

    Returns:
      A scalar; of a run that maximises, higher is better.

    References:
      Pugh, Soros & Stanley 2016, Quality diversity: a new frontier for evolutionary computation.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> now = ws.evolve.Members(jnp.zeros(4), jnp.array([1, jnp.nan, 2, 3]), jnp.arange(4))
        >>> float(ws.evolve.qd_score(now, offset=-1.0))
        9.0
    """
    fitness = repertoire.fitness
    return jnp.where(jnp.isnan(fitness), 0, fitness - jnp.asarray(offset, fitness.dtype)).sum()
