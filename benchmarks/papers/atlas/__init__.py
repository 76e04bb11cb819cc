"""aTLAS: a coefficient for each task vector and block, against one for each task vector."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.merging.families import Family, available
from benchmarks.papers.merging.methods import measures
from benchmarks.papers.merging.training import Trained, trained
from benchmarks.papers.runner import Claim, Outcome
from wslax.merge.coefficients import learn, of_task_vectors, start_at

TITLE = "Task vectors scaled block by block"
PAPER = "Zhang et al., Knowledge composition using task vectors, arXiv:2407.02880"
ABOUT = """
The bases and experts of the experiment on merging, same data and seeds. *Few shots*: each task in
turn is new, and the task vectors of the other three are scaled to fit a few labelled examples of
it, 5 of each class; figures are accuracies on the new task's test part, the
mean over the four. *Addition*: all four task vectors are scaled to fit the tasks' validation parts,
on which task arithmetic has its one factor chosen. Coefficients start at 0 and take 100 steps of
AdamW at 2e-2 with the decay of 0.1 and the clip at 1 of the authors; a step sees all few shots, or
16 examples a task. One scalar for each task vector is trained in the same way. From few shots of
MNIST neither does better than the base: what the other tasks' vectors say is of no use to the new
one there, and the claim compares how little is lost.
"""
SHOTS = (5,)
STEPS, BATCH = 100, 16
KINDS = {"one scalar for each task vector": False, "block-wise": True}


@functools.cache
def adamw() -> Any:
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(2e-2, weight_decay=0.1))


@functools.cache
def objective(family: Family) -> Callable[[Any, Any], Any]:
    """Cross-entropy on `(x[T, n, ...], y[T, n])`."""
    logits = measures(family).logits
    return lambda params, batch: ws.nets.cross_entropy(logits(params, batch[0]), batch[1])


def scaled(family: Family, experts: Any, base: Any, batches: Any, per_leaf: bool) -> Any:
    """The base and task vectors times coefficients, of each leaf or of the model."""
    mixing = of_task_vectors(experts, base)
    start = start_at(0.0, mixing, per_leaf=per_leaf)
    return learn(objective(family), adamw(), start, mixing, batches).params


def few(rng: np.random.Generator, labels: np.ndarray, shots: int) -> np.ndarray:
    """Rows of `shots` examples of each class."""
    kinds = [np.flatnonzero(labels == kind) for kind in np.unique(labels)]
    return np.concatenate([rng.permutation(rows)[:shots] for rows in kinds])


def new_tasks(family: Family, nets: Trained, seed: int) -> dict[str, Any]:
    """Mean accuracies on tasks that no task vector is of."""
    rng, tasks = np.random.default_rng(seed), measures(family).tasks
    found: dict[str, list[Any]] = {}
    for new in range(family.tasks):
        own = lambda part, new=new: tuple(a[new : new + 1] for a in part)
        (x, y), test = own(family.train), own(family.test)
        others = np.delete(np.arange(family.tasks), new)
        experts = ws.population.take(nets.experts, others)
        told = lambda params, test=test: float(tasks(params, test)[0])
        found.setdefault("base", []).append(told(nets.base))
        for shots in SHOTS:
            rows = few(rng, y[0], shots)
            shown = x[:, rows], y[:, rows]
            batches = jax.tree.map(lambda a: jnp.broadcast_to(a, (STEPS, *a.shape)), shown)
            for kind, per_leaf in KINDS.items():
                params = scaled(family, experts, nets.base, batches, per_leaf)
                found.setdefault(f"{kind}, {shots}", []).append(told(params))
    return {name: float(np.mean(values)) for name, values in found.items()}


def addition(family: Family, nets: Trained, seed: int) -> dict[str, Any]:
    """Mean accuracies on the tasks that the task vectors are of."""
    rng, of = np.random.default_rng(seed), measures(family)
    rows = rng.integers(len(family.validation[0][0]), size=(STEPS, BATCH))
    batches = tuple(np.moveaxis(a[:, rows], 1, 0) for a in family.validation)
    summed = ws.merge.task_arithmetic(nets.experts, nets.base)
    models = {"task arithmetic": of.chosen(summed, nets.base, family.validation)} | {
        kind: scaled(family, nets.experts, nets.base, batches, per_leaf)
        for kind, per_leaf in KINDS.items()
    }
    return {name: float(of.tasks(p, family.test).mean()) for name, p in models.items()}


def claims(data: str, new: Mapping[str, Any], added: Mapping[str, Any]) -> list[Claim]:
    less = lambda a, b: [y - x for x, y in zip(a, b, strict=True)]
    scalar, blocks = KINDS
    shots = [
        Claim(
            "coefficients for blocks learn a new task from few shots better than scalars do",
            f"{data}, {k} shots: accuracy of block-wise coefficients less that of scalars",
            less(new[f"{scalar}, {k}"], new[f"{blocks}, {k}"]), "> 0",
        )
        for k in SHOTS
    ]  # fmt: skip
    sums = [
        Claim(
            "task vectors scaled block by block add up better",
            f"{data}, addition: accuracy of block-wise coefficients less that of {rival}",
            less(added[rival], added[blocks]), "> 0",
        )
        for rival in ("task arithmetic", scalar)
    ]  # fmt: skip
    return shots + sums


def measure(seeds: int) -> Outcome:
    mine, missing = available()
    for text in missing:
        print(text, file=sys.stderr)
    told: list[Claim] = []
    new, added = {}, {}

    def columns(run: Any, family: Family) -> dict[str, Sequence[float]]:
        rows = [run(family, trained(family, seed), seed) for seed in range(seeds)]
        return {name: [row[name] for row in rows] for name in rows[0]}

    for family in mine:
        new[family.name] = columns(new_tasks, family)
        added[family.name] = columns(addition, family)
        told += claims(family.name, new[family.name], added[family.name])
    table = lambda found: [
        {"coefficients": name, **{data: column[name] for data, column in found.items()}}
        for name in next(iter(found.values()))
    ]
    tables = {"Accuracy on a new task": table(new), "Accuracy after addition": table(added)}
    return Outcome(told, tables, missing)
