"""Pruned nets against the same small nets from random weights."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.counting import flops
from benchmarks.papers.fitting import fitted
from benchmarks.papers.rethinking.cases import Case, cases, l1
from benchmarks.papers.runner import Claim, Outcome

TITLE = "What pruning is worth beside training from scratch"
PAPER = "Liu et al., Rethinking the value of network pruning, arXiv:1810.05270"
ABOUT = """
An MLP of two hidden layers of 100 on 3,000 digits of MNIST, and three convolutions of 16, 32 and 64
channels, each normalised over all of them, on 6,000 images of CIFAR-10-JPEG at 16 x 16. It is
trained for 1,000 steps of 64 by SGD with momentum 0.9 and decay 1e-4, the rate falling to 0 by a
cosine. Then 30, 60 or 90% of the units of every hidden layer are removed, those with the least
absolute sum of incoming weights or any, and what is left is tuned for a quarter of the steps, as in
the paper. *Scratch-E* is the small net from random weights for all 1,000 steps; *Scratch-B* for as
many operations as the large net took (the paper caps it at twice the steps on ImageNet, here it is
four times). *Original weights* are those that the kept units had before training, trained as
Scratch-E. Rates are 0.1, 0.03 and 0.01, for tuning 0.003 as well; each way takes the one that is
best on validation data in the mean over seeds. Only the claim on original weights is compared at
one rate for both, the large net's. Figures are points of test accuracy; half a point is what
*no worse* and *no gain* are read as, the differences within which the paper calls results
comparable. So few steps favour what goes on from trained weights: the fine-tuned net has seen 1,250
steps, Scratch-E 1,000.
"""
STEPS, SHARES, LIMIT = 1000, (0.3, 0.6, 0.9), 4
RATES = (0.1, 0.03, 0.01)
TUNING = (*RATES, 0.003)


class Found(NamedTuple):
    """Accuracies `[rates, seeds]`."""

    validation: np.ndarray
    test: np.ndarray

    @property
    def best(self) -> int:
        """The rate, by number."""
        return int(self.validation.mean(1).argmax())


@functools.partial(jax.jit, static_argnames="apply")
def _run(apply: Any, keys: Any, params: Any, rate: Any, steps: Any, parts: Any) -> Any:
    falling = lambda count: rate * (1 + jnp.cos(jnp.pi * count / steps)) / 2
    rule = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(falling, momentum=0.9))
    loss = lambda params, x, y: ws.nets.cross_entropy(apply(params, x), y)
    train, validation, test = parts

    def one(key: Any, params: Any) -> Any:
        params = fitted(loss, rule, params, key, train, steps)
        right = lambda part: ws.nets.accuracy(apply(params, part[0]), part[1])
        return params, right(validation), right(test)

    return jax.vmap(one)(keys, params)


def tried(case: Case, keys: Any, params: Any, rates: Any, steps: int) -> tuple[Any, Found]:
    """All seeds at all rates: the weights at the best, and accuracies."""
    runs = [_run(case.apply, keys, params, rate, steps, case.parts) for rate in rates]
    found = Found(*(np.stack([np.asarray(run[i]) for run in runs]) for i in (1, 2)))
    return runs[found.best][0], found


def cut(groups: ws.symmetry.Groups, scores: Any, params: Any, density: float) -> Any:
    """Each seed's net with its units of highest score."""
    one = lambda scores, params: ws.select.prune(groups, scores, density=density).apply(params)
    return jax.jit(jax.vmap(one))(scores, params)


def longer(case: Case, small: Any, large: Any) -> float:
    """By how much more steps the small net may have for the same operations, within the cap."""
    image, one = case.parts[0][0][:1], lambda params: jax.tree.map(lambda x: x[0], params)
    costs = [flops(case.apply, one(params), image) for params in (large, small)]
    return min(LIMIT, costs[0] / costs[1])


def pruned(case: Case, keys: Any, begin: Any, trained: Any, share: float, steps: int) -> Any:
    """What each way reaches without that share of the units."""
    groups, density = case.groups, 1 - share
    scores = jax.vmap(lambda params: l1(params, groups))(trained)
    lots = {id: jr.uniform(jr.fold_in(keys[0], id), x.shape) for id, x in scores.items()}
    kept = cut(groups, scores, trained, density)
    widths = [round(density * width) for width in case.widths]
    fresh = jax.vmap(lambda key: case.net(widths).init(jr.fold_in(key, 1)))(keys)
    many = round(longer(case, fresh, begin) * steps)
    ways = {
        "pruned, not tuned": (kept, TUNING[-1:], 0),
        "fine-tuned": (kept, TUNING, steps // 4),
        "random units, fine-tuned": (cut(groups, lots, trained, density), TUNING, steps // 4),
        "Scratch-E": (fresh, RATES, steps),
        "Scratch-B": (fresh, RATES, many),
        "original weights": (cut(groups, scores, begin, density), RATES, steps),
    }
    return {name: (way[2], tried(case, keys, *way)[1]) for name, way in ways.items()}


def measured(case: Case, seeds: int, steps: int = STEPS) -> tuple[Found, dict[float, Any]]:
    """The large net, and by share what each way reaches, with its steps."""
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    begin = jax.vmap(case.net(case.widths).init)(keys)
    trained, large = tried(case, keys, begin, RATES, steps)
    run = lambda share: pruned(case, keys, begin, trained, share, steps)
    return large, {share: run(share) for share in SHARES}


def claims(data: str, large: Found, shares: dict[float, Any]) -> list[Claim]:
    told = []
    for share, ways in shares.items():
        best = {name: 100 * found.test[found.best] for name, (_, found) in ways.items()}
        same = {name: 100 * ways[name][1].test[large.best]
                for name in ("original weights", "Scratch-E")}  # fmt: skip
        for says, of, one, other, bound in (
            ("training as long from scratch is no worse than fine-tuning",
             best, "Scratch-E", "fine-tuned", "> -0.5"),
            ("nor is training for as many operations",
             best, "Scratch-B", "fine-tuned", "> -0.5"),
            ("original weights are no gain over random ones at a large rate",
             same, "original weights", "Scratch-E", "< 0.5"),
        ):  # fmt: skip
            what = f"{data}, {share:.0%} of units removed: {one} less {other}, points"
            told.append(Claim(says, what, (of[one] - of[other]).tolist(), bound))
    return told


def rows(large: Found, shares: dict[float, Any]) -> list[dict[str, Any]]:
    """The table of a data set."""

    def row(share: str, name: str, steps: int, found: Found, rates: Any) -> dict[str, Any]:
        each = [
            f"{rate:g}: {x:.1f}" for rate, x in zip(rates, 100 * found.test.mean(1), strict=True)
        ]
        return {
            "units removed": share, "way": name, "steps": f"{steps:,}",
            "test accuracy, %": (100 * found.test[found.best]).tolist(),
            "by rate": "; ".join(each) if steps else "",
        }  # fmt: skip

    told = [row("none", "large net", STEPS, large, RATES)]
    for share, ways in shares.items():
        for name, (steps, found) in ways.items():
            rates = TUNING[-len(found.test) :] if "tuned" in name else RATES
            told.append(row(f"{share:.0%}", name, steps, found, rates))
    return told


def measure(seeds: int) -> Outcome:
    found, skipped = cases()
    told: list[Claim] = []
    tables = {}
    for case in found:
        large, shares = measured(case, seeds)
        told += claims(case.name, large, shares)
        tables[case.name] = rows(large, shares)
    return Outcome(told, tables, skipped)
