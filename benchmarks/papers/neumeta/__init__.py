"""Neural Metamorphosis: one function of coordinates for nets of all widths."""

import functools
from collections.abc import Mapping
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
A perceptron of two hidden layers of 64 units on 8x8 digits (1,074 for training), trained, its units
ordered along the shortest paths, then learned by coordinate networks (one a leaf, 3 layers of 64,
8 frequencies). A step of AdamW (1e-3, falling to 0 on a cosine, without decay) takes 128 examples
at a width drawn from 16, 32, 48 and 64, with the authors' losses: the task's, 1e-4 of the norms of
the leaves, and the distance to the trained net at full width with a weight that falls from 1 to 0
over the first quarter of the steps; gradients are clipped at 10, coordinates jittered, and the
average of the networks over steps (0.995) is kept. Generated nets average 50 draws. At width 22 a
net has 24% of the weights; that width and 28 and 40 are never trained. Rivals of a width, none of
them trained further: the first units of the trained net, and those of the largest norm of their
weights. A net trained alone at width 22 shows what the width can do.
"""
FULL, TRAINED, SHOWN, SMALL = 64, (16, 32, 48, 64), (64, 40, 28, 22, 16), 22
STEPS, BATCH, DRAWS = 1500, 128, 50
NAMES = ("hidden_0", "hidden_1", "out")


def net_of(width: int = FULL) -> ws.nets.Net:
    return ws.nets.mlp(64, (width, width), 10)


NET = net_of()  # reads its widths from the parameters
SPEC = jax.eval_shape(NET.init, jr.key(0))
GROUPS = ws.symmetry.feed_forward(SPEC, NAMES)


def sizes(width: int) -> dict[int, int]:
    return dict.fromkeys(range(2), width)


@functools.partial(jax.jit, static_argnums=2)
def trained(seed: Any, data: Any, width: int) -> Any:
    """A net of a width, by Adam for as many steps as the coordinate networks take."""
    key, optimizer = jr.key(seed), optax.adam(1e-3)
    params = net_of(width).init(key)

    def step(carry: Any, key: Any) -> Any:
        params, state = carry
        x, y = batch(key, data)
        loss = lambda p: ws.nets.cross_entropy(NET.apply(p, x), y)
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jr.split(jr.fold_in(key, 1), STEPS)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def batch(key: Any, data: Any) -> Any:
    rows = jr.randint(key, (BATCH,), 0, len(data[0]))
    return tuple(part[rows] for part in data)


@functools.cache
def adamw() -> Any:
    rate = optax.cosine_decay_schedule(1e-3, STEPS)
    return optax.chain(optax.clip(10.0), optax.adamw(rate, weight_decay=0.0))


@functools.partial(jax.jit, static_argnames="width", donate_argnames="state")
def step(state: Any, target: Any, key: Any, data: Any, weight: Any, width: int) -> Any:
    """One step of one member's coordinate networks, at one width."""
    networks, moments, mean = state
    x, y = batch(key, data)

    def loss(networks: Any) -> Any:
        made = ws.generate.materialise(networks, SPEC, GROUPS, sizes(width), key=jr.fold_in(key, 1))
        value = ws.nets.cross_entropy(NET.apply(made, x), y) + 1e-4 * ws.generate.penalty(made)
        if width == FULL:
            value += weight * ws.generate.reconstruction(made, target)
        return value

    updates, moments = adamw().update(jax.grad(loss)(networks), moments, networks)
    networks = optax.apply_updates(networks, updates)
    mean = jax.tree.map(lambda a, b: 0.995 * a + 0.005 * b, mean, networks)
    return networks, moments, mean


def learned(targets: Any, keys: Any, data: Any) -> Any:
    """Coordinate networks of all members, `[members, ...]`; widths are drawn for all alike."""
    start = lambda key: ws.generate.init(key, SPEC, GROUPS, width=64, depth=3, frequencies=8)
    networks = jax.jit(jax.vmap(start))(keys)
    state = networks, jax.vmap(adamw().init)(networks), jax.tree.map(jnp.copy, networks)
    many = {
        width: jax.jit(
            jax.vmap(functools.partial(step, width=width), (0, 0, 0, None, None)),
            donate_argnums=0,
        )
        for width in TRAINED
    }
    for t, width in enumerate(np.random.default_rng(0).choice(TRAINED, STEPS).tolist()):
        at = jax.vmap(jr.fold_in, (0, None))(keys, t + 1)
        state = many[width](state, targets, at, data, max(0.0, 1 - 4 * t / STEPS))
    return state[2]


