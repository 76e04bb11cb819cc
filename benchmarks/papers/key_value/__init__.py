"""Classes in turn on frozen features: keys and values against probes, EWC and class means."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.data import CIFAR, OMNIGLOT, cifar, omniglot, told_missing
from benchmarks.papers.key_value import encoders
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import ewc, key_value
from wslax.numerics.fisher import fisher_information

TITLE = "A frozen encoder, and classes that come in turn"
PAPER = (
    "Träuble et al., Discrete key-value bottleneck, arXiv:2207.11240; Kirkpatrick et al., EWC, "
    "arXiv:1612.00796"
)
ABOUT = """
Ten classes in five increments of two, in an order of each seed, or all at once in as many steps
(*i.i.d.*); 1,000 steps of 64 in all. No image of an earlier increment is seen again. Features are
frozen: for MNIST the last of two hidden layers, 256 and 128, of a net that was trained to tell
Omniglot's characters apart at 14 x 14, for CIFAR-10-JPEG at 16 x 16 the pooled responses to 100
whitened patches, of images without labels. *Keys and values* (`wslax.contrib.key_value`): 64
codebooks of 256 keys in 8 dimensions, fitted on *other data*, Omniglot's drawings or images that
are no part of training or test, or without labels on *the same data* in all its classes. Values
begin at 0 and are the logits' votes. Probes are linear or have a hidden layer of 128. *EWC* is the
latter with the online penalty and is told where increments end. All train by SGD with labels
smoothed by 0.1 and gradients clipped to length 1 as in the authors' code, at the rate (and for EWC
the strength) that was best on seed 100, for each data set and of each method in increments and at
once. *Class means* classifies by the nearest mean of features, which needs no more than one pass
and cannot forget.
"""
CLASSES, NEW, STEPS, BATCH = 10, 2, 1000, 64
INCREMENTS = CLASSES // NEW
OURS, SAME = "keys and values, other data", "keys and values, the same data"
RATES = {  # in increments, and at once
    "MNIST": {"votes": (0.3, 1000.0), "linear": (0.003, 0.1), "hidden": (0.003, 0.1)},
    "CIFAR-10-JPEG": {"votes": (10.0, 1000.0), "linear": (0.003, 0.1), "hidden": (0.003, 0.1)},
}
ELASTIC = {"MNIST": (0.1, 300.0), "CIFAR-10-JPEG": (0.01, 300.0)}  # rate and strength


class Model(NamedTuple):
    """`init(key, x) -> params` and `apply(params, x) -> logits`."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


@functools.cache  # one object a size, as programs are compiled for it
def voting(pairs: int) -> Model:
    """Values by keys; x are the keys' indices."""
    init = lambda _, x: {"values": jnp.zeros((x.shape[-1], pairs, CLASSES))}
    return Model(init, lambda params, x: key_value.read(params["values"], x))


def probe(hidden: tuple[int, ...]) -> Model:
    net = lambda x: ws.nets.mlp(x.shape[-1], hidden, CLASSES)
    return Model(lambda key, x: net(x).init(key), lambda params, x: net(x).apply(params, x))


def smoothed(logits: Any, label: Any) -> Any:
    target = 0.9 * jax.nn.one_hot(label, CLASSES) + 0.1 / CLASSES
    return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits), -1))


def trained(
    model: Model, key: Any, params: Any, x: Any, old: Any, new: Any, rate: Any, steps: int,
    memory: ewc.Memory | None = None, strength: Any = 0.0,
) -> Any:  # fmt: skip
    """Parameters after steps on classes `old ... old + new - 1` of `x` `[classes, n, ...]`."""
    rule = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(rate))

    def loss(params: Any, key: Any) -> Any:
        label = old + jr.randint(jr.fold_in(key, 0), (BATCH,), 0, new)
        rows = x[label, jr.randint(jr.fold_in(key, 1), (BATCH,), 0, x.shape[1])]
        kept = 0.0 if memory is None else strength * ewc.penalty(params, memory)
        return smoothed(model.apply(params, rows), label) + kept

    def turn(carry: Any, key: Any) -> tuple[Any, None]:
        params, state = carry
        change, state = rule.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, change), state), None

    return jax.lax.scan(turn, (params, rule.init(params)), jr.split(key, steps))[0][0]


