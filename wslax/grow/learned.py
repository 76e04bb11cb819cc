"""Growths with numbers to learn: what they are, and learning them through the grown model."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wslax import random
from wslax.symmetry.types import Groups
from wslax.typing import Array, Key, Params


class Operator(NamedTuple):
    """A growth with numbers to learn.

    Attributes:
      maps: the numbers it starts from, a tree of float32 arrays.
      materialise: `(maps, params) -> params` of the large model; linear in either, so that
        `jax.grad` with respect to the maps goes through it.
      groups: the groups of the large model; None where `deepen` has none.
    """

    maps: Any
    materialise: Callable[[Any, Params], Params]
    groups: Groups | None


def uniform(key: Key, name: str, *shape: int) -> Array:
    """Numbers in [0, 1) that belong to a key and a name."""
    words = random.bits(key, f"grow/ligo/{name}", math.prod(shape), xp=jnp)
    return random.uniform(words).reshape(shape)


def tune(
    loss: Callable[[Any, Any], Array],
    maps: Any,
    batches: Any,
    *,
    optimizer: optax.GradientTransformation | None = None,
) -> tuple[Any, Array]:
    r"""Learn the maps of operators by gradient through the grown model, in one compiled loop.

    Each step takes the gradient of `loss(maps, batch)`, of which the small model's weights are
    constants, as in LiGO (Wang et al., arXiv:2303.00980, section 3.2), which takes 100 steps.

    Args:
      loss: `(maps, batch) -> scalar`, as in `lambda maps, batch: model_loss(
        operator.materialise(maps, params), batch)`. The program is compiled at each call.
      maps: an operator's, or a tree of several operators'.
      batches: a tree of arrays `[steps, ...]`, a step a row.
      optimizer: an Optax transformation; default AdamW at 2e-4 with a weight decay of 0.1, the
        published code's.

    Returns:
      The maps, and the losses `[steps]` before each step.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> net = ws.nets.mlp(4, [8], 3)
        >>> params = net.init(jax.random.key(0))
        >>> xs = jax.random.normal(jax.random.key(1), (50, 9, 4))
        >>> groups = ws.symmetry.infer(net.apply, params, xs[0])
        >>> ligo = ws.grow.ligo_width(groups, {groups.free[0].id: 12}, key=1)
        >>> loss = lambda maps, x: (net.apply(ligo.materialise(maps, params), x) ** 2).mean()
        >>> maps, losses = ws.grow.tune(loss, ligo.maps, xs, optimizer=optax.adam(0.01))
        >>> bool(losses[-5:].mean() < losses[:5].mean())
        True
    """
    chosen = optax.adamw(2e-4, weight_decay=0.1) if optimizer is None else optimizer

    def step(held: Any, batch: Any) -> Any:
        maps, state = held
        value, slope = jax.value_and_grad(loss)(maps, batch)
        updates, state = chosen.update(slope, state, maps)
        return (optax.apply_updates(maps, updates), state), value

    (maps, _), losses = jax.lax.scan(step, (maps, chosen.init(maps)), batches)
    return maps, losses
