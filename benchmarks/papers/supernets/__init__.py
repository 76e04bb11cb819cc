"""Mixture-of-Supernets: how far subnets of shared weights are from nets trained alone."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.data import cifar, told_missing
from benchmarks.papers.merging.families import halved
from benchmarks.papers.runner import Claim, Outcome
from benchmarks.papers.supernets.search import search, sizes_of
from wslax.grow import supernet

TITLE = "One set of weights for all widths"
PAPER = "Jawahar et al., Mixture-of-Supernets, arXiv:2306.04845"
ABOUT = """
Perceptrons of three hidden layers, each of 8, 16, ... or 64 units: 512 architectures in one set of
weights. A step of Adam (1e-3, 64 examples) goes by the biggest, the smallest and one more drawn at
random, 2,000 steps in all. *Plain* sharing slices one net; the mixtures have two experts, weighed
by the architecture for each layer or each unit. The gap is the test accuracy of a net trained alone
in as many steps of its own, less that of the subnet of its size, the mean over six architectures.
The search takes the subnet best on validation data among those of at most half the biggest one's
weights. Data: 3,000 MNIST digits of 14x14 (mean of 2x2 pixels) and 10,000 images of CIFAR-10-JPEG
of 8x8.
"""
WIDTHS = (64, 64, 64)
CHOICES = tuple(range(8, 65, 8))
SUBNETS = ((8, 8, 8), (16, 16, 16), (32, 32, 32), (64, 32, 16), (16, 32, 64), (48, 8, 48))
STEPS, BATCH = 2000, 64
KINDS = {"plain": (1, "layer"), "layer-wise": (2, "layer"), "neuron-wise": (2, "neuron")}
NAMES = ("hidden_0", "hidden_1", "hidden_2", "out")


def net_of(features: int) -> ws.nets.Net:
    return ws.nets.mlp(features, WIDTHS, 10)


def space_of(features: int) -> supernet.Space:
    spec = jax.eval_shape(net_of(features).init, jr.key(0))
    groups = ws.symmetry.feed_forward(spec, NAMES)
    return supernet.space(groups, dict.fromkeys(range(3), CHOICES))


def fit(
    loss: Callable[[Any, Any, Any, Any], Any], start: Any, key: Any, data: Any, steps: int
) -> Any:
    """Adam on `loss(params, key, x, y)`, all steps in one program."""
    optimizer = optax.adam(1e-3)

    def step(carry: Any, key: Any) -> Any:
        params, state = carry
        rows = jr.randint(key, (BATCH,), 0, len(data[0]))
        grads = jax.grad(loss)(params, jr.fold_in(key, 1), *(part[rows] for part in data))
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (start, optimizer.init(start)), jr.split(key, steps))[0][0]


@functools.partial(jax.jit, static_argnames=("features", "kind", "steps"))
def shared(seed: Any, data: Any, features: int, kind: str, steps: int = STEPS) -> Any:
    """The supernet of one seed."""
    experts, routing = KINDS[kind]
    net, space, key = net_of(features), space_of(features), jr.key(seed)
    start = supernet.init(
        jr.fold_in(key, 1), ws.population.init(net.init, key, experts), space, routing=routing
    )

    def loss(weights: Any, key: Any, x: Any, y: Any) -> Any:
        one = lambda at: net.apply(supernet.materialise(weights, space, at), x)
        logits = jax.vmap(one)(supernet.sandwich(key, space))
        return jax.vmap(lambda z: ws.nets.cross_entropy(z, y))(logits).sum()

    return fit(loss, start, jr.fold_in(key, 2), data, steps)


@functools.partial(jax.jit, static_argnames=("features", "steps"))
def alone(seed: Any, data: Any, test: Any, features: int, steps: int = STEPS) -> Any:
    """Test accuracy of a net of each size trained by itself; masked, so that all go as one.

    What starts at zero behind ReLU stays there, and kernels start with the variance of their own
    inputs.
    """
    net, space, key = net_of(features), space_of(features), jr.key(seed)
    plain = supernet.init(0, ws.population.init(net.init, key, 1), space)
    loss = lambda params, _, x, y: ws.nets.cross_entropy(net.apply(params, x), y)

    def one(at: Any) -> Any:
        start = supernet.materialise(plain, space, at)
        for k, name in enumerate(NAMES[1:]):
            start[name]["kernel"] *= jnp.sqrt(WIDTHS[k] / at[k])
        end = fit(loss, start, jr.fold_in(key, 2), data, steps)
        return ws.nets.accuracy(net.apply(end, test[0]), test[1])

    return jax.vmap(one)(dict(enumerate(jnp.asarray(SUBNETS).T)))


def accuracy(weights: Any, features: int, at: Any, part: Any) -> Any:
    params = supernet.materialise(weights, space_of(features), at)
    return ws.nets.accuracy(net_of(features).apply(params, part[0]), part[1])


@functools.partial(jax.jit, static_argnames="features")
def subnets(weights: Any, test: Any, features: int) -> Any:
    """Test accuracy of each subnet."""
    at = dict(enumerate(jnp.asarray(SUBNETS).T))
    return jax.vmap(lambda one: accuracy(weights, features, one, test))(at)


def weights_in(at: Mapping[int, Any], features: int) -> Any:
    """How many weights an architecture has."""
    widths = [features, *(at[k] for k in range(3)), 10]
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


@functools.partial(jax.jit, static_argnames="features")
def found(seed: Any, weights: Any, validation: Any, test: Any, features: int) -> Any:
    """Test accuracy of the subnet that the search finds, and the mean of all within the budget."""
    space = space_of(features)
    budget = weights_in(dict(enumerate(WIDTHS)), features) / 2

    def fitness(at: Any) -> Any:
        value = accuracy(weights, features, at, validation)
        return jnp.where(weights_in(at, features) <= budget, value, -1.0)

    genes, _ = search(jr.fold_in(jr.key(seed), 3), space, fitness)
    drawn = sizes_of(space, jr.randint(jr.key(0), (64, 3), 0, len(CHOICES)))
    values = jax.vmap(lambda at: accuracy(weights, features, at, test))(drawn)
    inside = weights_in(drawn, features) <= budget
    best = accuracy(weights, features, sizes_of(space, genes), test)
    return best, (values * inside).sum() / inside.sum()


def one_data(parts: Any, seeds: int) -> dict[str, Any]:
    """Figures of one set of data, `[seeds]` or `[seeds, subnets]`."""
    train, validation, test = (tuple(map(jnp.asarray, part)) for part in parts)
    features, keys = train[0].shape[1], jnp.arange(seeds)
    over = lambda run, *args: jax.jit(jax.vmap(run))(*args)
    figures = {"alone": over(lambda s: alone(s, train, test, features), keys)}
    for kind in KINDS:
        nets = over(lambda s, kind=kind: shared(s, train, features, kind), keys)
        figures[kind] = over(lambda net: subnets(net, test, features), nets)
        figures[f"search, {kind}"] = over(
            lambda s, net: found(s, net, validation, test, features), keys, nets
        )
    return jax.tree.map(np.asarray, figures)


def claims(data: str, figures: Mapping[str, Any]) -> list[Claim]:
    gap = {kind: (figures["alone"] - figures[kind]).mean(1) for kind in KINDS}
    pairs = (("plain", "layer-wise"), ("layer-wise", "neuron-wise"), ("plain", "neuron-wise"))
    told = [
        Claim(
            f"{b} mixing leaves a smaller gap to nets trained alone than {a} sharing",
            f"{data}: gap of {a} less that of {b}", (gap[a] - gap[b]).tolist(), "> 0",
        )
        for a, b in pairs
    ]  # fmt: skip
    best, mean = figures["search, neuron-wise"]
    return [*told, Claim(
        "the search finds good subnets",
        f"{data}, neuron-wise: accuracy of the subnet found less the mean of those in the budget",
        (best - mean).tolist(), "> 0",
    )]  # fmt: skip


def rows(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = []
    for kind in ("alone", *KINDS):
        row = {"weights": kind} | {
            "-".join(map(str, at)): figures[kind][:, k].tolist() for k, at in enumerate(SUBNETS)
        }
        best = figures.get(f"search, {kind}")
        listed.append(row | {"found by search": "" if best is None else best[0].tolist()})
    return listed


def mnist() -> Any:
    small = lambda part: (halved(part[0][..., None]).reshape(len(part[0]), -1), part[1])
    return [small(part) for part in ws.data.mnist()]


def images() -> Any:
    both = cifar(10_000, 4_000)
    if both is None:
        return None
    small = lambda x: halved(halved(x)).reshape(len(x), -1)
    (x, y), (held_x, held_y) = both
    held = small(held_x)
    return (small(x), y), (held[:2000], held_y[:2000]), (held[2000:], held_y[2000:])


def measure(seeds: int) -> Outcome:
    jobs = {"MNIST": mnist()}
    parts = images()
    skipped = told_missing(parts)
    if parts is not None:
        jobs["CIFAR-10-JPEG"] = parts
    told, tables = [], {}
    for data, parts in jobs.items():
        figures = one_data(parts, seeds)
        told += claims(data, figures)
        tables[f"Accuracy of subnets by their three widths, {data}"] = rows(figures)
    return Outcome(told, tables, skipped)
