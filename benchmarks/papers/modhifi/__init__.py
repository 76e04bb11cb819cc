"""Units that make a layer's output alone: pruning, and forgetting a class, without a loss."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import wslax as ws
from benchmarks.papers.modhifi.forgetting import forgotten
from benchmarks.papers.rethinking import RATES, STEPS, tried
from benchmarks.papers.rethinking.cases import Case, cases, l1, makers
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Pruning and forgetting by inputs alone"
PAPER = "Kashyap et al., ModHiFi, arXiv:2511.19566"
ABOUT = """
The large nets of *What pruning is worth beside training from scratch*: an MLP on MNIST, three
convolutions on CIFAR-10-JPEG. 30, 50, 70 and 90% of the units of every hidden layer go at once, and
nothing is tuned after. ModHiFi keeps those that make most of the layers' output alone
(`scores.fidelity`) and rescales them by least squares (`select.refit`); the others go by the
absolute sum of incoming weights (L1), by that of outgoing weights times the norm of what they meet
(Wanda, summed over a unit), by mean activity, or at random. Inputs are 1,000 training images, no
labels, or as many images of Gaussian noise of the data's one mean and variance. *Rescaled* is any
choice with the same least squares. Figures are points of test accuracy, the mean over the four
shares. Units are zeroed, not removed: so the convolutions' norm goes on over all channels, as the
batch norms of the paper's nets do, which are a channel's own. To forget a class, units go that are
in the top share on 100 of its training images and not in the top share on as many of each other
class, in all hidden layers; the share of six from 5 to 70% is the one with the highest mean of
retained accuracy and forgotten error on validation images, one for all seeds and classes. Each of
the ten classes is forgotten in turn, and a seed's figure is their mean. *Activity* makes the same
sets by activity; *random* takes as many units of each layer as ModHiFi does at the same share.
Forgotten is read as below 5%, half of chance; that the others stay, as within 5 points.
"""
SHARES, IMAGES = (0.3, 0.5, 0.7, 0.9), 1000
OURS = "ModHiFi"
OTHERS = ("L1", "Wanda", "activity", "random")


@functools.partial(jax.jit, static_argnames="case")
def scored(case: Case, keys: Any, nets: Any, x: Any) -> tuple[Any, dict[int, Any]]:
    """Gram matrices, and by group the scores `[seeds, 1 + others, units]`."""
    groups, apply = case.groups, case.net(case.widths).apply
    read = makers(groups, "consumed")

    def one(key: Any, params: Any) -> Any:
        grams, norms = (
            ws.trace.taps(apply, params, x, read=kind, where=list(read.values()))
            for kind in ("gram", "norms")
        )
        wanda = ws.tree.named_leaves(ws.select.scores.wanda(params, norms))
        by = {
            OURS: ws.select.scores.fidelity(params, grams, groups),
            "L1": l1(params, groups),
            "Wanda": {
                id: wanda[name].reshape(-1, *wanda[name].shape[-2:]).sum((0, 2))
                for id, name in read.items()
            },
            "activity": ws.select.scores.activity(apply, params, groups, x),
        }
        by["random"] = {id: jr.uniform(jr.fold_in(key, id), s.shape) for id, s in by["L1"].items()}
        return grams, {id: jnp.stack([by[name][id] for name in (OURS, *OTHERS)]) for id in read}

    return jax.vmap(one)(keys, nets)


@functools.partial(jax.jit, static_argnames=("case", "id", "density"))
def gates(case: Case, nets: Any, grams: Any, scores: Any, *, id: int, density: float) -> Any:
    """For one group, as they are and rescaled, `[seeds, scores, 2, units]`."""

    def one(params: Any, grams: Any, score: Any) -> Any:
        kept = ws.select.units(case.groups, {id: score}, density=density)
        plain = jnp.zeros(score.shape).at[kept[id]].set(1)
        return jnp.stack([plain, ws.select.refit(params, grams, case.groups, kept)[id]])

    return jax.vmap(jax.vmap(one, (None, None, 0)))(nets, grams, scores)


@functools.partial(jax.jit, static_argnames="case")
def right(case: Case, nets: Any, gated: Any, part: Any) -> Any:
    """Accuracies `[seeds, scores, 2]` of gated nets."""

    def one(params: Any, gates: Any) -> Any:
        params = ws.select.gate(params, case.groups, gates)
        return ws.nets.accuracy(case.apply(params, part[0]), part[1])

    each = jax.vmap(jax.vmap(one, (None, 0)), (None, 0))
    return jax.lax.map(lambda seed: each(*seed), (nets, gated))


def pruned(case: Case, keys: Any, nets: Any, x: Any) -> np.ndarray:
    """Test accuracies in percent `[shares, seeds, 1 + others, 2]`."""
    grams, scores = scored(case, keys, nets, x)
    found = []
    for share in SHARES:
        # One group a call: decompositions that run side by side wait for each other's threads.
        make = lambda id, s, share=share: gates(case, nets, grams, s, id=id, density=1 - share)
        found.append(right(case, nets, {id: make(id, s) for id, s in scores.items()},
                           case.parts[2]))  # fmt: skip
    return 100 * np.stack(found)


def noise(x: np.ndarray) -> np.ndarray:
    """Images of noise with the mean and the variance of all that there are."""
    drawn = np.random.default_rng(0).normal(x.mean(), x.std(), (IMAGES, *x.shape[1:]))
    return drawn.astype(np.float32)


def by_way(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Accuracies `[shares, seeds]` of every way to prune, from those by inputs."""
    images, drawn = found["images"], found["noise"]
    ways = {OURS: images[..., 0, 1], f"{OURS}, by noise": drawn[..., 0, 1]}
    ways["fidelity, not rescaled"] = images[..., 0, 0]
    for i, name in enumerate(OTHERS, 1):
        ways |= {name: images[..., i, 0], f"{name}, rescaled": images[..., i, 1]}
    return ways


