"""Three small Flax nets for tours, tests and benchmarks.

Each is `Net(init, apply)`. `apply` reads depth and widths from the parameters, so that a widened or
pruned tree runs through the same function; the parameters are linen's plain nested dicts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from wslax.typing import Array, Key, Params


class Net(NamedTuple):
    """A model as two pure functions.

    Attributes:
      init: `key -> params`.
      apply: `(params, x) -> logits`.
    """

    init: Callable[[Key], Params]
    apply: Callable[[Params, Array], Array]


def _numbered(params: Params, prefix: str) -> list[str]:
    found = [name for name in params if name.startswith(prefix)]
    return sorted(found, key=lambda name: int(name.removeprefix(prefix)))


class _Mlp(nn.Module):
    widths: Sequence[int]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths[:-1]):
            x = nn.relu(nn.Dense(width, name=f"hidden_{i}")(x))
        return nn.Dense(self.widths[-1], name="out")(x)


def mlp(features: int, hidden: Sequence[int], classes: int) -> Net:
    """A multilayer perceptron with ReLU: leaves `hidden_i/{kernel,bias}`, `out/{kernel,bias}`.

    Args:
      features: numbers in one input (inputs are flattened).
      hidden: widths of the hidden layers.
      classes: outputs.

    Returns:
      `Net(init, apply)`; `apply(params, x[B, ...]) -> logits [B, classes]`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = mlp(64, [32], 10)
        >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((5, 8, 8))).shape
        (5, 10)
    """

    def init(key: Key) -> Params:
        return _Mlp([*hidden, classes]).init(key, jnp.zeros((1, features)))["params"]

    def apply(params: Params, x: Array) -> Array:
        names = [*_numbered(params, "hidden_"), "out"]
        widths = [params[name]["kernel"].shape[-1] for name in names]
        logits: Any = _Mlp(widths).apply({"params": params}, x)
        return logits

    return Net(init, apply)


class _Conv(nn.Module):
    channels: Sequence[int]
    classes: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for i, channels in enumerate(self.channels):
            x = nn.Conv(channels, (3, 3), strides=(2, 2), name=f"conv_{i}")(x)
            x = nn.relu(nn.GroupNorm(num_groups=1, name=f"norm_{i}")(x))
        return nn.Dense(self.classes, name="out")(x.mean((1, 2)))


def conv(size: int, channels: Sequence[int], classes: int, planes: int = 1) -> Net:
    """3x3 convolutions of stride 2, each normalised over all its channels, and a mean at the end.

    The normalisation (GroupNorm with one group) has no running statistics: a member is its
    parameters.

    Args:
      size: side of the square input.
      channels: output channels of each convolution.
      classes: outputs.
      planes: input channels.

    Returns:
      `Net(init, apply)`; `apply(params, x[B, size, size(, planes)]) -> logits [B, classes]`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = conv(28, [8, 16], 10)
        >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((5, 28, 28))).shape
        (5, 10)
    """

    def init(key: Key) -> Params:
        return _Conv(channels, classes).init(key, jnp.zeros((1, size, size, planes)))["params"]

    def apply(params: Params, x: Array) -> Array:
        widths = [params[name]["kernel"].shape[-1] for name in _numbered(params, "conv_")]
        module = _Conv(widths, params["out"]["kernel"].shape[-1])
        logits: Any = module.apply({"params": params}, x if x.ndim == 4 else x[..., None])
        return logits

    return Net(init, apply)


class _Block(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x: Any) -> Any:
        mask = nn.make_causal_mask(x[..., 0])
        h = nn.LayerNorm(name="norm_attention")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, name="attention")(h, mask=mask)
        h = nn.LayerNorm(name="norm_mlp")(x)
        h = nn.gelu(nn.Dense(self.hidden, name="up")(h))
        return x + nn.Dense(x.shape[-1], name="down")(h)


class _Transformer(nn.Module):
    vocabulary: int
    length: int
    width: int
    heads: Sequence[int]
    hidden: Sequence[int]

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        embedding = nn.Embed(self.vocabulary, self.width, name="embedding")
        position = nn.Embed(self.length, self.width, name="position")
        x = embedding(tokens) + position(jnp.arange(tokens.shape[-1]))[None]
        for i, (heads, hidden) in enumerate(zip(self.heads, self.hidden, strict=True)):
            x = _Block(heads, hidden, name=f"block_{i}")(x)
        return embedding.attend(nn.LayerNorm(name="norm")(x))


def transformer(
    vocabulary: int, length: int, width: int = 64, heads: int = 4, depth: int = 2
) -> Net:
    """A causal transformer with pre-normalisation and a tied head.

    Args:
      vocabulary: distinct tokens.
      length: longest sequence.
      width: of the residual stream; the MLP is four times as wide.
      heads: attention heads; must divide `width`.
      depth: blocks.

    Returns:
      `Net(init, apply)`; `apply(params, tokens[B, T]) -> logits [B, T, vocabulary]`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = transformer(65, 16, width=32)
        >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((2, 16), int)).shape
        (2, 16, 65)
    """

    def init(key: Key) -> Params:
        module = _Transformer(vocabulary, length, width, (heads,) * depth, (4 * width,) * depth)
        return module.init(key, jnp.zeros((1, length), jnp.int32))["params"]

    def apply(params: Params, tokens: Array) -> Array:
        blocks = [params[name] for name in _numbered(params, "block_")]
        module = _Transformer(
            *params["embedding"]["embedding"].shape[:1],
            params["position"]["embedding"].shape[0],
            params["embedding"]["embedding"].shape[1],
            tuple(block["attention"]["query"]["kernel"].shape[1] for block in blocks),
            tuple(block["up"]["kernel"].shape[1] for block in blocks),
        )
        logits: Any = module.apply({"params": params}, tokens)
        return logits

    return Net(init, apply)


def accuracy(logits: Array, labels: Array) -> Array:
    """Share of rows whose largest logit is the label.

    Example:
        >>> import jax.numpy as jnp
        >>> float(accuracy(jnp.eye(2), jnp.array([0, 0])))
        0.5
    """
    return jnp.mean((jnp.argmax(logits, -1) == labels).astype(jnp.float32))


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean negative log-likelihood of integer labels.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))), 4)
        1.3863
    """
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)
    return -jnp.mean(chosen)
