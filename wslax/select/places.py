"""Selected weights as ascending places in the flat leaf, and the way from leaf to values and back.

A place beyond the end of the leaf stands for none.
"""

import math
from typing import Any

import jax.numpy as jnp


def total(count: int, leaf: Any) -> int:
    """How many weights are selected in all matrices of a leaf.

    Example:
        >>> total(5, jnp.zeros((3, 4, 5)))
        15
    """
    matrix = leaf.shape[-2:]
    return leaf.size // math.prod(matrix) * count


def places(mask: Any, count: int) -> Any:
    """Where a mask is true, int32: the first `count` places, beyond the end what is lacking.

    Example:
        >>> places(jnp.array([[True, False], [False, True]]), 2).tolist()
        [0, 3]
    """
    at = jnp.nonzero(mask.reshape(-1), size=count, fill_value=mask.size)[0].astype(jnp.int32)
    return jnp.where(at < mask.size, at, mask.size + jnp.arange(count, dtype=jnp.int32))


def gathered(leaf: Any, at: Any) -> Any:
    """The values at places of a flat leaf, 0 beyond its end.

    Example:
        >>> gathered(jnp.arange(4).reshape(2, 2), jnp.array([1, 3, 4])).tolist()
        [1, 3, 0]
    """
    return jnp.ravel(leaf).at[at].get(mode="fill", fill_value=0)


def spread(at: Any, values: Any, shape: tuple[int, ...]) -> Any:
    """A leaf of zeros with values at places of its flat form, without those beyond its end.

    Example:
        >>> spread(jnp.array([1, 3, 4]), jnp.array([5, 6, 7]), (2, 2)).tolist()
        [[0, 5], [0, 6]]
    """
    flat = jnp.zeros(shape, values.dtype).reshape(-1)
    flat = flat.at[at].set(values, mode="drop", unique_indices=True, indices_are_sorted=True)
    return flat.reshape(shape)


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
