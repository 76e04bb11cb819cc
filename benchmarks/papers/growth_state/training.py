"""Nets of all seeds at once: trained, grown by each method with each policy, trained on."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wslax import data, grow, symmetry
from wslax.errors import WeightSpaceError

RATES = (5e-3, 1e-3)
NARROW, WIDE, BATCH, STEPS, FIRST, WARM = 16, 32, 128, 400, 50, 50
LAYERS = ("a", "b", "out")
NOISE = {"net2wider": 0.01, "hypercloning": 0.01}  # methods that copy


class Grown(NamedTuple):
    """Figures of one way to go on, one a seed.

    Attributes:
      spike: largest loss in the first steps less the loss at growth.
      loss: training loss at the end.
      accuracy: on the test part at the end.
    """

    spike: list[float]
    loss: list[float]
    accuracy: list[float]


def init(key: Any, width: int) -> dict[str, Any]:
    widths = [64, width, width, 10]
    params = {}
    for i, name in enumerate(LAYERS):
        kernel = jax.random.normal(jax.random.fold_in(key, i), (widths[i], widths[i + 1]))
        params[name] = {
            "kernel": kernel / np.sqrt(widths[i]),
            "bias": jnp.zeros(widths[i + 1]),
        }
    return params


def logits(params: Any, x: Any) -> Any:
    for name in LAYERS[:-1]:
        x = jax.nn.gelu(x @ params[name]["kernel"] + params[name]["bias"])
    return x @ params["out"]["kernel"] + params["out"]["bias"]


def _digits(part: int) -> tuple[Any, Any]:
    x, y = data.digits()[part]
    return x.reshape(len(x), -1), y


def loss(params: Any, x: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


@functools.partial(jax.jit, static_argnums=0)
def train(adam: Any, params: Any, state: Any, keys: Any, rate: Any, warm: Any) -> Any:
    """All seeds for `STEPS` steps: parameters, state, and the loss after each of the first."""
    x, y = map(jnp.asarray, _digits(0))

    def member(params: Any, state: Any, key: Any) -> Any:
        def step(carry: Any, i: Any) -> Any:
            params, state = carry
            chosen = jax.random.randint(jax.random.fold_in(key, i), (BATCH,), 0, len(x))
            gradient = jax.grad(loss)(params, x[chosen], y[chosen])
            updates, state = adam.update(gradient, state)
            factor = -rate * jnp.minimum(1.0, i / jnp.maximum(warm, 1e-9))
            factor = jnp.where(warm > 0, factor, -rate)
            return jax.tree.map(lambda p, u: p + factor * u, params, updates), state

        def watched(carry: Any, i: Any) -> Any:
            carry = step(carry, i)
            return carry, loss(carry[0], x, y)

        carry, losses = jax.lax.scan(watched, (params, state), jnp.arange(FIRST))
        carry, _ = jax.lax.scan(lambda c, i: (step(c, i), None), carry, jnp.arange(FIRST, STEPS))
        return *carry, losses

    return jax.vmap(member)(params, state, keys)


@jax.jit
def ends(params: Any) -> tuple[Any, Any]:
    """Training loss and test accuracy of all seeds."""
    (x, y), (x_test, y_test) = _digits(0), _digits(2)
    right = lambda p: (logits(p, x_test).argmax(-1) == y_test).mean()
    return jax.vmap(lambda p: loss(p, x, y))(params), jax.vmap(right)(params)


def _figures(params: Any, losses: Any, before: Any) -> Grown:
    last, accuracy = ends(params)
    spike = losses.max(1) - before
    return Grown(*(np.asarray(v, float).tolist() for v in (spike, last, accuracy)))


PLAIN, COUNTED = optax.scale_by_adam(), grow.scale_by_adam()


def grown(rate: float, seeds: int) -> tuple[dict[tuple[str, str], Grown], list[str]]:
    """Method and policy to figures, and what could not be grown."""
    keys = jax.random.split(jax.random.key(0), (4, seeds))
    go_on = functools.partial(train, keys=keys[1], rate=rate)
    begin = functools.partial(train, keys=keys[2], rate=rate, warm=0.0)
    narrow, wide = (jax.vmap(lambda k, w=w: init(k, w))(keys[0]) for w in (NARROW, WIDE))
    groups = symmetry.feed_forward(jax.tree.map(lambda x: x[0], narrow), list(LAYERS))
    params, state, _ = begin(PLAIN, narrow, jax.vmap(PLAIN.init)(narrow))
    _, counted, _ = begin(COUNTED, narrow, jax.vmap(COUNTED.init)(narrow))
    before, _ = ends(params)

    def run(adam: Any, params: Any, state: Any, warm: float = 0.0) -> Grown:
        params, _, losses = go_on(adam, params, state, warm=warm)
        return _figures(params, losses, before)

    large, large_state, _ = begin(PLAIN, wide, jax.vmap(PLAIN.init)(wide))
    large, _, losses = go_on(PLAIN, large, large_state, warm=0.0)
    found = {
        ("none", "not grown"): run(PLAIN, params, state),
        ("none", "wide from the start"): _figures(large, losses, losses[:, 0]),
    }
    missing = []
    for method in grow.METHODS:

        def edit(key: Any, method: str = method) -> Any:
            sizes, noise = {0: WIDE, 1: WIDE}, NOISE.get(method, 0.0)
            return grow.widen(groups, sizes, method=method, key=key, noise=noise)

        def states(state: Any, policy: str, edit: Any = edit) -> Any:
            move = jax.vmap(lambda k, s: edit(k).optimizer_state(s, policy=policy))
            return move(keys[3], state)

        try:
            start = jax.vmap(lambda k, p, edit=edit: edit(k).apply(p))(keys[3], params)
        except WeightSpaceError as error:
            missing.append(f"{method}: {error}")
            continue
        padded = states(counted, "zero_pad")
        kept = optax.ScaleByAdamState(state.count, padded.mu, padded.nu)
        found |= {
            (method, "exact"): run(PLAIN, start, states(state, "exact")),
            (method, "trajectory"): run(PLAIN, start, states(state, "trajectory")),
            (method, "zero_pad"): run(COUNTED, start, padded),
            (method, "zero_pad, count kept"): run(PLAIN, start, kept),
            (method, "reset"): run(PLAIN, start, states(state, "reset")),
            (method, "reset, warm-up"): run(PLAIN, start, states(state, "reset"), WARM),
        }
    return found, missing
