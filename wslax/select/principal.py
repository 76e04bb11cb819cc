"""Principal weights: the largest entries of a matrix's low-rank part."""

from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.select import masks
from wslax.select.budget import Budget, at_least_one, chosen, is_matrix
from wslax.select.scores.weights import principal_leaves
from wslax.typing import Key, Mask, Params, Where


def ranks(params: Params, rank: Any, where: Where, taken: list[int | None]) -> list[int | None]:
    """The rank of each leaf's matrices, None where nothing is selected.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      rank: as in `principal_mask`.
      where: as in `principal_mask`.
      taken: None for leaves that are not selected from.

    Raises:
      WeightSpaceError: as `principal_mask`.

    Example:
        >>> import numpy as np
        >>> ranks({"b": np.zeros(3), "w": np.zeros((4, 5))}, 2, None, [None, 5])
        [None, 2]
    """
    named = tree.named_leaves(params)
    found: list[int | None] = []
    for (name, leaf), mine, r in zip(
        named.items(), taken, tree.resolve(rank, tuple(named), "rank"), strict=True
    ):
        if mine is None:
            found.append(None)
            continue
        if not is_matrix(leaf):
            raise WeightSpaceError(
                f"{name}: expected a matrix of floats [..., m, n], got {tree.aval(leaf)}; let "
                "where= pick matrices alone"
            )
        found.append(at_least_one(name, "rank", r))
        if where is not None and found[-1] > min(leaf.shape[-2:]):
            raise WeightSpaceError(
                f"{name}: rank {r} is above the smaller side of {tree.aval(leaf)}, and where= "
                f"picks it by name; give rank=wslax.by_leaf({{{name!r}: {min(leaf.shape[-2:])}, "
                f"'*': {r}}}), or leave it out"
            )
    return found


def principal_mask(
    params: Params,
    *,
    rank: Any,
    density: Any = None,
    count: Any = None,
    lora_rank: Any = None,
    key: Key | None = None,
    where: Where = None,
) -> Mask:
    r"""The principal weights of each matrix: the largest entries of its best low-rank part.

    With \(W_r = \sum_{i \le r} \sigma_i u_i v_i^T\), the leading part of the singular value
    decomposition, the mask is true at the k largest entries of \(|W_r|\), of equal ones the first;
    exactly k in every matrix, \(k = \mathrm{round}(\text{density} \cdot mn)\) (at least one),
    `count`, or LoRA's number of trained weights \(\min((m + n) \cdot \text{lora\_rank}, mn)\), as
    in the authors' code.

    \(W_r\) comes from block Krylov iteration (`wslax.numerics.lowrank.principal`), which finds it
    on the slowly decaying spectra of weights where a randomised range finder does not. In a large
    matrix of noise alone, such as a fresh initialisation, singular values at the rank are nearly
    equal, and the mask differs from that of the exact decomposition and between keys.

    Args:
      params: a tree. A leaf `[..., m, n]` is one matrix for each index of its leading axes (layers
        of a scan, experts). Runs under `jit` and `vmap`.
      rank: r, or `wslax.by_leaf` of it. The authors use 16 to 128 for language models. In a matrix
        with no such rank (a small head) \(W_r = W\), if it is one of all; a matrix that `where`
        picks must have it. Static, as the numbers below.
      density: share of weights, above 0 and at most 1, or `wslax.by_leaf` of it; the paper keeps
        0.05.
      count: a number for each matrix, instead of `density`.
      lora_rank: R, instead of `density`.
      key: a JAX key or an integer seed of the iteration's start; None is 0. It hardly changes the
        mask where singular values decay.
      where: globs of the leaves to select from; by default all that are matrices of floats.

    Returns:
      A tree of bools, each leaf of the shape of the parameter; false in leaves that are not
      selected from.

    Raises:
      WeightSpaceError: if `rank` is below 1 or above a matrix that `where` picks, `density` outside
        (0, 1], either is traced, or `where` picks nothing or a leaf that is no matrix of floats.

    References:
      Liu et al. 2025, LIFT the Veil for the Truth: Principal Weights Emerge after Rank Reduction
      for Reasoning-Focused Supervised Fine-Tuning, arXiv:2506.00772. The released code keeps the
      *smallest* entries since July 2025; this follows the paper.

    Example:
        >>> import jax, wslax as ws
        >>> params = {"kernel": jax.random.normal(jax.random.key(0), (64, 32))}
        >>> mask = ws.select.principal_mask(params, rank=4, density=0.05)
        >>> int(mask["kernel"].sum())
        102
    """
    counts = chosen(params, Budget(density, count, lora_rank), where)
    leaves, structure = jax.tree.flatten(params)
    found = principal_leaves(leaves, ranks(params, rank, where, counts), 0 if key is None else key)
    return structure.unflatten(
        [
            jnp.zeros(leaf.shape, bool) if k is None else masks.of_matrices(score, k)
            for leaf, score, k in zip(leaves, found, counts, strict=True)
        ]
    )
