"""Gated fusion of views of which some are missing."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

import wslax as ws
from benchmarks.papers.data import MAIZE, told_missing
from benchmarks.papers.gated_fusion import views
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import ensemble

TITLE = "Gated fusion when views are missing"
PAPER = "Mena et al., Multi-view gated fusion, arXiv:2401.11844"
ABOUT = """
Maize plots are described by four views: plant (days to flower, heights), stand (plants, lodging),
grain (moisture, test weight) and place (location, year); some are missing in the trials themselves.
The yield is predicted in trials that were not trained on; the error is the root mean square in
t/ha. Digits of 8 x 8 have their quarters as views; the error is the share of wrong answers. Each
view has an encoder (16 units), fusion is by `ensemble.gated`, by the mean of the views that are
there, or by concatenation of features, 0 where missing, with flags that say which views are there
(64 units, then 16: as many units in all). A head of 16 units follows. The best single view is
chosen on validation rows. Nets learn by 600 steps of Adam (3e-3, batches of 256), either from all
views or with each lost with a chance of 0.3 at each step; they are tested on all, and with each
lost with that chance.
"""
LOST = 0.3
FUSIONS = ("gated", "mean", "concatenation", "one view")
SETTINGS = {"all views": 0.0, "views lost": LOST}
Z = views.WIDTH


def init(key: Any, fusion: str, count: int, features: int, outputs: int) -> Any:
    keys = jr.split(key, 3)
    wide = fusion == "concatenation"
    params = {
        "encoder": views.dense(keys[0], features + count, count * Z)
        if wide
        else views.dense(keys[0], features, Z, count),
        "hidden": views.dense(keys[1], count * Z if wide else Z, Z),
        "out": views.dense(keys[2], Z, outputs),
    }
    if fusion == "gated":
        params["gate"] = ensemble.gate_init(count, Z)
    return params


def said(fusion: str, columns: Any, params: Any, x: Any, present: Any) -> Any:
    """What a net says, `[n, outputs]`."""
    x = x * (present @ columns.astype(x.dtype))
    if fusion == "concatenation":
        flagged = jnp.concatenate([x, present.astype(x.dtype)], 1)
        fused = jax.nn.relu(views.layer(params["encoder"], flagged))
    else:
        z = views.encoded(params["encoder"], columns, x)
        if fusion == "gated":
            fused = ensemble.gated(params["gate"], z, present.T).outputs
        else:  # a mean; of one view where the others are never there
            there = present.T[..., None].astype(z.dtype)
            fused = (z * there).sum(0) / jnp.maximum(there.sum(0), 1)
    return views.layer(params["out"], jax.nn.relu(views.layer(params["hidden"], fused)))


_said = jax.jit(said, static_argnums=0)


def squared(said: Any, y: Any) -> Any:
    return jnp.square(said - y).mean()


@functools.cache
def loss_of(fusion: str, regression: bool) -> Any:
    """`(params, columns, x, present, y)`; one object each, to which a compiled program belongs."""
    how = squared if regression else ws.nets.cross_entropy

    def loss(params: Any, columns: Any, x: Any, present: Any, y: Any) -> Any:
        return how(said(fusion, columns, params, x, present), y)

    return loss


def error(fusion: str, columns: Any, params: Any, part: views.Part, present: Any) -> float:
    found = _said(fusion, columns, params, part.x, present)
    if part.y.ndim == 2:
        return float(jnp.sqrt(squared(found, part.y)))
    return float(1 - ws.nets.accuracy(found, part.y))


def only(part: views.Part, view: int) -> views.Part:
    kept = jnp.arange(part.present.shape[1]) == view
    return part._replace(present=part.present & kept[None])


def best_view(fit: Any, measured: Any, data: views.Views) -> tuple[Any, Any]:
    """The net of the view that is best on validation rows, and the choice of that view."""
    (train, validation, _), columns = data
    nets = []
    for view in range(len(columns)):
        net = fit(only(train, view))
        kept = only(validation, view)
        nets.append((measured(net, kept, kept.present), view, net))
    _, view, net = min(nets, key=lambda found: found[:2])
    return net, lambda part: only(part, view)


def errors(data: views.Views, seed: int) -> dict[Any, float]:
    """By fusion, by what was trained on, by what is tested on."""
    (train, _, test), columns = data
    count, features = columns.shape
    regression = train.y.ndim == 2
    found = {}
    for fusion, (learnt, share) in itertools.product(FUSIONS, SETTINGS.items()):
        start = init(jr.key(seed), fusion, count, features, 1 if regression else 10)
        how = (loss_of(fusion, regression), start, columns)
        fit = lambda part, how=how, share=share: views.trained(*how, part, jr.key(seed), share)
        measured = functools.partial(error, fusion, columns)
        if fusion == "one view":
            net, pick = best_view(fit, measured, data)
        else:
            net, pick = fit(train), lambda part: part
        for tested, lost in SETTINGS.items():
            left = views.dropped(jr.key(1000 + seed), test.present, lost)
            part = pick(test._replace(present=left))
            found[fusion, learnt, tested] = measured(net, part, part.present)
    return found


def measure(seeds: int) -> Outcome:
    jobs = {"digits": views.quadrants}
    skipped = told_missing(views.plots(0), MAIZE)
    if not skipped:
        jobs["maize"] = views.plots
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    for name, make in jobs.items():
        each = [errors(make(seed), seed) for seed in range(seeds)]
        found = {at: [of[at] for of in each] for at in each[0]}
        told += claims(name, found)
        tables[f"Error, {name}"] = [
            {"fusion": fusion}
            | {
                f"trained on {a}, tested on {b}": found[fusion, a, b]
                for a in SETTINGS
                for b in SETTINGS
            }
            for fusion in FUSIONS
        ]
    return Outcome(told, tables, skipped)


def claims(name: str, found: Mapping[Any, list[float]]) -> list[Claim]:
    def less(other: str, learnt: str) -> list[float]:
        ours, theirs = (found[f, learnt, "views lost"] for f in ("gated", other))
        return [b - a for a, b in zip(ours, theirs, strict=True)]

    lost = f"{name}, views lost in training and test: error of "
    return [
        Claim(
            f"gated fusion is better than {words}", f"{lost}{other} less that of gated",
            less(other, "views lost"), "> 0",
        )
        for other, words in (
            ("concatenation", "concatenation"),
            ("mean", "the mean"),
            ("one view", "the best single view"),
        )
    ] + [
        Claim(
            "gates bear missing views that training never lost",
            f"{name}, views lost in test alone: error of concatenation less that of gated",
            less("concatenation", "all views"), "> 0",
        )
    ]  # fmt: skip
