"""The stages of the tour, one after the other."""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from wslax.recipes.result import Card, Estimate, Result
from wslax.recipes.store import Store, nowhere
from wslax.recipes.tour import (
    adapting,
    aligning,
    evolving,
    experts,
    growing,
    in_training,
    measure,
    merging,
    task,
)
from wslax.recipes.tour.config import STAGES, TourConfig
from wslax.recipes.tour.training import Context, Outcome


def run(
    config: TourConfig,
    progress: Callable[[str, int, int, str], None] | None = None,
    store: Store | None = None,
) -> Result:
    """Train experts, merge them, align two more, evolve, widen the winner, adapt it.

    Stages and training segments leave checkpoints in `store`; a run that finds some goes on from
    there and ends with the same result.

    Args:
      config: the settings.
      progress: `(stage, done, total, note)`, called often. What it raises ends the run.
      store: where checkpoints are; by default nowhere.

    Returns:
      The result, with parameters `base`, `experts` (a population), `merged`, `evolved`, `widened`,
      `trained` and `adapted`.

    Raises:
      WeightSpaceError: if the data set's package is missing.
    """
    store = store or nowhere()
    tell = progress or (lambda stage, done, total, note: None)
    tell(STAGES[0], 0, 1, "the digits")
    data = task.make(config)
    seconds: dict[str, float] = {}

    def stage(name: str, work: Callable[..., Outcome], *args: Any) -> tuple[Context, Outcome]:
        context = Context(config, data, store, functools.partial(tell, name))
        held = store.read(f"stage-{name}", None)
        if held is None:
            tell(name, 0, 1, "")
            began = time.perf_counter()
            outcome = work(context, *args)
            seconds[name] = time.perf_counter() - began
            notes = {"facts": outcome.facts, "seconds": seconds[name]}
            store.write(f"stage-{name}", {"params": outcome.params, "hits": outcome.hits}, notes)
        else:
            outcome, seconds[name] = _restored(*held)
        tell(name, 1, 1, "done")
        return context, outcome

    context, first = stage("experts", experts.run)
    _, merged = stage("merge", merging.run, first)
    _, aligned = stage("align", aligning.run)
    _, evolved = stage("evolve", evolving.run, first)
    _, grown = stage("grow", growing.run, merged, evolved)
    _, adapted = stage("adapt", adapting.run, grown.params["trained"])
    sections = (
        experts.section(context, first),
        merging.section(context, first, merged),
        aligning.section(context, aligned),
        evolving.section(context, first, merged, evolved),
        growing.section(context, grown),
        adapting.section(context, adapted),
    )
    params = {
        "base": first.params["base"],
        "experts": first.params["experts"],
        "merged": merged.params[merging.best(merged)],
        "evolved": evolved.params["evolved"],
        **{name: grown.params[name] for name in ("widened", "trained")},
        "adapted": adapted.params["adapted"],
    }
    metrics = _metrics(context, first, merged, evolved, grown, adapted)
    metrics["average_of_two"] = aligning.half_way(aligned)
    return Result(
        "Merging, aligning, breeding, growing and adapting on handwritten digits",
        "Five small nets learn different views of 5,000 MNIST digits from one base. Their weights "
        "are then merged, evolved, widened and adapted, without a framework in between: each step "
        "is a function on parameter trees.",
        metrics, params, sections, _cards(metrics), seconds,
    )  # fmt: skip


def _restored(held: dict[str, Any], notes: dict[str, Any]) -> tuple[Outcome, float]:
    """An outcome from the flat arrays of its checkpoint."""
    nested: dict[str, Any] = {"params": {}, "hits": {}}
    for name, leaf in held.items():
        *parents, last = name.split("/")
        node = nested
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = np.asarray(leaf)
    return Outcome(nested["params"], nested["hits"], notes["facts"]), notes["seconds"]


def _metrics(
    context: Context, first: Outcome, merged: Outcome, evolved: Outcome, grown: Outcome,
    adapted: Outcome,
) -> dict[str, Any]:  # fmt: skip
    top, single = merging.best(merged), experts.best(context, first)
    found = {
        "best_expert": first.hits[single],
        "ensemble": merged.hits["ensemble"],
        "joint": first.hits["joint"],
        "best_merge": merged.hits[top],
        "evolved": evolved.hits["evolved"],
    }
    metrics: dict[str, Any] = {
        name: measure.accuracy(context.task, value) for name, value in found.items()
    }
    narrow, wide = (np.array(grown.facts[arm][-1]) for arm in ("narrow", "wide"))
    last = {
        arm: np.array(found)[adapted.facts["chosen"][arm], :, 0]
        for arm, found in adapted.facts["points"].items()
    }
    return {
        **metrics,
        "best_merge_method": top,
        "merge_over_expert": measure.difference(context.task, merged.hits[top], first.hits[single]),
        "evolved_over_expert": measure.difference(
            context.task, evolved.hits["evolved"], first.hits[single]
        ),
        "widening_changes_logits_by": grown.facts["exact"],
        "growing_in_training_moves_loss_by": in_training.jump(grown.facts["job"], "grown"),
        "trained_narrow": measure.over_seeds(narrow),
        "trained_wide": measure.over_seeds(wide),
        "wide_over_narrow": measure.over_seeds(wide - narrow),
        "target_before": adapted.facts["before"][0],
        "target_lift": measure.over_seeds(last["LIFT"]),
        "target_full": measure.over_seeds(last["full fine-tuning"]),
        "lift_changed_share": adapted.facts["changed"],
    }


def _cards(metrics: dict[str, Any]) -> tuple[Card, ...]:
    def percent(name: str) -> str:
        found = metrics[name]
        return f"{100 * (found.value if isinstance(found, Estimate) else found):.1f}%"

    return (
        Card("best single expert", metrics["best_expert"], "percent", "mean of five conditions"),
        Card(
            f"best merge: {metrics['best_merge_method']}", metrics["best_merge"], "percent",
            f"ensemble of all five: {percent('ensemble')}",
        ),
        Card("evolved by GENOME", metrics["evolved"], "percent", "the same size as one expert"),
        Card(
            "widened, trained on", metrics["trained_wide"], "percent",
            f"without widening: {percent('trained_narrow')}",
        ),
        Card(
            "adapted by LIFT", metrics["target_lift"], "percent",
            f"new condition, {percent('lift_changed_share')} of weights; fully fine-tuned: "
            f"{percent('target_full')}",
        ),
    )  # fmt: skip
