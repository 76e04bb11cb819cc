"""The forward pass of BERT (post-normalised, exact GELU) on a checkpoint's own names."""

from typing import Any

import jax
import jax.numpy as jnp

HEADS = 12


def linear(params: Any, name: str, x: Any) -> Any:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"][None, None]


def normalised(params: Any, name: str, x: Any) -> Any:
    gap = x - x.mean(-1, keepdims=True)
    unit = gap * jax.lax.rsqrt((gap * gap).mean(-1, keepdims=True) + 1e-12)
    return unit * params[f"{name}.weight"][None, None] + params[f"{name}.bias"][None, None]


def embedded(params: Any, ids: Any) -> Any:
    """Hidden states `[B, L, width]` of token ids `[B, L]` of one segment."""
    of = lambda kind: params[f"embeddings.{kind}_embeddings.weight"]
    x = of("word")[ids] + of("position")[: ids.shape[1]][None] + of("token_type")[0][None, None]
    return normalised(params, "embeddings.LayerNorm", x)


def layer(params: Any, index: int, x: Any, mask: Any) -> Any:
    """Hidden states after one layer; `mask [B, L]` is True for tokens."""
    at = f"encoder.layer.{index}"
    split = lambda name: linear(params, f"{at}.attention.self.{name}", x).reshape(
        *x.shape[:2], HEADS, -1
    )
    mixed = jax.nn.dot_product_attention(
        *(split(name) for name in ("query", "key", "value")), mask=mask[:, None, None]
    ).reshape(x.shape)
    mixed = linear(params, f"{at}.attention.output.dense", mixed)
    x = normalised(params, f"{at}.attention.output.LayerNorm", x + mixed)
    up = jax.nn.gelu(linear(params, f"{at}.intermediate.dense", x), approximate=False)
    down = linear(params, f"{at}.output.dense", up)
    return normalised(params, f"{at}.output.LayerNorm", x + down)


def pooled(x: Any, mask: Any) -> Any:
    """The mean over tokens, `[B, width]`."""
    return (x * mask[..., None]).sum(1) / jnp.maximum(mask.sum(1), 1)[:, None]
