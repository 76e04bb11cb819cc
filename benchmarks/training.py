"""Training a population against Python loops over its members."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.runner import Row
from wslax import data, nets, population

TITLE = "Training a population"
ABOUT = """
Adam on real digits, the same batches for all members, from the parameters to the parameters after
all steps, compiled beforehand. `population.train` (which chooses its strategy itself) against two
Python loops over members: one calls a jitted, donated step for every step of every member, the
other a jitted `lax.scan` over all steps for every member. They take turns, three each a repeat, and
a ratio is of the least of the three. Nets: an MLP of 64-32-10 on 8x8 digits with batches of 32
("small MLP"), one of 784-128-10 on MNIST with batches of 64 ("MLP"), and two 3x3 convolutions of 8
and 16 channels with GroupNorm on MNIST with batches of 32 ("conv").
"""


class Job(NamedTuple):
    """A net with its data.

    Attributes:
      net: the net.
      split: the digits.
      batch: images a step.
      steps: how many steps.
      sizes: numbers of members.
    """

    net: nets.Net
    split: data.Split
    batch: int
    steps: int
    sizes: tuple[int, ...]


def jobs() -> dict[str, Job]:
    digits, mnist = data.digits(), data.mnist()
    return {
        "small MLP": Job(nets.mlp(64, (32,), 10), digits, 32, 100, (8, 32, 128)),
        "MLP": Job(nets.mlp(784, (128,), 10), mnist, 64, 20, (8, 32)),
        "conv": Job(nets.conv(28, (8, 16), 10), mnist, 32, 10, (8, 32)),
    }


def seconds(fn: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - begin


def best(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """The least of three, taken in turn: what a busy machine adds is no part of the figure."""
    turns = [{what: seconds(run) for what, run in runs.items()} for _ in range(3)]
    return {what: min(turn[what] for turn in turns) for what in runs}


def contenders(job: Job, n: int) -> dict[str, Callable[[], Any]]:
    """The three ways to train n members, each from the parameters it is given once."""

    def loss(params: Any, batch: Any, key: Any, member: Any) -> Any:
        x, y = batch
        return nets.cross_entropy(job.net.apply(params, x), y)

    trainer = population.step_from_loss(loss, optax.adam(1e-3))
    rows = np.random.default_rng(0).integers(0, len(job.split.train[1]), (job.steps, job.batch))
    batches = tuple(jnp.asarray(part[rows]) for part in job.split.train)
    listed = [jax.tree.map(lambda x, t=t: x[t], batches) for t in range(job.steps)]
    key = jax.random.key(0)
    members = jax.vmap(trainer.init)(population.init(job.net.init, key, n))
    alone = population.unstack(members)
    step = jax.jit(trainer.step, donate_argnums=0)

    @partial(jax.jit, donate_argnums=0)
    def scan(member: Any, batches: Any) -> Any:
        return jax.lax.scan(lambda m, b: trainer.step(m, b, key), member, batches)

    def steps_in_turn() -> Any:
        ends = []
        for member in alone:
            now = jax.tree.map(jnp.copy, member)
            for batch in listed:
                now, _ = step(now, batch, key)
            ends.append(now)
        return ends

    return {
        "train": lambda: population.train(trainer.step, members, batches, key=key),
        "a loop of jitted steps": steps_in_turn,
        "a loop of jitted scans": lambda: [
            scan(jax.tree.map(jnp.copy, member), batches) for member in alone
        ],
    }


def measure(repeats: int) -> list[Row]:
    """Every net and number of members in turn."""
    rows, over_scan = [], []
    for name, job in jobs().items():
        for n in job.sizes:
            runs = contenders(job, n)
            for run in runs.values():
                seconds(run)
            taken = [best(runs) for _ in range(repeats)]
            rows.append(Row(f"{name}, {n} members: train", [t["train"] for t in taken], "s"))
            for what in list(runs)[1:]:
                ratio = [t[what] / t["train"] for t in taken]
                steps = what.endswith("steps")
                target = ">= 4" if (name, n, steps) == ("small MLP", 32, True) else None
                rows.append(Row(f"{name}, {n} members: {what} over train", ratio, "x", target))
                if not steps:
                    over_scan.append(float(np.median(ratio)))
    least = "least of the medians: a loop of jitted scans over train"
    return [*rows, Row(least, [min(over_scan)], "x", ">= 1")]
