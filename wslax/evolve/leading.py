"""Who leads, and the best that was ever seen."""

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.typing import Array, Params, PerMember


def leader(fitness: PerMember) -> Array:
    """The index of the highest fitness, the first of equals; NaN is lowest.

    Example:
        >>> import jax.numpy as jnp
        >>> int(leader(jnp.array([jnp.nan, 1.0, 3.0])))
        2
    """
    return jnp.argmax(jnp.where(jnp.isnan(fitness), -jnp.inf, fitness))


def better(top: tuple[Params, Array], params: Params, fitness: Array) -> tuple[Params, Array]:
    """The best so far, or another one where its fitness is a number and higher.

    Example:
        >>> import jax.numpy as jnp
        >>> better((jnp.float32(7), jnp.float32(jnp.nan)), jnp.float32(8), jnp.float32(-1))[0]
        Array(8., dtype=float32)
    """
    won = (fitness > top[1]) | (jnp.isnan(top[1]) & ~jnp.isnan(fitness))
    return jax.tree.map(
        lambda new, old: tree.cast_like(jnp.where(won, new, old), old), (params, fitness), top
    )
