"""Principal weights: the largest entries of a matrix's low-rank part."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.numerics.lowrank import principal, reconstruct
from wslax.numerics.threshold import top_k_mask
from wslax.typing import Key, Mask, Params, Where


class Chosen(NamedTuple):
    """What is selected of one leaf: rank and number of weights of each of its matrices."""

    rank: int
    count: int


def _is_matrix(leaf: Any) -> bool:
    return tree.is_float(leaf) and leaf.ndim >= 2 and 0 not in leaf.shape


def static_number(name: str, what: str, value: Any, kind: type) -> Any:
    """A hyper-parameter that fixes the program, as an int or a float; an error if it is none.

    Example:
        >>> static_number("w", "rank", 2.0, int)
        2
    """
    if isinstance(value, jax.core.Tracer):
        raise WeightSpaceError(
            f"{name}: {what} fixes the program, so it is a Python number and not traced; with "
            f"optax.inject_hyperparams name it in static_args"
        )
    number = np.asarray(value)
    if number.ndim or number.dtype.kind not in "iuf" or not np.isfinite(number):
        raise WeightSpaceError(f"{name}: {what}: expected a number, got {value!r}")
    if kind is int and int(number) != number:
        raise WeightSpaceError(f"{name}: {what}: expected an integer, got {value!r}")
    return kind(number)


def chosen(params: Params, rank: Any, density: Any, where: Where) -> list[Chosen | None]:
    """For each leaf what is selected of it, None where nothing is.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      rank: as in `principal_mask`.
      density: as in `principal_mask`.
      where: as in `principal_mask`.

    Raises:
      WeightSpaceError: as `principal_mask`.

    Example:
        >>> import numpy as np
        >>> chosen({"b": np.zeros(3), "w": np.zeros((4, 5))}, 2, 0.25, None)
        [None, Chosen(rank=2, count=5)]
    """
    named = tree.named_leaves(params)
    picked = jax.tree.leaves(tree.picked(params, where))
    found: list[Chosen | None] = []
    for (name, leaf), mine, r, d in zip(
        named.items(), picked,
        tree.resolve(rank, tuple(named), "rank"), tree.resolve(density, tuple(named), "density"),
        strict=True,
    ):  # fmt: skip
        if not mine or (where is None and not _is_matrix(leaf)):
            found.append(None)
            continue
        if not _is_matrix(leaf):
            raise WeightSpaceError(
                f"{name}: expected a matrix of floats [..., m, n], got {tree.aval(leaf)}; let "
                "where= pick matrices alone"
            )
        if leaf.size > np.iinfo(np.int32).max:
            raise WeightSpaceError(f"{name}: more than 2^31 weights; split the leaf")
        r, d = static_number(name, "rank", r, int), static_number(name, "density", d, float)
        if r < 1:
            raise WeightSpaceError(f"{name}: rank: expected at least 1, got {r}")
        if not 0 < d <= 1:
            raise WeightSpaceError(f"{name}: density: expected above 0 and at most 1, got {d}")
        m, n = leaf.shape[-2:]
        found.append(Chosen(min(r, m, n), max(1, round(d * m * n))))
    if not any(found):
        raise WeightSpaceError("there is no matrix of floats to select from")
    return found


@functools.partial(jax.jit, static_argnames="what")
def leaf_mask(leaf: Any, what: Chosen, key: Any) -> Any:
    """The mask of one leaf, bools of its shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> leaf_mask(jnp.array([[3.0, 0.1], [0.1, 1.0]]), Chosen(2, 1), jax.random.key(0)).tolist()
        [[True, False], [False, False]]
    """
    if what.count == leaf.shape[-1] * leaf.shape[-2]:
        return jnp.ones(leaf.shape, bool)
    scores = leaf.astype(tree.wide(leaf))
    # The whole spectrum is the matrix itself.
    if what.rank < min(leaf.shape[-2:]):
        scores = reconstruct(principal(scores, what.rank, key=key))
    masks = functools.partial(top_k_mask, k=what.count)
    for _ in leaf.shape[:-2]:
        masks = jax.vmap(masks)
    return masks(scores)


def leaf_masks(leaves: Sequence[Any], found: Sequence[Chosen | None], key: Key) -> list[Any]:
    """The masks of leaves, one after another; None where nothing is selected.

    JAX's LAPACK kernels wait inside the thread pool that they need: as many at a time as it has
    threads wait for ever. So each decomposition depends on the mask before it, which is never
    empty.

    Example:
        >>> import jax.numpy as jnp
        >>> leaf_masks([jnp.eye(2), jnp.ones(3)], [Chosen(2, 1), None], 0)[1] is None
        True
    """
    words, done, masks = jnp.stack(random.key_words(key)), np.True_, []
    for leaf, what in zip(leaves, found, strict=True):
        if what is None:
            masks.append(None)
            continue
        masks.append(leaf_mask(jnp.where(done, leaf, jnp.zeros_like(leaf)), what, words))
        done = done & masks[-1].any()
    return masks


def principal_mask(
    params: Params,
    *,
    rank: Any,
    density: Any,
    key: Key | None = None,
    where: Where = None,
) -> Mask:
    r"""The principal weights of each matrix: the largest entries of its best low-rank part.

    With \(W_r = \sum_{i \le r} \sigma_i u_i v_i^T\), the leading part of the singular value
    decomposition, the mask is true at the \(k = \mathrm{round}(\text{density} \cdot mn)\) largest
    entries of \(|W_r|\), of equal ones the first; at least one, and exactly k in every matrix.

    \(W_r\) comes from block Krylov iteration (`wslax.numerics.lowrank.principal`), which finds it
    on the slowly decaying spectra of weights where a randomised range finder does not. In a large
    matrix of noise alone, such as a fresh initialisation, singular values at the rank are nearly
    equal, and the mask differs from that of the exact decomposition and between keys.

    Args:
      params: a tree. A leaf `[..., m, n]` is one matrix for each index of its leading axes (layers
        of a scan, experts). Runs under `jit` and `vmap`.
      rank: r, or `wslax.by_leaf` of it; at `min(m, n)` or above, \(W_r = W\). The authors use 32 to
        128 for language models. Static, as `density`.
      density: share of weights, above 0 and at most 1, or `wslax.by_leaf` of it; the paper keeps
        0.05. The authors' code counts as LoRA does: \(k = (m + n) R\), density
        \((m + n) R / mn\).
      key: a JAX key or an integer seed of the iteration's start; None is 0. It hardly changes the
        mask where singular values decay.
      where: globs of the leaves to select from; by default all that are matrices of floats.

    Returns:
      A tree of bools, each leaf of the shape of the parameter; false in leaves that are not
      selected from.

    Raises:
      WeightSpaceError: if `rank` is below 1, `density` outside (0, 1], either is traced, or `where`
        picks nothing or a leaf that is no matrix of floats.

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
    found = chosen(params, rank, density, where)
    leaves, structure = jax.tree.flatten(params)
    masks = leaf_masks(leaves, found, 0 if key is None else key)
    rows = zip(leaves, masks, strict=True)
    return structure.unflatten([jnp.zeros(x.shape, bool) if m is None else m for x, m in rows])
