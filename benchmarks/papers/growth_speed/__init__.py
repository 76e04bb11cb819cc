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
from benchmarks.papers.growth_speed.arms import ARMS, LARGE, SOURCES, WIDTHS, groups, grow, ligo
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
A transformer of four blocks of width 32 (heads of 8, an MLP four times as wide, RMSNorm before each
branch) on characters of tiny Shakespeare (8 windows of 32 a step) and on 10,000 images of
CIFAR-10-JPEG, 16 x 16 in four patches (64 images a step). The net from scratch takes 400 steps of
Adam; all others get as many operations, counted in the compiled programs: a quarter of them goes
into a small net of width 16 (for growth in width), of two blocks (in depth) or both, which is grown
and trained on with what is left, what growth itself takes being counted. Moments are carried by
`optimizer_state(policy="exact")`. The rate is constant after a warm-up of 20 steps, so that all of
a curve can be compared; it is scratch's best of six on a seed outside those reported, for all nets.
Grown nets have no warm-up but those with a new state. The target is the lowest test loss of the net
from scratch, of each seed; an arm that never gets there counts with all its operations, which
flatters it, though to no more than 1. *The small net at hand* leaves its training out, as the
papers on HyperCloning, LEMON and LiGO do; the target then is the lowest loss of the first three
quarters of scratch, for which as many operations are left after growth. Small nets that are trained
on and not grown show what the large one is worth.
HyperCloning has noise of 0.1 (it cancels), Net2Wider and FPI of 0.01. LiGO learns its operator for
100 steps by the published defaults; then its net begins with a new state. Copies in the order of
SOLAR are those of stacking at twice the depth. The papers' nets are larger and are trained for far
longer: LiGO's 100 steps are next to nothing there and a quarter of everything here. In so few
operations small nets that are not grown end as low as the grown ones, on characters lower: what is
saved here is saved by beginning small, and growth in depth keeps more of it than in width.
The design is not of one piece: two runs, of 600 steps and of 25, were broken off, and after a look
at them the steps were cut to 400, the target of a small net at hand was changed as told above, and
the nets that are not grown were added; no bound was changed.
"""
STEPS, SHARE, WARM, LIGO = 400, 0.25, 20, 100
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2)
SHARES = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)


class Source(NamedTuple):
    """A small net.

    Attributes:
      held: parameters and states `[seeds, ...]`.
      ready: operations of its training.
      groups: its groups.
    """

    held: Any
    ready: float
    groups: ws.symmetry.Groups


class Run(NamedTuple):
    """A grown net.

    Attributes:
      curve: from growth on.
      ready: operations at which the small net was trained.
    """

    curve: Curve
    ready: float


class Race(NamedTuple):
    """What came of one set of data; seed 0 is the one by which rate and best were chosen.

    Attributes:
      rate: of all nets.
      best: of the arms.
      scratch: the curve of the net from scratch.
      runs: of the arms by name.
      missing: arms that could not be run, and why.
    """

    rate: float
    best: str
    scratch: Curve
    runs: Mapping[str, Run]
    missing: list[str]


def alone(source: str) -> str:
    """The name of a small net that is trained on and not grown."""
    return f"the {source} net, not grown"


def targets(scratch: Curve, within: float = np.inf) -> np.ndarray:
    """The lowest loss from scratch within so many operations, of each seed."""
    return scratch.losses[scratch.costs <= within].min(0)


def taken(scratch: Curve, curve: Curve, ready: float = 0.0) -> np.ndarray:
    """Operations of an arm to a loss, `ready` of them not counted, over those of scratch.

    The loss is the lowest that scratch reaches in as many operations as the arm has then, so that
    an arm that never gets there takes at least 1.
    """
    goal = targets(scratch, scratch.costs[-1] - ready)
    to = lambda of: np.array(
        [reached(of.costs, y, t) for y, t in zip(of.losses.T, goal, strict=True)]
    )
    return (to(curve) - ready) / to(scratch)


def characters(text: str, length: int = 32) -> nets.Job:
    """Windows of a text and the characters after; the last tenth is for testing."""
    letters, codes = np.unique(np.array(list(text)), return_inverse=True)
    count = (len(codes) - 1) // length
    x, y = (codes[i : i + count * length].reshape(-1, length).astype(np.int32) for i in (0, 1))
    cut = count * 9 // 10
    test = np.linspace(cut, count - 1, 64).astype(int)
    part = lambda rows: (jnp.asarray(x[rows]), jnp.asarray(y[rows]))
    return nets.Job(part(slice(cut)), part(test), len(letters), len(letters), 8, causal=True)


def patches(images: Any, side: int = 8) -> Any:
    """Images `[n, s, s, c]` as `[n, (s / side)^2, side^2 c]`."""
    n, s, _, c = images.shape
    cut = images.reshape(n, s // side, side, s // side, side, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, side * side * c)


def pictures(train: Any, test: Any) -> nets.Job:
    part = lambda x, y: (jnp.asarray(patches(halved(x))), jnp.asarray(y))
    return nets.Job(part(*train), part(*test), 192, 10, 64, causal=False)


def race(job: nets.Job, seeds: int, steps: int = STEPS) -> Race:
    """All arms against the large net from scratch, for seed 0 and `seeds` more."""
    members = jnp.arange(seeds + 1)
    keys = lambda salt: jax.vmap(lambda i: jr.fold_in(jr.key(salt), i))(members)
    begun = lambda size: jax.jit(jax.vmap(functools.partial(nets.start, size, job)))(keys(0))
    cost = {size: nets.cost(size, job) for size in (LARGE, *SOURCES.values())}
    budget, each = steps * cost[LARGE], cost[LARGE]

    def on(held: Any, spent: float, warm: int) -> Curve:
        left = int((budget - spent) / each)
        return train(job, held, keys(3), rates, left, warm, each, spent)[1]

    # One rate for all: that of scratch on seed 0.
    fresh = begun(LARGE)
    first = jax.tree.map(lambda x: jnp.repeat(x[:1], len(RATES), 0), fresh)
    order = jnp.repeat(keys(1)[:1], len(RATES))
    tried = train(job, first, order, jnp.array(RATES, jnp.float32), steps, WARM, each, 0.0)[1]
    rate = RATES[int(np.nanargmin(tried.losses.min(0)))]
    rates = jnp.full(len(members), rate, jnp.float32)
    scratch = train(job, fresh, keys(1), rates, steps, WARM, each, 0.0)[1]

    sources = {}
    for name, size in SOURCES.items():
        count = int(SHARE * budget / cost[size])
        begin = begun(size)
        held, curve = train(job, begin, keys(1), rates, count, WARM, cost[size], 0.0)
        sources[name] = Source(held, float(curve.costs[-1]), groups(size, job))

    def grown(name: str, policy: str, warm: int) -> Run:
        held, ready, of = sources[ARMS[name].source]
        how = functools.partial(grow, ARMS[name], of, policy)
        large, operations = counted(how, held, keys(2))
        return Run(on(large, ready + operations / len(members), warm), ready)

    runs, missing = {}, []
    for name in ARMS:
        try:
            runs[name] = grown(name, "exact", 1)
        except ws.WeightSpaceError as error:
            missing.append(f"{name}: {error}")
    best = min(runs, key=lambda name: taken(scratch, runs[name].curve)[0])
    runs[f"{best}, new state"] = grown(best, "reset", WARM)
    held, ready, of = sources["small"]
    large, operations = ligo(of, job, LIGO, held[0], keys(2))
    runs["LiGO"] = Run(on(large, ready + operations, WARM), ready)
    for name, (held, ready, _) in sources.items():
        of = cost[SOURCES[name]]
        curve = train(job, held, keys(3), rates, int((budget - ready) / of), 1, of, ready)[1]
        runs[alone(name)] = Run(curve, ready)
    return Race(rate, best, scratch, runs, missing)


def claims(data: str, found: Race, saved: float) -> list[Claim]:
    """On the seeds after the first; LEMON's share saved is that of the paper's nearest case."""
    part = lambda name, ready: taken(found.scratch, found.runs[name].curve, ready)
    whole = lambda name: 1 / part(name, 0.0)[1:]
    at_hand = lambda name: part(name, found.runs[name].ready)[1:]
    wide = min((n for n in WIDTHS if n in found.runs), key=lambda name: part(name, 0.0)[0])
    still = alone(ARMS[found.best].source)
    end = lambda name: found.runs[name].curve.losses[-1, 1:]
    what = f"{data}: operations of scratch over those of "
    share = f"{data}: share saved by "
    return [
        Claim(
            "HyperCloning is 2.2 to 4 times faster",
            f"{what}HyperCloning, the small net at hand",
            (1 / at_hand("HyperCloning")).tolist(), "> 2.2",
        ),
        Claim(
            f"LEMON saves {saved:.1%} of the cost",
            f"{share}LEMON + identity, the small net at hand",
            (1 - at_hand("LEMON + identity")).tolist(), f"> {saved}",
        ),
        Claim(
            "LiGO saves cost (up to half)",
            f"{share}LiGO, the small net at hand, its operator's steps counted",
            (1 - at_hand("LiGO")).tolist(), "> 0",
        ),
        Claim(
            "stacking is as good in 54.6% less time",
            f"{what}stack, all counted", whole("stack").tolist(), "> 1.546",
        ),
        Claim(
            "stacking in depth is better than growth in width",
            f"{what}stack less the same of {wide}, all counted",
            (whole("stack") - whole(wide)).tolist(), "> 0",
        ),
        Claim(
            "growth is cheaper than scratch",
            f"{what}{found.best}, all counted", whole(found.best).tolist(), "> 1",
        ),
        Claim(
            "growth gives what the small net alone does not",
            f"{data}: loss at the end of {found.best} less that of {still}",
            (end(found.best) - end(still)).tolist(), "< 0",
        ),
        Claim(
            "a new optimizer state does no harm",
            f"{what}{found.best} with a new state less those with the old one's moments",
            (whole(f"{found.best}, new state") - whole(found.best)).tolist(), "> -0.05",
        ),
    ]  # fmt: skip


def rows(found: Race) -> list[dict[str, Any]]:
    goal, table = targets(found.scratch)[1:], []
    for name, (curve, ready) in found.runs.items():
        lowest = curve.losses.min(0)[1:]
        whole, at_hand = (taken(found.scratch, curve, r)[1:] for r in (0.0, ready))
        table.append(
            {
                "growth": name,
                "loss at once": curve.losses[0, 1:].tolist(),
                "at the end": curve.losses[-1, 1:].tolist(),
                "reached": f"{(lowest <= goal).sum()} of {len(goal)}",
                "operations of scratch over its, all counted": (1 / whole).tolist(),
                "share saved, the small net at hand": (1 - at_hand).tolist(),
            }
        )
    return table


def curves(found: Race) -> list[dict[str, Any]]:
    """Loss by operations; empty before a curve begins."""
    budget = float(found.scratch.costs[-1])

    def cells(curve: Curve) -> dict[str, Any]:
        values = {f"{share:g}": at(curve, share * budget)[1:] for share in SHARES}
        return {k: "" if np.isnan(v).any() else v.tolist() for k, v in values.items()}

    named = {"from scratch": found.scratch} | {n: run.curve for n, run in found.runs.items()}
    return [{"net": name} | cells(curve) for name, curve in named.items()]


def measure(seeds: int) -> Outcome:
    jobs: dict[str, tuple[nets.Job, float]] = {}
    text, images = shakespeare(), cifar(10_000, 512)
    skipped = told_missing(text, SHAKESPEARE) + told_missing(images, CIFAR)
    if text is not None:
        jobs["characters"] = characters(text), 0.332
    if images is not None:
        jobs["images"] = pictures(*images), 0.567
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    for name, (job, saved) in jobs.items():
        found = race(job, seeds)
        told += claims(name, found, saved)
        title = f"{name} (rate {found.rate}, best on the seed left out: {found.best})"
        tables[f"To the lowest loss of scratch, {title}"] = rows(found)
        tables[f"Test loss by share of scratch's operations, {name}"] = curves(found)
        skipped += [f"{name}: {text}" for text in found.missing]
    return Outcome(told, tables, skipped)
