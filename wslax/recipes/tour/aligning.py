"""Stage 3: two nets from different starts, brought to one order and averaged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import align, merge, nets, population, symmetry
from wslax.recipes.result import Figure, Section, Series
from wslax.recipes.tour import measure
from wslax.recipes.tour.training import Context, Outcome, batches, dense, start, train

POINTS = 11  # on the way between the nets
SEEN = 1000  # training images that the repair reads statistics from


def _pair(context: Context) -> Any:
    """Two nets on upright digits, from different weights and on different batches."""
    config, part = context.config.experts, context.task.train
    net = nets.mlp(784, config.hidden, 10)
    key = jax.random.fold_in(jax.random.key(context.config.seed), 1)
    params = jax.jit(lambda key: population.init(net.init, key, 2))(key)
    hyper = {
        "x": np.repeat(part.x[:1], 2, 0), "y": np.repeat(part.y[None], 2, 0),
        "learning_rate": np.full(2, config.rate, np.float32),
    }  # fmt: skip
    sizes = [len(part.y)] * 2
    indices = batches(context.config.seed, "align", config.base_steps, sizes, config.batch)
    return train(context, "align", dense, start(dense, params, hyper), indices)[0]


@jax.jit
def _ways(pair: Any, seen: Any, x: Any, y: Any) -> dict[str, Any]:
    """Test accuracy on the way from one net to the other, `[POINTS]` each."""
    groups = symmetry.infer(measure.apply, population.member(pair, 0), x)
    a, b = (population.member(pair, i) for i in range(2))
    matched = symmetry.permute(b, groups, align.weight_matching(a, b, groups))
    in_order = population.stack([a, matched])
    wrong = lambda p: 1 - nets.accuracy(measure.apply(p, x), y)
    way = lambda other: align.barrier(wrong, a, other, points=POINTS)

    def repaired(t: Any) -> Any:
        coef = jnp.stack([1 - t, t])
        mixed = merge.linear(in_order, coef=coef)
        return wrong(align.repair(measure.apply, mixed, in_order, groups, seen, coef=coef))

    plain = way(b)
    found = {
        "as trained": plain.losses,
        "matched": way(matched).losses,
        "matched and repaired": jax.lax.map(repaired, plain.at),
    }
    return {name: 1 - losses for name, losses in found.items()}


def run(context: Context) -> Outcome:
    """Train two nets apart, match them, and average.

    Returns:
      Facts: test accuracies on the way between the nets, by how they were prepared.
    """
    part, test = context.task.train, context.task.test
    scaled = lambda x: x.astype(np.float32) / 255
    ways = _ways(_pair(context), scaled(part.x[0, :SEEN]), scaled(test.x[0]), test.y)
    return Outcome({}, {}, {name: np.asarray(way).tolist() for name, way in ways.items()})


def half_way(outcome: Outcome) -> dict[str, float]:
    """The accuracy of the plain average, by how the nets were prepared."""
    return {name: way[POINTS // 2] for name, way in outcome.facts.items()}


def section(context: Context, outcome: Outcome) -> Section:
    """The stage on the page."""
    at = tuple(np.linspace(0, 100, POINTS).tolist())
    ways = outcome.facts
    ends, middle = ways["as trained"], half_way(outcome)
    percent = lambda value: f"{100 * value:.1f}%"
    lines = Figure(
        "alignment", "lines", "Test accuracy on the straight way from one net to the other",
        "Half way " + ", ".join(f"{name} {percent(value)}" for name, value in middle.items()) + ".",
        tuple(Series(name, tuple(way), at) for name, way in ways.items()),
        x="percent of the second net", y="test accuracy on upright digits",
    )  # fmt: skip
    return Section(
        "align", "Align two that never met",
        "Two more nets start from different weights, so their hidden units stand in different "
        "orders. Weight matching brings the second into the order of the first, along the hidden "
        "dimensions that the trace shows; the repair sets the activations of their average back to "
        "the spread that they had in the nets.",
        f"The nets read {percent(ends[0])} and {percent(ends[-1])} of the upright test digits. "
        f"Their average reads {percent(middle['as trained'])} as trained, "
        f"{percent(middle['matched'])} matched and {percent(middle['matched and repaired'])} "
        "repaired.",
        (lines,),
    )  # fmt: skip
