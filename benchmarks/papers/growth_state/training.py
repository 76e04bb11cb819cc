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


@functools.partial(jax.jit, static_argnums=1)
def init(keys: Any, width: int) -> dict[str, Any]:
    """Parameters of all seeds."""
    return jax.vmap(lambda key: _init(key, width))(keys)


def _init(key: Any, width: int) -> dict[str, Any]:
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
            now = rate * jnp.where(i < warm, i / warm, 1.0)
            return jax.tree.map(lambda p, u: p - now * u, params, updates), state

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


def _edit(groups: Any, method: str, key: Any) -> Any:
    noise = NOISE.get(method, 0.0)
    return grow.widen(groups, {0: WIDE, 1: WIDE}, method=method, key=key, noise=noise)


@functools.partial(jax.jit, static_argnums=(0, 1))
def widened(groups: Any, method: str, keys: Any, params: Any) -> Any:
    return jax.vmap(lambda k, p: _edit(groups, method, k).apply(p))(keys, params)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def carried(groups: Any, method: str, policy: str, keys: Any, state: Any) -> Any:
    move = lambda k, s: _edit(groups, method, k).optimizer_state(s, policy=policy)
    return jax.vmap(move)(keys, state)


PLAIN, COUNTED = optax.scale_by_adam(), grow.scale_by_adam()


def grown(rate: float, seeds: int) -> tuple[dict[tuple[str, str], Grown], list[str]]:
    """Method and policy to figures, and what could not be grown."""
    keys = jax.random.split(jax.random.key(0), (4, seeds))

    def begin(adam: Any, width: int) -> Any:
        params = init(keys[0], width)
        return train(adam, params, jax.vmap(adam.init)(params), keys[1], rate, 0.0)[:2]

    def run(adam: Any, params: Any, state: Any, before: Any, warm: float = 0.0) -> Grown:
        params, _, losses = train(adam, params, state, keys[2], rate, warm)
        return _figures(params, losses, before)

    (params, state), (_, counted) = begin(PLAIN, NARROW), begin(COUNTED, NARROW)
    (large, of_large), before = begin(PLAIN, WIDE), ends(params)[0]
    found = {
        ("none", "not grown"): run(PLAIN, params, state, before),
        ("none", "wide from the start"): run(PLAIN, large, of_large, ends(large)[0]),
    }
    groups = symmetry.feed_forward(jax.tree.map(lambda x: x[0], params), list(LAYERS))
    missing = []
    for method in grow.METHODS:
        how = groups, method
        try:
            start = widened(*how, keys[3], params)
        except WeightSpaceError as error:
            missing.append(f"{method}: {error}")
            continue
        moved = {p: carried(*how, p, keys[3], state) for p in ("exact", "trajectory", "reset")}
        padded = carried(*how, "zero_pad", keys[3], counted)
        kept = optax.ScaleByAdamState(state.count, padded.mu, padded.nu)
        found |= {(method, policy): run(PLAIN, start, s, before) for policy, s in moved.items()}
        found |= {
            (method, "reset, warm-up"): run(PLAIN, start, moved["reset"], before, WARM),
            (method, "zero_pad"): run(COUNTED, start, padded, before),
            (method, "zero_pad, count kept"): run(PLAIN, start, kept, before),
        }
    return found, missing
