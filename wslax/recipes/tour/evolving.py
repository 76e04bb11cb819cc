"""Stage 4: GENOME on a few validation images."""

import functools
from typing import Any

import jax
import numpy as np

from wslax import evolve
from wslax.recipes.result import Column, Figure, Section, Series, Table
from wslax.recipes.tour import experts, measure, merging
from wslax.recipes.tour.task import samples
from wslax.recipes.tour.training import Context, Outcome, member


def _search(context: Context, first: Any, evaluate: Any) -> evolve.Run:
    config = context.config.evolve

    def tell(generation: int, state: Any, info: evolve.Info) -> None:
        context.tell(generation, config.generations, f"best {100 * float(info.best[-1]):.1f}%")

    folder = context.store.folder
    return evolve.run(
        evolve.genome(sigma=config.sigma), first, evaluate, key=context.config.seed,
        generations=config.generations, direction="maximize",
        folder=folder and folder / "genome", resume=folder is not None, on_segment=tell,
    )  # fmt: skip


def _family(end: evolve.Run) -> dict[str, Any]:
    """Everyone who was born, and the ancestors of the best with whom they descend from."""
    family = evolve.ancestry(end)
    place = {birth.id: i for i, birth in enumerate(family)}
    births = evolve.births(end).values()
    at = lambda some: [[birth.generation, birth.fitness] for birth in some]
    return {
        "survived": at(b for b in births if b.survived and b.id not in place),
        "died": at(b for b in births if not b.survived and b.id not in place),
        "family": at(family),
        "links": [[place[parent], place[b.id]] for b in family for parent in b.parents],
    }


def _tree(context: Context, facts: Any) -> Figure:
    label = {
        "died": "did not survive", "survived": "survived", "family": "the best and its ancestors",
    }  # fmt: skip
    series = tuple(
        Series(
            label[what], tuple(y for _, y in facts[what]), tuple(float(x) for x, _ in facts[what])
        )
        for what in label
    )
    founders = sum(generation == 0 for generation, _ in facts["family"])
    return Figure(
        "family", "family", "The family tree of the best",
        f"The best member of generation {context.config.evolve.generations} descends from "
        f"{founders} of the {context.config.evolve.population} first members, through "
        f"{len(facts['family']) - founders - 1} others.",
        series, x="generation", y="validation accuracy",
        links=tuple((parent, child) for parent, child in facts["links"]),
    )  # fmt: skip


