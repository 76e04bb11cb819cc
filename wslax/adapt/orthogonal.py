"""OFT and BOFT: the inputs of each matrix are rotated."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.adapt.blocks import check_divides
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.symmetry.types import Groups
from wslax.trace import Scaled, Turned
from wslax.typing import Array, Key, Where


def _rotations(skew: Array, size: int, terms: int | None = None) -> Array:
    """Cayley's rotations `[..., size, size]` of skew matrices by their upper triangles.

    With `terms` what PEFT sums in their place, so many terms of its series of powers, the last
    one halved if there are more than two (and a fourth where three are asked for).
    """
    rows, columns = np.triu_indices(size, 1)
    skew = skew.astype(tree.wide(skew))
    upper = jnp.zeros((*skew.shape[:-1], size, size), skew.dtype)
    upper = upper.at[..., rows, columns].set(skew)
    q = upper - jnp.swapaxes(upper, -1, -2)
    one = jnp.broadcast_to(jnp.eye(size, dtype=q.dtype), q.shape)
    if terms is None:
        return jnp.linalg.solve(one - q, one + q)
    power, found = q, one
    weights = [2, *[2] * (max(terms, 4) - 3), 1] if terms > 2 else [2] * (terms - 1)
    for weight in weights:
        found, power = found + weight * power, power @ q
    return found


def _skew(levels: int, size: int, leaf: Any) -> Array:
    return jnp.zeros((levels, leaf.shape[0] // size, size * (size - 1) // 2), tree.wide(leaf))


def oft(
    block_size: int = 32,
    *,
    terms: int | None = None,
    where: Where = None,
    groups: Groups | None = None,
) -> Adapter:
    r"""OFT: \(R W\), inputs rotated block by block before each matrix `[in, out]`.

    \(R\) is block-diagonal; each block is \((I + Q)(I - Q)^{-1}\) of a skew \(Q\), Cayley's
    transform, so it is a rotation exactly, and lengths of columns and angles between them stay.
    `train` holds `skew` `[1, in / b, b (b - 1) / 2]`, the upper triangles of all \(Q\), zero. A
    forward pass turns its inputs; no rotated matrix is written out.

    PEFT's default is the first terms of the transform's series instead, which is a rotation nearly
    while \(Q\) is small; its exact one (`use_cayley_neumann=False`) has the sign of \(Q\) turned
    round.

    Args:
      block_size: b, static; divides the inputs (32, PEFT's `oft_block_size`).
      terms: of the series, static, 1 to 64 (PEFT's `num_cayley_neumann_terms`, 5); by default the
        transform itself.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: if there are no such terms; from `init`, if a leaf is no matrix or blocks do
        not fill its inputs; from `apply` and `fuse`, if parts do not fit the model's leaves.

    References:
      Qiu et al. 2023, "Controlling Text-to-Image Diffusion by Orthogonal Finetuning",
      arXiv:2306.07280, section 4.

    Example:
        >>> import jax, numpy as np
        >>> params, adapter = {"w": np.eye(4, dtype=np.float32)}, oft(2)
        >>> train, fixed = adapter.init(jax.random.key(0), params)
        >>> train["w"]["skew"] += 1.0
        >>> abs(np.round(adapter.fuse(params, train, fixed)["w"][:2, :2])).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    if terms is not None and not 1 <= terms <= 64:
        raise WeightSpaceError(f"expected 1 to 64 terms, got {terms}")

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        check_divides(block_size, name, leaf, 0)
        return {"skew": _skew(1, block_size, leaf)}, {}

    def change(leaf: Any, parts: Parts) -> Turned:
        return Turned(leaf, _rotations(parts["skew"], block_size, terms))

    return leafwise(start, change, where, groups)


def boft(
    block_size: int = 4, factors: int = 1, *, where: Where = None, groups: Groups | None = None
) -> Adapter:
    r"""BOFT: \(M_{m-1} \cdots M_0 W\,\mathrm{diag}(s)\), a butterfly of rotations and a scale.

    \(M_0\) is OFT's block-diagonal rotation; the blocks of \(M_i\) pair half blocks that lie
    \(2^i\) half blocks apart, so that with \(m\) factors every input meets \(2^{m-1} b\) others.
    `train` holds `skew` `[m, in / b, b (b - 1) / 2]`, the upper triangles of the skew matrices,
    zero, and `scale` `[out]`, one.

    PEFT holds each skew matrix as the whole matrix whose skew part it is, with the sign turned
    round, and falls back to one factor without its CUDA extension.

    Args:
      block_size: b, static (4, PEFT's).
      factors: m, static; \(2^{m-1} b\) divides the inputs (1, PEFT's).
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: if there is no factor, or an odd block in a butterfly; from `init`, if a
        leaf is no matrix or the butterfly does not fill its inputs; from `apply` and `fuse`, if
        parts do not fit the model's leaves.

    References:
      Liu et al. 2024, "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization",
      arXiv:2311.06243, section 4.

    Example:
        >>> import jax, numpy as np
        >>> adapter = boft(2, factors=3)
        >>> train, fixed = adapter.init(jax.random.key(0), {"w": np.ones((8, 5), np.float32)})
        >>> {name: part.shape for name, part in train["w"].items()}
        {'scale': (5,), 'skew': (3, 4, 1)}
    """
    if factors < 1 or (factors > 1 and block_size % 2):
        raise WeightSpaceError(
            f"expected at least one factor, and even blocks for more than one, got {factors} "
            f"factors of blocks of {block_size}"
        )

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        check_divides(block_size * 2 ** (factors - 1), name, leaf, 0)
        ones = jnp.ones(leaf.shape[1], tree.wide(leaf))
        return {"scale": ones, "skew": _skew(factors, block_size, leaf)}, {}

    def change(leaf: Any, parts: Parts) -> Scaled:
        turned = Turned(leaf, _rotations(parts["skew"], block_size))
        return Scaled(turned, parts["scale"][None, :])

    return leafwise(start, change, where, groups)