def strongest(params: Any, width: int, groups: ws.symmetry.Groups = GROUPS) -> Any:
    """The units of the largest L2 norm of all their weights, layer by layer."""
    kernels = [params[name]["kernel"] for name in NAMES]
    kept = {}
    for k in range(2):
        into, out = kernels[k], kernels[k + 1]
        strength = jnp.square(into).sum(0) + jnp.square(out).sum(1)
        kept[k] = jnp.sort(jnp.argsort(-strength)[:width])
    return ws.symmetry.take(params, groups, kept)


def first(params: Any, width: int) -> Any:
    return ws.symmetry.take(params, GROUPS, {k: np.arange(width) for k in range(2)})


def smoothed(params: Any) -> Any:
    """Members with their units along shortest paths."""
    members = ws.population.unstack(params)
    order = lambda p: ws.generate.shortest_path(p, GROUPS, seconds=1.0)
    return ws.population.stack([ws.symmetry.permute(p, GROUPS, order(p)) for p in members])


def at_width(width: int, nets: Any, networks: Any, test: Any) -> dict[str, Any]:
    """Test accuracies `[seeds]` of every way to that width."""
    right = lambda p: ws.nets.accuracy(NET.apply(p, test[0]), test[1])
    seeds = len(jax.tree.leaves(nets)[0])
    one = functools.partial(ws.generate.materialise, params=SPEC, groups=GROUPS)
    mean = functools.partial(ws.generate.average, params=SPEC, groups=GROUPS, key=0, count=DRAWS)

    @jax.jit
    def run(nets: Any, networks: Any) -> dict[str, Any]:
        over = lambda make, of: jax.vmap(lambda p: right(make(p)))(of)
        averaged = over(lambda n: mean(n, sizes=sizes(width)), networks)
        plain = over(lambda n: one(n, sizes=sizes(width)), networks)
        return {
            "generated": averaged[:seeds], "without averaging": plain[:seeds],
            "not smoothed": averaged[seeds:],
            "first units": over(lambda p: first(p, width), nets),
            "strongest units": over(lambda p: strongest(p, width), nets),
        }  # fmt: skip

    return jax.tree.map(np.asarray, run(nets, networks))


def claims(full: Any, small: Mapping[str, Any]) -> list[Claim]:
    less = lambda a, b: (np.asarray(a) - np.asarray(b)).tolist()
    mine = small["generated"]
    return [
        Claim(
            "a net at 75% compression keeps the performance of full size",
            "digits, 24% of the weights: accuracy of the full net less that of the generated one",
            less(full, mine), "< 0.02",
        ),
        *(
            Claim(says, f"digits, 24% of the weights: accuracy less that {of}",
                  less(mine, small[name]), "> 0")
            for says, of, name in (
                ("generated weights are better than slices", "of the first units", "first units"),
                ("they are better than magnitude pruning", "of the strongest units",
                 "strongest units"),
                ("smooth weights are generated better", "learned from units as they come",
                 "not smoothed"),
                ("averaging over jittered coordinates helps", "without averaging",
                 "without averaging"),
            )
        ),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    digits = ws.data.digits()
    data, test = (tuple(map(jnp.asarray, part)) for part in (digits.train, digits.test))
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    right = jax.jit(jax.vmap(lambda p: ws.nets.accuracy(NET.apply(p, test[0]), test[1])))
    nets, alone = (
        jax.jit(jax.vmap(lambda s, w=w: trained(s, data, w)))(jnp.arange(seeds))
        for w in (FULL, SMALL)
    )
    smooth = smoothed(nets)
    variation = jax.vmap(lambda p: ws.generate.total_variation(p, GROUPS))
    targets = ws.population.concat([smooth, nets])
    networks = learned(targets, jnp.concatenate([keys, keys]), data)
    found = {width: at_width(width, nets, networks, test) for width in SHOWN}
    full = right(nets)
    rows = [
        {"way": way, **{f"width {width}": found[width][way].tolist() for width in SHOWN}}
        for way in found[SMALL]
    ]
    others = [
        {"what": "accuracy of the trained net", "figure": full.tolist()},
        {"what": f"accuracy of a net trained at width {SMALL}", "figure": right(alone).tolist()},
        {
            "what": "share of the total variation that is left by smoothing",
            "figure": (variation(smooth) / variation(nets)).tolist(),
        },
    ]
    tables = {"Accuracy by width, digits": rows, "The nets behind them": others}
    return Outcome(claims(full, found[SMALL]), tables)
