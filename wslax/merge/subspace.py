r"""Merging in the subspaces that task vectors use: matrices by their singular vectors.

A matrix is \(D_i = X_i - B\), rows the inputs and columns the outputs (Flax's `[in, out]`); with
`groups=` any leaf is seen so by the roles of its axes, attention kernels and scanned stacks too.
Without, leaves of two axes as stored; of PyTorch's `[out, in]` pass groups. All other leaves of
floats are the mean of their task vectors, as in the originals.

Singular vectors of singular values at rounding level (adapters, equal models) take no part. The
originals use whatever vectors the factorisation returns there, which are arbitrary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wslax.errors import WeightSpaceError
from wslax.merge.leaves import Leaves, merge_leaves, task_vectors
from wslax.merge.matrices import Axes, alike, apart, axes_of, merge_matrices, views
from wslax.numerics.decompose import isometry, svd
from wslax.symmetry.matrices import from_matrices
from wslax.symmetry.types import Groups
from wslax.typing import Params, Population, Where


def _side_by_side(x: Any) -> Any:
    """`[N, batch, m, k]` of members as one block `[batch, m, N k]`."""
    return jnp.concatenate(list(x), axis=-1)


def _tsv_m(deltas: Any, done: Any) -> tuple[Any, Any]:
    keep = max(1, min(deltas.shape[-2:]) // len(deltas))
    found, done = svd(deltas, done)
    left, done = isometry(_side_by_side(found.left[..., :keep]), done)
    right, done = isometry(_side_by_side(found.right[..., :keep]), done)
    singular = _side_by_side(found.singular[..., :keep])
    return (left * singular[..., None, :]) @ right.mT, done


def tsv_m(
    population: Population,
    base: Params,
    *,
    lam: Any = 1.0,
    where: Where = None,
    groups: Groups | None = None,
) -> Params:
    r"""Task singular vectors: the leading triplets of each task vector, made orthogonal.

    Of each \(D_i = U_i \Sigma_i V_i^T\) the \(\lfloor r / N \rfloor\) largest triplets (at least
    one) stay, \(r = \min(m, n)\). With \(\hat U, \hat V\) the nearest matrices of orthonormal
    columns to \([U_1 \ldots U_N]\) and \([V_1 \ldots V_N]\),

    \[Y = B + \lambda \hat U \,\mathrm{diag}(\Sigma_1, \ldots, \Sigma_N) \hat V^T.\]

    The rank of \(Y - B\) is at most r. One member is returned as it is at \(\lambda = 1\). The
    authors leave out CLIP's `text_projection`; say such with `where`.

    Args:
      population: N members.
      base: the model they came from.
      lam: \(\lambda\); the paper needs no search, 1.
      where: globs of the leaves to merge.
      groups: from `symmetry.infer`, say which axes are rows and columns of a matrix.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or the groups do not fit.

    References:
      Gargiulo et al. 2025, Task singular vectors: reducing task interference in model merging,
      arXiv:2412.00081, section 4 and algorithm 1.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[[2.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 3.0]]])}
        >>> ws.merge.tsv_m(experts, {"w": jnp.zeros((2, 2))})["w"].round(4).tolist()
        [[2.0, 0.0], [0.0, 3.0]]
    """
    return merge_matrices(_tsv_m, population, base, lam, where, groups)


def _flat(singular: Any) -> Any:
    """The mean of the singular values that are not 0, in their place."""
    live = singular > 0
    count = jnp.maximum(live.sum(-1, keepdims=True), 1).astype(singular.dtype)
    return jnp.where(live, singular.sum(-1, keepdims=True) / count, 0)


def _iso_c(deltas: Any, done: Any) -> tuple[Any, Any]:
    found, done = svd(deltas.sum(0), done)
    flat = _flat(found.singular)
    return (found.left * flat[..., None, :]) @ found.right.mT, done


def iso_c(
    population: Population,
    base: Params,
    *,
    lam: Any = 1.0,
    where: Where = None,
    groups: Groups | None = None,
) -> Params:
    r"""Isotropic merging in the common subspace: the sum of task vectors with a flat spectrum.

    \[\sum_i D_i = U \Sigma V^T, \qquad Y = B + \lambda \bar\sigma U V^T\]

    with \(\bar\sigma\) the mean of the singular values (that are not 0).

    One member is not returned as it is: its spectrum is made flat too.

    Args:
      population: N members.
      base: the model they came from.
      lam: \(\lambda\); the paper searches on a validation set, FusionBench uses 1.5 for CLIP.
      where: globs of the leaves to merge.
      groups: from `symmetry.infer`, say which axes are rows and columns of a matrix.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or the groups do not fit.

    References:
      Marczak et al. 2025, No task left behind: isotropic model merging with common and
      task-specific subspaces, arXiv:2502.04959, section 4.1.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[[2.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 1.0]]])}
        >>> ws.merge.iso_c(experts, {"w": jnp.zeros((2, 2))})["w"].round(4).tolist()
        [[3.0, 0.0], [0.0, 3.0]]
    """
    return merge_matrices(_iso_c, population, base, lam, where, groups)


def _iso_cts(deltas: Any, done: Any, share: float) -> tuple[Any, Any]:
    rank, count = min(deltas.shape[-2:]), len(deltas)
    own = min(round((rank - int(rank * share)) / count), rank // count)
    common = rank - own * count
    whole, done = svd(deltas.sum(0), done)
    span = whole.right[..., :common]
    rest = deltas - (deltas @ span[None]) @ span.mT[None]
    found, done = svd(rest, done)
    left, right, singular = (
        jnp.concatenate([shared[..., :common], *each[..., :own]], axis=-1)
        for shared, each in zip(
            (whole.left, whole.right, whole.singular),
            (found.left, found.right, found.singular),
            strict=True,
        )
    )
    left, done = isometry(left, done)
    right, done = isometry(right, done)
    return (left * _flat(singular)[..., None, :]) @ right.mT, done


def iso_cts(
    population: Population,
    base: Params,
    *,
    common: float = 0.8,
    lam: Any = 1.0,
    where: Where = None,
    groups: Groups | None = None,
) -> Params:
    r"""Isotropic merging in common and task-specific subspaces.

    Of \(\sum_i D_i\) the leading k triplets stay, about \(\text{common} \cdot r\). The other
    \(r - k\) places go in equal parts to the leading triplets of each \(D_i (I - V_k V_k^T)\), its
    part outside the common outputs. Left and right vectors are replaced by the nearest orthonormal
    ones, all r singular values by their mean, as in `iso_c`, which `common=1` is.

    The number of task-specific places a task is \((r - \lfloor \text{common} \cdot r\rfloor) / N\),
    rounded; where the authors' code would then give out more places than there are, rounded down.

    Args:
      population: N members.
      base: the model they came from.
      common: share of the rank for the common subspace, 0 to 1, static; the paper's 0.8.
      lam: \(\lambda\); the paper searches on a validation set, FusionBench uses 1.5 for CLIP.
      where: globs of the leaves to merge.
      groups: from `symmetry.infer`, say which axes are rows and columns of a matrix.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, the groups do not fit, or
        `common` is out of range.

    References:
      Marczak et al. 2025, arXiv:2502.04959, section 4.2 and algorithm 2.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[[2.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 1.0]]])}
        >>> ws.merge.iso_cts(experts, {"w": jnp.zeros((2, 2))}, common=1.0)["w"].round(4).tolist()
        [[2.5, 0.0], [0.0, 2.5]]
    """
    if not 0 <= common <= 1:
        raise WeightSpaceError(f"common: expected 0 to 1, got {common}")
    return merge_matrices(_iso_cts, population, base, lam, where, groups, float(common))


@partial(jax.jit, static_argnames=("axes", "rank"))
def _align(stacks: Leaves, bases: Leaves, axes: Axes, rank: int | None) -> tuple[Leaves, Leaves]:
    """Task vectors, those of matrices as coordinates `[N, *batch, m, k]`, and the frames."""
    vectors, frames, done = task_vectors(stacks, bases), {}, True
    matrices = views(vectors, axes)
    for names, stack in alike(matrices):
        count, batch, m, n = stack.shape
        rows = jnp.moveaxis(stack, 0, 1).reshape(batch, count * m, n)
        found, done = svd(rows, done)
        right = found.right[..., :rank]
        frames |= apart(names, right, matrices)
        vectors |= jax.vmap(lambda x, names=names: apart(names, x, matrices))(stack @ right[None])
    return vectors, frames


@partial(jax.jit, static_argnames="axes")
def _back(merged: Leaves, frames: Leaves, bases: Leaves, axes: Axes) -> Leaves:
    where = dict(axes)

    def whole(name: str, x: Any) -> Any:
        base = bases[name]
        if name in frames:
            x = from_matrices(x @ frames[name].mT, where[name], base.shape)
        return base.astype(x.dtype) + x

    return {name: whole(name, x) for name, x in merged.items()}


def knots(
    population: Population,
    base: Params,
    merge: Callable[[Population, Params], Params],
    *,
    rank: int | None = None,
    where: Where = None,
    groups: Groups | None = None,
) -> Params:
    r"""Merge by any method in the frame that the task vectors share.

    The task vectors of a matrix are put one below the other along their inputs, and their common
    outputs' frame V taken from

    \[\begin{bmatrix} D_1 \\ \vdots \\ D_N \end{bmatrix} = U \Sigma V^T, \qquad
    Y = B + F(D_1 V, \ldots, D_N V)\, V^T.\]

    F is `merge` on the tree of coordinates \(D_i V\) (other leaves: their task vectors) with a base
    of zeros, so its thresholds and signs are those of aligned entries. A method linear in the
    task vectors gives what it gives without the frame.

    Args:
      population: N members.
      base: the model they came from.
      merge: F, `(population, base) -> params`, such as `partial(ws.merge.ties, density=0.3)`.
      rank: columns of V that are kept, static. By default all, \(\min(N m, n)\); for adapters of
        rank R give N R, so that a density counts only directions in use. The paper drops singular
        values up to 1e-5.
      where: globs of the leaves to merge.
      groups: from `symmetry.infer`, say which axes are rows and columns of a matrix.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, the groups do not fit, `rank` is
        below 1, or as `merge`.

    References:
      Stoica et al. 2025, Model merging with SVD to tie the Knots, arXiv:2410.19735, section 4.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[[1.0, 1.0]], [[2.0, 2.0]]])}
        >>> ws.merge.knots(experts, {"w": jnp.zeros((1, 2))}, ws.merge.ties)["w"].round(4).tolist()
        [[1.5, 1.5]]
    """
    if rank is not None and rank < 1:
        raise WeightSpaceError(f"rank: expected at least 1, got {rank}")
    axes = axes_of(population, groups)

    def merged(stacks: Leaves, bases: Leaves | None) -> Leaves:
        with jax.default_matmul_precision("float32"):
            aligned, frames = _align(stacks, bases, axes, rank)
            zeros = {n: jnp.zeros(x.shape[1:], x.dtype) for n, x in aligned.items()}
            return _back(merge(aligned, zeros), frames, bases, axes)

    if base is None:
        raise WeightSpaceError("base: expected the model that the members came from, got None")
    return merge_leaves(merged, population, base, where)
