"""Crossover: a child from two parents, leaf by leaf."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from wslax import random, tree
from wslax.evolve.mutation import gaussian
from wslax.typing import Array, Key, Params, PerMember, Population, Scalar

Crossover = Callable[[Key, Population, Array], Params]


def linear(key: Key, pair: Population, coef: PerMember) -> Params:
    r"""GENOME's linear crossover: \(y = c_0 x_0 + c_1 x_1\), with fitness shares as \(c\).

    Any `(key, pair, coef) -> params` is a crossover, so a merging method is one too; the example
    has TIES, DARE and spherical interpolation.

    Args:
      key: unused; a random crossover draws from it, it differs from child to child.
      pair: two parents, leaves `[2, ...]`.
      coef: `[2]`, the parents' shares, of sum 1.

    Returns:
      One member. Half types are combined in float32; integer, bool and key leaves come from the
      first parent.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> ws.evolve.linear(0, {"w": jnp.array([[1.0], [3.0]])}, jnp.array([0.75, 0.25]))
        {'w': Array([1.5], dtype=float32)}
        >>> base = {"w": jnp.zeros(3)}
        >>> merges = {
        ...     "ties": lambda key, pair, coef: ws.merge.ties(pair, base, coef=coef, density=0.7),
        ...     "dare": lambda key, pair, coef: ws.merge.dare_linear(
        ...         pair, base, key=key, coef=coef, density=0.5),
        ...     "slerp": lambda key, pair, coef: ws.merge.slerp(pair, t=coef[1]),
        ... }
        >>> population = {"w": jnp.eye(3) + 1}
        >>> for name, merge in merges.items():
        ...     strategy = ws.evolve.genome(crossover=merge, mutation_rate=0.0)
        ...     state = strategy.init(0, population, jnp.array([1.0, 2.0, 3.0]))
        ...     children, _ = strategy.ask(jax.random.key(0), state)
        ...     print(name, children["w"].shape)
        ties (1, 3)
        dare (1, 3)
        slerp (1, 3)
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


def iso_line(
    key: Key, pair: Population, *, iso: Scalar = 0.01, line: Scalar = 0.2, member: Scalar = 0
) -> Params:
    r"""Iso+line variation: noise around the first parent, and along the line to the second.

    \[y = x_1 + \sigma_1 \epsilon + \sigma_2\, (x_2 - x_1)\, \eta\]

    \(\epsilon \sim N(0, 1)\) for each weight, \(\eta \sim N(0, 1)\) one number for the whole
    child. The noise is that of `gaussian`.

    Args:
      key: a JAX key or seed.
      pair: leaves `[2, ...]`. Integer, bool and key leaves come from the first parent.
      iso: \(\sigma_1\).
      line: \(\sigma_2\); both defaults are the authors', for weights of about 1.
      member: the child's id; may be traced.

    Returns:
      The child.

    References:
      Vassiliades & Mouret 2018, Discovering the elite hypervolume by leveraging interspecies
      correlation, arXiv:1804.03906.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> pair = {"w": jnp.array([[0.0, 0.0], [1.0, 3.0]])}
        >>> child = ws.evolve.iso_line(0, pair, iso=0.0)["w"]
        >>> bool(abs(child[1] - 3 * child[0]) < 1e-6)
        True
    """
    along = random.normal(random.bits(key, "evolve/line", 1, member=member, xp=jnp))[0]

    def moved(x: Array) -> Array:
        if not tree.is_float(x):
            return x[0]
        first, second = x.astype(tree.wide(x))
        return first + jnp.asarray(line * along, first.dtype) * (second - first)

    child = gaussian(key, jax.tree.map(moved, pair), sigma=iso, rate=1.0, member=member)
    return jax.tree.map(tree.cast_like, child, pair)
