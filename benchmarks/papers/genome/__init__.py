"""Experts bred from 200 examples: GENOME beside static merges, random merges and Model Swarms."""

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

import wslax as ws
from benchmarks.papers.merging.families import Family, available, seen_as
from benchmarks.papers.merging.methods import measures, with_coefficient, without_coefficient
from benchmarks.papers.merging.training import trained
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Experts bred from 200 examples"
PAPER = (
    "Zhang et al., GENOME, arXiv:2503.01155; Feng et al., Model Swarms, arXiv:2410.11163, for "
    "comparison"
)
ABOUT = """
Bases and four experts as in "One model from experts of several tasks", and as a third family near
the base digits tilted by 40 and 20 degrees to either side, added after a trial on another seed in
which merges of pairs of far tasks fell behind the best expert. Fitness is the accuracy on
200 examples, 50 of each task's validation part; static merges choose their coefficient from 9 on
the same examples, and the best of all 19 is chosen on them too. GENOME has 10 members (as in
the authors' script; also 4, 20 and 40) and 50 generations, all else as `evolve.genome` has it.
Beside it stand the best of as many merges of random pairs as GENOME evaluates, which is its search
without the search, and Model Swarms on the same first members, with as many evaluations. The vote
is of the best five members of the last population. A condition that no expert has seen shows
images with rows and columns exchanged, or digits tilted by 60 degrees. Figures are accuracies on
test parts, the mean of the four tasks. The paper's members are LoRA adapters of one Gemma-2-2b and
its tasks are language tasks; here all weights are crossed, and the nets have two hidden layers.
"""
SIZES = (4, 10, 20, 40)
ANGLES, UNSEEN = (-40, -20, 20, 40), 60
SIZE, GENERATIONS, VOTERS, EACH = 10, 50, 5, 50


class Case(NamedTuple):
    """A family of tasks, the same with 50 validation examples a task, and a task it has not."""

    whole: Family
    few: Family
    unseen: tuple[Any, Any]


def case(whole: Family, unseen: tuple[Any, Any]) -> Case:
    x, y = whole.validation
    few = dataclasses.replace(whole, validation=(x[:, :EACH], y[:, :EACH]))
    return Case(whole, few, seen_as([lambda x: x], *unseen))


def near() -> Case:
    """Tasks near the base: digits tilted to either side."""
    data = ws.data.mnist()
    turn = lambda x, degrees: ndimage.rotate(x, degrees, axes=(2, 1), reshape=False, order=1)
    views = [functools.partial(turn, degrees=angle) for angle in ANGLES]
    (x, y), validation, test = data.train, data.validation, data.test
    whole = Family(
        "MNIST, tilted", ws.nets.mlp(784, (128, 128), 10), (x[:1500], y[:1500]),
        *(seen_as(views, *part) for part in ((x[1500:], y[1500:]), validation, test)),
        before=400, steps=200, batch=50,
    )  # fmt: skip
    return case(whole, (turn(test[0], UNSEEN), test[1]))


def far(whole: Family) -> Case:
    """Tasks far from the base and from each other; the first is a quarter turn."""
    x, y = whole.test
    return case(whole, (np.swapaxes(np.rot90(x[0], -1, (1, 2)), 1, 2), y[0]))


@functools.cache
def scorer(family: Family) -> Any:
    """`population -> mean accuracy on the validation examples`, one object a family."""
    of = measures(family)
    return jax.jit(jax.vmap(lambda params: of.tasks(params, family.validation).mean()))


def best(members: Any, fitness: Any) -> Any:
    return ws.population.member(members, int(np.argmax(fitness)))


def at_random(family: Family, experts: Any, seed: int, count: int) -> Any:
    """The best of `count` merges of random pairs."""
    drawn = ws.evolve.genome_init(jax.random.key(1000 + seed), experts, count)
    return best(drawn, scorer(family)(drawn))


def bred(family: Family, experts: Any, seed: int, size: int, strategy: ws.evolve.Strategy) -> Any:
    key = jax.random.key(seed)
    first = ws.evolve.genome_init(key, experts, size)
    return ws.evolve.run(
        strategy, first, scorer(family), key=key, generations=GENERATIONS, direction="maximize",
        segment=GENERATIONS,
    )  # fmt: skip


