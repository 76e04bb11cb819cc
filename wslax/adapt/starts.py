"""Where trained parts begin, and whether they fit."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Key


def uniform(key: Key, label: str, shape: tuple[int, ...], bound: float, dtype: Any) -> Array:
    """Uniform within plus and minus `bound`, the stream `adapt/label` of the key.

    `torch.nn.init.kaiming_uniform_(a=sqrt(5))`, the start of most adapters' authors, is the bound
    one over the root of the second axis's length there.

    Example:
        >>> bool(abs(uniform(0, "w/down", (50, 2), 0.1, "float32")).max() < 0.1)
        True
    """
    words = random.bits(key, f"adapt/{label}", math.prod(shape), xp=jnp)
    return ((2 * random.uniform(words) - 1) * np.float32(bound)).reshape(shape).astype(dtype)


def check_divides(size: int, name: str, leaf: Any, axis: int) -> None:
    """An error that names the leaf unless blocks of `size` fill an axis of it."""
    length = leaf.shape[axis]
    if size < 1 or length % size:
        raise WeightSpaceError(
            f"{name}: blocks of {size} do not fill axis {axis} of {tree.aval(leaf)}; give a "
            f"divisor of {length}, or leave the leaf out by where="
        )
