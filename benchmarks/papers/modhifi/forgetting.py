"""Forgetting a class by zeroing the units that matter to it and to no other."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import wslax as ws
from benchmarks.papers.rethinking.cases import Case, makers

CLASSES, EACH, HELD = 10, 100, 500
TOP = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
WAYS = ("ModHiFi", "activity", "random")


def struck(own: Any, rest: Any, share: Any) -> Any:
    """Units in the top share on the class, and not in the top share on the others."""
    rank = lambda scores: jnp.argsort(jnp.argsort(-scores))
    count = jnp.round(share * own.shape[-1])
    return (rank(own) < count) & (rank(rest) >= count)


@functools.partial(jax.jit, static_argnames="case")
def scored(case: Case, nets: Any, images: Any) -> Any:
    """By group, fidelity and activity on each class and on the others: 4 `[seeds, classes, n]`."""
    groups, apply = case.groups, case.net(case.widths).apply
    read = makers(groups, "consumed")

    def one(params: Any) -> Any:
        own = jax.vmap(
            lambda x: ws.trace.taps(apply, params, x, read="gram", where=list(read.values()))
        )(images)
        rest = jax.tree.map(lambda gram: gram.sum(0, keepdims=True) - gram, own)
        fidelity = jax.vmap(lambda grams: ws.select.scores.fidelity(params, grams, groups))
        active = jax.vmap(lambda x: ws.select.scores.activity(apply, params, groups, x))(images)
        others = jax.tree.map(lambda x: x.sum(0, keepdims=True) - x, active)
        scores = fidelity(own), fidelity(rest), active, others
        return {id: tuple(part[id] for part in scores) for id in read}

    return jax.lax.map(one, nets)


@functools.partial(jax.jit, static_argnames="case")
def accuracies(case: Case, nets: Any, scores: Any, share: Any, part: Any) -> Any:
    """On the class and on the others, `[ways, seeds, classes, 2]`."""
    x, y = part

    def one(params: Any, gone: Any, label: Any) -> Any:
        gates = {id: 1.0 - units for id, units in gone.items()}
        logits = case.apply(ws.select.gate(params, case.groups, gates), x)
        hit, mine = jnp.argmax(logits, -1) == y, y == label
        return jnp.stack([jnp.sum(hit & rows) / jnp.sum(rows) for rows in (mine, ~mine)])

    def chosen(id: int, own: Any, rest: Any, active: Any, others: Any) -> Any:
        ours = struck(own, rest, share)
        lots = jnp.argsort(jnp.argsort(jr.uniform(jr.key(id), ours.shape)))
        return jnp.stack([ours, struck(active, others, share), lots < ours.sum(-1, keepdims=True)])

    gone = {id: chosen(id, *four) for id, four in scores.items()}
    each = jax.vmap(one, (None, 0, 0))
    seeds = lambda gone: jax.lax.map(lambda of: each(*of, jnp.arange(CLASSES)), (nets, gone))
    return jax.lax.map(seeds, gone)


def forgotten(case: Case, nets: Any) -> dict[str, np.ndarray]:
    """Test accuracies in percent `[seeds, 2]` on the class and on the others, mean over classes."""
    (x, y), (held_x, held_y), test = case.parts
    images = jnp.stack([x[y == label][:EACH] for label in range(CLASSES)])
    scores = scored(case, nets, images)
    run = lambda share, part: np.asarray(accuracies(case, nets, scores, share, part)).mean(2)
    held = np.stack([run(share, (held_x[:HELD], held_y[:HELD])) for share in TOP])
    best = (held[..., 1] - held[..., 0]).mean(2).argmax(0)  # of each way
    found = {name: 100 * run(TOP[at], test)[i] for i, (name, at) in
             enumerate(zip(WAYS, best, strict=True))}  # fmt: skip
    return {"before": 100 * run(0.0, test)[0]} | found
