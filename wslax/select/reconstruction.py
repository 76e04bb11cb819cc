"""SparseGPT: pruning with the remaining weights set so that outputs change least."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.numerics.threshold import top_k_mask
from wslax.select.layers import met
from wslax.symmetry.matrices import from_matrices, to_matrices
from wslax.symmetry.types import Groups
from wslax.typing import Array, Mask, Params

Pattern = float | tuple[int, int]


def _factor(gram: Array, damp: Any) -> tuple[Array, Array]:
    """Which inputs are dead, and U, upper triangular, with the damped Gram's inverse U^T U."""
    diagonal = jnp.diagonal(gram)
    dead = diagonal == 0
    damped = gram + jnp.diag(jnp.where(dead, 1, 0) + damp * diagonal.mean())
    back = jnp.linalg.cholesky(damped[::-1, ::-1])
    eye = jnp.eye(len(gram), dtype=gram.dtype)
    inverse = jax.scipy.linalg.solve_triangular(back, eye, lower=True)
    return dead, inverse[::-1, ::-1]


def _block(w: Array, u: Array, pattern: Pattern) -> tuple[Array, Array, Array]:
    """Prune the rows of one block, each making the later ones good; their errors, too.

    Args:
      w: `[inputs, outputs]`.
      u: the block of U.
      pattern: density, or (n, m).

    Returns:
      The weights, which are kept, and errors over U's diagonal.
    """
    size, scale = len(w), jnp.diagonal(u)[:, None]

    def saliency(w: Array) -> Array:
        return (w / scale) ** 2

    if isinstance(pattern, tuple):
        n, m = pattern
        chosen = jnp.ones(w.shape, bool)
    else:
        n = m = 0
        chosen = top_k_mask(saliency(w), round(pattern * w.size))

    def step(i: Any, state: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
        w, chosen, errors = state
        if m:

            def run(chosen: Array) -> Array:
                rows = jax.lax.dynamic_slice_in_dim(saliency(w), i, m)
                mask = jax.vmap(lambda r: top_k_mask(r, n), 1, 1)(rows)
                return jax.lax.dynamic_update_slice_in_dim(chosen, mask, i, 0)

            chosen = jax.lax.cond(i % m == 0, run, lambda chosen: chosen, chosen)
        error = jnp.where(chosen[i], 0, w[i]) / u[i, i]
        # U is upper triangular: rows before i stay.
        return w - u[i][:, None] * error[None], chosen, errors.at[i].set(error)

    w, chosen, errors = jax.lax.fori_loop(0, size, step, (w, chosen, jnp.zeros_like(w)))
    return jnp.where(chosen, w, 0), chosen, errors


@functools.partial(jax.jit, static_argnames=("pattern", "block"))
def _pruned(w: Array, gram: Array, pattern: Pattern, damp: Any, block: int) -> tuple[Array, Array]:
    """One matrix `[inputs, outputs]`."""
    dead, u = _factor(gram, damp)
    w = jnp.where(dead[:, None], 0, w)
    inputs = len(w)
    block = min(block, inputs)

    def at(start: Any, size: int, state: tuple[Array, Array]) -> tuple[Array, Array]:
        w, chosen = state
        rows = jax.lax.dynamic_slice_in_dim(w, start, size)
        across = jax.lax.dynamic_slice_in_dim(u, start, size)
        own = jax.lax.dynamic_slice_in_dim(across, start, size, 1)
        rows, mask, errors = _block(rows, own, pattern)
        later = jnp.where(jnp.arange(inputs) >= start + size, across, 0)
        w = w - jnp.matmul(later.T, errors, precision="highest")
        w = jax.lax.dynamic_update_slice_in_dim(w, rows, start, 0)
        return w, jax.lax.dynamic_update_slice_in_dim(chosen, mask, start, 0)

    state = (w, jnp.ones(w.shape, bool))
    state = jax.lax.fori_loop(0, inputs // block, lambda b, s: at(b * block, block, s), state)
    if rest := inputs % block:
        state = at(inputs - rest, rest, state)
    return state


def _checked(density: float | None, pattern: tuple[int, int] | None, block: int) -> Pattern:
    if (density is None) == (pattern is None):
        raise WeightSpaceError("give either density= or n_of_m=(n, m)")
    if block < 1:
        raise WeightSpaceError(f"block: expected at least 1, got {block}")
    if density is not None:
        if not 0 < density <= 1:
            raise WeightSpaceError(f"density: expected above 0 and at most 1, got {density}")
        return density
    n, m = pattern or (1, 1)
    if not 1 <= n <= m or block % m:
        raise WeightSpaceError(
            f"n_of_m: expected 1 <= n <= m and m a divisor of the block of {block}, got {(n, m)}"
        )
    return n, m


def sparsegpt(
    params: Params,
    grams: Mapping[str, Array],
    *,
    density: float | None = None,
    n_of_m: tuple[int, int] | None = None,
    groups: Groups | None = None,
    damp: float = 0.01,
    block: int = 128,
) -> tuple[Params, Mask]:
    r"""Prune each layer and set its other weights so that its outputs on data change least.

    With \(H = X X^T\) and the upper triangular \(U\), \(H^{-1} = U^T U\), inputs are taken in
    order, in blocks: in each the weights of least \(w_{ij}^2 / U_{ii}^2\) are removed, exactly
    `density` of the block's stay, and each removed one is made good by those of later inputs,
    \(w_{kj} \mathrel{-}= U_{ik} \, w_{ij} / U_{ii}\), which is the optimal brain surgeon's step
    among them.

    All layers are pruned by the Gram matrices given. The authors go layer by layer and read each
    one's inputs behind the pruned ones: for that call with the matrices of some leaves at a time.

    Args:
      params: a tree.
      grams: `trace.taps(apply, params, *inputs, read="gram")`, over several batches their sum: the
        leaves to prune. Their scale does not matter.
      density: share of the weights of each block to keep, above 0 and at most 1.
      n_of_m: instead: n of each m consecutive inputs of each output.
      groups: of the model, which say what a leaf sums over; without them, leaves `[in, out]`.
      damp: \(H\) gets this times its mean diagonal; default as in the authors' code.
      block: inputs whose mask is chosen at once; default as in the authors' code.

    Returns:
      The parameters, and a tree of bools: which weights are kept; True in other leaves.

    Raises:
      WeightSpaceError: naming a leaf whose Gram matrix does not fit, or for numbers out of range.

    References:
      Frantar and Alistarh 2023, SparseGPT, arXiv:2301.00774, algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> key = jax.random.key(0)
        >>> params, x = {"w": jax.random.normal(key, (8, 3))}, jax.random.normal(key, (20, 8))
        >>> grams = ws.trace.taps(lambda p, x: x @ p["w"], params, x, read="gram")
        >>> pruned, mask = sparsegpt(params, grams, n_of_m=(2, 4))
        >>> mask["w"].reshape(2, 4, 3).sum(1).tolist()
        [[2, 2, 2], [2, 2, 2]]
    """
    pattern, axes = _checked(density, n_of_m, block), met(params, grams, groups)
    masks: dict[str, Any] = {}

    def change(name: str, leaf: Any) -> Any:
        if name not in axes:
            masks[name] = jnp.ones(jnp.shape(leaf), bool)
            return leaf
        wide = tree.wide(leaf)
        w, gram = to_matrices(leaf.astype(wide), axes[name]), grams[name].astype(wide)
        if isinstance(pattern, tuple) and w.shape[-2] % pattern[1]:
            raise WeightSpaceError(
                f"{name}: sums over {w.shape[-2]} inputs, no multiple of {pattern[1]}; leave its "
                "Gram matrix out"
            )
        rows, columns = w.shape[-2:]
        run = jax.vmap(lambda w, gram: _pruned(w, gram, pattern, damp, block))
        w, mask = run(w.reshape(-1, rows, columns), gram.reshape(-1, rows, rows))
        masks[name] = from_matrices(mask, axes[name], leaf.shape)
        return tree.cast_like(from_matrices(w, axes[name], leaf.shape), leaf)

    pruned = tree.map_named(change, params)
    return pruned, tree.map_named(lambda name, _: masks[name], params)
