"""Encoders that never see a label of the task: trained on other drawings, or of random patches."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.merging.families import halved

PIXELS, HIDDEN = 14 * 14, (256, 128)


class Features(NamedTuple):
    """`(x, y)` to train and to test on, features of other data, all of one scale."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    other: np.ndarray


def scaled(train: Any, test: Any, other: Any) -> Features:
    """Features centred and brought to a mean square of 1 by those of the other data alone."""
    middle = other.mean(0)
    size = np.sqrt(np.mean((other - middle) ** 2))
    turn = lambda x: ((x - middle) / size).astype(np.float32)
    return Features((turn(train[0]), train[1]), (turn(test[0]), test[1]), turn(other))


@functools.partial(jax.jit, static_argnames=("count", "steps"))
def characters(key: Any, x: Any, y: Any, count: int, steps: int) -> Any:
    """A net that tells characters apart."""
    net = ws.nets.mlp(PIXELS, HIDDEN, count)
    rule = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def turn(carry: Any, key: Any) -> tuple[Any, None]:
        params, state = carry
        row = jr.randint(key, (64,), 0, len(x))
        loss = lambda p: ws.nets.cross_entropy(net.apply(p, x[row]), y[row])
        change, state = rule.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, change), state), None

    params = net.init(jr.fold_in(key, 0))
    return jax.lax.scan(turn, (params, rule.init(params)), jr.split(key, steps))[0][0]


@jax.jit
def before_head(params: Any, x: Any) -> Any:
    """What reaches the head, by a head that is the identity."""
    width = HIDDEN[-1]
    head = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    return ws.nets.mlp(PIXELS, HIDDEN, width).apply(params | {"out": head}, x)


def drawn(drawings: dict[str, np.ndarray], digits: ws.data.Split, steps: int = 1500) -> Features:
    """Digits by a net that was trained on Omniglot's characters."""
    strokes = np.concatenate(list(drawings.values()))  # [characters, drawers, 28, 28]
    small = lambda x: halved(x.reshape(-1, 28, 28, 1))[..., 0].astype(np.float32)
    other, label = small(strokes), np.repeat(np.arange(len(strokes)), strokes.shape[1])
    params = characters(jr.key(0), jnp.asarray(other), jnp.asarray(label), len(strokes), steps)
    code = lambda x: np.asarray(before_head(params, jnp.asarray(x)))
    train, test = digits.train, digits.test
    return scaled((code(small(train[0])), train[1]), (code(small(test[0])), test[1]), code(other))


def patched(
    train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...], count: int = 100, side: int = 5
) -> Features:
    """Responses to random whitened patches, of both signs, pooled over quarters of an image.

    The last fifth of the images is the other data. Coates, Lee and Ng 2011, An analysis of
    single-layer networks in unsupervised feature learning.
    """
    x, test_x = (halved(part[0]).astype(np.float32) for part in (train, test))
    rest = len(x) * 4 // 5
    rng = np.random.default_rng(0)

    def normal(patches: Any) -> Any:
        middle = patches.mean(-1, keepdims=True)
        return (patches - middle) / np.sqrt(patches.var(-1, keepdims=True) + 0.01)

    def windows(x: Any) -> Any:
        found = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
        return normal(found.reshape(*found.shape[:3], -1))  # [n, rows, columns, numbers]

    some = windows(x[rest:][:1000]).reshape(-1, 3 * side**2)
    some = some[rng.permutation(len(some))[:20_000]]
    middle = some.mean(0)
    value, basis = np.linalg.eigh(np.cov(some - middle, rowvar=False))
    white = (basis / np.sqrt(np.maximum(value, 0) + 0.1)) @ basis.T
    filters = (some[:count] - middle) @ white
    filters = filters / np.linalg.norm(filters, axis=1, keepdims=True)
    turn, shift = white @ filters.T, middle @ white @ filters.T

    def code(x: Any) -> Any:
        answer = windows(x) @ turn - shift
        both = np.concatenate([np.maximum(answer - 0.25, 0), np.maximum(-answer - 0.25, 0)], -1)
        half = both.shape[1] // 2
        parts = [both[:, a, b].mean((1, 2)) for a in _halves(half) for b in _halves(half)]
        return np.concatenate(parts, -1).astype(np.float32)

    every = lambda x: np.concatenate([code(x[i : i + 200]) for i in range(0, len(x), 200)])
    return scaled((every(x[:rest]), train[1][:rest]), (every(test_x), test[1]), every(x[rest:]))


def _halves(half: int) -> tuple[slice, slice]:
    return slice(half), slice(half, None)
