"""Stage 5: widen the winner, and train on with and without; a net that grows while it trains."""

from typing import Any

import jax
import numpy as np

from wslax import grow, population, symmetry
from wslax.recipes.result import Column, Estimate, Figure, Section, Series, Table, text
from wslax.recipes.tour import in_training, measure, merging
from wslax.recipes.tour.task import samples
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


def winner(merged: Outcome, evolved: Outcome) -> tuple[str, Any]:
    """The model that is best on the validation images, of merging and evolution."""
    top = merging.best(merged)
    if evolved.facts["validation"] > merged.facts[top]["validation"]:
        return "GENOME", evolved.params["evolved"]
    return top, merged.params[top]


def _groups(params: Any) -> symmetry.Groups:
    """The hidden dimensions, read from the net's own program."""
    return symmetry.infer(measure.apply, params, jax.ShapeDtypeStruct((1, 28, 28), np.float32))


def _diagram(groups: symmetry.Groups) -> Figure:
    """Which leaves each hidden dimension runs through, and how."""
    names = list(dict.fromkeys(site.name for group in groups.free for site in group.sites))
    roles = {(g.id, site.name): site.role for g in groups.free for site in g.sites}
    words = ("", "produced", "consumed", "elementwise")
    series = tuple(
        Series(name, tuple(float(words.index(roles.get((g.id, name), ""))) for g in groups.free))
        for name in names
    )
    titles = tuple(f"{group.size} units" for group in groups.free)
    runs = "; ".join(
        f"{group.size} units through {', '.join(dict.fromkeys(s.name for s in group.sites))}"
        for group in groups.free
    )
    return Figure(
        "groups", "groups", "The hidden dimensions, as the trace of the net shows them", runs + ".",
        series, categories=titles,
    )  # fmt: skip


def _wider(context: Context, params: Any, noise: float) -> Any:
    groups = _groups(params)
    factor = context.config.grow.factor
    sizes = {group.id: round(factor * group.size) for group in groups.free}
    key = jax.random.key(context.config.seed)
    edit = grow.widen(groups, sizes, key=key, noise=noise)
    return jax.device_get(jax.jit(edit.apply)(params))


def _gap(context: Context, params: Any, other: Any) -> float:
    """Largest difference of a logit, on the test images of every view."""
    x = context.task.test.x.reshape(-1, 28, 28).astype(np.float32) / 255
    logits = jax.jit(measure.apply)
    return float(np.abs(np.asarray(logits(params, x)) - logits(other, x)).max())


def _train_on(context: Context, name: str, params: Any) -> tuple[Any, list[Any]]:
    """Repeats of training on, on all conditions; after each segment test accuracies, one a seed."""
    config, task = context.config, context.task
    x, y = samples(task, task.train, len(task.train.y))
    hyper = {
        **repeat({"x": x, "y": y}, config.seeds),
        "learning_rate": np.full(config.seeds, config.grow.rate, np.float32),
    }  # fmt: skip
    indices = batches(
        config.seed, "grow", config.grow.steps, [len(y)] * config.seeds, config.experts.batch
    )

    def watch(now: Any) -> list[float]:
        return [
            measure.accuracy(task, measure.judge(task, m)).value for m in population.unstack(now)
        ]

    members = start(dense, repeat(params, config.seeds), hyper)
    return train(context, name, dense, members, indices, watch)


def run(context: Context, merged: Outcome, evolved: Outcome) -> Outcome:
    """Widen the winner, then train it and its narrow twin on the same batches; then `in_training`.

    Returns:
      Parameters `winner`, `widened` (before training) and `trained` (one repeat after).
    """
    name, params = winner(merged, evolved)
    exact = _wider(context, params, 0.0)
    noisy = _wider(context, params, context.config.grow.noise)
    facts: dict[str, Any] = {
        "winner": name,
        "exact": _gap(context, params, exact),
        "noisy": _gap(context, params, noisy),
        "widths": [layer["bias"].shape[0] for name, layer in exact.items() if name != "out"],
    }
    found = {
        "winner": measure.judge(context.task, params),
        "widened": measure.judge(context.task, noisy),
    }
    _, facts["narrow"] = _train_on(context, "train on", params)
    trained, facts["wide"] = _train_on(context, "train on, widened", noisy)
    facts["job"] = in_training.run(context)
    kept = {"winner": params, "widened": exact, "trained": member(trained, 0)}
    return Outcome(kept, found, facts)


def section(context: Context, outcome: Outcome) -> Section:
    """The stage on the page."""
    config, task, facts = context.config, context.task, outcome.facts
    begin = {
        "as it was": measure.accuracy(task, outcome.hits["winner"]).value,
        "widened": measure.accuracy(task, outcome.hits["widened"]).value,
    }
    curves = {"as it was": np.array(facts["narrow"]), "widened": np.array(facts["wide"])}
    ends = [min(config.grow.steps, (i + 1) * config.segment) for i in range(len(facts["wide"]))]
    steps = tuple(map(float, [0, *ends]))
    series = []
    for label, curve in curves.items():
        levels = [Estimate(begin[label], 0.0), *map(measure.over_seeds, curve)]
        series.append(
            Series(
                label, tuple(v.value for v in levels), steps, tuple(v.margin or 0.0 for v in levels)
            )
        )
    last = {label: measure.over_seeds(curve[-1]) for label, curve in curves.items()}
    gain = measure.over_seeds(curves["widened"][-1] - curves["as it was"][-1])
    lines = Figure(
        "growth", "lines", f"Training on with and without widening, {config.seeds} repeats",
        f"Mean test accuracy against training steps; after {config.grow.steps} steps "
        f"{100 * last['widened'].value:.1f}% widened, {100 * last['as it was'].value:.1f}% as it "
        "was.", tuple(series), x="training steps", y="mean test accuracy",
    )  # fmt: skip
    widths = " and ".join(map(str, facts["widths"]))
    table = Table(
        "growth", "Before and after training on",
        (Column("model"), Column("largest change of a logit", "number"),
         Column("before", "percent"), Column(f"after {config.grow.steps} steps", "percent")),
        (("as it was", None, begin["as it was"], last["as it was"]),
         ("widened", facts["exact"], begin["as it was"], None),
         (f"widened, {100 * config.grow.noise:g}% noise on new units", facts["noisy"],
          begin["widened"], last["widened"])),
    )  # fmt: skip
    return Section(
        "grow", "Widen the winner",
        f"The net's own trace shows which axes of which leaves are one hidden dimension, and "
        f"Net2WiderNet takes the winner ({facts['winner']}) to {widths} hidden units. Copied units "
        f"would learn the same, so they get a little noise before both nets train on with images "
        f"of all conditions. Another net, with residual blocks, grows while it trains: "
        f"a schedule gives its blocks {config.grow.factor:g} times the hidden units after a "
        f"third of the steps, and twice as many blocks after two thirds, and Adam goes on.",
        f"Widening changes no logit by more than {text(facts['exact'], 'number', 1)}. After "
        f"{config.grow.steps} steps on the same batches the wider net is "
        f"{measure.phrase(gain, 'the net as it was')}. {in_training.finding(facts['job'])}",
        (_diagram(_groups(outcome.params["winner"])), lines, in_training.figure(facts["job"])),
        (table,),
    )  # fmt: skip
