"""Principal weights: the largest entries of a matrix's low-rank part."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.select import masks
from wslax.select.alike import each
from wslax.select.budget import Budget, Choice, at_least_one, chosen
from wslax.select.matrices import ranked
from wslax.select.scores.weights import Spectral, leaf_principal
from wslax.symmetry.matrices import warn_left_out
from wslax.symmetry.types import Groups
from wslax.typing import Key, Mask, Params, Where


class Kind(NamedTuple):
    """What is selected of a leaf, and by which part of its spectrum; static."""

    choice: Choice
    spectral: Spectral


def kinds(
    params: Params, budget: Budget, rank: Any, where: Where, groups: Groups | None
) -> list[Kind | None]:
    """What is selected of each leaf, None where nothing is.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      budget: how many weights.
      rank: as in `principal_mask`.
      where: as in `principal_mask`.
      groups: as in `principal_mask`.

    Raises:
      WeightSpaceError: as `principal_mask`.

    Example:
        >>> import numpy as np
        >>> params = {"b": np.zeros(3), "w": np.zeros((4, 5))}
        >>> kinds(params, Budget(count=5), 2, None, None)[1].spectral.rank
        2
    """
    named = tree.named_leaves(params)
    choices = chosen(params, budget, where, groups)
    rows = zip(named.items(), choices, tree.resolve(rank, tuple(named), "rank"), strict=True)
    found: list[Kind | None] = []
    for (name, leaf), choice, r in rows:
        if choice is None:
            found.append(None)
            continue
        if not choice.axes.consumed:
            raise WeightSpaceError(
                f"{name}: expected a matrix of floats [m, n], got {tree.aval(leaf)}; let where= "
                "pick matrices alone"
            )
        mine, most = at_least_one(name, "rank", r), min(ranked(leaf, choice.axes))
        if where is not None and mine > most:
            raise WeightSpaceError(
                f"{name}: rank {r} is above the smaller side of {tree.aval(leaf)}, and where= "
                f"picks it by name; give rank=wslax.by_leaf({{{name!r}: {most}, '*': {r}}}), or "
                "leave it out"
            )
        found.append(Kind(choice, Spectral(mine, choice.axes)))
    return found


def _mask(kind: Kind, leaf: Any, key: Any) -> Any:
    scores = leaf_principal(kind.spectral, leaf, key)
    return masks.of_matrices(scores, kind.choice, sizes=True)


def principal_mask(
    params: Params,
    *,
    rank: Any,
    density: Any = None,
    count: Any = None,
    lora_rank: Any = None,
    key: Key | None = None,
    where: Where = None,
    groups: Groups | None = None,
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
      params: a tree. Runs under `jit` and `vmap`.
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
      groups: the model's symmetry, `wslax.symmetry.infer(apply, params, inputs)`: a matrix is what
        a leaf consumes times what it produces, whatever its axes (the heads of Flax's attention);
        other axes are a batch (layers of a scan, experts). Embeddings, which look up, are none.
        Without groups leaves with two axes are matrices; a warning names those with more.

    Returns:
      A tree of bools, each leaf of the shape of the parameter; false in leaves that are not
      selected from.

    Raises:
      WeightSpaceError: if `rank` is below 1 or above a matrix that `where` picks, `density` outside
        (0, 1], either is traced, or `where` picks nothing or a leaf that is no matrix of floats;
        for one with more than two axes without groups.

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
    found = kinds(params, Budget(density, count, lora_rank), rank, where, groups)
    named = tree.named_leaves(params)
    warn_left_out("principal_mask: nothing is selected from", named, where, groups)
    leaves, structure = jax.tree.flatten(params)
    words = jnp.stack(random.key_words(0 if key is None else key))
    rows = zip(leaves, each(_mask, found, leaves, words), strict=True)
    return structure.unflatten(
        [jnp.zeros(leaf.shape, bool) if mask is None else mask for leaf, mask in rows]
    )
