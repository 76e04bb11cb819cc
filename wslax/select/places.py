"""Selected weights as ascending places in the flat leaf, and the way from leaf to values and back.

A place beyond the end of the leaf stands for none.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from wslax.numerics import explicit
from wslax.select.budget import Choice
from wslax.select.matrices import ranked


def total(choice: Choice, leaf: Any) -> int:
    """How many weights are selected in all matrices of a leaf.

    Example:
        >>> from wslax.symmetry.matrices import MatrixAxes
        >>> total(Choice(5, MatrixAxes((-2,), (-1,))), jnp.zeros((3, 4, 5)))
        15
    """
    return leaf.size // math.prod(ranked(leaf, choice.axes)) * choice.count


def places(mask: Any, count: int) -> Any:
    """Where a mask is true, int32: the first `count` places, beyond the end what is lacking.

    Example:
        >>> places(jnp.array([[True, False], [False, True]]), 2).tolist()
        [0, 3]
    """

    def find(mask: Any) -> Any:
        flat = mask.reshape(-1)
        rank = jnp.where(flat, _running(flat) - 1, count)
        none = flat.size + jnp.arange(count, dtype=jnp.int32)
        return none.at[rank].set(jnp.arange(flat.size, dtype=jnp.int32), mode="drop")

    return explicit.automatic(find, mask, P())(mask)


def _running(flat: Any) -> Any:
    """The running count of true ones.

    By a loop over columns: `jnp.cumsum` takes twice the time, and three times to compile.
    """
    width = min(1024, flat.size)
    rows = jnp.pad(flat, (0, -flat.size % width)).reshape(-1, width).astype(jnp.int32)
    add = lambda total, column: (total + column, total + column)
    totals, within = jax.lax.scan(add, jnp.zeros_like(rows[:, 0]), rows.T)
    _, through = jax.lax.scan(add, jnp.zeros_like(totals[0]), totals)
    return (within.T + (through - totals)[:, None]).reshape(-1)[: flat.size]


def gathered(leaf: Any, at: Any) -> Any:
    """The values at places of a flat leaf, 0 beyond its end.

    Example:
        >>> gathered(jnp.arange(4).reshape(2, 2), jnp.array([1, 3, 4])).tolist()
        [1, 3, 0]
    """
    get = lambda leaf, at: jnp.ravel(leaf).at[at].get(mode="fill", fill_value=0)
    return explicit.automatic(get, leaf, P())(leaf, at)


def put(leaf: Any, at: Any, values: Any) -> Any:
    """A leaf with values at places of its flat form, without those beyond its end.

    Example:
        >>> put(jnp.ones((2, 2)), jnp.array([1, 4]), jnp.array([5.0, 7.0])).tolist()
        [[1.0, 5.0], [1.0, 1.0]]
    """

    def write(leaf: Any, at: Any, values: Any) -> Any:
        flat = jnp.ravel(leaf).at[at]
        flat = flat.set(values, mode="drop", unique_indices=True, indices_are_sorted=True)
        return flat.reshape(jnp.shape(leaf))

    leaf = jnp.asarray(leaf)
    write = explicit.automatic(write, leaf, P(*explicit.spec(leaf)))
    return write(leaf, at, values.astype(leaf.dtype))


def carried(old: Any, new: Any, values: Any, fresh: Any) -> Any:
    """Values at old places on new ones: kept where a place stays, `fresh` where it is new.

    Example:
        >>> old, new = jnp.array([1, 3, 4]), jnp.array([0, 3, 4])
        >>> carried(old, new, jnp.array([5, 6, 7]), jnp.array([0, 0, 0])).tolist()
        [0, 6, 7]
    """
    at = jnp.searchsorted(old, new)
    stays = old.at[at].get(mode="fill", fill_value=-1) == new
    return jnp.where(stays, values.at[at].get(mode="clip"), fresh)
