"""Stage 2: every merging method, each with the best of its settings on the validation images."""

import functools
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from wslax import merge, population
from wslax.recipes.result import Column, Figure, Section, Series, Table
from wslax.recipes.tour import experts, measure
from wslax.recipes.tour.task import samples
from wslax.recipes.tour.training import Context, Outcome, member


class Candidate(NamedTuple):
    """One merge: which experts, and the values of the parameters that were varied."""

    members: tuple[int, ...]
    values: dict[str, float]


def candidates(method: merge.Method, count: int, grids: dict[str, Any]) -> Iterator[Candidate]:
    """The merges tried: all groups of experts where a method takes only few, all settings.

    Example:
        >>> len(list(candidates(merge.METHODS["slerp"], 5, {"t": (0.25, 0.5)})))
        20
    """
    size = count if method.most is None else min(count, method.most)
    names = [param.name for param in method.params if param.name in grids]
    for members in itertools.combinations(range(count), size):
        for values in itertools.product(*(grids[name] for name in names)):
            yield Candidate(members, dict(zip(names, values, strict=True)))


@functools.partial(jax.jit, static_argnames="name")
def _merged(name: str, members: Any, base: Any, values: Any, key: Any) -> Any:
    method = merge.METHODS[name]
    fixed = {param.name: param.default for param in method.params}
    return merge.run(method, members, base, {**fixed, **values}, key=key)


def _best_of(method: merge.Method, pool: Any, base: Any, context: Context) -> tuple[Any, dict]:
    images = samples(context.task, context.task.validation, context.config.samples)
    settings = context.config.merge
    grids = {"lam": settings.lam, "density": settings.density, "t": settings.t}
    tried = list(candidates(method, population.size(pool), grids))
    key = jax.random.key(context.config.seed) if method.random else None
    models = [
        _merged(
            method.name,
            member(pool, list(tried_.members)), base if method.base == "required" else None,
            {name: np.float32(value) for name, value in tried_.values.items()},
            key,
        )
        for tried_ in tried
    ]  # fmt: skip
    scores = [float(_score(model, *images)) for model in models]
    chosen = int(np.argmax(scores))
    facts = {
        "members": tried[chosen].members, "values": tried[chosen].values,
        "validation": scores[chosen], "tried": len(tried),
    }  # fmt: skip
    return jax.device_get(models[chosen]), facts


@jax.jit
def _score(params: Any, x: Any, y: Any) -> Any:
    return measure.fitness(jax.tree.map(lambda leaf: leaf[None], params), x, y)[0]


def run(context: Context, before: Outcome) -> Outcome:
    """Merge the experts by every method of the registry.

    Returns:
      Parameters: the best model of each method by its name; hits of each, of the ensemble of all
      experts (`ensemble`, mean of probabilities) and of their majority vote (`vote`).
    """
    task, pool = context.task, before.params["experts"]
    params, found, facts = {}, {}, {}
    # Compiling takes longer than merging, and two threads can do it at once.
    with ThreadPoolExecutor(2) as threads:
        jobs = {
            name: threads.submit(_best_of, method, pool, before.params["base"], context)
            for name, method in merge.METHODS.items()
        }
        for done, (name, job) in enumerate(jobs.items()):
            context.tell(done, len(jobs), name)
            params[name], facts[name] = job.result()
            found[name] = measure.judge(task, params[name])
    outputs = np.stack(
        [np.asarray(measure.probabilities(m, task.test.x)) for m in population.unstack(pool)]
    )
    found["ensemble"] = measure.hits(task, outputs.mean(0).argmax(-1))
    found["vote"] = measure.hits(task, vote(outputs))
    return Outcome(params, found, facts)


