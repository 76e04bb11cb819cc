"""A base, its experts and the net of all tasks, each trained as a population."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.merging.families import Family

RATE = 1e-3


class Trained(NamedTuple):
    """The nets of one seed.

    Attributes:
      base: trained on the base task.
      experts: T members, each from the base on a task.
      joint: from the base on all tasks, in T times as many steps.
    """

    base: Any
    experts: Any
    joint: Any


@functools.cache
def trainer(family: Family) -> ws.population.Trainer:
    loss = lambda params, batch, key, member: ws.nets.cross_entropy(
        family.net.apply(params, batch[0]), batch[1]
    )
    return ws.population.step_from_loss(loss, optax.adam(RATE))


def fit(family: Family, starts: Any, x: np.ndarray, y: np.ndarray, rows: np.ndarray) -> Any:
    """Members after a step on each of their `rows [steps, N, B]` of the flat `x` and `y`."""
    step = trainer(family)
    population = jax.vmap(step.init)(starts)
    batches = x[rows], y[rows]
    return ws.population.train(step.step, population, batches, key=0, per_member=True)[0].params


@functools.cache
def trained(family: Family, seed: int) -> Trained:
    """Bases, experts and joint net of a seed; experts all at once."""
    rng, tasks = np.random.default_rng(seed), family.tasks
    draw = lambda steps, members, size: rng.integers(size, size=(steps, members, family.batch))
    start = ws.population.stack([family.net.init(jax.random.key(seed))])
    base = fit(family, start, *family.base, draw(family.before, 1, len(family.base[0])))
    x, y = (part.reshape(-1, *part.shape[2:]) for part in family.train)
    size = len(x) // tasks
    own = draw(family.steps, tasks, size) + size * np.arange(tasks)[:, None]
    starts = jax.tree.map(lambda leaf: jnp.repeat(leaf, tasks, 0), base)
    experts = fit(family, starts, x, y, own)
    joint = fit(family, base, x, y, draw(family.steps * tasks, 1, len(x)))
    member = lambda population: ws.population.member(population, 0)
    return Trained(member(base), experts, member(joint))
