"""LoRA and its kin: a product of two thin factors beside each matrix."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.symmetry.types import Groups
from wslax.trace import LowRank
from wslax.typing import Key, Where


def _checked_rank(rank: int, name: str, leaf: Any) -> None:
    most = min(leaf.shape)
    if not 1 <= rank <= most:
        raise WeightSpaceError(
            f"{name}: rank {rank} does not fit {tree.aval(leaf)}; give 1 to {most}, or leave the "
            "leaf out by where="
        )


def lora(
    rank: int,
    *,
    alpha: Any = None,
    rslora: bool = False,
    where: Where = None,
    groups: Groups | None = None,
) -> Adapter:
    r"""LoRA: \(W + s\, D U\) with thin \(D\) and \(U\) beside a frozen \(W\).

    `train` holds for each matrix `[in, out]` the factors `down` `[in, rank]`, uniform within
    \(\pm 1/\sqrt{in}\) (PEFT's start), and `up` `[rank, out]`, zero. They are float32 (float64 for
    float64) whatever the base is, as in PEFT: what trains in bfloat16 loses small steps.

    Args:
      rank: r, static, at most the smaller side.
      alpha: \(s = \alpha / r\); by default the rank, so that \(s = 1\).
      rslora: \(s = \alpha / \sqrt r\) instead, which keeps the size of updates over ranks.
      where: globs of the leaves to adapt; by default all that are matrices of floats.
      groups: the model's symmetry, for leaves in other layouts than `[in, out]`: stacked layers,
        heads, PyTorch's `[out, in]`.

    Returns:
      The adapter.

    Raises:
      WeightSpaceError: from `init`, if a leaf is no matrix or has no such rank; from `apply` and
        `fuse`, if parts do not fit the model's leaves.

    References:
      Hu et al. 2021, arXiv:2106.09685, section 4.1; Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> adapter = lora(2, alpha=4)
        >>> train, fixed = adapter.init(jax.random.key(0), {"w": jnp.ones((6, 4))})
        >>> adapter.apply({"w": jnp.ones((6, 4))}, train, fixed)["w"].scale
        2.0
    """
    scale = (rank if alpha is None else alpha) / (rank**0.5 if rslora else rank)

    def start(key: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        _checked_rank(rank, name, leaf)
        rows, columns = leaf.shape
        words = random.bits(key, f"adapt/{name}", rows * rank, xp=jnp)
        uniform = (2 * random.uniform(words) - 1) / np.float32(rows**0.5)
        down = uniform.reshape(rows, rank).astype(tree.wide(leaf))
        return {"down": down, "up": jnp.zeros((rank, columns), down.dtype)}, {}

    def change(leaf: Any, parts: Parts) -> LowRank:
        return LowRank(leaf, parts["down"], parts["up"], scale)

    return leafwise(start, change, where, groups)
