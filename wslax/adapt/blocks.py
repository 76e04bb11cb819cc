"""Bone and MiSS: one small block for many blocks of each matrix."""

from typing import Any

import jax.numpy as jnp

from wslax import tree
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapt.low_rank import check_number
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.symmetry.types import Groups
from wslax.trace import BlockAffine, Kronecker
from wslax.typing import Key, Where


def check_divides(size: int, name: str, leaf: Any, axis: int) -> None:
    """An error that names the leaf unless blocks of `size` fill an axis of it."""
    length = leaf.shape[axis]
    if size < 1 or length % size:
        raise WeightSpaceError(
            f"{name}: blocks of {size} do not fill axis {axis} of {tree.aval(leaf)}; give a "
            f"divisor of {length}, or leave the leaf out by where="
        )


def bone(size: int = 64, *, where: Where = None, groups: Groups | None = None) -> Adapter:
    r"""Bone: \(W_{ij} + C_j W_{ij} + C_j\) for each square block of each matrix `[in, out]`.

    One \(C_j\) for every block of columns, the same for all blocks of rows: the change is
    multiplicative and additive at once, and of full rank. `train` holds `maps`
    `[out / size, size, size]`, zero, which is \(out \cdot size\) numbers (LoRA has
    \((in + out)\,r\)). Where \(I + C_j\) can be inverted, the base comes back from what was
    fused: \(W_{ij} = (I + C_j)^{-1} (W'_{ij} - C_j)\).

    This is the first published form, `init_weights="bat"` of PEFT's `miss` tuner, whose matrices
    lie `[out, in]` and whose blocks are the transposes of these. A forward pass writes no matrix
    out, at the work of a dense product a member: each block of columns sees inputs mapped for it.

    Args:
      size: of a block, static; divides both sides (64, the authors').
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: from `init`, if a leaf is no matrix or blocks do not fill it; from `apply`
        and `fuse`, if parts do not fit the model's leaves.

    References:
      Kang 2024, "Bone: Block-Affine Adaptation of Large Language Models", arXiv:2409.15371.

    Example:
        >>> import jax, numpy as np
        >>> params, adapter = {"w": np.ones((4, 6), np.float32)}, bone(2)
        >>> train, fixed = adapter.init(jax.random.key(0), params)
        >>> train["w"]["maps"].shape
        (3, 2, 2)
    """

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        check_divides(size, name, leaf, 0)
        check_divides(size, name, leaf, 1)
        return {"maps": jnp.zeros((leaf.shape[1] // size, size, size), tree.wide(leaf))}, {}

    return leafwise(start, lambda leaf, parts: BlockAffine(leaf, parts["maps"]), where, groups)


def miss(
    rank: int = 64, *, width: int | None = None, where: Where = None, groups: Groups | None = None
) -> Adapter:
    r"""MiSS: \(W_i + B\) for each block \(W_i\) of `rank` rows of each matrix `[in, out]`.

    All blocks of rows get the same \(B\), so a forward pass sums its input over the blocks and
    multiplies once: \(x W' = x W + (\sum_i x_i) B\), a change of rank r at most. `train` holds
    `block` `[rank, out]`, zero: \(out \cdot r\) numbers, the only trained factor, whose gradient is
    not zero at the start as that of LoRA's `down` is. Where the rank does not divide the inputs,
    the last block of rows gets the first rows of \(B\).

    This is the second published form of Bone ("balance", the default of PEFT's `miss` tuner, where
    \(B\) has the same shape). With a `width` it is the third ("mini", `mini_r`): \(B\) is `[rank,
    width]`, repeated over the columns.

    Args:
      rank: r, static, at most the inputs (64, PEFT's).
      width: of the block, static, divides the outputs; by default all of them.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: if the rank is no integer of at least 1; from `init`, if a leaf is no
        matrix, has fewer inputs than the rank, or blocks do not fill its outputs; from `apply` and
        `fuse`, if parts do not fit the model's leaves.

    References:
      Kang and Yin 2024, "MiSS", arXiv:2409.15371 (later versions, also under the names Bone and
      DiSHA).

    Example:
        >>> import jax, numpy as np
        >>> params, adapter = {"w": np.zeros((5, 3), np.float32)}, miss(2)
        >>> train, fixed = adapter.init(jax.random.key(0), params)
        >>> train["w"]["block"] = np.array([[1, 1, 1], [2, 2, 2]], np.float32)
        >>> adapter.fuse(params, train, fixed)["w"][:, 0].tolist()
        [1.0, 2.0, 1.0, 2.0, 1.0]
    """
    check_number(rank)

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        rows, columns = leaf.shape
        if not 1 <= rank <= rows:
            raise WeightSpaceError(
                f"{name}: rank {rank} does not fit {tree.aval(leaf)}; give 1 to {rows}, or leave "
                "the leaf out by where="
            )
        if width is not None:
            check_divides(width, name, leaf, 1)
        return {"block": jnp.zeros((rank, width or columns), tree.wide(leaf))}, {}

    def change(leaf: Any, parts: Parts) -> Kronecker:
        rows, columns = leaf.shape
        block = parts["block"]
        ones = jnp.ones((1, -(-rows // rank), 1), block.dtype)
        return Kronecker(leaf, ones, jnp.tile(block, (1, columns // block.shape[1]))[None])

    return leafwise(start, change, where, groups)
