"""Optimizer states over selected weights, moved to a new selection."""

from typing import Any

import jax
import jax.numpy as jnp

from wslax.select.places import carried


def followed(state: Any, fresh: Any, old: Any, new: Any) -> Any:
    """A state over values at old places as one over values at new places.

    Args:
      state: the state; scalars stay.
      fresh: what it would begin as, for places that are new.
      old: a tree of places; subtrees of the state with its structure are over them.
      new: the same, the new places.

    Returns:
      The state over the new places.

    Example:
        >>> old, new = {"w": jnp.array([1, 3])}, {"w": jnp.array([0, 3])}
        >>> followed((7, {"w": jnp.array([5, 6])}), (0, {"w": jnp.array([0, 0])}), old, new)
        (7, {'w': Array([0, 6], dtype=int32)})
    """
    structure = jax.tree.structure(old)

    def matches(node: Any) -> bool:
        return jax.tree.structure(node) == structure

    def one(at: Any, to: Any, values: Any, begun: Any) -> Any:
        return values if jnp.ndim(values) == 0 else carried(at, to, values, begun)

    def carry(node: Any, begun: Any) -> Any:
        return jax.tree.map(one, old, new, node, begun) if matches(node) else node

    return jax.tree.map(carry, state, fresh, is_leaf=matches)
