"""What a fitness weighs: maps from the fitness of a generation to weights of sum zero."""

import jax.numpy as jnp
import numpy as np

from wslax.typing import Array, PerMember


def settled(fitness: PerMember) -> Array:
    """Fitness as finite numbers: what failed, or is infinite, counts as the worst or best of those.

    Zeros where nobody has a finite fitness.

    Example:
        >>> import jax.numpy as jnp
        >>> settled(jnp.array([1.0, jnp.nan, 3.0, jnp.inf, -jnp.inf])).tolist()
        [1.0, 1.0, 3.0, 3.0, 1.0]
    """
    finite = jnp.isfinite(fitness)
    worst = jnp.where(finite, fitness, jnp.inf).min()
    best = jnp.where(finite, fitness, -jnp.inf).max()
    known = jnp.clip(jnp.where(jnp.isnan(fitness), -jnp.inf, fitness), worst, best)
    return jnp.where(finite.any(), known, 0)


def centred_ranks(fitness: PerMember) -> Array:
    r"""Ranks from \(-\tfrac12\) (worst) to \(\tfrac12\) (best); equal fitness shares a rank.

    Args:
      fitness: `[n]`, without NaN.

    Returns:
      `[n]`, of sum zero: whatever the scale of the fitness, an outlier weighs no more than its
      rank.

    References:
      Salimans et al. 2017, arXiv:1703.03864, section 2.1; ties there are broken by position.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.evolve.centred_ranks(jnp.array([3.0, 1.0, 100.0, 1.0, 2.0])).tolist()
        [0.25, -0.375, 0.5, -0.375, 0.0]
    """
    n = fitness.shape[0]
    order = jnp.sort(fitness)
    below, through = (jnp.searchsorted(order, fitness, side=side) for side in ("left", "right"))
    rank = (below + through - 1).astype(fitness.dtype)
    return rank / np.array(max(2 * (n - 1), 1), fitness.dtype) - np.array(0.5, fitness.dtype)


def z_scores(fitness: PerMember) -> Array:
    r"""\((f - \bar f) / s\) with the standard deviation over all n; zeros where all are equal.

    Args:
      fitness: `[n]`, finite.

    Returns:
      `[n]`, of sum zero.

    References:
      Sarkar et al. 2025, arXiv:2511.16652.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.evolve.z_scores(jnp.array([1.0, 3.0])).tolist()
        [-1.0, 1.0]
    """
    far = fitness - fitness.mean()
    spread = jnp.sqrt(jnp.square(far).mean())
    return jnp.where(spread > 0, far / jnp.where(spread > 0, spread, 1), 0)
