"""Float32 copies of weights in half types, so that steps below their rounding add up."""

from typing import Any, NamedTuple

import jax
import optax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Params


class MasterState(NamedTuple):
    """The state of `master`.

    Attributes:
      inner: the inner transformation's state.
      weights: the weights in float32, with what their own dtype has no room for.
    """

    inner: Any
    weights: Any


def _wide(params: Params) -> Params:
    return jax.tree.map(lambda x: x.astype(tree.wide(x)) if tree.is_float(x) else x, params)


def master(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Keep a float32 copy of the weights and step on that: \(c \leftarrow c + u\).

    The update given out is \(c - w\), so that the weights are the copy, rounded. Of bfloat16
    weights a step below 1/256 of a weight is otherwise lost. Inside of `sparse` and `lift` the copy
    is of the selected weights alone, as any other part of their state.

    Args:
      inner: the whole optimizer, learning rate and all: nothing may change its updates afterwards.

    Returns:
      A gradient transformation; `update` needs `params`. If something else changes the weights,
      begin with `init`.

    Raises:
      WeightSpaceError: from `update`, if `params` is missing.

    Example:
        >>> import jax.numpy as jnp, optax, wslax as ws
        >>> params = {"w": jnp.ones((4, 4), jnp.bfloat16)}
        >>> optimizer = ws.select.lift(ws.select.master(optax.sgd(1e-3)), rank=1, density=0.5)
        >>> optimizer.init(params).inner.weights["w"].dtype
        dtype('float32')
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> Any:
        weights = _wide(params)
        return MasterState(inner.init(weights), weights)

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Any]:
        if params is None:
            raise WeightSpaceError(
                "master: update needs the parameters: update(grads, state, params)"
            )
        steps, held = inner.update(_wide(updates), state.inner, state.weights, **extra)
        weights = optax.apply_updates(state.weights, steps)
        out = jax.tree.map(lambda c, w: c - w, weights, _wide(params))
        return out, MasterState(held, weights)

    return optax.GradientTransformationExtraArgs(init, update)
