"""Scores of weights by themselves."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random as stream
from wslax import tree
from wslax.numerics.lowrank import principal as leading
from wslax.numerics.lowrank import reconstruct
from wslax.select.budget import at_least_one
from wslax.select.scores.scoring import scored
from wslax.typing import Key, Params


def magnitude(params: Params, grads: Params | None = None, *, key: Key | None = None) -> Params:
    r"""\(|w|\).

    Args:
      params: a tree.
      grads: not used.
      key: not used.

    Returns:
      A tree like `params` of scores in float32; leaves without floats pass unchanged.

    Example:
        >>> import numpy as np
        >>> magnitude({"w": np.float32([[-2.0, 1.0]])})["w"].tolist()
        [[2.0, 1.0]]
    """
    return scored(lambda name, w: abs(w), params)


def random(params: Params, grads: Params | None = None, *, key: Key | None = None) -> Params:
    """Uniform in [0, 1): the control that every other score has to beat.

    Args:
      params: a tree; names and shapes matter alone.
      grads: not used.
      key: a JAX key or an integer seed; None is 0.

    Returns:
      As `magnitude`.

    Example:
        >>> import numpy as np
        >>> random({"w": np.zeros((2, 2), np.float32)}, key=1)["w"].shape
        (2, 2)
    """
    key = 0 if key is None else key

    def drawn(name: str, leaf: Any) -> Any:
        words = stream.bits(key, f"select/{name}", leaf.size, xp=jnp)
        return stream.uniform(words).reshape(leaf.shape)

    return scored(drawn, params)


@functools.partial(jax.jit, static_argnames="rank")
def leaf_principal(leaf: Any, rank: int, key: Any) -> Any:
    """The scores of one leaf in float32.

    Example:
        >>> leaf_principal(jnp.array([[3.0, 0.0], [0.0, 1.0]]), 1, jax.random.key(0)).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    weights = leaf.astype(tree.wide(leaf))
    # The whole spectrum is the matrix itself.
    if leaf.ndim < 2 or rank >= min(leaf.shape[-2:]):
        return jnp.abs(weights)
    return jnp.abs(reconstruct(leading(weights, rank, key=key)))


def principal_leaves(leaves: Sequence[Any], ranks: Sequence[int | None], key: Key) -> list[Any]:
    """The principal scores of leaves, one after another; None where there is no rank.

    JAX's LAPACK kernels wait inside the thread pool that they need: as many at a time as it has
    threads wait for ever. So each decomposition depends on the scores before it, of which none
    is negative.

    Example:
        >>> principal_leaves([jnp.eye(2), jnp.ones(3)], [2, None], 0)[1] is None
        True
    """
    words, done, found = jnp.stack(stream.key_words(key)), np.True_, []
    for leaf, rank in zip(leaves, ranks, strict=True):
        if rank is None:
            found.append(None)
            continue
        found.append(leaf_principal(jnp.where(done, leaf, jnp.zeros_like(leaf)), rank, words))
        done = done & (found[-1].reshape(-1)[0] != -1)
    return found


def principal(
    params: Params, grads: Params | None = None, *, rank: Any, key: Key | None = None
) -> Params:
    r"""\(|W_r|\), the entries of a matrix's best part of rank r: LIFT's principal weights.

    Args:
      params: a tree. A leaf `[..., m, n]` is one matrix for each index of its leading axes; of
        vectors, and where r is `min(m, n)` or above, \(W_r = W\).
      grads: not used.
      rank: r, or `wslax.by_leaf` of it; static.
      key: of the iteration's start, see `numerics.lowrank.principal`; None is 0.

    Returns:
      As `magnitude`.

    Raises:
      WeightSpaceError: if `rank` is below 1 or traced.

    References:
      Liu et al. 2025, arXiv:2506.00772, section 3.

    Example:
        >>> params = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
        >>> principal(params, rank=1)["w"].tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    named = tree.named_leaves(params)
    ranks = [
        at_least_one(name, "rank", r) if tree.is_float(leaf) and leaf.size else None
        for (name, leaf), r in zip(
            named.items(), tree.resolve(rank, tuple(named), "rank"), strict=True
        )
    ]
    leaves, structure = jax.tree.flatten(params)
    found = principal_leaves(leaves, ranks, 0 if key is None else key)
    rows = zip(leaves, found, strict=True)
    return structure.unflatten([x if score is None else score for x, score in rows])
