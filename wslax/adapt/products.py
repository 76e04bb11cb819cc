"""LoHa and LoKr: elementwise and Kronecker products of small matrices beside each matrix."""

import math
from typing import Any

import jax.numpy as jnp

from wslax import tree
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapt.low_rank import check_number, check_rank, draws
from wslax.adapter import Adapter
from wslax.symmetry.types import Groups
from wslax.trace import Kronecker, LowRank
from wslax.typing import Key, Where


def loha(
    rank: int = 8, *, alpha: Any = None, where: Where = None, groups: Groups | None = None
) -> Adapter:
    r"""LoHa: \(W + s\,(D_1 U_1) \odot (D_2 U_2)\), an elementwise product of two thin products.

    The change has rank up to \(r^2\) from twice the numbers of LoRA. It is kept as that: a thin
    product of rank \(r^2\) whose factors are all products of columns of \(D_1\) and \(D_2\), and of
    rows of \(U_1\) and \(U_2\), so a forward pass never writes it out. That is less than a dense
    change a member while \(r^2\) is below \(in \cdot out / (in + out)\).

    `train` holds `down_1` `[in, rank]`, uniform within \(\pm 1/\sqrt{in}\), `up_1` and `up_2`
    `[rank, out]` within \(\pm 1/\sqrt r\), and `down_2` zero (PEFT's start, FedPara's He).

    Args:
      rank: r, static, at most the smaller side (8, PEFT's).
      alpha: \(s = \alpha / r\); by default the rank (PEFT's 8 for its rank).
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: if the rank is no integer of at least 1; from `init`, if a leaf is no matrix
        or has no such rank; from `apply` and `fuse`, if parts do not fit the model's leaves.

    References:
      Hyeon-Woo et al. 2022, "FedPara", arXiv:2108.06098, section 2.2; Yeh et al. 2024, "LyCORIS",
      arXiv:2309.14859.

    Example:
        >>> import jax, numpy as np
        >>> adapter = loha(2)
        >>> train, fixed = adapter.init(jax.random.key(0), {"w": np.ones((6, 8), np.float32)})
        >>> {name: part.shape for name, part in train["w"].items()}
        {'down_1': (6, 2), 'down_2': (6, 2), 'up_1': (2, 8), 'up_2': (2, 8)}
    """
    check_number(rank)
    scale = 1.0 if alpha is None else alpha / rank

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        check_rank(rank, name, leaf)
        (rows, columns), draw = leaf.shape, draws(key, name, leaf)
        return {
            "down_1": draw("down_1", (rows, rank), rows**-0.5),
            "down_2": jnp.zeros((rows, rank), tree.wide(leaf)),
            "up_1": draw("up_1", (rank, columns), rank**-0.5),
            "up_2": draw("up_2", (rank, columns), rank**-0.5),
        }, {}

    def change(leaf: Any, parts: Parts) -> LowRank:
        down = parts["down_1"][:, :, None] * parts["down_2"][:, None, :]
        up = parts["up_1"][:, None, :] * parts["up_2"][None, :, :]
        rows, columns = leaf.shape
        return LowRank(leaf, down.reshape(rows, -1), up.reshape(-1, columns), scale)

    return leafwise(start, change, where, groups)


def _factors(size: int, factor: int | None) -> tuple[int, int]:
    """Two numbers whose product is `size`, the smaller first, at most `factor` and the nearest."""
    if factor is not None and size % factor == 0:
        return factor, size // factor
    most = min(math.isqrt(size), factor or size)
    first = next(n for n in range(most, 0, -1) if size % n == 0)
    return first, size // first


def lokr(
    rank: int = 8,
    *,
    alpha: Any = None,
    factor: int | None = None,
    where: Where = None,
    groups: Groups | None = None,
) -> Adapter:
    r"""LoKr: \(W + s\, L \otimes R\), with \(R\) a thin product where that is smaller.

    Each side is split in two, \(in = i_1 i_2\) and \(out = o_1 o_2\). `train` holds `left`
    `[i_1, o_1]`, zero, and `right` `[i_2, o_2]` or, if the rank is below half its longer side,
    `right_down` `[i_2, rank]` and `right_up` `[rank, o_2]`; uniform within one over the root of
    \(i_2\), and of the rank for `right_up` (PEFT's start). A forward pass folds its input into
    `[i_1, i_2]` and multiplies it from both sides.

    Args:
      rank: r, static (8, PEFT's).
      alpha: \(s = \alpha / r\), also where `right` is whole, as in PEFT; by default the rank.
      factor: the smaller number of each split, where it divides the side, else at most that;
        by default the nearest to the root (PEFT's `decompose_factor` -1).
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: if rank or factor is no integer of at least 1; from `init`, if a leaf is no
        matrix; from `apply` and `fuse`, if parts do not fit the model's leaves.

    References:
      Yeh et al. 2024, "LyCORIS", arXiv:2309.14859, section 3.2; Edalati et al. 2022, "KronA",
      arXiv:2212.10650.

    Example:
        >>> import jax, numpy as np
        >>> adapter = lokr(2)
        >>> train, fixed = adapter.init(jax.random.key(0), {"w": np.ones((6, 64), np.float32)})
        >>> {name: part.shape for name, part in train["w"].items()}
        {'left': (2, 8), 'right_down': (3, 2), 'right_up': (2, 8)}
    """
    check_number(rank)
    if factor is not None:
        check_number(factor, "factor")
    scale = 1.0 if alpha is None else alpha / rank

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        (i1, i2), (o1, o2) = (_factors(size, factor) for size in leaf.shape)
        draw, left = draws(key, name, leaf), {"left": jnp.zeros((i1, o1), tree.wide(leaf))}
        if rank < max(i2, o2) / 2:
            return left | {
                "right_down": draw("right_down", (i2, rank), i2**-0.5),
                "right_up": draw("right_up", (rank, o2), rank**-0.5),
            }, {}
        return left | {"right": draw("right", (i2, o2), i2**-0.5)}, {}

    def change(leaf: Any, parts: Parts) -> Kronecker:
        whole = "right" in parts
        right = parts["right"] if whole else parts["right_down"] @ parts["right_up"]
        return Kronecker(leaf, scale * parts["left"][None], right[None])

    return leafwise(start, change, where, groups)
