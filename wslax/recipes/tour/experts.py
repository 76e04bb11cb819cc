"""Stage 1: a common base, and one expert a condition."""

from typing import Any

import jax
import numpy as np

from wslax import nets, population
from wslax.recipes.result import Column, Figure, Section, Series, Table
from wslax.recipes.tour import measure
from wslax.recipes.tour.task import members_of, samples
from wslax.recipes.tour.training import (
    Context,
    Outcome,
    batches,
    dense,
    member,
    repeat,
    start,
    train,
)


def _base(context: Context) -> Any:
    config, part = context.config.experts, context.task.train
    net = nets.mlp(784, config.hidden, 10)
    params = jax.jit(lambda key: population.init(net.init, key, 1))(
        jax.random.key(context.config.seed)
    )
    hyper = {
        "x": part.x[:1], "y": part.y[None], "learning_rate": np.full(1, config.rate, np.float32),
    }  # fmt: skip
    indices = batches(context.config.seed, "base", config.base_steps, [len(part.y)], config.batch)
    params, _ = train(context, "base", dense, start(dense, params, hyper), indices)
    return member(params, 0)


def _data(context: Context) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Images of each condition, the number of distinct ones, and last a share of everything."""
    task, part = context.task, context.task.train
    n = len(part.y)
    x, y, sizes = [], [], []
    for condition, inside in zip(task.conditions, members_of(task, part), strict=True):
        rows = np.flatnonzero(inside)
        sizes.append(len(rows))
        rows = np.resize(rows, n)
        x.append(part.x[condition.view, rows])
        y.append(part.y[rows])
    mixed = samples(task, part, n)
    sizes.append(len(mixed[1]))
    rows = np.resize(np.arange(len(mixed[1])), n)
    return np.stack([*x, mixed[0][rows]]), np.stack([*y, mixed[1][rows]]), sizes


def run(context: Context) -> Outcome:
    """Train the base, then all experts, and beside them one net on all conditions, by one call.

    Returns:
      Parameters `base`, `experts` (a population) and `joint`; hits of each.
    """
    config, task = context.config.experts, context.task
    base = _base(context)
    x, y, sizes = _data(context)
    count = len(sizes)
    hyper = {"x": x, "y": y, "learning_rate": np.full(count, config.rate, np.float32)}
    indices = batches(context.config.seed, "experts", config.steps, sizes, config.batch)
    params, _ = train(context, "experts", dense, start(dense, repeat(base, count), hyper), indices)
    experts, joint = member(params, slice(count - 1)), member(params, count - 1)
    named = {c.name: member(experts, i) for i, c in enumerate(task.conditions)}
    models = {"base": base, **named, "joint": joint}
    found = {name: measure.judge(task, model) for name, model in models.items()}
    images = samples(task, task.validation, context.config.samples)
    facts = {"validation": np.asarray(measure.fitness(experts, *images)).tolist()}
    return Outcome({"base": base, "experts": experts, "joint": joint}, found, facts)


def best(context: Context, outcome: Outcome) -> str:
    """The condition of the expert that is best on the validation images, over all conditions."""
    return context.task.conditions[int(np.argmax(outcome.facts["validation"]))].name


def section(context: Context, outcome: Outcome) -> Section:
    """The stage on the page."""
    task, found = context.task, outcome.hits
    names = [condition.name for condition in task.conditions]
    grid = {name: measure.by_condition(task, found[name]) for name in ("base", *names)}
    own = np.mean([grid[name][i] for i, name in enumerate(names)])
    others = np.mean([np.delete(grid[name], i).mean() for i, name in enumerate(names)])
    heat = Figure(
        "experts", "heat", "Test accuracy of each expert (rows) in each condition (columns)",
        "Heat map of test accuracies; the values are in the table of the merging stage.",
        tuple(Series(name, tuple(map(float, row))) for name, row in grid.items()),
        categories=tuple(names),
    )  # fmt: skip
    shown = task.test.x[:, [int(np.flatnonzero(task.test.y == k)[0]) for k in range(10)]]
    pictures = Figure(
        "views", "images", "The same test digits in every view",
        "Ten test digits, one a class, upright, tilted left, tilted right, noisy and turned by "
        "ninety degrees.",
        tuple(Series(name, ()) for name in task.views), images=shown / 255,
    )  # fmt: skip
    rows = tuple(
        (c.name, int(inside.sum()), int(test.sum()))
        for c, inside, test in zip(
            task.conditions, members_of(task, task.train), members_of(task, task.test), strict=True
        )
    )
    table = Table(
        "data", "Images of each condition",
        (Column("condition"), Column("training", "count"), Column("test", "count")), rows,
    )  # fmt: skip
    config = context.config.experts
    return Section(
        "experts", "Train a population of experts",
        f"A net of {' and '.join(map(str, config.hidden))} hidden units is trained on upright "
        f"digits for {config.base_steps} steps. From this base, one expert a condition is trained "
        f"for {config.steps} steps, all experts by one call.",
        f"On its own condition an expert reaches {100 * own:.1f}% on average, on the conditions of "
        f"the others {100 * others:.1f}%.",
        (pictures, heat), (table,),
    )  # fmt: skip
