"""Bone and MiSS against LoRA with as many numbers: how fast the loss falls, and what is reached."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.merging.families import Family, available
from benchmarks.papers.runner import Claim, Outcome
from wslax.adapt.leafwise import leafwise
from wslax.trace import Sparse, factored

TITLE = "Blocks instead of thin factors"
PAPER = "Kang, Bone / MiSS, arXiv:2409.15371"
ABOUT = """
MNIST of 5,000 digits and CIFAR-10-JPEG, an MLP of two hidden layers (112 and 256 wide). The base
learns the images as they are, then each of four other views (turned by 90 and 180 degrees,
inverted, columns or colours in another order) is learned from 300 examples, 200 steps of Adam on
50, the rate falling to 0 by a cosine. What trains are the two hidden matrices: Bone and MiSS with
blocks of 16, LoRA of the ranks that give exactly as many numbers in each matrix, as many entries at
random places, and all entries. MiSS adds one change to every block of inputs, which are pixels in
the first matrix, and the views differ by place: a harder case for it than hidden features are. Head
and biases are frozen. Each has its own rate of seven from 1e-4 to 1e-1, the one with the lowest
validation loss after 20 steps where loss is compared and the one with the highest validation
accuracy at the end where accuracy is, the same for all seeds and views. A seed's figure is the mean
over the views, which see the same batches in every arm.
"""
BLOCK, EXAMPLES, STEPS, EARLY, BATCH = 16, 300, 200, 20, 50
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
WIDTHS = {"MNIST": (784, 112), "CIFAR-10-JPEG": (768, 256)}
MATRICES = ["hidden_0/kernel", "hidden_1/kernel"]


def net_of(name: str) -> ws.nets.Net:
    features, width = WIDTHS[name]
    return ws.nets.mlp(features, (width, width), 10)


def places(count: int) -> ws.adapt.Adapter:
    """Some entries of each matrix, at random."""

    def start(key: Any, name: str, leaf: Any) -> Any:
        at = jr.permutation(jr.fold_in(key, leaf.size), leaf.size)[:count]
        return {"values": jnp.zeros(count)}, {"index": at}

    return leafwise(start, lambda leaf, p: Sparse(leaf, p["index"], p["values"]), MATRICES)


def arms(features: int, width: int) -> dict[str, ws.adapt.Adapter]:
    """What trains; the first four have equally many numbers in each matrix."""
    count = width * BLOCK
    sides = dict(zip(MATRICES, (features + width, 2 * width), strict=True))
    loras = [ws.adapt.lora(count // both, where=name) for name, both in sides.items()]
    return {
        "LoRA": ws.adapt.chain(*loras),
        "MiSS": ws.adapt.miss(BLOCK, where=MATRICES),
        "Bone": ws.adapt.bone(BLOCK, where=MATRICES),
        "random places": places(count),
        "all entries": ws.adapt.whole(where=MATRICES),
    }


class Found(NamedTuple):
    """Of one arm, `[rates, seeds, views]`: losses after the first steps, accuracies at the end."""

    early_loss: Any
    early_validation: Any
    validation: Any
    test: Any


def fitted(slope: Any, begin: Any, key: Any, rate: Any, x: Any, y: Any, steps: int) -> Any:
    """Adam on `slope(trained, x, y)`; after the first steps, and at the end."""
    rule = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def turn(carry: Any, step: Any) -> tuple[Any, None]:
        trained, state = carry
        rows = jr.randint(jr.fold_in(key, step), (BATCH,), 0, len(x))
        change, state = rule.update(slope(trained, x[rows], y[rows]), state)
        return (optax.apply_updates(trained, change), state), None

    early = jax.lax.scan(turn, (begin, rule.init(begin)), jnp.arange(EARLY))[0]
    late = jax.lax.scan(turn, early, jnp.arange(EARLY, steps))[0]
    return early[0], late[0]


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def bases(name: str, keys: Any, x: Any, y: Any, steps: int) -> Any:
    """A base for each seed, `[seeds, ...]`."""
    net = net_of(name)
    loss = lambda p, x, y: ws.nets.cross_entropy(net.apply(p, x), y)
    train = lambda key: fitted(
        jax.grad(loss), net.init(key), jr.fold_in(key, 1), 2e-3, x, y, steps
    )[1]
    return jax.vmap(train)(keys)


@functools.partial(jax.jit, static_argnames=("name", "arm", "steps"))
def tuned(name: str, arm: str, keys: Any, based: Any, views: Any, rates: Any, steps: int) -> Found:
    """Every seed's base, tuned to every view at every rate."""
    net, adapter = net_of(name), arms(*WIDTHS[name])[arm]
    run = factored(net.apply, on_dense="error")

    def one(rate: Any, key: Any, base: Any, view: Any) -> Found:
        train, validation, test = view
        begin, fixed = adapter.init(jr.fold_in(key, 2), base)
        at = lambda trained, x: run(adapter.apply(base, trained, fixed), x)
        loss = lambda trained, x, y: ws.nets.cross_entropy(at(trained, x), y)
        early, late = fitted(jax.grad(loss), begin, jr.fold_in(key, 3), rate, *train, steps)
        right = lambda part: ws.nets.accuracy(at(late, part[0]), part[1])
        return Found(loss(early, *train), loss(early, *validation), right(validation), right(test))

    each = jax.vmap(jax.vmap(one, (None, None, None, 0)), (None, 0, 0, None))
    return jax.lax.map(lambda rate: each(rate, keys, based, views), rates)


