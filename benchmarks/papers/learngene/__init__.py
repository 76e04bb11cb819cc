"""SWS Learngene: one small net with shared stages that starts nets of any depth."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import wslax as ws
from benchmarks.papers.data import cifar, told_missing
from benchmarks.papers.learngene import nets
from benchmarks.papers.merging.families import halved
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Nets of many depths from shared stages"
PAPER = "Xia et al., Learngene by stage-wise weight sharing (SWS), arXiv:2404.16897"
ABOUT = """
Residual MLPs (width 48, pre-normalised blocks) on digits of 8 x 8 and on 4,000 images of
CIFAR-10-JPEG, grey at 16 x 16. An auxiliary net of three stages of two layers each learns from a
teacher, twice as wide and of six layers, by its logits alone. Its three blocks then start nets of
3, 5, 7 and 9 layers, which train on for two epochs at 3e-4. Compared are nets from scratch (AdamW
at 1e-3, as many epochs as the auxiliary net), and starts from nets of six layers that learnt from
the same teacher in as many operations: one whose layers are not shared (a net of d layers takes
layer floor(6 i / d) at layer i), and one whose layers all are the same. Wrong order is the same
three stages, last first. Figures are test accuracies, in the claims the mean over depths. Costs are
operations counted in the compiled steps: the auxiliary net and all short trainings, against nets
from scratch trained until they do as well as those (or to their end, which flatters scratch). The
teacher is not in them, as in the paper, whose teacher was at hand; the paper's 6.6 and 20 are for
more depths, and for 100 epochs against 10.
"""
DEPTHS, LENGTHS, FEW = (3, 5, 7, 9), (2, 2, 2), 2
WIDTH = 48
KINDS = ("shared stages", "wrong order", "layers of their own", "one layer for all")


def orders(depth: int) -> dict[str, Sequence[int]]:
    """By kind: which block of its net each layer takes."""
    right = ws.grow.stages.spread(depth, len(LENGTHS))
    total = sum(LENGTHS)
    return dict(
        zip(
            KINDS,
            (
                right,
                [len(LENGTHS) - 1 - s for s in right],
                [total * i // depth for i in range(depth)],
                [0] * depth,
            ),
            strict=True,
        )
    )


def started(width: int, depth: int, features: int, seeds: int, salt: int) -> Any:
    """Members `[1, seeds]`."""
    keys = jax.vmap(lambda i: jr.fold_in(jr.key(salt), i))(jnp.arange(seeds))
    one = functools.partial(nets.init, width, depth, features)
    return jax.tree.map(lambda x: x[None], jax.vmap(one)(keys))


def ancestors(data: Any, epochs: int, seeds: int) -> tuple[Any, dict[str, Any]]:
    """Teachers `[seeds]`, and the nets that starts are taken from `[1, seeds]`."""
    features = data[0][0][0].size
    total = sum(LENGTHS)
    teachers, _ = nets.train(started(2 * WIDTH, total, features, seeds, 0), 1e-3, data, epochs)
    teachers = jax.tree.map(lambda x: x[0], teachers)

    def taught(lengths: tuple[int, ...]) -> Any:
        start = started(WIDTH, len(lengths), features, seeds, 1)
        return nets.train(start, 1e-3, data, epochs, lengths=lengths, teachers=teachers)[0]

    shared = taught(LENGTHS)
    found = (shared, shared, taught((1,) * total), taught((total,)))
    return teachers, dict(zip(KINDS, found, strict=True))


def starts(sources: Any) -> Any:
    """Members `[depths * kinds, seeds]`, all with as many blocks as the deepest."""

    def grown(kind: str, order: Sequence[int]) -> Any:
        padded = [*order, *[order[-1]] * (DEPTHS[-1] - len(order))]
        grow = lambda p: ws.grow.stages.expand(p, padded, where=nets.STAGES)
        return jax.vmap(jax.vmap(grow))(sources[kind])

    parts = [grown(*pair) for depth in DEPTHS for pair in orders(depth).items()]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def by_depth(sources: Any, data: Any, epochs: int, seeds: int) -> dict[int, dict[str, np.ndarray]]:
    """Depth to accuracies `[seeds]` by name; those from scratch `[seeds, epochs]`."""
    begin, layers = jax.jit(starts)(sources), jnp.repeat(jnp.array(DEPTHS), len(KINDS))
    at_once = np.asarray(nets.accuracies(begin, layers, data[1]))
    after = np.asarray(nets.train(begin, 3e-4, data, FEW, layers=layers)[1])
    fresh = started(WIDTH, DEPTHS[-1], data[0][0][0].size, seeds, 2)
    fresh = jax.tree.map(lambda x: jnp.repeat(x, len(DEPTHS), 0), fresh)
    scratch = np.asarray(nets.train(fresh, 1e-3, data, epochs, layers=jnp.array(DEPTHS))[1])
    return {
        depth: {kind: after[i * len(KINDS) + k, :, -1] for k, kind in enumerate(KINDS)}
        | {"scratch": scratch[i], "at once": at_once[i * len(KINDS)]}
        for i, depth in enumerate(DEPTHS)
    }


def costs(data: Any, epochs: int, found: Any) -> dict[str, Any]:
    """Operations and numbers stored, `[seeds]` where they depend on it."""
    (x, y), _ = data
    features = x[0].size
    draw = lambda width, depth: nets.init(width, depth, features, jr.key(0))
    aux, teacher = draw(WIDTH, len(LENGTHS)), draw(2 * WIDTH, sum(LENGTHS))
    epoch = {depth: nets.cost(draw(WIDTH, depth), x, y) for depth in DEPTHS}
    learnt = epochs * nets.cost(aux, x, y, LENGTHS, teacher)
    short = learnt + FEW * sum(epoch.values())
    until = 0.0
    for depth in DEPTHS:
        reached = found[depth]["scratch"] >= found[depth]["shared stages"][:, None]
        first = np.where(reached.any(1), reached.argmax(1) + 1, epochs)
        until = until + first * epoch[depth]
    stored = sum(ws.tree.size(draw(WIDTH, depth)) for depth in DEPTHS)
    return {
        "until as good": until / short,
        "all epochs": epochs * sum(epoch.values()) / short,
        "with the teacher": epochs
        * sum(epoch.values())
        / (short + epochs * nets.cost(teacher, x, y)),
        "stored": stored / ws.tree.size(aux),
    }


def claims(name: str, found: Any, cost: Any) -> list[Claim]:
    mean = lambda pick: np.mean([pick(found[depth]) for depth in DEPTHS], 0)
    ours = mean(lambda f: f["shared stages"])
    less = lambda other: (ours - other).tolist()
    after = f"{name}: accuracy after {FEW} epochs less that of "
    return [
        Claim(
            "a few epochs from the learngene are better than training from scratch",
            f"{after}nets from scratch after all epochs",
            less(mean(lambda f: f["scratch"][:, -1])), "> 0",
        ),
        Claim(
            "at equal epochs the learngene is far better than scratch",
            f"{after}nets from scratch after as many",
            less(mean(lambda f: f["scratch"][:, FEW - 1])), "> 0",
        ),
        Claim(
            "stages carry over to other depths better than layers that are not shared",
            f"{after}starts from layers of their own", less(mean(lambda f: f[KINDS[2]])), "> 0",
        ),
        Claim(
            "several stages are better than one layer shared by all",
            f"{after}starts from one layer for all", less(mean(lambda f: f[KINDS[3]])), "> 0",
        ),
        Claim(
            "the order of the stages matters",
            f"{after}starts in wrong order", less(mean(lambda f: f[KINDS[1]])), "> 0",
        ),
        Claim(
            "many depths cost 6.6 times less to train",
            f"{name}: operations of scratch, until as good, over those of the learngene",
            cost["until as good"].tolist(), "> 6.6",
        ),
    ]  # fmt: skip


def rows(found: Any) -> list[dict[str, Any]]:
    table = []
    for depth in DEPTHS:
        of = found[depth]
        table.append(
            {
                "layers": str(depth),
                "scratch, all epochs": of["scratch"][:, -1].tolist(),
                f"scratch, {FEW} epochs": of["scratch"][:, FEW - 1].tolist(),
                "shared stages, untrained": of["at once"].tolist(),
            }
            | {kind: of[kind].tolist() for kind in KINDS}
        )
    return table


def measure(seeds: int) -> Outcome:
    digits = ws.data.digits()
    jobs = {"digits": ((digits.train, digits.test), 40)}
    images = cifar(4_000, 1_000)
    skipped = told_missing(images)
    if images is not None:
        grey = [(halved(x).mean(-1), y) for x, y in images]
        jobs["CIFAR-10-JPEG"] = (tuple(grey), 15)
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    ratios = []
    for name, (data, epochs) in jobs.items():
        data = jax.tree.map(jnp.asarray, data)
        _, sources = ancestors(data, epochs, seeds)
        found = by_depth(sources, data, epochs, seeds)
        cost = costs(data, epochs, found)
        told += claims(name, found, cost)
        tables[f"Accuracy after {FEW} epochs, {name}"] = rows(found)
        shown = lambda ratio: f"{ratio:.1f}"
        ratios.append(
            {
                "data": name,
                "operations, scratch until as good": cost["until as good"].tolist(),
                "operations, scratch to the end": shown(cost["all epochs"]),
                "the same, with the teacher's": shown(cost["with the teacher"]),
                "numbers stored": shown(cost["stored"]),
            }
        )
    tables["Nets of all depths over the learngene: times as many"] = ratios
    return Outcome(told, tables, skipped)
