"""The Flax modules behind `wslax.nets`, apart so that importing the nets does not import Flax."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Mlp(nn.Module):
    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths[:-1]):
            x = nn.relu(nn.Dense(width, name=f"hidden_{i}")(x))
        return nn.Dense(self.widths[-1], name="out")(x)


class Conv(nn.Module):
    channels: Sequence[int]
    classes: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i, channels in enumerate(self.channels):
            x = nn.Conv(channels, (3, 3), strides=(2, 2), name=f"conv_{i}")(x)
            x = nn.relu(nn.GroupNorm(num_groups=1, name=f"norm_{i}")(x))
        return nn.Dense(self.classes, name="out")(x.mean((1, 2)))


class Block(nn.Module):
    heads: int
    head_width: int
    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        mask = nn.make_causal_mask(x[..., 0])
        h = nn.LayerNorm(name="norm_attention")(x)
        attention = nn.MultiHeadDotProductAttention(
            self.heads, qkv_features=self.heads * self.head_width, name="attention"
        )
        x = x + attention(h, mask=mask)
        h = nn.LayerNorm(name="norm_mlp")(x)
        h = nn.gelu(nn.Dense(self.hidden, name="up")(h))
        return x + nn.Dense(x.shape[-1], name="down")(h)


class Transformer(nn.Module):
    vocabulary: int
    length: int
    width: int
    blocks: Sequence[tuple[int, int, int]]

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        embedding = nn.Embed(self.vocabulary, self.width, name="embedding")
        position = nn.Embed(self.length, self.width, name="position")
        x = embedding(tokens) + position(jnp.arange(tokens.shape[-1]))[None]
        for i, (heads, head_width, hidden) in enumerate(self.blocks):
            x = Block(heads, head_width, hidden, name=f"block_{i}")(x)
        return embedding.attend(nn.LayerNorm(name="norm")(x))