def measured(of: Family, seeds: int, steps: int = STEPS) -> dict[str, Found]:
    """What each arm reaches, `[rates, seeds, views]`."""
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    based = bases(of.name, keys, *map(jnp.asarray, of.base), of.before)
    train = tuple(part[:, :EXAMPLES] for part in of.train)
    views = jax.tree.map(jnp.asarray, (train, of.validation, of.test))
    run = lambda arm: tuned(of.name, arm, keys, based, views, jnp.array(RATES), steps)
    return {arm: jax.tree.map(np.asarray, run(arm)) for arm in arms(*WIDTHS[of.name])}


def chosen(found: Found) -> tuple[int, int]:
    """The rates, by number, for the loss after the first steps and for the accuracy at the end."""
    early, late = (x.mean((1, 2)) for x in (found.early_validation, found.validation))
    return int(early.argmin()), int(late.argmax())


def figures(found: Found) -> tuple[list[float], list[float]]:
    """Of each seed the training loss after the first steps, and the test accuracy."""
    early, late = chosen(found)
    return found.early_loss[early].mean(1).tolist(), found.test[late].mean(1).tolist()


def claims(name: str, found: dict[str, Found]) -> list[Claim]:
    by = {arm: figures(of) for arm, of in found.items()}

    def less(says: str, what: str, which: int, one: str, other: str) -> Claim:
        gap = [x - y for x, y in zip(by[one][which], by[other][which], strict=True)]
        return Claim(says, f"{name}: {what} of {one} less that of {other}", gap, "> 0")

    loss = f"training loss after {EARLY} steps"
    return [
        claim
        for ours in ("MiSS", "Bone")
        for claim in (
            less("the loss falls faster than LoRA's", loss, 0, "LoRA", ours),
            less("it is more accurate than LoRA", "accuracy", 1, ours, "LoRA"),
            less("more than a matter of count", "accuracy", 1, ours, "random places"),
        )
    ]


def rows(name: str, found: dict[str, Found]) -> list[dict[str, Any]]:
    """The table of a data set."""

    def row(arm: str, of: Found) -> dict[str, Any]:
        train, _ = jax.eval_shape(arms(*WIDTHS[name])[arm].init, jr.key(0), shapes)
        (loss, accuracy), rates = figures(of), [f"{RATES[i]:g}" for i in chosen(of)]
        return {
            "arm": arm,
            "trained numbers": f"{sum(x.size for x in jax.tree.leaves(train)):,}",
            f"loss after {EARLY} steps": loss,
            "rate for it": rates[0],
            "test accuracy": accuracy,
            "rate for that": rates[1],
        }

    shapes = jax.eval_shape(net_of(name).init, jr.key(0))
    return [row(arm, of) for arm, of in found.items()]


def measure(seeds: int) -> Outcome:
    families, skipped = available()
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    for of in families:
        found = measured(of, seeds)
        told += claims(of.name, found)
        tables[of.name] = rows(of.name, found)
    return Outcome(told, tables, skipped)
