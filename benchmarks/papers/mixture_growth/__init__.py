"""MixtureGrowth: a wide net from two narrow ones and new mixes of their templates."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import wslax as ws
from benchmarks.papers.data import cifar, told_missing
from benchmarks.papers.merging.families import halved
from benchmarks.papers.mixture_growth import nets
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Wide nets grown from templates"
PAPER = "Pham et al., MixtureGrowth, arXiv:2311.04251"
ABOUT = """
MLPs of three hidden layers with BatchNorm, twice as wide at the end as at the start, on digits of 8
x 8 (width 64) and on 6,000 images of CIFAR-10-JPEG, grey at 16 x 16 (width 128). Everything gets
the operations, counted in the compiled steps, that the wide net takes in 20 epochs (digits: 60). Of
these 0.8 go into two narrow nets, each with a set of two templates for each matrix, the rest into
the wide net, in templates and coefficients; mixing costs a part of it. *Random blocks* are the same
two narrow nets with freshly drawn weights between them, no longer in templates. *Net2Net* is one
narrow net without templates, trained with all of the 0.8 and widened by `grow.widen` (noise 0.01).
The wide net from scratch is as wide and has no templates. SGD with Nesterov momentum and the
authors' decay of 5e-4, 0.1 falling by a cosine; after growth 0.03 for all (the authors take 1e-4
for WRN-28-10). *At once* is the accuracy of the grown net before any step.
"""
SHARE, RATE, AFTER = 0.8, 0.1, 0.03
CHOICES = ("orthogonal", "copy", "random", "zero")
OTHERS = ("random blocks", "Net2Net")


class Job(NamedTuple):
    """Data, the width at the end, and how long a net of that width would train."""

    train: Any
    test: Any
    width: int
    epochs: int


@functools.cache
def mixture(width: int, features: int) -> Any:
    """Of narrow nets of that width."""
    return ws.grow.mixture(nets.groups(width, features))


def repeated(tree: Any, *lead: int) -> Any:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*lead, *x.shape)), tree)


def drawn(make: Any, seeds: int, salt: int) -> Any:
    """Members `[1, seeds]`."""
    keys = jax.vmap(lambda i: jr.fold_in(jr.key(salt), i))(jnp.arange(seeds))
    return jax.jit(lambda keys: jax.tree.map(lambda x: x[None], jax.vmap(make)(keys)))(keys)


def over_members(fn: Any) -> Any:
    """A function of one member and its key over `[1, seeds]`, compiled."""

    @jax.jit
    def run(*members: Any) -> Any:
        keys = jax.vmap(jr.key)(jnp.arange(jax.tree.leaves(members)[0].shape[1]))
        return jax.vmap(jax.vmap(fn), (0,) * len(members) + (None,))(*members, keys)

    return lambda *members: run(*members)


def measured(job: Job, seeds: int) -> dict[str, list[float]]:
    """Accuracies by name, one a seed, and operations under `"operations"`."""
    features, half = job.train[0].shape[1], job.width // 2
    mix, one = mixture(half, features), nets.plain
    apart = lambda p: jax.vmap(functools.partial(mix.materialise, p))(jnp.arange(2))
    joined = lambda p: nets.plain(mix.materialise(p))
    narrow = functools.partial(nets.init, half, features)
    wide = functools.partial(nets.init, job.width, features)
    own = lambda count, width: repeated(nets.statistics(width), 1, seeds, count)

    # Operations of a step of each form, and how many steps of each the budget allows.
    like = mix.init(0, narrow)
    cost = lambda form, params, stats: nets.cost(form, params, stats, features)
    of = {
        "pair": cost(apart, like, repeated(nets.statistics(half), 2)),
        "templates": cost(joined, like, repeated(nets.statistics(job.width), 1)),
        "narrow": cost(one, narrow(jr.key(0)), repeated(nets.statistics(half), 1)),
        "wide": cost(one, wide(jr.key(0)), repeated(nets.statistics(job.width), 1)),
    }
    budget = of["wide"] * job.epochs * (len(job.train[0]) // nets.BATCH)
    steps = {name: int(SHARE * budget / of[name]) for name in ("pair", "narrow")}
    steps |= {n: int((1 - SHARE) * budget / of[n]) for n in ("templates", "wide")}
    train = lambda form, params, stats, rate, count: nets.train(
        form, params, stats, job.train, rate, count
    )
    told = lambda form, params, stats: np.asarray(nets.accuracies(form, params, stats, job.test))
    found: dict[str, Any] = {}

    # Two narrow nets, and their growth in templates.
    pair, stats = drawn(lambda key: mix.init(key, narrow), seeds, 0), own(2, half)
    pair, stats = train(apart, pair, stats, RATE, steps["pair"])
    found["narrow nets"] = told(apart, pair, stats)[0].mean(-1)
    merge = lambda s, _: nets.plain(mix.materialise(ws.grow.Templates(s, {})))
    merged = over_members(merge)(stats)
    grown = [
        over_members(lambda p, key, c=choice: mix.grow(p, c, key=key))(pair) for choice in CHOICES
    ]
    grown = jax.tree.map(lambda *x: jnp.concatenate(x), *grown)
    stats = jax.tree.map(lambda x: jnp.repeat(x, len(CHOICES), 0), merged)
    at_once = told(joined, grown, stats)
    after = told(joined, *train(joined, grown, stats, AFTER, steps["templates"]))
    for i, choice in enumerate(CHOICES):
        found[f"{choice}, at once"], found[choice] = at_once[i, :, 0], after[i, :, 0]

    # The same two nets with fresh blocks between them, and one net widened.
    def between(params: Any, key: Any) -> Any:
        joined = mix.materialise(mix.grow(params, "zero", key=key))
        fresh = wide(jr.fold_in(key, 2))
        put = lambda name, x, new: jnp.where(x == 0, new, x) if "kernel" in name else x
        return ws.tree.map_named(put, joined, fresh)

    alone, own_stats = drawn(narrow, seeds, 1), own(1, half)
    alone, own_stats = train(one, alone, own_stats, RATE, steps["narrow"])
    sizes = {group.id: job.width for group in nets.groups(half, features).all}

    def widened(params: Any, stats: Any, key: Any) -> Any:
        edit = ws.grow.widen(nets.groups(half, features), sizes, key=key, noise=0.01)
        whole = {"params": params, "stats": jax.tree.map(lambda x: x[0], stats)}
        return edit.apply(whole)

    net2net = over_members(widened)(alone, own_stats)
    both = jax.tree.map(
        lambda *x: jnp.concatenate(x), over_members(between)(pair), net2net["params"]
    )
    spread = jax.tree.map(lambda x: x[:, :, None], net2net["stats"])
    stats = jax.tree.map(lambda *x: jnp.concatenate(x), merged, spread)
    at_once = told(one, both, stats)
    after = told(one, *train(one, both, stats, AFTER, steps["wide"]))
    for i, name in enumerate(OTHERS):
        found[f"{name}, at once"], found[name] = at_once[i, :, 0], after[i, :, 0]

    scratch = drawn(wide, seeds, 2), own(1, job.width)
    count = int(budget / of["wide"])
    found["from scratch"] = told(one, *train(one, *scratch, RATE, count))[0, :, 0]
    return {name: column.tolist() for name, column in found.items()} | {
        "operations": {name: n / of["wide"] for name, n in of.items()}
    }


def claims(data: str, found: dict[str, Any]) -> list[Claim]:
    ours = found["orthogonal"]
    less = lambda name: [x - y for x, y in zip(ours, found[name], strict=True)]
    what = f"{data}: accuracy of orthogonal coefficients less that of "
    return [
        Claim(
            "growth by templates is 2 points better than Net2Net",
            f"{what}Net2Net", less("Net2Net"), "> 0.02",
        ),
        Claim(
            "new mixes of templates are better than freshly drawn weights",
            f"{what}random blocks", less("random blocks"), "> 0",
        ),
        Claim(
            "orthogonal coefficients are better than copies", f"{what}copies", less("copy"), "> 0",
        ),
        Claim(
            "the grown net is as good as the wide one from scratch",
            f"{what}the wide net from scratch", less("from scratch"), "> -0.01",
        ),
    ]  # fmt: skip


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    table = [
        {"net": name, "at once": found[f"{name}, at once"], "at the end": found[name]}
        for name in (*CHOICES, *OTHERS)
    ]
    return [
        *table,
        *(
            {"net": name, "at once": "", "at the end": found[name]}
            for name in ("from scratch", "narrow nets")
        ),
    ]


def measure(seeds: int) -> Outcome:
    flat = lambda part: (jnp.asarray(part[0].reshape(len(part[0]), -1)), jnp.asarray(part[1]))
    digits = ws.data.digits()
    jobs = {"digits": Job(flat(digits.train), flat(digits.test), 64, 60)}
    images = cifar(6_000, 1_000)
    skipped = told_missing(images)
    if images is not None:
        train, test = (flat((halved(x).mean(-1), y)) for x, y in images)
        jobs["CIFAR-10-JPEG"] = Job(train, test, 128, 20)
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    costs = []
    for name, job in jobs.items():
        found = measured(job, seeds)
        told += claims(name, found)
        tables[f"Accuracy, {name}"] = rows(found)
        of = found["operations"]
        costs.append(
            {
                "data": name,
                "two narrow nets in templates": f"{of['pair']:.2f}",
                "narrow net": f"{of['narrow']:.2f}",
                "wide net in templates": f"{of['templates']:.2f}",
            }
        )
    tables["Operations of a step over those of the wide net's"] = costs
    return Outcome(told, tables, skipped)
