"""Neural Metamorphosis: one function of coordinates for nets of all widths."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Weights of any width from their coordinates"
PAPER = "Yang and Wang, Neural Metamorphosis, arXiv:2410.11878"
ABOUT = """
A perceptron of two hidden layers of 32 units on 8x8 digits (1,074 for training), trained by Adam
(1e-3, 1,500 steps of 128), its units ordered along the shortest paths, then learned by coordinate
networks (one a leaf, 3 layers of 64, 6 frequencies) in two phases of Adam, each with a rate that
falls to 0 on a cosine: 400 steps (3e-3) on the distance to the trained net alone, then 1,500 (3e-4)
of 128 examples at a width drawn from 10, 14, 18, 24 and 32, with the task's loss, 1e-4 of the norms
of the leaves, and at full width the distance, whose weight falls from 1 to 0. Gradients are clipped
at norm 1. The first phase, the library's own start and the low rate are ours: in trials on other
seeds kernels drawn as usual, a rate of 1e-3, or the task's loss from the first step left accuracy
near chance at most widths or all, for all weights of a leaf move together and whole layers of ReLU
units die. Coordinates are not jittered. At width 10 a net has a quarter of the weights; 12 and 20
are never trained. Rivals of a width, none of them trained further: the first units of the ordered
net, and the trained net's units of the largest norm of their weights. A net trained alone at width
10 shows what the width can do.
"""
FULL, SMALL, TRAINED, SHOWN = 32, 10, (10, 14, 18, 24, 32), (32, 24, 20, 14, 12, 10)
NET_STEPS, FIT_STEPS, TASK_STEPS, BATCH = 1500, 400, 1500, 128
FIT_RATE, TASK_RATE = 3e-3, 3e-4
NAMES = ("hidden_0", "hidden_1", "out")


def net_of(width: int = FULL) -> ws.nets.Net:
    return ws.nets.mlp(64, (width, width), 10)


NET = net_of()  # reads its widths from the parameters
SPEC = jax.eval_shape(NET.init, jr.key(0))
GROUPS = ws.symmetry.feed_forward(SPEC, NAMES)


def sizes(width: int) -> dict[int, int]:
    return dict.fromkeys(range(2), width)


def batch(key: Any, data: Any) -> Any:
    rows = jr.randint(key, (BATCH,), 0, len(data[0]))
    return tuple(part[rows] for part in data)


def trained(seed: Any, data: Any, width: int) -> Any:
    """A net of a width, trained alone."""
    key, optimizer = jr.key(seed), optax.adam(1e-3)
    params = net_of(width).init(key)

    def step(carry: Any, key: Any) -> Any:
        params, state = carry
        x, y = batch(key, data)
        loss = lambda p: ws.nets.cross_entropy(NET.apply(p, x), y)
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jr.split(jr.fold_in(key, 1), NET_STEPS)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def adam(rate: float, steps: int) -> Any:
    schedule = optax.cosine_decay_schedule(rate, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def made(networks: Any, width: int) -> Any:
    return ws.generate.materialise(networks, SPEC, GROUPS, sizes(width))


def stepper(optimizer: Any, loss: Callable[..., Any]) -> Any:
    """One step of all members, one after the other; members' arguments are `[members, ...]`."""

    def one(networks: Any, moments: Any, *of: Any, shared: Any) -> Any:
        grads = jax.grad(loss)(networks, *of, *shared)
        updates, moments = optimizer.update(grads, moments, networks)
        return optax.apply_updates(networks, updates), moments

    def step(members: Any, *shared: Any) -> Any:
        return *jax.lax.map(lambda m: one(*m, shared=shared), members), *members[2:]

    return jax.jit(step)


def fitted(networks: Any, targets: Any) -> Any:
    """The first phase: networks that give the trained nets."""
    optimizer = adam(FIT_RATE, FIT_STEPS)
    distance = lambda n, target: 100 * ws.generate.reconstruction(made(n, FULL), target)
    step = stepper(optimizer, distance)
    members = networks, jax.vmap(optimizer.init)(networks), targets
    for _ in range(FIT_STEPS):
        members = step(members)
    return members[0]


def learned(targets: Any, keys: Any, data: Any) -> Any:
    """Coordinate networks of all members; widths and examples are drawn for all alike."""
    start = lambda key: ws.generate.init(key, SPEC, GROUPS, width=64, depth=3, frequencies=6)
    networks = fitted(jax.jit(jax.vmap(start))(keys), targets)
    optimizer = adam(TASK_RATE, TASK_STEPS)

    def loss(networks: Any, target: Any, x: Any, y: Any, weight: Any, width: int) -> Any:
        params = made(networks, width)
        value = ws.nets.cross_entropy(NET.apply(params, x), y) + 1e-4 * ws.generate.penalty(params)
        if width == FULL:
            value += weight * ws.generate.reconstruction(params, target)
        return value

    steps = {w: stepper(optimizer, functools.partial(loss, width=w)) for w in TRAINED}
    members = networks, jax.vmap(optimizer.init)(networks), targets
    for t, width in enumerate(np.random.default_rng(0).choice(TRAINED, TASK_STEPS).tolist()):
        members = steps[width](members, *batch(jr.key(t), data), 1 - t / TASK_STEPS)
    return members[0]


