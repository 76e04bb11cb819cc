"""Stage 6: a new condition from few images, by LIFT, a random mask and full fine-tuning."""

import functools
import itertools
from typing import Any

import jax
import numpy as np
import optax

from wslax import population, random, select, tree
from wslax.recipes.result import Column, Estimate, Figure, Section, Series, Table
from wslax.recipes.tour import measure
from wslax.recipes.tour.config import Adapt
from wslax.recipes.tour.task import TARGET
from wslax.recipes.tour.training import (
    Context,
    Outcome,
    batches,
    dense,
    loss,
    member,
    repeat,
    start,
    train,
)

KERNELS = "hidden_*/kernel"
ARMS = ("full fine-tuning", "LIFT", "random mask")
_TRAINED = ("full fine-tuning", "random mask", "LIFT")


@functools.cache
def _lift(config: Adapt) -> population.Trainer:

    def optimizer(learning_rate: Any) -> optax.GradientTransformation:
        adam = optax.scale_by_adam()
        chosen = select.lift(
            adam, rank=config.rank, density=config.density, refresh_every=config.refresh,
            where=KERNELS,
        )  # fmt: skip
        return optax.chain(chosen, optax.scale_by_learning_rate(learning_rate))

    return population.step_from_loss(loss, optax.inject_hyperparams(optimizer)(learning_rate=0.0))


def random_mask(seed: int, params: Any, density: float) -> Any:
    """Exactly `round(density * n)` weights of each hidden kernel, and nothing else.

    Example:
        >>> mask = random_mask(0, {"hidden_0": {"kernel": np.zeros((4, 5))}}, 0.25)
        >>> int(mask["hidden_0"]["kernel"].sum())
        5
    """

    def of(name: str, leaf: Any) -> Any:
        if not tree.matches(name, KERNELS):
            return np.zeros(leaf.shape, bool)
        order = np.argsort(random.bits(seed, f"tour/mask/{name}", leaf.size), kind="stable")
        mask = np.zeros(leaf.size, bool)
        mask[order[: round(density * leaf.size)]] = True
        return mask.reshape(leaf.shape)

    return tree.map_named(of, params)


