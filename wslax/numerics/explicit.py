"""Mesh axes that a program has to name, left to the compiler inside one computation."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec


def spec(x: Any) -> tuple[Any, ...]:
    """For each axis of an array the explicit mesh axes it is split over, or None.

    Example:
        >>> import jax.numpy as jnp
        >>> spec(jnp.ones((2, 3)))
        (None, None)
    """
    held = tuple(jax.typeof(x).sharding.spec)
    return (*held, *(None,) * (x.ndim - len(held)))


def automatic(fn: Callable[..., Any], x: Any, out: Any) -> Callable[..., Any]:
    """`fn`, inside which explicit axes of the mesh of `x` are the compiler's to split over.

    Args:
      fn: a function of arrays.
      x: an array, with or without explicit axes; without, this is `fn` itself.
      out: a tree of `PartitionSpec`s: how the results are split.

    Example:
        >>> import jax.numpy as jnp
        >>> automatic(jnp.sum, jnp.ones(3), None) is jnp.sum
        True
    """
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.explicit_axes:
        return fn
    named = jax.tree.map(
        lambda s: NamedSharding(mesh, s), out, is_leaf=lambda s: isinstance(s, PartitionSpec)
    )
    return jax.sharding.auto_axes(fn, axes=mesh.explicit_axes, out_sharding=named)
