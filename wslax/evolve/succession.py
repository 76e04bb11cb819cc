"""Who stays of members and children: `(key, old, new, parents) -> ` indices, old before new.

The first named have more right to stay. `old` and `new` are `Members`, `parents` the ids `[C, 2]`
of the children's parents.
"""

from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.evolve.selection import ranked
from wslax.evolve.strategy import Members
from wslax.typing import Array, Key, Params


def both(old: Any, new: Any) -> tuple[Array, Array]:
    """Fitness and ids of all, old before new.

    Example:
        >>> import jax.numpy as jnp
        >>> one = lambda fitness, id: Members(None, jnp.array([fitness]), jnp.array([id]))
        >>> [x.tolist() for x in both(one(7.0, 0), one(8.0, 3))]
        [[7.0, 8.0], [0, 3]]
    """
    return (
        jnp.concatenate([old.fitness, new.fitness]),
        jnp.concatenate([old.ids, new.ids]),
    )


def plus(key: Key, old: Members, new: Members, parents: Array) -> Array:
    r"""The best of members and children together: \((\mu + \lambda)\).

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> strategy = ws.evolve.genetic_algorithm(survive=ws.evolve.plus)
    """
    fitness, ids = both(old, new)
    return ranked(fitness, ids)[: old.ids.shape[0]]


def comma(key: Key, old: Members, new: Members, parents: Array) -> Array:
    r"""Children take over, the best of them first: \((\mu, \lambda)\).

    Members stay only where children are too few or failed; `elite=` keeps the best all the same.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> strategy = ws.evolve.genetic_algorithm(survive=ws.evolve.comma, elite=1)
    """
    fitness, ids = both(old, new)
    n = old.ids.shape[0]
    failed = ~(fitness > -jnp.inf)
    order = jnp.lexsort((ids, -fitness, jnp.arange(ids.shape[0]) < n, failed))
    return order[:n]


def crowding(key: Key, old: Members, new: Members, parents: Array) -> Array:
    r"""Deterministic crowding: each child competes with the nearer of its parents.

    The distance is \(\lVert x_c - x_p \rVert_2\) over all floating leaves; the first parent where
    both are as near. A better child takes the parent's place, the best one where several compete
    with the same parent. So niches keep their members: only what is alike competes.

    Mahfoud's crowding breeds twins of couples without replacement and matches twins and parents by
    the smaller sum of distances; here each child has its rival, and couples may come from any
    selection.

    References:
      Mahfoud 1995, Niching methods for genetic algorithms, PhD thesis, University of Illinois.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> strategy = ws.evolve.genetic_algorithm(survive=ws.evolve.crowding)
    """
    n, total = old.ids.shape[0], new.ids.shape[0]
    slots = jnp.argmax(parents[:, :, None] == old.ids[None, None], -1).astype(jnp.int32)
    child = jnp.arange(total, dtype=jnp.int32)

    def gaps(c: Array) -> Array:
        own = jax.tree.map(lambda x: x[c], new.params)
        return _squares(own, jax.tree.map(lambda x: x[slots[c]], old.params))

    nearer = jnp.argmin(jax.lax.map(gaps, child), 1)
    rival = jnp.take_along_axis(slots, nearer[:, None], 1)[:, 0]
    rank = jnp.zeros(total, jnp.int32).at[ranked(new.fitness, new.ids)].set(child)
    first = jnp.full(n, total, jnp.int32).at[rival].min(rank)
    theirs = old.fitness[rival]
    better = (new.fitness > theirs) | (jnp.isnan(theirs) & ~jnp.isnan(new.fitness))
    place = jnp.where(better & (rank == first[rival]), rival, n)
    return jnp.arange(n, dtype=jnp.int32).at[place].set(n + child, mode="drop")


def _squares(one: Params, others: Params) -> Array:
    """Squared distances of one member to each of some."""
    total = jnp.zeros(jax.tree.leaves(others)[0].shape[0], jnp.float32)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(others), strict=True):
        if tree.is_float(x):
            gap = (x[None].astype(tree.wide(x)) - y.astype(tree.wide(x))).astype(jnp.float32)
            total = total + jnp.square(gap).reshape(gap.shape[0], -1).sum(1)
    return total
