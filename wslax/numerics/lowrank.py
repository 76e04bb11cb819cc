r"""The leading singular triplets of a matrix, by randomised block Krylov.

From a random block \(X_0\) the basis grows by \(X_{j+1} = \mathrm{orth}(W W^T X_j)\), each block
orthogonal to all before it, and *every* block is kept. On the whole basis \(Q\) the Ritz vectors
come from the eigenvectors of the small matrix \((Q^T W)(Q^T W)^T\). A plain randomised range finder
keeps the last block alone, and needs many more products where the spectrum decays slowly, as it
does in weights. Musco & Musco 2015 (arXiv 1504.05477).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.numerics import explicit
from wslax.typing import Array, Key


class LowRank(NamedTuple):
    """The leading singular triplets, in float32 (float64 for float64).

    Attributes:
      left: `[..., m, rank]`, orthonormal columns.
      singular: `[..., rank]`, descending; those at rounding level are 0.
      right: `[..., n, rank]`, orthonormal columns where `singular` is not 0, else 0.
      residual: `[..., rank]`, the norm of `matrix @ right - left * singular` a column (of
        `matrix.T @ left - right * singular`, if there are more rows than columns: the other one is
        0), over the largest singular value. What a triplet may be wrong by; about 1e-6 when it has
        converged.
    """

    left: Any
    singular: Any
    right: Any
    residual: Any


def principal(
    matrix: Array, rank: int, *, key: Key = 0, block: int = 32, products: int | None = None
) -> LowRank:
    r"""The `rank` leading singular triplets.

    Deterministic for a key: the start block depends on the key and the shape alone, so a matrix has
    one result, alone or in a batch. Runs under `jit` and `vmap`. A matrix that is split over
    devices, by rows or columns, is not gathered; mesh axes may be explicit. A matrix whose smaller
    side is at most `1.5 * block * products` is solved exactly, by the eigenvectors of its Gram
    matrix.

    Args:
      matrix: `[..., m, n]` floats; leading axes are a batch. Half types compute in float32.
      rank: how many triplets, static, from 1 to `min(m, n)`.
      key: a JAX key or an integer seed, for the start block.
      block: columns a block; static.
      products: blocks kept, each costs one product with \(W W^T\). By default 12, and more where
        the basis would be smaller than four times the rank. That is enough where singular values
        fall as \(i^{-1/4}\) (4096 x 4096, rank 128) and not for Gaussian noise, whose leading ones
        are nearly equal: `residual` tells.

    Returns:
      `LowRank(left, singular, right, residual)`.

    Raises:
      WeightSpaceError: if `matrix` is not a matrix of floats, or `rank`, `block` or `products` does
        not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> found = principal(jnp.diag(jnp.array([1.0, 3.0, 2.0])), 2)
        >>> [round(float(s), 4) for s in found.singular]
        [3.0, 2.0]
    """
    _check(matrix, rank, block, products)
    matrix = jnp.asarray(matrix)
    matrix = matrix.astype(tree.wide(matrix))
    products = products or max(12, -(-4 * rank // block))
    key = jnp.stack(random.key_words(key))
    return _batched(matrix, key, rank, block, products)


def reconstruct(factors: LowRank) -> Array:
    r"""The matrix \(U \Sigma V^T\) of the factors, `[..., m, n]`.

    Example:
        >>> import jax.numpy as jnp
        >>> w = jnp.array([[2.0, 0.0], [0.0, 1.0]])
        >>> reconstruct(principal(w, 1)).round(4).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    with jax.default_matmul_precision("float32"):
        scaled = factors.left * factors.singular[..., None, :]
        return scaled @ jnp.swapaxes(factors.right, -1, -2)


def _check(matrix: Any, rank: int, block: int, products: int | None) -> None:
    if not tree.is_float(matrix) or matrix.ndim < 2 or 0 in matrix.shape:
        raise WeightSpaceError(f"expected a matrix of floats [..., m, n], got {tree.aval(matrix)}")
    most = min(matrix.shape[-2:])
    if not 1 <= rank <= most:
        raise WeightSpaceError(f"rank={rank} of {tree.aval(matrix)}; give 1 to {most}")
    if block < 1 or (products is not None and block * products < rank):
        raise WeightSpaceError(
            f"block={block} and products={products} give a basis smaller than rank={rank}"
        )


@functools.partial(jax.jit, static_argnames=("rank", "block", "products"))
def _batched(matrix: Any, key: Any, rank: int, block: int, products: int) -> LowRank:
    def solve(w: Any, key: Any) -> LowRank:
        return _solve(w, rank=rank, key=key, block=block, products=products)

    for _ in matrix.shape[:-2]:
        solve = jax.vmap(solve, (0, None))
    *batch, rows, columns = explicit.spec(matrix)
    short = P(*batch, None)
    split = LowRank(P(*batch, rows, None), short, P(*batch, columns, None), short)
    solve = explicit.automatic(solve, matrix, split)
    with jax.default_matmul_precision("float32"):
        return solve(matrix, key)


