"""Mutations of whole leaves: of low rank, of singular values, and back to fresh weights."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.evolve.mutation import check_rate
from wslax.population.members import as_key
from wslax.typing import Array, Key, Params, Scalar


def _normal(key: Key, name: str, member: Scalar, *shape: int) -> Array:
    words = random.bits(key, f"evolve/variation/{name}", math.prod(shape), member=member, xp=jnp)
    return random.normal(words).reshape(shape)


def noise(key: Key, name: str, x: Array, member: Scalar) -> Array:
    """Plain noise of a leaf's shape, in the dtype of its arithmetic.

    Example:
        >>> import jax.numpy as jnp
        >>> noise(0, "bias", jnp.zeros(3), 1).shape
        (3,)
    """
    return _normal(key, name, member, *x.shape).astype(tree.wide(x))


def factors(key: Key, name: str, x: Array, rank: int, member: Scalar) -> tuple[Array, Array]:
    r"""`[rows, rank]` and `[columns, rank]`, normal over \(\root 4 \of r\): noise of variance 1.

    A leaf of more than two axes is a matrix with the last axis as columns.

    Example:
        >>> import jax.numpy as jnp
        >>> [f.shape for f in factors(0, "kernel", jnp.zeros((5, 4)), 2, 1)]
        [(5, 2), (4, 2)]
    """
    n = x.shape[-1]
    a = _normal(key, f"{name}/rows", member, x.size // n, rank)
    b = _normal(key, f"{name}/columns", member, n, rank)
    return tuple((f * rank**-0.25).astype(tree.wide(x)) for f in (a, b))


def _each(fn: Callable[[str, Any], Any], params: Params) -> Params:
    """`fn` of every leaf of floats, in float32 for half types."""

    def of(name: str, leaf: Any) -> Any:
        if not tree.is_float(leaf) or leaf.size == 0:
            return leaf
        return tree.cast_like(fn(name, leaf.astype(tree.wide(leaf))), leaf)

    return tree.map_named(of, params)


def low_rank(
    key: Key, params: Params, *, sigma: Scalar, rank: int = 1, member: Scalar = 0
) -> Params:
    r"""Mutation of low rank: \(Y = X + \sigma A B^T / \sqrt r\), with normal \(A, B\) of r columns.

    Each entry of the change has mean 0 and variance \(\sigma^2\), as in EGGROLL, from
    \(r (m + n)\) random numbers instead of \(mn\). Leaves of more than two axes are matrices
    with the last axis as columns; vectors and scalars get plain noise.

    Args:
      key: a JAX key or seed.
      params: one member. Integer, bool and key leaves pass unchanged.
      sigma: standard deviation; may be traced.
      rank: r; static.
      member: the member's id; may be traced.

    Returns:
      The mutant.

    Raises:
      WeightSpaceError: if `rank` is below 1.

    References:
      Sarkar et al. 2025, Evolution strategies at the hyperscale, arXiv:2511.16652.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> mutant = ws.evolve.low_rank(0, {"w": jnp.zeros((5, 4))}, sigma=0.1)
        >>> int(jnp.linalg.matrix_rank(mutant["w"]))
        1
    """
    if rank < 1:
        raise WeightSpaceError(f"rank: expected at least 1, got {rank}")

    def change(name: str, x: Array) -> Array:
        size = jnp.asarray(sigma, x.dtype)
        if x.ndim < 2:
            return x + size * noise(key, name, x, member)
        a, b = factors(key, name, x, rank, member)
        return x + size * (a @ b.T).reshape(x.shape)

    return _each(change, params)


def spectral(key: Key, params: Params, *, sigma: Scalar, member: Scalar = 0) -> Params:
    r"""Mutation of singular values, \(s_i' = s_i e^{\sigma \epsilon_i}\); singular vectors stay.

    Matrices keep their rank and the signs of their directions. Leaves of more than two axes are
    matrices with the last axis as columns; vectors and scalars stay.

    Args:
      key: a JAX key or seed.
      params: one member. Integer, bool and key leaves pass unchanged.
      sigma: standard deviation of the logarithm of a singular value; may be traced.
      member: the member's id; may be traced.

    Returns:
      The mutant.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> mutant = ws.evolve.spectral(0, {"w": jnp.diag(jnp.array([2.0, 1.0]))}, sigma=0.1)
        >>> bool(abs(mutant["w"][0, 1]) < 1e-6), bool(mutant["w"][0, 0] > 1)
        (True, True)
    """

    def change(name: str, x: Array) -> Array:
        if x.ndim < 2:
            return x
        u, s, v = jnp.linalg.svd(x.reshape(-1, x.shape[-1]), full_matrices=False)
        grown = jnp.asarray(sigma, x.dtype) * _normal(key, name, member, s.size).astype(x.dtype)
        # As a change of the matrix, so that sigma 0 keeps every bit.
        return x + ((u * (s * jnp.expm1(grown))[None]) @ v).reshape(x.shape)

    return _each(change, params)


def reset(
    key: Key,
    params: Params,
    init: Callable[[Any], Params],
    *,
    rate: float,
    member: Scalar = 0,
) -> Params:
    """Mutation back to fresh weights: each weight is drawn anew with probability `rate`.

    Args:
      key: a JAX key or seed.
      params: one member. Integer, bool and key leaves pass unchanged.
      init: `key -> params`, as the net's own.
      rate: share of weights, 0 to 1; static.
      member: the member's id; may be traced.

    Returns:
      The mutant; weights that are not drawn anew keep their bits.

    Raises:
      WeightSpaceError: if `rate` is outside [0, 1], or `init` gives another tree.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> init = lambda key: {"w": jnp.ones(1000)}
        >>> mutant = ws.evolve.reset(0, {"w": jnp.zeros(1000)}, init, rate=0.1)
        >>> 50 < int(mutant["w"].sum()) < 150
        True
    """
    check_rate("rate", rate)
    fresh = init(jax.random.fold_in(as_key(key), member))
    tree.check_like(fresh, params, "what init gives", "the member")

    def change(name: str, leaf: Any, new: Any) -> Any:
        if not tree.is_float(leaf):
            return leaf
        words = random.bits(key, f"evolve/reset/{name}", leaf.size, member=member, xp=jnp)
        return jnp.where(random.uniform(words).reshape(leaf.shape) < rate, new, leaf)

    return tree.map_named(change, params, fresh)
