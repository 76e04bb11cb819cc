"""What growth saves: operations to a loss, grown against from scratch."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import wslax as ws
from benchmarks.papers.counting import counted
from benchmarks.papers.data import CIFAR, SHAKESPEARE, cifar, shakespeare, told_missing
from benchmarks.papers.growth_speed import nets
from benchmarks.papers.growth_speed.arms import ARMS, LARGE, SOURCES, WIDTHS, grow, groups
from benchmarks.papers.growth_speed.training import Curve, at, reached, train
from benchmarks.papers.merging.families import halved
from benchmarks.papers.runner import Claim, Outcome

TITLE = "What growth saves"
PAPER = (
    "Samragh et al., HyperCloning, arXiv:2409.12903; Wang et al., LEMON, arXiv:2310.07999; Wang et "
    "al., LiGO, arXiv:2303.00980; Du et al., G_stack, arXiv:2405.15319; Chen et al., Net2Net, "
    "arXiv:1511.05641; Chen et al., bert2BERT, arXiv:2110.07143"
)
ABOUT = """
"""
STEPS, SHARE, WARM = 600, 0.25, 20
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
SHARES = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


class Race(NamedTuple):
    """What came of one set of data; seed 0 is the one that choices were made on.

    Attributes:
      budget: operations of the net from scratch.
      rate: of all nets.
      best: the arm that choices on seed 0 name.
      scratch: its curve.
      arms: by name, the curve and the operations at which the small net was ready.
    """

    budget: float
    rate: float
    best: str
    scratch: Curve
    arms: Mapping[str, tuple[Curve, float]]


def targets(scratch: Curve) -> np.ndarray:
    """The lowest loss from scratch, of each seed."""
    return scratch.losses.min(0)


def ratios(scratch: Curve, curve: Curve, ready: float = 0.0) -> np.ndarray:
    """Operations that scratch takes to its lowest loss over those of an arm, less `ready`."""
    found = []
    for theirs, ours, target in zip(
        scratch.losses.T, curve.losses.T, targets(scratch), strict=True
    ):
        less = reached(curve.costs, ours, target) - ready
        found.append(reached(scratch.costs, theirs, target) / less)
    return np.array(found)


def characters(text: str, length: int = 32) -> nets.Job:
    """Windows of a text and the characters after; the last tenth is for testing."""
    letters, codes = np.unique(np.array(list(text)), return_inverse=True)
    count = (len(codes) - 1) // length
    x, y = (codes[i : i + count * length].reshape(-1, length).astype(np.int32) for i in (0, 1))
    cut = count * 9 // 10
    test = np.linspace(cut, count - 1, 128).astype(int)
    part = lambda rows: (jnp.asarray(x[rows]), jnp.asarray(y[rows]))
    return nets.Job(part(slice(cut)), part(test), len(letters), len(letters), 8, causal=True)


def patches(images: Any, side: int = 4) -> Any:
    """Images `[n, s, s, c]` as `[n, (s / side)^2, side^2 c]`."""
    n, s, _, c = images.shape
    cut = images.reshape(n, s // side, side, s // side, side, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, side * side * c)


def pictures(train: Any, test: Any) -> nets.Job:
    part = lambda x, y: (jnp.asarray(patches(halved(x))), jnp.asarray(y))
    return nets.Job(part(*train), part(*test), 48, 10, 16, causal=False)


def spread(one: Any, seeds: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (seeds, *x.shape)), one)


def start(size: nets.Size, job: nets.Job, key: Any) -> Any:
    params = nets.init(size, job, key)
    return params, nets.ADAM.init(params)


def race(job: nets.Job, seeds: int, steps: int = STEPS) -> Race:
    """All arms against the large net from scratch, seed 0 and `seeds` more."""
    members = jnp.arange(seeds + 1)
    keys = lambda salt: jax.vmap(lambda i: jr.fold_in(jr.key(salt), i))(members)
    begun = lambda size, at: jax.vmap(lambda key: start(size, job, key))(at)
    cost = {size: nets.cost(size, job) for size in (LARGE, *SOURCES.values())}
    budget = steps * cost[LARGE]

    # The rate of scratch, on seed 0.
    first = spread(start(LARGE, job, keys(0)[0]), len(RATES))
    order = jnp.broadcast_to(keys(1)[:1], len(RATES))
    tried = train(job, first, order, jnp.array(RATES), steps, WARM, cost[LARGE], 0)[1]
    rate = RATES[int(np.nanargmin(tried.losses[-1]))]
    rates = jnp.full(seeds + 1, rate)
    _, scratch = train(job, begun(LARGE, keys(0)), keys(1), rates, steps, WARM, cost[LARGE], 0)

    def on(held: Any, ready: float, operator: float, warm: int) -> Curve:
        left = int((budget - ready - operator) / cost[LARGE])
        spent = ready + operator
        return train(job, held, keys(3), rates, left, warm, cost[LARGE], spent)[1]

    sources, arms, missing = {}, {}, []
    for name, size in SOURCES.items():
        count = int(SHARE * budget / cost[size])
        held, curve = train(job, begun(size, keys(0)), keys(1), rates, count, WARM, cost[size], 0)
        sources[name] = held, float(curve.costs[-1]), groups(size, job)

    def run(name: str, policy: str, warm: int) -> Curve:
        held, ready, of = sources[ARMS[name].source]
        how = functools.partial(grow, ARMS[name], of, policy)
        large, operations = counted(how, held, keys(2))
        return on(large, ready, operations / len(members), warm)

    for name, arm in ARMS.items():
        try:
            arms[name] = run(name, "exact", 1), sources[arm.source][1]
        except ws.WeightSpaceError as error:
            missing.append(f"{name}: {error}")
    return arms
