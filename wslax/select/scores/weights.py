"""Scores of weights by themselves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax import random as stream
from wslax import tree
from wslax.numerics.lowrank import principal as leading
from wslax.numerics.lowrank import reconstruct
from wslax.select.alike import each
from wslax.select.budget import at_least_one
from wslax.select.matrices import as_leaf, as_matrices, of_leaves, ranked
from wslax.select.scores.scoring import scored
from wslax.symmetry.matrices import MatrixAxes
from wslax.symmetry.types import Groups
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
      key: a JAX key or an integer seed; None is 0. In `wslax.select.sparse` it stays the same, and
        with it the selection: one seed is one mask, as in SHiRA.

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


class Spectral(NamedTuple):
    """What of a leaf is decomposed; static.

    Attributes:
      rank: of the part that scores.
      axes: of a matrix, counted from the end.
    """

    rank: int
    axes: MatrixAxes


def leaf_principal(kind: Spectral, leaf: Any, key: Any) -> Any:
    """The scores of one leaf in float32; of vectors, and of the whole spectrum, its magnitudes.

    Example:
        >>> kind = Spectral(1, MatrixAxes((-2,), (-1,)))
        >>> leaf_principal(kind, jnp.array([[3.0, 0.0], [0.0, 1.0]]), 0).tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    weights = leaf.astype(tree.wide(leaf))
    if kind.rank >= min(ranked(leaf, kind.axes)) or not kind.axes.consumed:
        return jnp.abs(weights)
    best = reconstruct(leading(as_matrices(weights, kind.axes), kind.rank, key=key))
    return jnp.abs(as_leaf(best, kind.axes, leaf.shape))


def principal(
    params: Params,
    grads: Params | None = None,
    *,
    rank: Any,
    key: Key | None = None,
    groups: Groups | None = None,
) -> Params:
    r"""\(|W_r|\), the entries of a matrix's best part of rank r: LIFT's principal weights.

    Args:
      params: a tree. Of vectors, and where r is `min(m, n)` or above, \(W_r = W\).
      grads: not used.
      rank: r, or `wslax.by_leaf` of it; static.
      key: of the iteration's start, see `numerics.lowrank.principal`; None is 0.
      groups: as in `principal_mask`; without them a leaf of floats has at most two axes.

    Returns:
      As `magnitude`.

    Raises:
      WeightSpaceError: if `rank` is below 1 or traced; for a leaf with more axes without groups.

    References:
      Liu et al. 2025, arXiv:2506.00772, section 3.

    Example:
        >>> params = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
        >>> principal(params, rank=1)["w"].tolist()
        [[3.0, 0.0], [0.0, 0.0]]
    """
    named = tree.named_leaves(params)
    names = [n for n, leaf in named.items() if tree.is_float(leaf) and leaf.size]
    axes = of_leaves(params, names, groups) if names else [None] * len(named)
    rows = zip(named, axes, tree.resolve(rank, tuple(named), "rank"), strict=True)
    kinds = [a and Spectral(at_least_one(name, "rank", r), a) for name, a, r in rows]
    leaves, structure = jax.tree.flatten(params)
    words = jnp.stack(stream.key_words(0 if key is None else key))
    rows = zip(leaves, each(leaf_principal, kinds, leaves, words), strict=True)
    return structure.unflatten([x if score is None else score for x, score in rows])
