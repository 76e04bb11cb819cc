"""Weights after a number of steps, as one loop."""

from typing import Any

import jax
import jax.random as jr
import optax

BATCH = 64


def fitted(loss: Any, rule: Any, params: Any, key: Any, data: Any, steps: Any) -> Any:
    """Weights after so many steps on batches drawn at random; `steps` may be traced."""
    x, y = data

    def turn(step: Any, held: Any) -> Any:
        params, state = held
        rows = jr.randint(jr.fold_in(key, step), (BATCH,), 0, len(x))
        change, state = rule.update(jax.grad(loss)(params, x[rows], y[rows]), state, params)
        return optax.apply_updates(params, change), state

    return jax.lax.fori_loop(0, steps, turn, (params, rule.init(params)))[0]
