"""Residual nets with batch norm on 4x4 places, their convolutions as matrix products."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

SIDE, CLASSES, EPSILON = 4, 10, 1e-5

_AT = np.stack(np.divmod(np.arange(SIDE**2), SIDE), -1)
_OFFSETS = np.stack(np.divmod(np.arange(9), 3), -1) - 1
# Whether a place `[1]`, by its offset `[0]`, is seen from another `[2]`.
NEAR = (_AT[:, None] - _AT[None] == _OFFSETS[:, None, None]).all(-1).astype(np.float32)


def patches(x: np.ndarray) -> np.ndarray:
    """Images `[n, side, side, planes]` as 4x4 places, `[n, 16, numbers]`."""
    n, side, _, planes = x.shape
    size = side // SIDE
    x = x.reshape(n, SIDE, size, SIDE, size, planes).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, SIDE**2, size**2 * planes)


def _layers(key: Any, *shape: int) -> Any:
    """Kernels `[..., in, out]` and their norms, as the paper starts them."""
    scale = jr.uniform(jr.fold_in(key, 1), (*shape[:-2], shape[-1]))
    kernel = jr.normal(key, shape) * np.sqrt(2 / shape[-2])
    return {"conv": {"kernel": kernel}, "norm": {"scale": scale, "bias": jnp.zeros_like(scale)}}


def init(key: Any, numbers: int, blocks: int, channels: int) -> Any:
    """A net for patches of so many numbers."""
    stem, rest, out = jr.split(key, 3)
    head = jr.normal(out, (channels, CLASSES)) / np.sqrt(channels)
    return {
        "stem": _layers(stem, numbers, channels),
        "blocks": _layers(rest, blocks, 2, 9 * channels, channels),
        "out": {"kernel": head, "bias": jnp.zeros(CLASSES)},
    }


def convolved(x: Any, kernel: Any) -> Any:
    """A 3x3 convolution of `x[n, 16, in]` by `kernel[9 in, out]`, zeros around the places."""
    kernel = kernel.reshape(9, x.shape[-1], -1)
    pairs = jnp.einsum("kpq,kio->piqo", NEAR, kernel)
    return (x.reshape(len(x), -1) @ pairs.reshape(x[0].size, -1)).reshape(*x.shape[:2], -1)


def normed(x: Any, norm: Any, seen: int | None) -> Any:
    """By the mean and variance of the first rows, by default of all."""
    mean, var = (f(x[:seen], (0, 1), keepdims=True) for f in (jnp.mean, jnp.var))
    scale, bias = (norm[name][None, None] for name in ("scale", "bias"))
    return (x - mean) * jax.lax.rsqrt(var + EPSILON) * scale + bias


def apply(params: Any, x: Any, seen: int | None = None) -> Any:
    """Logits of patches; norms take their statistics from the first `seen` rows."""
    stem, head = params["stem"], params["out"]
    x = jax.nn.relu(normed(x @ stem["conv"]["kernel"], stem["norm"], seen))

    def block(x: Any, layers: Any) -> tuple[Any, None]:
        def layer(x: Any, i: int) -> Any:
            conv, norm = (jax.tree.map(lambda leaf: leaf[i], layers[p]) for p in ("conv", "norm"))
            return normed(convolved(x, conv["kernel"]), norm, seen)

        y = layer(jax.nn.relu(layer(x, 0)), 1)
        return jax.nn.relu(x + y), None

    x = jax.lax.scan(block, x, params["blocks"])[0]
    return x.mean(1) @ head["kernel"] + head["bias"][None]
