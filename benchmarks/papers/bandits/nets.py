"""Small nets on MNIST, many at once, of one quality or of several."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.merging.families import halved

NET = ws.nets.mlp(196, (16,), 10)
STEPS, BATCH = 150, 64
ADAM = optax.scale_by_adam()


def digits() -> tuple[Any, Any]:
    """`(x, y)` of 3,000 images for training and of 2,000 others, 14 x 14."""
    train, validation, test = ws.data.mnist()
    small = lambda x: jnp.asarray(halved(x[..., None]).reshape(len(x), -1))
    x, y = (np.concatenate(pair) for pair in zip(validation, test, strict=True))
    return (small(train[0]), jnp.asarray(train[1])), (small(x), jnp.asarray(y))


def _loss(params: Any, x: Any, y: Any) -> Any:
    return ws.nets.cross_entropy(NET.apply(params, x), y)


@functools.partial(jax.jit, static_argnames="steps")
def trained(key: Any, rates: Any, x: Any, y: Any, steps: int = STEPS) -> Any:
    """One net a learning rate, each from its own start and on its own batches."""

    def one(key: Any, rate: Any) -> Any:
        params = NET.init(key)

        def step(carry: Any, row: Any) -> Any:
            params, state = carry
            updates, state = ADAM.update(jax.grad(_loss)(params, x[row], y[row]), state)
            return (optax.apply_updates(params, _scaled(updates, -rate)), state), None

        rows = jr.randint(jr.fold_in(key, 1), (steps, BATCH), 0, len(x))
        return jax.lax.scan(step, (params, ADAM.init(params)), rows)[0][0]

    return jax.vmap(one)(jr.split(key, len(rates)), rates)


def _scaled(updates: Any, by: Any) -> Any:
    return jax.tree.map(lambda u: u * by, updates)


def losses(params: Any, x: Any, y: Any) -> Any:
    """Negative log-likelihoods `[members, items]`, and who is right."""

    def one(params: Any, x: Any, y: Any) -> Any:
        log = jax.nn.log_softmax(NET.apply(params, x))
        return -jnp.take_along_axis(log, y[:, None], 1)[:, 0], jnp.argmax(log, 1) == y

    return ws.population.evaluate(one, params, x, y)


def rates(kind: str, count: int) -> Any:
    """`"many rates"`: from 1e-4 to 1e-2; `"one rate"`: 3e-3, so that only chance differs."""
    return jnp.logspace(-4, -2, count) if kind == "many rates" else jnp.full(count, 3e-3)