def claims(data: str, ways: dict[str, np.ndarray]) -> list[Claim]:
    mean = {name: values.mean(0) for name, values in ways.items()}

    def less(says: str, one: str, other: str) -> Claim:
        what = f"{data}: accuracy of {one} less that of {other}, points"
        return Claim(says, what, (mean[one] - mean[other]).tolist(), "> 0")

    blind = f"{OURS}, by noise"
    return [
        *(less("pruned nets keep more accuracy", OURS, name) for name in OTHERS),
        *(less("also without any data", blind, name) for name in ("L1", "random")),
        *(less("by the choice of units", OURS, f"{name}, rescaled") for name in ("L1", "random")),
        less("and by their scale", OURS, "fidelity, not rescaled"),
    ]


def forgetting_claims(data: str, found: dict[str, np.ndarray]) -> list[Claim]:
    """From accuracies `[seeds, 2]` on the class and on the others."""
    ours, score = found[OURS], {name: (100 - x[:, 0] + x[:, 1]) / 2 for name, x in found.items()}
    kept = ours[:, 1] - found["before"][:, 1]
    return [
        Claim("a class is forgotten", f"{data}: its accuracy, %", ours[:, 0].tolist(), "< 5"),
        Claim("the others stay", f"{data}: their accuracy less that before", kept.tolist(), "> -5"),
        *(
            Claim(
                "fidelity finds the units of a class",
                f"{data}: mean of forgotten error and kept accuracy, {OURS} less {name}, points",
                (score[OURS] - score[name]).tolist(), "> 0",
            )
            for name in ("activity", "random")
        ),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    found, skipped = cases()
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    for case in found:
        keys = jax.vmap(jr.key)(jnp.arange(seeds))
        nets, _ = tried(case, keys, jax.vmap(case.net(case.widths).init)(keys), RATES, STEPS)
        x = case.parts[0][0]
        inputs = {"images": x[:IMAGES], "noise": noise(x)}
        ways = by_way({name: pruned(case, keys, nets, rows) for name, rows in inputs.items()})
        left = forgotten(case, nets)
        told += claims(case.name, ways) + forgetting_claims(case.name, left)
        tables[f"{case.name}: test accuracy, %, by the share of units that go"] = [
            {"way": name} | {f"{s:.0%}": v.tolist() for s, v in zip(SHARES, values, strict=True)}
            for name, values in ways.items()
        ]
        tables[f"{case.name}: a class is forgotten, test accuracy, %"] = [
            {"way": name, "on the class": x[:, 0].tolist(), "on the others": x[:, 1].tolist()}
            for name, x in left.items()
        ]
    return Outcome(told, tables, skipped)