def _solve(w: Any, *, rank: int, key: Any, block: int, products: int) -> LowRank:
    if w.shape[0] > w.shape[1]:
        right, singular, left, residual = _solve(
            w.T, rank=rank, key=key, block=block, products=products
        )
        return LowRank(left, singular, right, residual)
    # On CPUs both cost the same at 1.7 times the basis (rank 32) and at 1.5 (rank 128).
    if 2 * w.shape[0] <= 3 * block * products:
        return _exact(w, rank)
    return _krylov(w, rank, key, block, products)


def _exact(w: Any, rank: int) -> LowRank:
    scale = _scale(w)
    w = w / scale
    vectors = jnp.linalg.eigh(w @ w.T)[1][:, ::-1][:, :rank]
    factors = _triplets(vectors, vectors.T @ w)
    gap = w @ factors.right - factors.left * factors.singular[None]
    residual = _relative(jnp.linalg.norm(gap, axis=0), factors.singular)
    return factors._replace(singular=factors.singular * scale, residual=residual)


def _krylov(w: Any, rank: int, key: Any, block: int, products: int) -> LowRank:
    n = w.shape[1]
    words = random.bits(key, f"lowrank/{n}x{block}", n * block, xp=jnp)
    row = random.normal(words).reshape(block, n).astype(w.dtype)
    scale = _scale(w @ row.T)
    basis = jnp.zeros((w.shape[0], block * products), w.dtype)
    image = jnp.zeros((block * products, n), w.dtype)

    def grow(i: Any, held: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        basis, image, row = held
        fresh = _orthonormal(w @ row.T, basis)
        row = _across(fresh, w) / scale
        basis = jax.lax.dynamic_update_slice_in_dim(basis, fresh, i * block, 1)
        return basis, jax.lax.dynamic_update_slice_in_dim(image, row, i * block, 0), row

    basis, image, row = jax.lax.fori_loop(0, products, grow, (basis, image, row / scale))
    ritz = jnp.linalg.eigh(image @ image.T)[1][:, ::-1][:, :rank]
    factors = _triplets(basis @ ritz, ritz.T @ image)
    # Inside the basis the Ritz vectors are exact; only the image of the last block leaves it.
    outside = _outside(w @ row.T, basis) @ ritz[-block:]
    gap = _over(jnp.linalg.norm(outside, axis=0) / scale, factors.singular)
    residual = _relative(gap, factors.singular)
    return factors._replace(singular=factors.singular * scale, residual=residual)


def _scale(x: Any) -> Any:
    """The largest magnitude, or 1: squares of tiny or huge weights leave the range of floats."""
    most = jnp.max(jnp.abs(x))
    return jnp.where(most > 0, most, 1)


def _across(a: Any, b: Any) -> Any:
    """`a.T @ b`. XLA would merge a transpose of it into a product four times slower on CPUs."""
    return jax.lax.optimization_barrier(a.T @ b)


def _outside(y: Any, basis: Any) -> Any:
    """The part of `y` orthogonal to `basis`."""
    return y - basis @ _across(y, basis).T


def _triplets(left: Any, scaled: Any) -> LowRank:
    """Triplets from the left vectors and `left.T @ w`, sorted, with zeros at rounding level."""
    singular = jnp.linalg.norm(scaled, axis=1)
    order = jnp.argsort(-singular, stable=True)
    left, scaled, singular = left[:, order], scaled[order], singular[order]
    singular = jnp.where(singular > _rounding(scaled) * singular[0], singular, 0)
    return LowRank(left, singular, _over(scaled.T, singular), jnp.zeros_like(singular))


def _rounding(x: Any) -> Any:
    return np.asarray(max(x.shape) * float(jnp.finfo(x.dtype).eps), x.dtype)


def _over(x: Any, singular: Any) -> Any:
    """`x / singular` along the last axis, 0 where it is 0."""
    singular = jnp.broadcast_to(singular, x.shape)
    return jnp.where(singular > 0, x / jnp.where(singular > 0, singular, 1), 0)


def _relative(gap: Any, singular: Any) -> Any:
    return _over(gap, jnp.broadcast_to(singular[:1], gap.shape))


def _orthonormal(y: Any, basis: Any) -> Any:
    """An orthonormal basis of the part of `y` outside `basis`, zero columns where it has less.

    By the eigenvectors of the Gram matrix (SVQB, Stathopoulos and Wu 2002), twice. What rounding
    alone leaves of a column is no direction: kept, it would bring back one the basis has.
    """
    least = 8 * np.sqrt(y.shape[0]) * float(jnp.finfo(y.dtype).eps)
    whole = jnp.linalg.norm(y, axis=0)
    for _ in range(2):
        y = _outside(y, basis)
        left = jnp.linalg.norm(y, axis=0)
        y = _over(y, jnp.where(left > least * whole, left, 0))
        values, vectors = jnp.linalg.eigh(y.T @ y)
        y = _over(y @ vectors, jnp.sqrt(jnp.where(values > least * values[-1], values, 0)))
        whole = jnp.ones_like(whole)
    return y