@functools.partial(jax.jit, static_argnames=("model", "steps", "apart"))
def learnt(model: Model, key: Any, x: Any, rate: Any, steps: int, apart: bool) -> Any:
    """Parameters after all classes, in increments or at once."""
    begin = model.init(jr.fold_in(key, 0), x[0])
    if not apart:
        return trained(model, jr.fold_in(key, 1), begin, x, 0, CLASSES, rate, steps)

    def turn(params: Any, t: Any) -> tuple[Any, None]:
        now = jr.fold_in(key, 1 + t)
        args = params, x, t * NEW, NEW, rate, steps // INCREMENTS
        return trained(model, now, *args), None

    return jax.lax.scan(turn, begin, jnp.arange(INCREMENTS))[0]


@functools.partial(jax.jit, static_argnames=("model", "steps"))
def elastic(model: Model, key: Any, x: Any, rate: Any, strength: Any, steps: int) -> Any:
    """As `learnt` in increments, with a memory of those before."""
    begin = model.init(jr.fold_in(key, 0), x[0])
    memory = ewc.Memory(begin, jax.tree.map(jnp.zeros_like, begin))
    log_prob = lambda params, row: jax.nn.log_softmax(model.apply(params, row[None])[0])

    def turn(carry: Any, t: Any) -> tuple[Any, None]:
        params, memory = carry
        now = jr.fold_in(key, 1 + t)
        params = trained(
            model, now, params, x, t * NEW, NEW, rate, steps // INCREMENTS, memory, strength
        )
        label = t * NEW + jr.randint(jr.fold_in(now, 2), (BATCH,), 0, NEW)
        rows = x[label, jr.randint(jr.fold_in(now, 3), (BATCH,), 0, x.shape[1])]
        found = fisher_information(log_prob, params, rows)
        return (params, ewc.remember(memory, params, found)), None

    return jax.lax.scan(turn, (begin, memory), jnp.arange(INCREMENTS))[0][0]


def means(x: Any, test: Any) -> Any:
    """The class whose mean feature is nearest."""
    far = jnp.square(test[:, None] - x.mean(1)[None]).sum(-1)
    return -far


class Task(NamedTuple):
    """Features to train on `[seeds, classes, n, d]`, to test on, and of other data."""

    x: Any
    test: Any
    label: Any
    other: Any


def dealt(features: encoders.Features, seeds: int) -> Task:
    """With classes in the order in which they come, one for each seed."""
    (x, y), (test, label), other = features
    orders = [np.random.default_rng(seed).permutation(CLASSES) for seed in range(seeds)]
    each = min(int((y == c).sum()) for c in range(CLASSES))
    by_class = np.stack([x[y == c][:each] for c in range(CLASSES)])
    label = np.argsort(orders, 1)[:, label]
    return Task(*map(jnp.asarray, (by_class[np.stack(orders)], test, label, other)))


def keyed(keys: Any, task: Task, on: Any, **sizes: int) -> tuple[Any, Any]:
    """Indices of keys in place of features, by seed, to train and to test on."""
    found = []
    for key, x in zip(keys, task.x, strict=True):
        fixed = key_value.fit(key, on, **sizes)
        index = key_value.nearest(fixed, x.reshape(-1, x.shape[-1]))
        found.append((index.reshape(*x.shape[:-1], -1), key_value.nearest(fixed, task.test)))
    return tuple(jnp.stack(part) for part in zip(*found, strict=True))


SIZES = {"codebooks": 64, "pairs": 256, "width": 8, "steps": 400}
LINEAR, HIDDEN = probe(()), probe((128,))


