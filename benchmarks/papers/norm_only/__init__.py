"""Norms trained alone in nets whose features stay random."""

import functools
from collections.abc import Mapping, Sequence
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
from benchmarks.papers.norm_only import nets
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Random features and trained norms"
PAPER = "Frankle, Schwab and Morcos, Training BatchNorm and only BatchNorm, arXiv:2003.00152"
ABOUT = """
CIFAR-10-JPEG halved to 16x16: 10,000 images for training, of the test file 1,000 for validation and
4,000 for testing. A residual net sees each image as 4x4 places: a kernel on patches of 4x4, then
blocks of two 3x3 convolutions of 16 channels, each followed by batch norm, a mean over places, and
a head. Kernels and head are normal, scales start uniform in [0, 1], offsets at 0, as in the paper.
In training norms use the statistics of their batch, in validation and testing those of the first
1,000 training images. What trains are the norms' scales and offsets; or two weights of each channel
at random places, as many numbers; or the head (kernel and bias). All else stays as drawn. 500 steps
of Adam on 64 images, the rate falling to 0 by a cosine. Each way and size has its own rate of four,
1e-2 to 3e-1: the one with the highest validation accuracy of a net of another seed. A scale is off
if it is below 0.01 in size; 1% are so at the start. The paper trains for 160 epochs by SGD, here it
is 3, and its nets are 14 to 866 layers deep, on 32x32.
"""
DEPTHS, CHANNELS = (2, 4, 8, 16), 16
WIDTHS, BLOCKS = (8, 16, 32), 4
RATES = (1e-2, 3e-2, 1e-1, 3e-1)
STEPS, SEEN, OFF = 500, 1000, 0.01
TRIAL = 100  # the seed that rates are chosen on
KERNELS = ["stem/conv/kernel", "blocks/conv/kernel"]
ARMS = {
    "norms": ws.adapt.norms,
    "random weights": lambda params: KERNELS,
    "head": lambda params: "out/*",
}

Size = tuple[int, int]  # blocks, channels
Case = tuple[str, Size]  # what trains, and where


class Found(NamedTuple):
    """Of one way and size the rate, and of each seed the accuracy and the share of scales off."""

    rate: Any
    test: Any
    off: Any


def scattered(train: Any, key: Any) -> Any:
    """A mask of two places of each output, at random."""
    scores = ws.select.scores.random(train, key=key)
    return ws.select.masks.top(scores, count=2, axis=-2, where="*")


def off(params: Any) -> Any:
    """The share of all norms' scales that are nearly 0."""
    scales = [params[part]["norm"]["scale"].ravel() for part in ("stem", "blocks")]
    return jnp.mean((jnp.abs(jnp.concatenate(scales)) < OFF).astype(jnp.float32))


@functools.partial(jax.jit, static_argnames=("arm", "size", "steps"))
def tried(arm: str, size: Size, keys: Any, rates: Any, parts: Any, steps: int) -> Found:
    """Nets of every seed at the best of some rates."""
    train, (val_x, val_y), (test_x, test_y) = parts

    def one(rate: Any, key: Any) -> tuple[Any, Any, Any]:
        params = nets.init(key, train[0].shape[-1], *size)
        adapter = ws.adapt.whole(where=ARMS[arm](params))
        begin, fixed = adapter.init(key, params)
        rule = optax.adam(optax.cosine_decay_schedule(rate, steps))
        if arm == "random weights":
            rule = ws.select.hold(rule, scattered(begin, jr.fold_in(key, 1)))
        at = lambda change: adapter.fuse(params, change, fixed)
        loss = lambda change, x, y: ws.nets.cross_entropy(nets.apply(at(change), x), y)
        end = at(fitted(loss, rule, begin, jr.fold_in(key, 2), train, steps))
        logits = nets.apply(end, jnp.concatenate([train[0][:SEEN], val_x, test_x]), SEEN)[SEEN:]
        told, tested = logits[: len(val_y)], logits[len(val_y) :]
        return ws.nets.accuracy(told, val_y), ws.nets.accuracy(tested, test_y), off(end)

    validation = jax.lax.map(lambda rate: one(rate, jr.key(TRIAL))[0], rates)
    rate = rates[validation.argmax()]
    return Found(rate, *jax.lax.map(lambda key: one(rate, key)[1:], keys))


def claims(found: Mapping[Case, Found]) -> list[Claim]:
    test = {case: of.test for case, of in found.items()}
    shallow, deep = (DEPTHS[0], CHANNELS), (DEPTHS[-1], CHANNELS)
    narrow, wide = (BLOCKS, WIDTHS[0]), (BLOCKS, WIDTHS[-1])

    def gap(says: str, what: str, one: Case, other: Case) -> Claim:
        return Claim(says, f"accuracy {what}", (test[one] - test[other]).tolist(), "> 0")

    return [
        gap("far above training the output layer alone",
            f"of norms less that of the head, {deep[0]} blocks", ("norms", deep), ("head", deep)),
        gap("far above as many parameters at random places",
            f"of norms less that of random weights, {deep[0]} blocks",
            ("norms", deep), ("random weights", deep)),
        gap("accuracy grows with depth",
            f"of norms at {deep[0]} blocks less that at {shallow[0]}",
            ("norms", deep), ("norms", shallow)),
        gap("accuracy grows with width",
            f"of norms at {wide[1]} channels less that at {narrow[1]}, {BLOCKS} blocks",
            ("norms", wide), ("norms", narrow)),
        Claim("norms switch off about a third of the random features",
              f"share of scales below {OFF} in size, {deep[0]} blocks",
              found["norms", deep].off.tolist(), "> 0.2"),
    ]  # fmt: skip


def trained_numbers(arm: str, size: Size) -> int:
    if arm == "head":
        return (size[1] + 1) * nets.CLASSES
    return 2 * size[1] * (2 * size[0] + 1)


def row(arm: str, size: Size, found: Found) -> dict[str, Any]:
    return {
        "trained": arm,
        "blocks": str(size[0]),
        "channels": str(size[1]),
        "trained numbers": f"{trained_numbers(arm, size):,}",
        "test accuracy": found.test.tolist(),
        "scales off": found.off.tolist() if arm == "norms" else "",
        "rate": f"{found.rate:g}",
    }


def parts() -> Any | None:
    """Patches for training, validation and testing; None if the data is missing."""
    found = cifar(10_000, 5_000)
    if found is None:
        return None
    train, (x, y) = [(nets.patches(halved(x)), y) for x, y in found]
    return train, (x[:1000], y[:1000]), (x[1000:], y[1000:])


def measured(data: Any, cases: Sequence[Case], seeds: int, steps: int) -> dict[Case, Found]:
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    data = jax.tree.map(jnp.asarray, data)
    return {
        case: jax.tree.map(np.asarray, tried(*case, keys, jnp.array(RATES), data, steps))
        for case in cases
    }


def measure(seeds: int) -> Outcome:
    data = parts()
    if data is None:
        return Outcome([], {}, told_missing(data))
    cases = [("norms", (blocks, CHANNELS)) for blocks in DEPTHS]
    cases += [("norms", (BLOCKS, width)) for width in WIDTHS if width != CHANNELS]
    cases += [(arm, (DEPTHS[i], CHANNELS)) for arm in ("random weights", "head") for i in (0, -1)]
    found = measured(data, cases, seeds, STEPS)
    table = [row(*case, of) for case, of in found.items()]
    return Outcome(claims(found), {"Test accuracy by what trains": table})