def _target(context: Context, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Other images of the new condition for each seed."""
    part = context.task.train
    order = np.argsort(random.bits(seed, "tour/adapt", len(part.y)), kind="stable")
    rows = order[: context.config.adapt.images]
    return part.x[-1, rows], part.y[rows]


def _members(context: Context, trainer: Any, params: Any, rates: Any, masks: Any) -> Any:
    """All rates with all seeds, the seeds of a rate together."""
    config = context.config
    count = len(rates) * config.seeds
    data = [_target(context, config.seed + i) for i in range(config.seeds)] * len(rates)
    hyper = {
        "x": np.stack([x for x, _ in data]), "y": np.stack([y for _, y in data]),
        "learning_rate": np.repeat(np.float32(rates), config.seeds),
    }  # fmt: skip
    if masks is not None:
        hyper["mask"] = jax.tree.map(lambda *m: np.stack(m), *masks)
    return start(trainer, repeat(params, count), hyper)


def _points(context: Context, members: Any) -> list[tuple[float, ...]]:
    """Target and source test accuracy, and target validation accuracy, of each member."""
    task, part = context.task, context.task.validation
    chosen = measure.fitness(members, part.x[-1], part.y)
    rows: list[tuple[float, ...]] = []
    for params, score in zip(population.unstack(members), chosen, strict=True):
        classes = np.asarray(measure.probabilities(params, task.test.x)).argmax(-1)
        source = measure.accuracy(task, measure.hits(task, classes)).value
        rows.append((float((classes[-1] == task.test.y).mean()), source, float(score)))
    return rows


def run(context: Context, params: Any) -> Outcome:
    """Adapt the trained net at every rate and seed, by each way.

    Full fine-tuning and the random mask are one program: full is a mask of ones.

    Returns:
      Parameters `adapted`: LIFT's net of the first seed at its chosen rate. Facts: `points`
      `[rates, seeds, (target, source)]` and `chosen`, the number of the rate of highest validation
      accuracy in the new condition, by arm.
    """
    config, seeds = context.config.adapt, context.config.seeds
    full = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
    drawn = [random_mask(context.config.seed + i, params, config.density) for i in range(seeds)]
    masks = [full] * seeds * len(config.rates) + drawn * len(config.sparse_rates)
    sizes = [config.images] * seeds
    # A seed has the same images in the same order at every rate and in every arm.
    order = batches(context.config.seed, "adapt", config.steps, sizes, config.batch)
    rows: list[tuple[float, ...]] = []
    for name, trainer, rates, chosen in (
        ("adapt, full and random", dense, (*config.rates, *config.sparse_rates), masks),
        ("adapt, LIFT", _lift(config), config.sparse_rates, None),
    ):
        members = _members(context, trainer, params, rates, chosen)
        indices = np.tile(order, (1, len(rates), 1))
        lifted, _ = train(context, name, trainer, members, indices)
        rows += _points(context, lifted)
    cuts = np.cumsum([len(config.rates) * seeds, len(config.sparse_rates) * seeds])
    parts = np.split(np.array(rows), cuts)
    arms = {arm: part.reshape(-1, seeds, 3) for arm, part in zip(_TRAINED, parts, strict=True)}
    chosen = {arm: int(found[..., 2].mean(1).argmax()) for arm, found in arms.items()}
    adapted = member(lifted, chosen["LIFT"] * seeds)
    changed = sum(jax.tree.leaves(jax.tree.map(lambda a, b: int((a != b).sum()), adapted, params)))
    facts = {
        "before": _points(context, repeat(params, 1))[0][:2],
        "points": {arm: arms[arm][..., :2].tolist() for arm in ARMS},
        "chosen": chosen,
        "changed": changed / tree.size(params),
    }
    return Outcome({"adapted": adapted}, {}, facts)


def kept_at(points: np.ndarray, level: float) -> float:
    """Most source accuracy at a target accuracy of `level` or more, along the line of rates.

    Args:
      points: `[rates, 2]`, target and source, in the order of rates; neighbours are joined.
      level: at most the largest target accuracy.

    Returns:
      The source accuracy.

    Example:
        >>> kept_at(np.array([[0.2, 0.9], [0.6, 0.5]]), 0.4)
        0.7
    """
    found = [source for target, source in points if target >= level]
    for (a, source_a), (b, source_b) in itertools.pairwise(points):
        if min(a, b) < level < max(a, b):
            found.append(source_a + (source_b - source_a) * (level - a) / (b - a))
    return float(np.round(max(found), 12))


def section(context: Context, outcome: Outcome) -> Section:
    """The stage on the page."""
    config, facts = context.config, outcome.facts
    points = {arm: np.array(facts["points"][arm]) for arm in ARMS}
    rates = {
        arm: config.adapt.rates if arm == ARMS[0] else config.adapt.sparse_rates for arm in ARMS
    }
    level = 0.95 * min(float(found[..., 0].max(0).min()) for found in points.values())
    kept = {
        arm: np.array([kept_at(found[:, i], level) for i in range(config.seeds)])
        for arm, found in points.items()
    }
    series, rows = [], []
    for arm, found in points.items():
        target = [measure.over_seeds(row) for row in found[..., 0]]
        source = [measure.over_seeds(row) for row in found[..., 1]]
        series.append(
            Series(
                arm, tuple(v.value for v in target), tuple(v.value for v in source),
                tuple(v.margin or 0 for v in target), tuple(v.margin or 0 for v in source),
                tuple(f"{rate:g}" for rate in rates[arm]),
            )
        )  # fmt: skip
        rows += [(arm, f"{r:g}", s, t) for r, s, t in zip(rates[arm], source, target, strict=True)]
    pareto = Figure(
        "adapt", "points",
        f"What is gained in the new condition against what is kept, {config.seeds} seeds",
        "Target accuracy against source accuracy, a line a method through its learning rates; up "
        "and to the right is better. Values are in the table below.",
        tuple(series), x="source: accuracy, old conditions",
        y=f"target: accuracy, {TARGET}",
    )  # fmt: skip
    table = Table(
        "adapt", "Accuracy after adaptation",
        (Column("method"), Column("learning rate"), Column("source", "percent"),
         Column("target", "percent")),
        (("before", "–", facts["before"][1], facts["before"][0]), *rows),
    )  # fmt: skip
    equal = Table(
        "equal",
        f"Source accuracy kept at a target accuracy of {100 * level:.1f}%, 95% of what every run "
        "reaches",
        (Column("method"), Column("source", "percent"), Column("LIFT's advantage", "points")),
        tuple(
            (arm, measure.over_seeds(kept[arm]),
             None if arm == "LIFT" else measure.over_seeds(kept["LIFT"] - kept[arm]))
            for arm in ARMS
        ),
    )  # fmt: skip
    gaps = {arm: measure.over_seeds(kept["LIFT"] - kept[arm]) for arm in (ARMS[0], ARMS[2])}
    said = [
        measure.phrase(gaps[ARMS[0]], "full fine-tuning"),
        measure.phrase(gaps[ARMS[2]], "a random mask of the same size"),
    ]
    mean: Estimate = measure.over_seeds(kept["LIFT"])
    return Section(
        "adapt", "Adapt to a new condition",
        f"The net learns digits turned by ninety degrees from {config.adapt.images} images, while "
        f"nothing reminds it of the old conditions. LIFT trains the {100 * config.adapt.density:g}%"
        " of the hidden kernels that a low-rank approximation finds principal; the random mask as "
        "many, chosen by lot. Rates differ between methods, so they are compared at equal target "
        "accuracy.",
        f"At {100 * level:.1f}% in the new condition LIFT keeps {100 * mean.value:.1f}% in the old "
        f"ones: {said[0]}, and {said[1]}.",
        (pareto,), (equal, table),
    )  # fmt: skip
