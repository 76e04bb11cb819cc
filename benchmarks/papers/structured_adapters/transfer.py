"""Nets that learn another view of their data while they lose units."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.fitting import fitted

WIDTH, RANK = 256, 8
BEFORE, EXAMPLES, BATCH = 1000, 1000, 50
CUTS, STAGES, STEPS = 4, 6, 60
SHARES = (1.0, 0.5, 0.3, 0.2, 0.1)
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LAYERS = ("hidden_0", "hidden_1", "out")
MATRICES = ["hidden_0/kernel", "hidden_1/kernel"]


class Arm(NamedTuple):
    """A way to transfer.

    Attributes:
      adapter: a chain; what it has for the matrices comes first.
      taylor: whether units go by Taylor score, else at random.
      sparse: whether the matrices train at random places alone, as many as SPLoRA learns.
    """

    adapter: ws.adapt.Adapter
    taylor: bool = True
    sparse: bool = False


def with_rest(*matrices: ws.adapt.Adapter) -> ws.adapt.Adapter:
    return ws.adapt.chain(*matrices, ws.adapt.whole(where=["*bias", "out/kernel"]))


WHOLE = with_rest(ws.adapt.whole(where=MATRICES))
SPLORA = with_rest(ws.adapt.splora(RANK, where=MATRICES))
WIDER = with_rest(ws.adapt.splora(4 * RANK, where=MATRICES))
ARMS = {
    "fine-pruning": Arm(WHOLE),
    "SPLoRA": Arm(SPLORA),
    "SPLoRA, rank 32": Arm(WIDER),
    "random places": Arm(WHOLE, sparse=True),
    "SPLoRA, random units": Arm(SPLORA, taylor=False),
    "head and biases": Arm(with_rest()),
}


class Found(NamedTuple):
    """Accuracies of one arm, `[rates, seeds, shares]`."""

    validation: Any
    test: Any


def net_of(features: int, width: int = WIDTH) -> ws.nets.Net:
    return ws.nets.mlp(features, (width, width), 10)


logits = net_of(1).apply  # it reads the sizes from the parameters


def loss(params: Any, x: Any, y: Any) -> Any:
    return ws.nets.cross_entropy(logits(params, x), y)


def schedule(share: Any, width: int) -> Any:
    """Units of a hidden layer in each stage: all, then fewer by an equal factor at each cut."""
    cuts = np.minimum(np.arange(STAGES), CUTS) / CUTS
    return jnp.round(width * share**cuts).astype(int)


def survivors(scores: Any, gates: Any, count: Any) -> Any:
    """Ones at the `count` units of highest score among those left; `count` may be traced."""
    worst_last = jnp.argsort(-jnp.where(gates > 0, scores, -jnp.inf))
    return (jnp.argsort(worst_last) < count).astype(gates.dtype)


def places(key: Any, begin: Any, kept: Any) -> Any:
    """Where the matrices train, at random; of the entries left as many as SPLoRA would learn.

    Args:
      key: of the seed.
      begin: what trains, `WHOLE`'s.
      kept: units of a hidden layer at the end; may be traced.

    Returns:
      Bools like `begin`.
    """
    matrices, rest = begin
    mask = {}
    for i, (name, part) in enumerate(matrices.items()):
        shape = part["change"].shape
        rows, columns = (shape[0] if name == MATRICES[0] else kept), kept
        density = RANK * (rows + columns) / (rows * columns)
        mask[name] = {"change": jr.uniform(jr.fold_in(key, i), shape) < density}
    return mask, jax.tree.map(lambda x: jnp.ones(x.shape, bool), rest)


def transferred(arm: Arm, key: Any, base: Any, data: Any, share: Any, rate: Any, steps: int) -> Any:
    """The net at the end, its lost units at zero, `steps` a stage.

    A unit whose gate is zero gives nothing and gets no gradient, so what is left trains as the
    smaller net does, and nets of all sizes are one program.
    """
    x, y = data
    groups, width = ws.symmetry.feed_forward(base, LAYERS), base["out"]["kernel"].shape[0]
    counts = schedule(share, width)
    begin, fixed = arm.adapter.init(jr.fold_in(key, 0), base)
    rule = optax.adam(optax.cosine_decay_schedule(rate, STAGES * steps))
    if arm.sparse:
        rule = ws.select.hold(rule, places(jr.fold_in(key, 1), begin, counts[-1]))
    chance = {g.id: jr.uniform(jr.fold_in(key, 2 + g.id), (width,)) for g in groups.free}

    def scores(params: Any, gates: Any) -> Any:
        if not arm.taylor:
            return chance
        slope = jax.grad(lambda params: loss(ws.select.gate(params, groups, gates), x, y))(params)
        return ws.select.scores.along(groups, ws.select.scores.saliency(params, slope))

    def stage(carry: Any, now: Any) -> tuple[Any, None]:
        (trained, state, gates), (count, batches) = carry, now
        of = scores(arm.adapter.fuse(base, trained, fixed), gates)
        gates = {id: survivors(of[id], gates[id], count) for id in gates}

        def step(held: Any, rows: Any) -> tuple[Any, None]:
            trained, state = held
            at = lambda t: ws.select.gate(arm.adapter.fuse(base, t, fixed), groups, gates)
            slope = jax.grad(lambda t: loss(at(t), x[rows], y[rows]))(trained)
            change, state = rule.update(slope, state, trained)
            return (optax.apply_updates(trained, change), state), None

        trained, state = jax.lax.scan(step, (trained, state), batches)[0]
        return (trained, state, gates), None

    batches = jr.randint(jr.fold_in(key, 5), (STAGES, steps, BATCH), 0, len(x))
    start = begin, rule.init(begin), {id: jnp.ones(width) for id in chance}
    trained, _, gates = jax.lax.scan(stage, start, (counts, batches))[0]
    return ws.select.gate(arm.adapter.fuse(base, trained, fixed), groups, gates)


@functools.partial(jax.jit, static_argnames="steps")
def bases(keys: Any, x: Any, y: Any, steps: int) -> Any:
    """A base for each seed, `[seeds, ...]`."""
    init = net_of(x.shape[1]).init
    train = lambda key: fitted(loss, optax.adam(1e-3), init(key), jr.fold_in(key, 1), (x, y), steps)
    return jax.vmap(train)(keys)


@functools.partial(jax.jit, static_argnames=("name", "steps"))
def tried(name: str, keys: Any, based: Any, data: Any, held: Any, rates: Any, steps: int) -> Found:
    """One arm from every seed's base on its own data, at all rates and shares."""

    def one(rate: Any, key: Any, base: Any, data: Any, share: Any) -> Found:
        net = transferred(ARMS[name], key, base, data, share, rate, steps)
        return Found(*(ws.nets.accuracy(logits(net, x), y) for x, y in held))

    shares = jax.vmap(one, (None, None, None, None, 0))
    seeds = jax.vmap(shares, (None, 0, 0, 0, None))
    return jax.lax.map(lambda rate: seeds(rate, keys, based, data, jnp.array(SHARES)), rates)


def learned(name: str, features: int, share: float, width: int = WIDTH) -> int:
    """How many numbers of an arm are learned, and kept with the pruned net."""
    arm = Arm(SPLORA) if ARMS[name].sparse else ARMS[name]
    base = jax.eval_shape(net_of(features, width).init, jr.key(0))
    groups = ws.symmetry.feed_forward(base, LAYERS)
    kept = {group.id: np.arange(round(width * share)) for group in groups.free}
    begin = jax.eval_shape(arm.adapter.init, jr.key(0), base)[0]
    pruned = jax.eval_shape(lambda t: [ws.adapt.take(p, groups, kept) for p in t], begin)
    return sum(x.size for x in jax.tree.leaves(pruned))
