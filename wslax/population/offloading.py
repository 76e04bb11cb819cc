"""Populations in the host's memory, of which a few rows at a time go to the device."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Params


class Offloaded(np.ndarray):
    """A leaf that `offload` made: a numpy array that wslax never brings to the device whole."""


def offload(population: Params) -> Params:
    """A population that stays in the host's memory and streams through the device in chunks.

    `evaluate` (with `chunk=`), `ws.evolve.genome_init` and the strategies `genome` and
    `genetic_algorithm` take it, alone or in `ws.evolve.run`: what they make lies on the host too,
    and the device holds a few chunks of rows at a time. Random draws, and what is computed
    elementwise, are the same bits as on the device. For other functions it is a numpy array; other
    strategies refuse it.

    A strategy's `tell` writes survivors into it, as into a donated array, and so does `run`, which
    does not copy it.

    Args:
      population: N members, of any dtype but JAX keys. JAX arrays are copied to the host; numpy
        arrays (memory-mapped ones too) are taken as they are if they can be written and JAX has
        their dtype.

    Returns:
      The population; its leaves are numpy arrays of a class of their own.

    Raises:
      WeightSpaceError: if a leaf holds JAX keys.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> population = ws.population.offload({"w": jnp.arange(8.0)})
        >>> end = ws.evolve.run(
        ...     ws.evolve.genome(chunk=2),
        ...     population,
        ...     lambda p: ws.population.evaluate(lambda member: member["w"] ** 2, p, chunk=2),
        ...     key=0, generations=3, direction="minimize")
        >>> type(end.members.params["w"]).__name__, float(end.best["w"])
        ('Offloaded', 0.0)
    """

    def held(name: str, leaf: Any) -> Offloaded:
        if tree.is_key(leaf):
            raise WeightSpaceError(
                f"{name}: JAX keys cannot be offloaded; keep their words, jax.random.key_data"
            )
        return np.require(leaf, jax.typeof(leaf).dtype, "W").view(Offloaded)

    return tree.map_named(held, population)


def offloaded(values: Any) -> bool:
    """Whether a tree has leaves that `offload` made.

    Example:
        >>> offloaded({"w": np.zeros(2)}), offloaded(offload({"w": np.zeros(2, np.float32)}))
        (False, True)
    """
    return any(isinstance(x, Offloaded) for x in jax.tree.leaves(values))


def stream(
    program: Callable[[Any, Params], Any],
    population: Params,
    index: Any,
    chunk: int,
    take: Callable[[int, Any], None],
) -> None:
    """`program(places int32[chunk], rows [chunk, ...])` of chosen rows, a chunk at a time.

    The last chunk starts early rather than being short, so that one shape is compiled. A chunk is
    taken when the next is on its way, so the device works while the host copies.

    Args:
      program: compiled; it gets places in `index` and the rows that stand there.
      population: offloaded.
      index: int `[M]` or `[M, k]`, rows of the population.
      chunk: how many places at a time.
      take: gets the first place of each chunk, and what the program gave for it.

    Example:
        >>> population = offload({"w": np.arange(4, dtype=np.int32)})
        >>> minus = lambda at, rows: rows["w"] - at
        >>> stream(minus, population, [3, 3, 1], 2, lambda *found: print(*found))
        0 [3 2]
        1 [ 2 -1]
    """
    index = np.asarray(index)
    size = min(chunk, len(index))
    ahead: tuple[Any, ...] = ()
    for start in range(0, len(index), size):
        first = min(start, len(index) - size)
        chosen = index[first : first + size]
        rows = jax.tree.map(lambda x, chosen=chosen: np.asarray(x)[chosen], population)
        made = program(np.arange(first, first + size, dtype=np.int32), rows)
        if ahead:
            take(*ahead)
        ahead = first, made
    take(*ahead)


def write(population: Params, start: int, rows: Params) -> None:
    """Put rows in place of others of an offloaded population, from a slot on.

    Example:
        >>> population = offload({"w": np.zeros(3, np.float32)})
        >>> write(population, 1, {"w": np.ones(2)})
        >>> population["w"].tolist()
        [0.0, 1.0, 1.0]
    """
    for leaf, new in zip(jax.tree.leaves(population), jax.tree.leaves(rows), strict=True):
        leaf[start : start + len(new)] = np.asarray(new)