def _at_random(context: Context, draw: Any, evaluate: Any, count: int) -> tuple[Any, float]:
    """The best of `count` random merges of pairs: what GENOME does without its search."""
    size, best, top = context.config.evolve.population, None, -1.0
    for turn in range(-(-count // size)):
        key = jax.random.fold_in(jax.random.key(context.config.seed), 1_000_000 + turn)
        drawn = draw(key)
        fitness = np.asarray(evaluate(drawn))[: count - turn * size]
        if fitness.max() > top:
            best, top = member(drawn, int(fitness.argmax())), fitness.max()
    return best, float(top)


def run(context: Context, before: Outcome) -> Outcome:
    """Evolve merges of pairs of experts; compare with as many merges at random.

    Returns:
      Parameters `evolved` and `random`; hits of both and of the vote of the best (`vote`).
    """
    task, config = context.task, context.config.evolve
    images = jax.device_put(samples(task, task.validation, context.config.samples))
    pool = before.params["experts"]

    def evaluate(members: Any) -> Any:
        return measure.fitness(members, *images)

    key = jax.random.key(context.config.seed)
    init = jax.jit(functools.partial(evolve.genome_init, n=config.population))

    def draw(key: Any) -> Any:
        return init(key, pool)

    first = draw(key)
    end = _search(context, first, evaluate)
    members, founders = end.members, np.asarray(end.founders.fitness)
    curve = [[float(founders.max()), float(founders.mean())]]
    if end.history is not None:
        curve += np.stack([end.history.best, end.history.mean], 1).tolist()
    order = np.argsort(-np.asarray(members.fitness), kind="stable")
    bred = jax.device_get(members.params)
    evolved = member(bred, int(order[0]))
    # What GENOME's population is plus its children, a generation.
    state = evolve.genome(sigma=config.sigma).init(key, first, members.fitness)
    count = config.population + config.generations * len(state.parents)
    drawn, drawn_fitness = _at_random(context, draw, evaluate, count)
    voters = [member(bred, int(i)) for i in order[: config.voters]]
    outputs = np.stack([np.asarray(measure.probabilities(m, task.test.x)) for m in voters])
    found = {
        "evolved": measure.judge(task, evolved),
        "random": measure.judge(task, drawn),
        "vote": measure.hits(task, merging.vote(outputs)),
    }
    facts = {
        "family": _family(end), "curve": curve, "evaluations": count, "validation": curve[-1][0],
        "random": drawn_fitness,
    }  # fmt: skip
    return Outcome({"evolved": evolved, "random": drawn}, found, facts)


def section(context: Context, first: Outcome, merged: Outcome, outcome: Outcome) -> Section:
    """The stage on the page."""
    task, config = context.task, context.config.evolve
    single, top = experts.best(context, first), merging.best(merged)
    curve = np.array(outcome.facts["curve"])
    turns = tuple(map(float, range(len(curve))))
    level = max(first.facts["validation"])
    lines = Figure(
        "genome", "lines", f"Fitness: accuracy on {context.config.samples} validation images",
        f"Best fitness rises from {100 * curve[0, 0]:.1f}% to {100 * curve[-1, 0]:.1f}% over "
        f"{config.generations} generations, the mean from {100 * curve[0, 1]:.1f}% to "
        f"{100 * curve[-1, 1]:.1f}%; the best single expert has {100 * level:.1f}%.",
        (Series("best member", tuple(map(float, curve[:, 0])), turns),
         Series("mean of the population", tuple(map(float, curve[:, 1])), turns)),
        x="generation", y="validation accuracy",
        references={"best single expert": level, top: merged.facts[top]["validation"]},
    )  # fmt: skip
    rows = {
        f"GENOME, best of {config.population}": (
            outcome.facts["validation"], outcome.hits["evolved"]),
        f"best of {outcome.facts['evaluations']} merges of pairs at random": (
            outcome.facts["random"], outcome.hits["random"]),
        f"best merge ({top})": (merged.facts[top]["validation"], merged.hits[top]),
        f"best single expert ({single})": (level, first.hits[single]),
        f"majority vote of the best {config.voters}": (None, outcome.hits["vote"]),
        "majority vote of the experts": (None, merged.hits["vote"]),
    }  # fmt: skip
    table = Table(
        "genome", "GENOME beside its alternatives",
        (Column("model"), Column("validation", "percent"), Column("test", "percent"),
         Column("GENOME's advantage", "points")),
        tuple(
            (label, chosen, measure.accuracy(task, found),
             None if i == 0 else measure.difference(task, outcome.hits["evolved"], found))
            for i, (label, (chosen, found)) in enumerate(rows.items())
        ), (0,),
    )  # fmt: skip
    gaps = {
        f"the best single expert ({single})": first.hits[single],
        f"the best merge ({top})": merged.hits[top],
        "as many merges at random": outcome.hits["random"],
    }
    said = [
        measure.phrase(measure.difference(task, outcome.hits["evolved"], found), other)
        for other, found in gaps.items()
    ]
    return Section(
        "evolve", "Breed them",
        f"GENOME starts from {config.population} merges of random pairs of experts and breeds them "
        f"for {config.generations} generations by fitness-weighted merging and sparse mutation. "
        f"Fitness, the accuracy on {context.config.samples} validation images, is maximised.",
        f"The best member reaches {100 * measure.accuracy(task, outcome.hits['evolved']).value:.1f}"
        f"% on test images: {said[0]}, {said[1]}, and {said[2]}.",
        (lines, _tree(context, outcome.facts["family"])), (table,),
    )  # fmt: skip