def strongest(params: Any, width: int, groups: ws.symmetry.Groups = GROUPS) -> Any:
    """The units of the largest L2 norm of all their weights, layer by layer."""
    kernels = [params[name]["kernel"] for name in NAMES]
    scores = {
        k: jnp.square(into).sum(0) + jnp.square(out).sum(1)
        for k, (into, out) in enumerate(itertools.pairwise(kernels))
    }
    small = ws.grow.shrink(groups, sizes(width), scores=scores, method="ranked")
    return small.apply(params)


def first(params: Any, width: int) -> Any:
    return ws.grow.shrink(GROUPS, sizes(width), method="first").apply(params)


def smoothed(params: Any) -> Any:
    """Members with their units along shortest paths."""
    members = ws.population.unstack(params)
    order = lambda p: ws.generate.shortest_path(p, GROUPS, seconds=1.0)
    return ws.population.stack([ws.symmetry.permute(p, GROUPS, order(p)) for p in members])


def at_width(width: int, smooth: Any, networks: Any, test: Any) -> dict[str, Any]:
    """Test accuracies `[seeds]` of every way to that width."""
    right = lambda p: ws.nets.accuracy(NET.apply(p, test[0]), test[1])
    seeds = len(jax.tree.leaves(smooth)[0])

    @jax.jit
    def run(smooth: Any, networks: Any) -> dict[str, Any]:
        over = lambda make, of: jax.vmap(lambda p: right(make(p, width)))(of)
        generated = over(made, networks)
        return {
            "generated": generated[:seeds],
            "not smoothed": generated[seeds:],
            "first units": over(first, smooth),
            "strongest units": over(strongest, smooth),
        }

    return jax.tree.map(np.asarray, run(smooth, networks))


def claims(full: Any, small: Mapping[str, Any]) -> list[Claim]:
    less = lambda a, b: (np.asarray(a) - np.asarray(b)).tolist()
    mine = small["generated"]
    return [
        Claim(
            "a net at 75% compression keeps the performance of full size",
            "digits, 25% of the weights: accuracy of the full net less that of the generated one",
            less(full, mine), "< 0.02",
        ),
        *(
            Claim(says, f"digits, 25% of the weights: accuracy less that {of}",
                  less(mine, small[name]), "> 0")
            for says, of, name in (
                ("generated weights are better than slices", "of the first units", "first units"),
                ("they are better than magnitude pruning", "of the strongest units",
                 "strongest units"),
                ("smooth weights are generated better", "learned from units as they come",
                 "not smoothed"),
            )
        ),
    ]  # fmt: skip


def measured(seeds: Any) -> Outcome:
    """All figures over these seeds."""
    digits = ws.data.digits()
    data, test = (tuple(map(jnp.asarray, part)) for part in (digits.train, digits.test))
    right = jax.jit(jax.vmap(lambda p: ws.nets.accuracy(NET.apply(p, test[0]), test[1])))
    nets, alone = (
        jax.jit(jax.vmap(lambda s, w=w: trained(s, data, w)))(seeds) for w in (FULL, SMALL)
    )
    smooth, keys = smoothed(nets), jax.vmap(jr.key)(seeds)
    variation = jax.vmap(lambda p: ws.generate.total_variation(p, GROUPS))
    targets = ws.population.concat([smooth, nets])
    networks = learned(targets, jnp.concatenate([keys, keys]), data)
    found = {width: at_width(width, smooth, networks, test) for width in SHOWN}
    full = right(nets)
    rows = [
        {"way": way, **{f"width {width}": found[width][way].tolist() for width in SHOWN}}
        for way in found[SMALL]
    ]
    others = [
        {"what": "accuracy of the trained net", "figure": full.tolist()},
        {"what": f"accuracy of a net trained alone at width {SMALL}",
         "figure": right(alone).tolist()},
        {
            "what": "share of the total variation that is left by smoothing",
            "figure": (variation(smooth) / variation(nets)).tolist(),
        },
    ]  # fmt: skip
    tables = {"Accuracy by width, digits": rows, "The nets behind them": others}
    return Outcome(claims(full, found[SMALL]), tables)


def measure(seeds: int) -> Outcome:
    return measured(jnp.arange(seeds))
