"""The straight path between two models, and the loss along it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Params


class Barrier(NamedTuple):
    """The loss on the path from one model to another.

    Attributes:
      at: `[points]` from 0 (the first model) to 1 (the second).
      losses: `[points]`.
      height: the largest rise above the chord between the ends; 0 or less where there is none.
    """

    at: Array
    losses: Array
    height: Array


def barrier(loss: Callable[[Params], Array], a: Params, b: Params, *, points: int = 25) -> Barrier:
    r"""The loss barrier of linear interpolation.

    \[\max_t L((1 - t)a + tb) - (1 - t)L(a) - tL(b)\]

    (Frankle et al., arXiv:1912.05671; as defined in Entezari et al., arXiv:2110.06296, section 2).

    Args:
      loss: `params -> scalar`.
      a: parameters.
      b: parameters of the same structure; leaves that are no floats are `a`'s all the way.
      points: on the path with both ends; 25 as in Git Re-Basin's figures.

    Returns:
      `Barrier(at, losses, height)`. One compiled loss, evaluated point by point.

    Raises:
      WeightSpaceError: if the trees differ, or `points` is below 2.

    Example:
        >>> import jax.numpy as jnp
        >>> found = barrier(lambda p: 1 - p["w"] ** 2, {"w": -jnp.ones(())}, {"w": jnp.ones(())})
        >>> float(found.height)
        1.0
    """
    tree.check_like(b, a, "b", "a")
    if points < 2:
        raise WeightSpaceError(f"points: expected 2 or more, got {points}")
    at = jnp.linspace(0.0, 1.0, points)

    def between(t: Array) -> Params:
        def mix(x: Array, y: Array) -> Array:
            if not tree.is_float(x):
                return x
            wide = tree.wide(x)
            x_wide, y_wide = jnp.asarray(x).astype(wide), jnp.asarray(y).astype(wide)
            return tree.cast_like(x_wide + t.astype(wide) * (y_wide - x_wide), x)

        return jax.tree.map(mix, a, b)

    losses = jax.lax.map(lambda t: loss(between(t)), at)
    chord = losses[0] + at * (losses[-1] - losses[0])
    return Barrier(at, losses, jnp.max(losses - chord))