def measured(
    task: Task, rates: Any, elasticity: tuple[float, float], steps: int = STEPS
) -> dict[str, list[float]]:
    """Accuracies on all classes after the last step, by run one a seed."""
    keys = jax.vmap(jr.key)(jnp.arange(len(task.x)))
    told = jax.vmap(lambda logits, label: ws.nets.accuracy(logits, label))
    votes, test = voting(SIZES["pairs"]), jnp.stack([task.test] * len(task.x))
    arms = {
        "linear probe": (LINEAR, "linear", task.x, test),
        "hidden layer": (HIDDEN, "hidden", task.x, test),
    }
    for name, on in ((OURS, task.other), (SAME, task.x[0].reshape(-1, task.x.shape[-1]))):
        arms[name] = votes, "votes", *keyed(keys, task, on, **SIZES)
    found = {}
    for name, (model, kind, x, test_x) in arms.items():
        for apart, rate in zip((True, False), rates[kind], strict=True):
            run = functools.partial(learnt, model, rate=rate, steps=steps, apart=apart)
            params = jax.vmap(lambda key, x, run=run: run(key, x))(keys, x)
            right = told(jax.vmap(model.apply)(params, test_x), task.label)
            found[name + ", i.i.d." * (not apart)] = right.tolist()
    params = jax.vmap(lambda key, x: elastic(HIDDEN, key, x, *elasticity, steps))(keys, task.x)
    found["EWC"] = told(jax.vmap(HIDDEN.apply)(params, test), task.label).tolist()
    found["class means"] = told(jax.vmap(means)(task.x, test), task.label).tolist()
    return found


def claims(data: str, found: dict[str, list[float]]) -> list[Claim]:
    def less(says: str, one: str, other: str, bound: str) -> Claim:
        values = [x - y for x, y in zip(found[one], found[other], strict=True)]
        return Claim(says, f"{data}: accuracy of {one} less that of {other}", values, bound)

    def kept(name: str) -> list[float]:
        both = zip(found[name], found[f"{name}, i.i.d."], strict=True)
        return [x / y for x, y in both]

    stays = "keys and values stay near their i.i.d. accuracy"
    better = "keys and values forget less than other methods"
    return [
        Claim(stays, f"{data}: share of the i.i.d. accuracy, {OURS}", kept(OURS), "> 0.9"),
        Claim(stays, f"{data}: share of the i.i.d. accuracy, {SAME}", kept(SAME), "> 0.9"),
        Claim(
            "a probe forgets all but the last classes",
            f"{data}: accuracy of a linear probe", found["linear probe"], "< 0.3",
        ),
        less(better, OURS, "linear probe", "> 0.2"),
        less(better, OURS, "hidden layer", "> 0.2"),
        less(better, OURS, "EWC", "> 0"),
        less("little is lost i.i.d.", f"{OURS}, i.i.d.", "linear probe, i.i.d.", "> -0.05"),
        less("keys need not be of the same data", OURS, SAME, "> -0.03"),
        less("it is more than class means", OURS, "class means", "> 0"),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    drawings, images = omniglot(), cifar(14_000, 2_000)
    sets = {}
    if drawings is not None:
        sets["MNIST"] = encoders.drawn(drawings, ws.data.mnist())
    if images is not None:
        sets["CIFAR-10-JPEG"] = encoders.patched(*images)
    made: list[Claim] = []
    tables = {}
    for data, features in sets.items():
        found = measured(dealt(features, seeds), RATES[data], ELASTIC[data])
        made += claims(data, found)
        tables[f"Accuracy on all classes, {data}"] = [
            {
                "run": name,
                "in increments": found[name],
                "i.i.d.": found.get(f"{name}, i.i.d.", ""),
            }
            for name in found
            if not name.endswith("i.i.d.")
        ]
    return Outcome(made, tables, told_missing(drawings, OMNIGLOT) + told_missing(images, CIFAR))
