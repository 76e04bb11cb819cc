"""Learning rates by factor."""

from collections.abc import Callable
from typing import Any

import optax

from wslax import tree


def lora_plus(
    learning_rate: Any,
    ratio: Any = 16.0,
    optimizer: Callable[[Any], optax.GradientTransformation] = optax.adamw,
) -> optax.GradientTransformation:
    r"""LoRA+: the factor that begins at zero learns `ratio` times as fast.

    Args:
      learning_rate: of all that an adapter trains but `up`; a number or a schedule.
      ratio: \(\lambda\), by which that of `up` is larger; the paper's \(2^4\).
      optimizer: from a learning rate to a transformation.

    Returns:
      An optimizer for the `train` of `lora`, `dora` or `pissa`, or of a stack of them.

    References:
      Hayou, Ghosh and Yu 2024, arXiv:2402.12354, section 4.

    Example:
        >>> import jax.numpy as jnp
        >>> train = {"w": {"down": jnp.ones(1), "up": jnp.ones(1)}}
        >>> plus = lora_plus(0.5, optimizer=optax.sgd)
        >>> updates, _ = plus.update(train, plus.init(train))
        >>> {name: x.item() for name, x in updates["w"].items()}
        {'down': -0.5, 'up': -8.0}
    """
    scheduled = callable(learning_rate)
    faster = (lambda step: ratio * learning_rate(step)) if scheduled else ratio * learning_rate

    def labels(train: Any) -> Any:
        last = lambda name, _: "up" if name.rpartition("/")[2] == "up" else "others"
        return tree.map_named(last, train)

    return optax.partition({"up": optimizer(faster), "others": optimizer(learning_rate)}, labels)