def vote(outputs: np.ndarray) -> np.ndarray:
    """The class most members name; ties go to the larger sum of probabilities.

    Args:
      outputs: probabilities `[members, ..., classes]`.

    Returns:
      Classes `[...]`.

    Example:
        >>> vote(np.array([[[0.6, 0.4]], [[0.9, 0.1]], [[0.0, 1.0]]])).tolist()
        [0]
    """
    votes = np.eye(outputs.shape[-1])[outputs.argmax(-1)].sum(0)
    return np.argmax(votes + outputs.mean(0) / 2, -1)


def best(outcome: Outcome) -> str:
    """The method whose model is best on the validation images, copies of one expert aside."""
    several = {name: f for name, f in outcome.facts.items() if len(f["members"]) > 1}
    return max(several, key=lambda name: several[name]["validation"])


def _setting(context: Context, fact: dict[str, Any]) -> str:
    names = [condition.name for condition in context.task.conditions]
    words = [f"{name} {value:g}" for name, value in fact["values"].items()]
    if len(fact["members"]) < len(names):
        words.insert(0, " + ".join(names[i] for i in fact["members"]))
    return ", ".join(words) or "–"


def _row(context: Context, label: str, setting: str, found: np.ndarray) -> tuple[Any, ...]:
    each = map(float, measure.by_condition(context.task, found))
    return label, setting, measure.accuracy(context.task, found), *each


def section(context: Context, before: Outcome, outcome: Outcome) -> Section:
    """The stage on the page."""
    task, names = context.task, [condition.name for condition in context.task.conditions]
    single, top = experts.best(context, before), best(outcome)
    rows = [_row(context, "base", "before the experts", before.hits["base"])]
    rows += [_row(context, f"expert: {name}", "–", before.hits[name]) for name in names]
    single_row = 1 + names.index(single)
    merges = {
        name: _row(context, name, _setting(context, fact), outcome.hits[name])
        for name, fact in outcome.facts.items()
    }
    rows += merges.values()
    extra = {
        "ensemble": ("mean of 5 outputs", outcome.hits["ensemble"]),
        "majority vote": ("5 outputs", outcome.hits["vote"]),
        "one net on everything": ("same steps as one expert", before.hits["joint"]),
    }
    rows += [_row(context, label, setting, found) for label, (setting, found) in extra.items()]
    table = Table(
        "merges", "Test accuracy by model and condition",
        (Column("model"), Column("setting"), Column("mean", "percent"),
         *(Column(name, "percent") for name in names)),
        tuple(rows), (single_row, next(i for i, row in enumerate(rows) if row[0] == top)),
    )  # fmt: skip
    shown = [rows[single_row], *merges.values(), *rows[-3:]]
    dots = Figure(
        "merges", "dots", "Mean test accuracy over the conditions, with 95% intervals",
        f"One row a model: the best single expert ({single}), each merging method, the ensemble, "
        "the majority vote and one net trained on everything; values are in the table below.",
        (Series("accuracy", tuple(row[2].value for row in shown),
                margin=tuple(row[2].margin for row in shown)),),
        x="mean test accuracy", categories=tuple(row[0] for row in shown),
        references={"best single expert": rows[single_row][2].value},
    )  # fmt: skip
    to_single = measure.difference(task, outcome.hits[top], before.hits[single])
    to_ensemble = measure.difference(task, outcome.hits[top], outcome.hits["ensemble"])
    mean = measure.accuracy(task, outcome.hits[top])
    joint = measure.accuracy(task, before.hits["joint"])
    return Section(
        "merge", "Merge them",
        f"Every method of the registry merges the experts into one net of the same size. Settings "
        f"are chosen on {context.config.samples} validation images, never on test images.",
        f"{top} reaches {100 * mean.value:.1f}% over all conditions: "
        f"{measure.phrase(to_single, f'the best single expert ({single})')}, and "
        f"{measure.phrase(to_ensemble, 'the ensemble of all five')}. One net trained on all "
        f"conditions at once, for as many steps as one expert, reaches {100 * joint.value:.1f}%.",
        (dots,), (table,),
    )  # fmt: skip
