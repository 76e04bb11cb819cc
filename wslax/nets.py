"""Three small Flax nets for tours, tests and benchmarks.

Each is `Net(init, apply)`. `apply` reads depth and widths from the parameters, so that a widened or
pruned tree runs through the same function; the parameters are linen's plain nested dicts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax.errors import WeightSpaceError
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
        from wslax import _linen as linen

        return linen.Mlp([*hidden, classes]).init(key, jnp.zeros((1, features)))["params"]

    def apply(params: Params, x: Array) -> Array:
        from wslax import _linen as linen

        names = [*_numbered(params, "hidden_"), "out"]
        widths = [params[name]["kernel"].shape[-1] for name in names]
        logits: Any = linen.Mlp(widths).apply({"params": params}, x)
        return logits

    return Net(init, apply)


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
        from wslax import _linen as linen

        return linen.Conv(channels, classes).init(key, jnp.zeros((1, size, size, planes)))["params"]

    def apply(params: Params, x: Array) -> Array:
        from wslax import _linen as linen

        widths = [params[name]["kernel"].shape[-1] for name in _numbered(params, "conv_")]
        module = linen.Conv(widths, params["out"]["kernel"].shape[-1])
        logits: Any = module.apply({"params": params}, x if x.ndim == 4 else x[..., None])
        return logits

    return Net(init, apply)


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

    Raises:
      WeightSpaceError: if `heads` does not divide `width`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> net = transformer(65, 16, width=32)
        >>> net.apply(net.init(jax.random.key(0)), jnp.zeros((2, 16), int)).shape
        (2, 16, 65)
    """

    def init(key: Key) -> Params:
        from wslax import _linen as linen

        blocks = ((heads, width // heads, 4 * width),) * depth
        module = linen.Transformer(vocabulary, length, width, blocks)
        return module.init(key, jnp.zeros((1, length), jnp.int32))["params"]

    def apply(params: Params, tokens: Array) -> Array:
        from wslax import _linen as linen

        blocks = []
        for name in _numbered(params, "block_"):
            _, heads, head_width = params[name]["attention"]["query"]["kernel"].shape
            blocks.append((heads, head_width, params[name]["up"]["kernel"].shape[1]))
        words, width = params["embedding"]["embedding"].shape
        rows = params["position"]["embedding"].shape[0]
        module = linen.Transformer(words, rows, width, blocks)
        logits: Any = module.apply({"params": params}, tokens)
        return logits

    if width % heads:
        raise WeightSpaceError(f"heads: {heads} do not divide width {width}")
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


def distillation(
    logits: Array, teacher: Array, labels: Array, *, weight: float = 1.0, temperature: float = 1.0
) -> Array:
    r"""Mean loss of a student that learns from a teacher's logits (Hinton, arXiv:1503.02531).

    With \(p_T = \mathrm{softmax}(z / T)\) of the teacher and \(q_T\) of the student,

    \[(1 - w)\,\mathrm{CE}(q_1, y) + w\,T^2\,\mathrm{KL}(p_T \,\|\, q_T).\]

    The mean is over rows; DeiT's code, which others took over, divides the second part by the
    number of classes too.

    Args:
      logits: the student's, `[..., classes]`.
      teacher: the teacher's; no gradient goes through them.
      labels: integers `[...]`.
      weight: \(w\); default 1, the teacher alone.
      temperature: \(T\); default 1.

    Returns:
      A scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> z = jnp.array([[2.0, 0.0]])
        >>> [round(float(distillation(z, z, jnp.array([1]), weight=w)), 4) for w in (0.0, 1.0)]
        [2.1269, 0.0]
    """
    of_teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature)
    of_student = jax.nn.log_softmax(logits / temperature)
    divergence = jnp.mean(jnp.sum(jnp.exp(of_teacher) * (of_teacher - of_student), -1))
    soft = weight * temperature**2 * divergence
    return (1 - weight) * cross_entropy(logits, labels) + soft
