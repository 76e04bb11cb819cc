"""The weight compander as a regulariser, against weight decay and with it."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.data import cifar, told_missing
from benchmarks.papers.fitting import fitted
from benchmarks.papers.merging.families import halved
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Weights through a saturating function"
PAPER = "Cakaj, Mehnert and Yang, Weight Compander, arXiv:2306.16993"
ABOUT = """
The paper's formula could not be read in full. Used is w = a arctan(v / b), which does what its
abstract says: it is steep at zero and bounds weights. An MLP of two hidden layers of 64 learns few
images, 300 of MNIST (drawn from 3,000 by each seed) or 1,000 of CIFAR-10-JPEG halved to 16x16 (from
5,000), for 500 steps of AdamW on 64 of them, the rate falling to 0 by a cosine. The compander is on
all kernels, with a = c / sqrt(inputs of the layer), c of 1.5, 3 and 6: weights start below 2.3 /
sqrt(inputs) and stay below 1.57 c / sqrt(inputs). b = a, for under AdamW another b is another rate
and decay. Weights start alike with it and without it. Decay is of kernels alone, of v where there
is a compander: 0.3, 1 or 3. All combinations, none included, are run at four rates (1e-3 to 3e-2);
the grids were settled on another seed. A way's strength, decay and rate are those with the highest
validation accuracy (1,000 images) in the mean over seeds; MNIST is tested on 1,000 images, CIFAR-10
on 4,000. *Near zero* is the share of kernels' weights below 0.1 / sqrt(inputs) in size, *largest*
the largest weight times sqrt(inputs), the mean over layers. Scales a and b are not learned.
"""
STRENGTHS = (None, 1.5, 3.0, 6.0)
DECAYS = (0.0, 0.3, 1.0, 3.0)
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
STEPS, NEAR = 500, 0.1
WAYS = {  # where it has a compander, and where a decay, on the grid
    "none": (slice(0, 1), slice(0, 1)),
    "decay": (slice(0, 1), slice(1, None)),
    "compander": (slice(1, None), slice(0, 1)),
    "compander and decay": (slice(1, None), slice(1, None)),
}


class Case(NamedTuple):
    """Images: a pool, how many of it a seed learns, and parts `(x, y)` to validate and to test."""

    name: str
    net: ws.nets.Net
    pool: Any
    count: int
    validation: Any
    test: Any


class Found(NamedTuple):
    """`[strengths, decays, rates, seeds]`: accuracies, and what became of the weights."""

    validation: Any
    test: Any
    near: Any
    largest: Any


def cases() -> tuple[list[Case], list[str]]:
    """Those whose data is here, and what the others lack."""
    digits, images = ws.data.mnist(), cifar(5_000, 5_000)
    mlp = lambda features: ws.nets.mlp(features, (64, 64), 10)
    found = [Case("MNIST", mlp(784), digits.train, 300, digits.validation, digits.test)]
    if images is not None:
        pool, (x, y) = [(halved(x), y) for x, y in images]
        parts = (x[:1000], y[:1000]), (x[1000:], y[1000:])
        found.append(Case("CIFAR-10-JPEG", mlp(768), pool, 1000, *parts))
    return found, told_missing(images)


def kernels(params: Any) -> dict[str, Any]:
    return {name: x for name, x in ws.tree.named_leaves(params).items() if x.ndim == 2}


def companded(params: Any, strength: float) -> ws.adapt.Adapter:
    """Kernels through the function, each by its inputs; biases as they are."""
    scales = {name: strength / np.sqrt(len(kernel)) for name, kernel in kernels(params).items()}
    parts = [ws.adapt.compander(a, a, where=name) for name, a in scales.items()]
    return ws.adapt.chain(*parts, ws.adapt.whole(where=ws.adapt.biases(params)))


def weights(params: Any) -> tuple[Any, Any]:
    """Share near zero, and the largest, in units of one over the root of the inputs."""
    sizes = [jnp.abs(kernel) * np.sqrt(len(kernel)) for kernel in kernels(params).values()]
    near = sum(jnp.sum(size < NEAR) for size in sizes) / sum(size.size for size in sizes)
    return near, jnp.mean(jnp.stack([size.max() for size in sizes]))


@functools.partial(jax.jit, static_argnames=("net", "strength", "count", "steps"))
def tried(
    net: ws.nets.Net, strength: float | None, count: int, steps: int, grid: Any, parts: Any
) -> Found:
    """Nets at each `(decay, rate, key)` of a grid."""
    (pool_x, pool_y), validation, test = parts

    def one(point: Any) -> Found:
        decay, rate, key = point
        rows = jr.permutation(jr.fold_in(key, 1), len(pool_x))[:count]
        params = net.init(key)
        begin, at = params, lambda trained: trained
        if strength is not None:
            adapter = companded(params, strength)
            begin, fixed = adapter.init(key, params)
            at = lambda trained: adapter.fuse(params, trained, fixed)
        matrices = jax.tree.map(lambda x: x.ndim == 2, begin)
        schedule = optax.cosine_decay_schedule(rate, steps)
        rule = optax.adamw(schedule, weight_decay=decay, mask=matrices)
        loss = lambda trained, x, y: ws.nets.cross_entropy(net.apply(at(trained), x), y)
        data = pool_x[rows], pool_y[rows]
        end = at(fitted(loss, rule, begin, jr.fold_in(key, 2), data, steps))
        right = lambda part: ws.nets.accuracy(net.apply(end, part[0]), part[1])
        return Found(right(validation), right(test), *weights(end))

    return jax.lax.map(one, grid)


def measured(of: Case, seeds: int, steps: int = STEPS) -> Found:
    """All combinations."""
    sides = len(DECAYS), len(RATES), seeds
    places = jnp.array([*itertools.product(*map(range, sides))])
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    grid = jnp.array(DECAYS)[places[:, 0]], jnp.array(RATES)[places[:, 1]], keys[places[:, 2]]
    parts = jax.tree.map(jnp.asarray, (of.pool, of.validation, of.test))
    found = [tried(of.net, strength, of.count, steps, grid, parts) for strength in STRENGTHS]
    return jax.tree.map(lambda *x: np.stack(x).reshape(len(x), *sides), *found)


def chosen(validation: np.ndarray, way: str) -> tuple[int, int, int]:
    """Strength, decay and rate of a way, by their numbers on the whole grid."""
    part = validation[WAYS[way]].mean(-1)
    at = np.unravel_index(part.argmax(), part.shape)
    first = [side.start for side in WAYS[way]]
    return int(first[0] + at[0]), int(first[1] + at[1]), int(at[2])


def claims(name: str, found: Found) -> list[Claim]:
    by = {way: Found(*(x[chosen(found.validation, way)] for x in found)) for way in WAYS}

    def gap(says: str, what: str, more: np.ndarray, less: np.ndarray) -> Claim:
        return Claim(says, f"{name}: {what}", (more - less).tolist(), "> 0")

    return [
        gap("it regularises", "test accuracy with a compander less that without",
            by["compander"].test, by["none"].test),
        gap("it is better than weight decay", "test accuracy with a compander less that with decay",
            by["compander"].test, by["decay"].test),
        gap("it adds to weight decay", "test accuracy with both less that with decay",
            by["compander and decay"].test, by["decay"].test),
        gap("it forces weights away from zero",
            "share of weights near zero without less that with a compander",
            by["none"].near, by["compander"].near),
        gap("it restricts the size of weights", "largest weight without less that with a compander",
            by["none"].largest, by["compander"].largest),
    ]  # fmt: skip


def rows(found: Found) -> list[Mapping[str, Any]]:
    """The table of a data set."""

    def row(way: str) -> dict[str, Any]:
        at = chosen(found.validation, way)
        strength = STRENGTHS[at[0]]
        return {
            "way": way,
            "test accuracy": found.test[at].tolist(),
            "near zero": found.near[at].tolist(),
            "largest": found.largest[at].tolist(),
            "c": "" if strength is None else f"{strength:g}",
            "decay": f"{DECAYS[at[1]]:g}",
            "rate": f"{RATES[at[2]]:g}",
        }

    return [row(way) for way in WAYS]


def measure(seeds: int) -> Outcome:
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    found, skipped = cases()
    for of in found:
        result = measured(of, seeds)
        told += claims(of.name, result)
        tables[of.name] = rows(result)
    return Outcome(told, tables, skipped)
