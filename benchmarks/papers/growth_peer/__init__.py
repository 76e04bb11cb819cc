"""An MLP that grows while it trains, beside the growing networks of gromo."""

import functools
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.growth_peer import gromo
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Growth beside gromo"
PAPER = (
    "Verbockhaven et al., Growing tiny networks (TINY), arXiv:2405.19816, by gromo; Evci et al., "
    "GradMax, arXiv:2201.05125, by gromo and here"
)
ABOUT = """
A perceptron with one hidden layer (tanh) on the 8 x 8 digits grows from 4 to 16 units, 4 after each
150 steps of Adam (5e-3, batches of 64), 600 steps in all. Nets of a seed begin with the same
weights and see the same batches. gromo's growth is that of its documentation: statistics over all
training examples, new units and an update of old weights from them, and the best of four factors by
the training loss; its threshold may add fewer units. With its GradMax there is no update of old
weights. Its optimizer begins afresh after each growth, here the moments go on. "At growth" is the
training loss after growth less that before, the mean of three growths.
"""
UNITS, PHASE, BATCH, RATE = (4, 8, 12, 16), 150, 64, 5e-3
ADAM = optax.adam(RATE)
LAYERS = ("a", "out")
PEERS = {"gromo, TINY": gromo.TINY, "gromo, GradMax": gromo.GRADMAX}
OURS = ("gradmax", "zero", "net2wider")


def init(units: int, key: Any) -> Any:
    draw = lambda i, n, m: {
        "kernel": jr.normal(jr.fold_in(key, i), (n, m)) * n**-0.5,
        "bias": jnp.zeros(m),
    }
    return {"a": draw(0, 64, units), "out": draw(1, units, 10)}


def logits(params: Any, x: Any) -> Any:
    h = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return h @ params["out"]["kernel"] + params["out"]["bias"][None]


def loss(params: Any, x: Any, y: Any) -> Any:
    return ws.nets.cross_entropy(logits(params, x), y)


@jax.jit
def trained(params: Any, state: Any, rows: Any, x: Any, y: Any) -> Any:
    """Members after the steps on rows `[seeds, steps, B]`."""

    def step(carry: Any, row: Any) -> Any:
        params, state = carry
        updates, state = ADAM.update(jax.grad(loss)(params, x[row], y[row]), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.vmap(lambda p, s, rows: jax.lax.scan(step, (p, s), rows)[0])(params, state, rows)


def edit(method: str, params: Any, units: int, seed: int, data: Any) -> Any:
    groups = ws.symmetry.feed_forward(params, list(LAYERS))
    if method == "gradmax":
        return ws.grow.gradmax(groups, {0: units}, lambda p: loss(p, *data), params)
    noise = 0.01 if method == "net2wider" else 0.0
    return ws.grow.widen(groups, {0: units}, method=method, key=seed, noise=noise)


def ours(method: str, params: Any, batches: Any, data: Any) -> Any:
    """Members `[seeds, ...]` at the end, and the losses before and after each growth."""
    state, jumps = jax.vmap(ADAM.init)(params), []
    losses = jax.vmap(lambda p: loss(p, *data))
    for units, rows in zip(UNITS, batches, strict=True):
        if units != UNITS[0]:
            before, grown = losses(params), []
            members = zip(ws.population.unstack(params), ws.population.unstack(state), strict=True)
            for seed, (p, s) in enumerate(members):
                change = edit(method, p, units, seed, data)
                grown.append((change.apply(p), change.optimizer_state(s)))
            params, state = ws.population.stack(grown)
            jumps.append((before, losses(params)))
        params, state = trained(params, state, rows, *data)
    return params, np.asarray(jumps)


def figures(params: Any, jumps: Any, data: Any, test: Any) -> dict[str, list[float]]:
    """Of members in a list, with losses `[growths, 2, seeds]`."""
    right = lambda p: ws.nets.accuracy(logits(p, test[0]), test[1])
    found = {
        "training loss": [float(loss(p, *data)) for p in params],
        "test accuracy": [float(right(p)) for p in params],
        "units": [float(len(p["a"]["bias"])) for p in params],
    }
    if len(jumps):
        found["at growth"] = (jumps[:, 1] - jumps[:, 0]).mean(0).tolist()
    return found


def measure(seeds: int) -> Outcome:
    digits = ws.data.digits()
    flat = lambda part: (jnp.asarray(part[0].reshape(len(part[0]), -1)), jnp.asarray(part[1]))
    data, test = flat(digits.train), flat(digits.test)
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    start = jax.jit(jax.vmap(functools.partial(init, UNITS[0])))(keys)
    batches = jr.randint(jr.key(1), (len(UNITS), seeds, PHASE, BATCH), 0, len(data[0]))
    found: dict[str, Mapping[str, list[float]]] = {}
    for method in OURS:
        params, jumps = ours(method, start, batches, data)
        found[method] = figures(ws.population.unstack(params), jumps, data, test)
    wide = jax.jit(jax.vmap(functools.partial(init, UNITS[-1])))(keys)
    state = jax.vmap(ADAM.init)(wide)
    for phase in batches:
        wide, state = trained(wide, state, phase, *data)
    found["16 units from the start"] = figures(ws.population.unstack(wide), [], data, test)
    skipped = []
    if gromo.is_there():
        for name, how in PEERS.items():
            nets = [
                gromo.run(net, data, batches[:, i], UNITS[1] - UNITS[0], RATE, how)
                for i, net in enumerate(ws.population.unstack(start))
            ]
            params, jumps = zip(*nets, strict=True)
            found[name] = figures(params, np.moveaxis(np.asarray(jumps), 0, -1), data, test)
    else:
        skipped.append("gromo is not installed: `pip install gromo`, which takes PyTorch with it")
        print(skipped[0], file=sys.stderr)
    return Outcome(claims(found), {"After 600 steps": rows(found)}, skipped)


def claims(found: Mapping[str, Mapping[str, list[float]]]) -> list[Claim]:
    """Of those that were run, against growth by `grow.gradmax`."""
    mine, told = found["gradmax"]["training loss"], []
    says = {
        "gromo, TINY": ("new units for what the net cannot express learn best", "< 0"),
        "gromo, GradMax": ("the same method, with a new optimizer state after growth", "> 0"),
        "zero": ("units by their gradient learn faster than random ones", "> 0"),
    }
    for name, (words, bound) in says.items():
        if name in found:
            pairs = zip(found[name]["training loss"], mine, strict=True)
            what = f"training loss of {name} less that of gradmax here"
            told.append(Claim(words, what, [a - b for a, b in pairs], bound))
    return told


def rows(found: Mapping[str, Mapping[str, list[float]]]) -> list[dict[str, Any]]:
    columns = ("units", "at growth", "training loss", "test accuracy")
    return [{"growth": name} | {c: of.get(c, "") for c in columns} for name, of in found.items()]
