"""Crossover: a child from two parents, leaf by leaf."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.typing import Array, Key, Params, PerMember, Population

Crossover = Callable[[Key, Population, Array], Params]


def linear(key: Key, pair: Population, coef: PerMember) -> Params:
    r"""GENOME's linear crossover: \(y = c_0 x_0 + c_1 x_1\), with fitness shares as \(c\).

    Any `(key, pair, coef) -> params` is a crossover, so a merging method is one too:
    `lambda key, pair, coef: ws.merge.ties(pair, base, coef=coef, density=0.7)`.

    Args:
      key: unused; a random crossover draws from it, it differs from child to child.
      pair: two parents, leaves `[2, ...]`.
      coef: `[2]`, the parents' shares, of sum 1.

    Returns:
      One member. Half types are combined in float32; integer, bool and key leaves come from the
      first parent.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.evolve.linear(0, {"w": jnp.array([[1.0], [3.0]])}, jnp.array([0.75, 0.25]))
        {'w': Array([1.5], dtype=float32)}
    """

    def blend(x: Array) -> Array:
        if not tree.is_float(x):
            return x[0]
        kind = tree.wide(x)
        c = coef.astype(kind)
        return (c[0] * x[0].astype(kind) + c[1] * x[1].astype(kind)).astype(x.dtype)

    return jax.tree.map(blend, pair)


def cross(
    crossover: Crossover,
    key: Key,
    pair: Population,
    coef: Array,
    owned: Params,
) -> Params:
    """One child of two members; leaves not owned come from the first parent.

    Args:
      crossover: `(key, pair, coef) -> params`.
      key: the child's key.
      pair: two parents, leaves `[2, ...]`.
      coef: `[2]`.
      owned: a tree of Python bools.

    Raises:
      WeightSpaceError: if the crossover changes a shape, a dtype or the structure.

    Example:
        >>> import jax.numpy as jnp
        >>> pair = {"w": jnp.array([8.0, 0.0]), "steps": jnp.array([5, 3])}
        >>> half = jnp.array([0.5, 0.5])
        >>> owned = {"w": True, "steps": False}
        >>> cross(linear, 0, pair, half, owned)
        {'steps': Array(5, dtype=int32), 'w': Array(4., dtype=float32)}
    """
    # A crossover that cannot average a leaf meets the same value twice.
    pair = jax.tree.map(lambda x, mine: x if mine else jnp.stack([x[0]] * 2), pair, owned)
    child = crossover(key, pair, coef)
    tree.check_like(child, jax.tree.map(lambda x: x[0], pair), "the crossover's child", "a parent")
    return jax.tree.map(lambda x, y, mine: y if mine else x[0], pair, child, owned)