def vote(family: Family, members: Any, part: Any) -> float:
    """Accuracy of the majority of members, ties to the lower class."""
    logits = lambda x: jax.vmap(lambda p: family.net.apply(p, x))(members)
    voices = lambda z: jax.nn.one_hot(z.argmax(-1), z.shape[-1]).sum(0)
    hits = lambda x, y: (voices(logits(x)).argmax(-1) == y).mean()
    return float(jax.vmap(hits)(*part).mean())


def accuracies(of_case: Case, seed: int) -> dict[str, float]:
    """Every model of a seed: on the test parts, on the unseen condition, and of each size."""
    whole, family, new = of_case
    nets = trained(whole, seed)
    of, score = measures(family), scorer(family)
    test = lambda params: float(of.tasks(params, family.test).mean())
    expert = best(nets.experts, score(nets.experts))
    merges = without_coefficient(family, nets, seed) | with_coefficient(family, nets, seed)
    stacked = ws.population.stack(list(merges.values()))
    merged = best(stacked, score(stacked))
    runs = {n: bred(family, nets.experts, seed, n, ws.evolve.genome()) for n in SIZES}
    end = runs[SIZE]
    ours = best(end.members.params, end.members.fitness)
    swarm_steps = ws.evolve.model_swarm()
    swarm = bred(family, nets.experts, seed, SIZE, swarm_steps).state.top[0]
    top = np.argsort(-np.asarray(end.members.fitness), kind="stable")[:VOTERS]
    found = {
        "best expert": test(expert),
        "best static merge": test(merged),
        "random merges, as many": test(at_random(family, nets.experts, seed, end.evaluations)),
        "Model Swarms": test(swarm),
        "GENOME": test(ours),
        "vote of GENOME's best five": vote(
            family, ws.population.take(end.members.params, jnp.asarray(top)), family.test
        ),
        "trained on all tasks": test(nets.joint),
    }
    found |= {f"GENOME, {n} members": test(best(*run.members[:2])) for n, run in runs.items()}
    models = {"best expert": expert, "best static merge": merged, "GENOME": ours}
    return found | {
        f"unseen: {name}": float(of.tasks(params, new).mean()) for name, params in models.items()
    }


PAIRS = (
    ("better than the best initial expert", "GENOME", "best expert"),
    ("better than every merge without a search", "GENOME", "best static merge"),
    ("the search finds it: better than random merges", "GENOME", "random merges, as many"),
    ("better than Model Swarms", "GENOME", "Model Swarms"),
    ("scales to 40 members: better than with 4", "GENOME, 40 members", "GENOME, 4 members"),
    ("the ensemble improves on the best member", "vote of GENOME's best five", "GENOME"),
    ("transfers to an unseen task: better than the best expert", "unseen: GENOME",
     "unseen: best expert"),
)  # fmt: skip


def claims(data: str, columns: Mapping[str, list[float]]) -> list[Claim]:
    return [
        Claim(
            says,
            f"{data}: accuracy of {more} less that of {less}",
            [a - b for a, b in zip(columns[more], columns[less], strict=True)],
            "> 0",
        )
        for says, more, less in PAIRS
    ]


def compared(cases: Sequence[Case], seeds: int, missing: Sequence[str]) -> Outcome:
    """Claims and figures of every case."""
    told, columns = [], {}
    for one in cases:
        rows, name = [accuracies(one, seed) for seed in range(seeds)], one.whole.name
        columns[name] = {model: [row[model] for row in rows] for model in rows[0]}
        told += claims(name, columns[name])
    names = next(iter(columns.values()))
    table = [{"model": n, **{data: column[n] for data, column in columns.items()}} for n in names]
    return Outcome(told, {"Mean accuracy": table}, missing)


def measure(seeds: int) -> Outcome:
    mine, missing = available()
    for text in missing:
        print(text, file=sys.stderr)
    return compared((near(), *map(far, mine)), seeds, missing)
