"""Gradient difference under masks: nets of all seeds, at all rates."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from scipy import stats

import wslax as ws
from benchmarks.papers.fitting import BATCH, fitted

BEFORE, STEPS, SUMMED = 1000, 60, 32
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
DENSITIES = (0.1, 0.4, 0.8)
MUS = (1e-6, 1e-3, 1.0)
NET = ws.nets.mlp(784, (64, 64), 10)


class Found(NamedTuple):
    """What came of one problem.

    Attributes:
      lines: score and density to `[1 + rates, seeds, 4]`: error on what is to be forgotten;
        accuracy on validation data, on test data and on the other training images.
      again: the same of nets from scratch without it, `[seeds, 4]`.
      alike: rank correlations of WAGLE's score with `OTHERS`, `[mus, others, seeds]`.
    """

    lines: Mapping[tuple[str, float], np.ndarray]
    again: np.ndarray
    alike: np.ndarray


def loss(params: Any, x: Any, y: Any) -> Any:
    return ws.nets.cross_entropy(NET.apply(params, x), y)


def wagle(params: Any, forget: Any, retain: Any, key: Any, batches: float, mu: Any) -> Any:
    """With gradients that are means, as if they were sums over so many batches."""
    return ws.select.scores.wagle(params, forget, retain, mu=mu / batches)


SCORES = {
    "WAGLE": functools.partial(wagle, mu=MUS[0]),
    "weight": lambda p, f, r, key, batches: ws.select.scores.magnitude(p),
    "forget gradient": lambda p, f, r, key, batches: ws.select.scores.gradient(p, f),
    "both gradients": lambda p, f, r, key, batches: jax.tree.map(lambda f, r: jnp.abs(f * r), f, r),
    "random": lambda p, f, r, key, batches: ws.select.scores.random(p, key=key),
}
OTHERS = ("both gradients", "forget gradient", "weight")


def shared_out(x: Any, y: Any, digit: bool, seed: int) -> tuple[Any, Any]:
    """`(x, y)` of what is to be forgotten, and of the others."""
    order = np.random.default_rng(seed).permutation(len(y))
    gone = order[y[order] == seed % 10] if digit else order[: len(y) // 10]
    stays = np.setdiff1d(order, gone)
    return (x[gone], y[gone]), (x[stays], y[stays])


@functools.partial(jax.jit, static_argnames="steps")
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def taught(key: Any, data: Any, steps: int) -> Any:
    """Nets from scratch, `[seeds, ...]`."""
    return fitted(loss, optax.adam(1e-3), NET.init(key), jr.fold_in(key, 1), data, steps)


@jax.jit
@jax.vmap
def gradients(params: Any, forget: Any, retain: Any) -> tuple[Any, Any]:
    return jax.grad(loss)(params, *forget), jax.grad(loss)(params, *retain)


def unlearned(key: Any, params: Any, mask: Any, rate: Any, forget: Any, retain: Any) -> Any:
    """A net after all steps of gradient difference on the weights of a mask."""
    pairs = jr.randint(key, (STEPS * BATCH, 2), 0, jnp.array([[len(forget[1]), len(retain[1])]]))
    on = lambda params, part, rows: loss(params, part[0][rows], part[1][rows])
    both = lambda params, rows, _: on(params, retain, rows[:, 1]) - on(params, forget, rows[:, 0])
    return fitted(both, ws.select.hold(optax.adam(rate), mask), params, key, (pairs, pairs), STEPS)


def figures(params: Any, digit: Any, forget: Any, retain: Any, held: Any) -> Any:
    """The four figures of a net; a digit (-1: none) does not count on held-out data."""

    def right(part: Any) -> Any:
        rows = part[1] != digit
        hit = jnp.argmax(NET.apply(params, part[0]), -1) == part[1]
        return jnp.sum(hit & rows) / jnp.sum(rows)

    error = 1 - ws.nets.accuracy(NET.apply(params, forget[0]), forget[1])
    return jnp.stack([error, *(right(part) for part in (*held, retain))])


@jax.jit
def tried(keys: Any, nets: Any, digits: Any, masks: Any, sets: Any, held: Any) -> Any:
    """Figures at all rates, `[rates, seeds, 4]`."""

    def one(rate: Any, key: Any, params: Any, digit: Any, mask: Any, sets: Any) -> Any:
        return figures(unlearned(key, params, mask, rate, *sets), digit, *sets, held)

    seeds = jax.vmap(one, (None, 0, 0, 0, 0, 0))
    rates = jax.vmap(seeds, (0, None, None, None, None, None))
    return rates(jnp.array(RATES), keys, nets, digits, masks, sets)


@functools.partial(jax.jit, static_argnames="density")
def highest(scores: Any, density: float) -> Any:
    """The mask of each seed's highest scores, all weights in one ranking."""
    top = functools.partial(ws.select.masks.top, density=density, scope="model", rest=True)
    return jax.vmap(top)(scores)


def alike(scores: list[Any], others: list[Any]) -> np.ndarray:
    """Rank correlations over all weights, `[scores, others, seeds]`."""
    flat = lambda tree: np.concatenate(
        [np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(tree)], 1
    )
    ranks = lambda trees: [stats.rankdata(flat(tree), axis=1) for tree in trees]
    correlation = lambda a, b: [np.corrcoef(*pair)[0, 1] for pair in zip(a, b, strict=True)]
    of = ranks(others)
    return np.array([[correlation(a, b) for b in of] for a in ranks(scores)])


def measured(digit: bool, seeds: int) -> Found:
    """All ways to forget a digit, or else images at random."""
    data = ws.data.mnist()
    cut = [shared_out(*data.train, digit, seed) for seed in range(seeds)]
    forget, retain = (
        jax.tree.map(lambda *x: jnp.stack(x), *part) for part in zip(*cut, strict=True)
    )
    whole = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), forget, retain)
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    digits = jnp.arange(seeds) % 10 if digit else jnp.full(seeds, -1)
    sets, held = (forget, retain), (data.validation, data.test)
    nets, again = (taught(keys, part, BEFORE) for part in (whole, retain))
    of = jax.jit(jax.vmap(lambda params, digit, sets: figures(params, digit, *sets, held)))
    start = np.asarray(of(nets, digits, sets))[None]

    # The retain gradient has as many batches in the authors' sum as its images fill.
    slopes, batches = gradients(nets, forget, retain), retain[1].shape[1] / SUMMED
    scored = lambda score: jax.vmap(functools.partial(score, batches=batches))(nets, *slopes, keys)
    scores = {name: scored(score) for name, score in SCORES.items()}
    run = lambda masks: np.concatenate(
        [start, np.asarray(tried(keys, nets, digits, masks, sets, held))]
    )
    lines = {("all weights", 1.0): run(jax.tree.map(lambda x: jnp.ones(x.shape, bool), nets))}
    for name, score in scores.items():
        for density in DENSITIES:
            lines[name, density] = run(highest(score, density))
    ours = [scored(functools.partial(wagle, mu=mu)) for mu in MUS]
    found = alike(ours, [scores[name] for name in OTHERS])
    return Found(lines, np.asarray(of(again, digits, sets)), found)
