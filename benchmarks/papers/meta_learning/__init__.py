"""Few examples of new characters: MAML, FOMAML and Reptile against plain fine-tuning."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.data import OMNIGLOT, omniglot, told_missing
from benchmarks.papers.merging.families import halved
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import maml

TITLE = "Weights from which a few examples suffice"
PAPER = (
    "Finn et al., MAML, arXiv:1703.03400; Nichol et al., Reptile, arXiv:1803.02999; Verma et al., "
    "AdaptAgent, arXiv:2411.13451"
)
ABOUT = """
Tasks of five Omniglot characters, one or five drawings of each to adapt on and five others to be
right about, at 14 x 14, for an MLP with two hidden layers of 64. A seed leaves out two of eight
alphabets for testing and one for choices; 112 characters of the rest also come turned by 90, 180
and 270 degrees. Meta-training: 1,500 batches of four tasks, three inner steps, Adam at 2e-3 falling
to 0 by a cosine. The inner rate, 0.2 for MAML and 0.1 for the others, is the best of 0.03, 0.1 and
0.2 for one drawing on another seed. Reptile adapts on all drawings of a task. *Joint pre-training*
learns to tell all training characters apart, in as many steps with as many gradients of drawings
and the same optimiser; a new task has a head of zeros. *Joint, then FOMAML* is half of each, one
after the other, which is how AdaptAgent has it. *Random weights* are not trained before. On a test
task everything adapts by plain gradient descent on all layers, at the rate (0.03 to 3) and
after the steps (1 to 30) that are best on tasks of the choices' alphabet, a choice of each start
and seed. Accuracies are means over 100 test tasks. *Nearest drawing* compares pixels.
"""
WAYS, QUERIES, TASKS, INNER = 5, 5, 4, 3
ITERATIONS, HIDDEN = 1500, (64, 64)
RATES, CHECKS = (0.03, 0.1, 0.3, 1.0, 3.0), (1, 3, 10, 30)
ORDERS = {"MAML": ("second", 0.2), "FOMAML": ("first", 0.1), "Reptile": ("reptile", 0.1)}


class Split(NamedTuple):
    """Strokes `[characters, drawers, pixels]`."""

    train: Any
    choices: Any
    test: Any


def split(alphabets: dict[str, np.ndarray], seed: int) -> Split:
    """Two alphabets to test on, one for choices, the rest with their turns to train on."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(sorted(alphabets))

    def some(names: Any, count: int) -> np.ndarray:
        joined = np.concatenate([alphabets[name] for name in names])
        return rng.permutation(joined)[:count]

    flat = lambda x: jnp.asarray(halved(x.reshape(-1, 28, 28, 1)).reshape(*x.shape[:2], -1))
    train = some(order[3:], 112)
    turned = np.concatenate([np.rot90(train, turn, (2, 3)) for turn in range(4)])
    return Split(flat(turned), flat(some(order[2:3], 17)), flat(some(order[:2], 39)))


def tasks(key: Any, strokes: Any, shots: int, count: int) -> Any:
    """`(support, query)`, each `(x, y)` with a leading axis of tasks."""
    some = lambda key, shape, count: jax.lax.top_k(jr.uniform(key, shape), count)[1]
    characters, drawers, _ = strokes.shape

    def one(key: Any) -> Any:
        classes = some(jr.fold_in(key, 0), (characters,), WAYS)
        rows = some(jr.fold_in(key, 1), (WAYS, drawers), shots + QUERIES)
        return strokes[classes[:, None], rows]

    x = jax.vmap(one)(jr.split(key, count))  # [tasks, ways, drawings, pixels]
    y = jnp.broadcast_to(jnp.arange(WAYS)[None, :, None], x.shape[:3])
    part = lambda s: (x[:, :, s].reshape(count, -1, x.shape[-1]), y[:, :, s].reshape(count, -1))
    return part(slice(shots)), part(slice(shots, None))


def net(pixels: int, classes: int = WAYS) -> ws.nets.Net:
    return ws.nets.mlp(pixels, HIDDEN, classes)


def loss(params: Any, batch: Any) -> Any:
    x, y = batch
    return ws.nets.cross_entropy(net(x.shape[-1]).apply(params, x), y)


def fitted(slope: Any, params: Any, key: Any, iterations: int) -> Any:
    """Trained by Adam on `slope(params, key)`, a gradient."""
    rule = optax.adam(optax.cosine_decay_schedule(2e-3, iterations))

    def turn(carry: Any, key: Any) -> tuple[Any, None]:
        params, state = carry
        change, state = rule.update(slope(params, key), state)
        return (optax.apply_updates(params, change), state), None

    return jax.lax.scan(turn, (params, rule.init(params)), jr.split(key, iterations))[0][0]


@functools.partial(jax.jit, static_argnames=("shots", "order", "iterations"))
def meta_trained(
    key: Any, begin: Any, strokes: Any, shots: int, order: str, rate: Any, iterations: int
) -> Any:
    """Weights that a task starts from."""

    def slope(params: Any, key: Any) -> Any:
        support, query = tasks(key, strokes, shots, TASKS)
        if order == "reptile":
            support = jax.tree.map(lambda *x: jnp.concatenate(x, 1), support, query)
        batch = support, query
        return maml.meta_gradient(loss, params, batch, rate=rate, steps=INNER, order=order)[1]

    return fitted(slope, begin, jr.fold_in(key, 1), iterations)


@functools.partial(jax.jit, static_argnames=("shots", "iterations"))
def jointly_trained(key: Any, strokes: Any, shots: int, iterations: int) -> Any:
    """A net that tells all characters apart, with a head of zeros in place of its own."""
    characters, drawers, pixels = strokes.shape
    batch = TASKS * WAYS * (shots * INNER + QUERIES)

    def slope(params: Any, key: Any) -> Any:
        row = jr.randint(key, (batch,), 0, characters * drawers)
        return jax.grad(loss)(params, (strokes.reshape(-1, pixels)[row], row // drawers))

    begin = net(pixels, characters).init(jr.fold_in(key, 0))
    params = fitted(slope, begin, jr.fold_in(key, 1), iterations)
    head = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], WAYS)), params["out"])
    return params | {"out": head}


@functools.partial(jax.jit, static_argnames="shots")
def learnt(params: Any, key: Any, strokes: Any, shots: int, rate: Any) -> Any:
    """Mean accuracy on 100 tasks, `[checks]`."""

    def one(task: Any) -> Any:
        support, (x, y) = task
        found, at, done = [], params, 0
        for steps in CHECKS:
            at = maml.adapt(loss, at, support, rate=rate, steps=steps - done)
            done = steps
            found.append(ws.nets.accuracy(net(x.shape[-1]).apply(at, x), y))
        return jnp.stack(found)

    return jax.lax.map(one, tasks(key, strokes, shots, 100)).mean(0)


def tested(params: Any, key: Any, of: Split, shots: int) -> tuple[float, str]:
    """Accuracy on test tasks as chosen on the others, and the choice."""
    on = lambda salt, part, rate: np.asarray(
        learnt(params, jr.fold_in(key, salt), part, shots, rate)
    )
    chosen = np.stack([on(2, of.choices, rate) for rate in RATES])
    rate, check = np.unravel_index(chosen.argmax(), chosen.shape)
    found = on(3, of.test, RATES[rate])[check]
    return float(found), f"{RATES[rate]:g}, {CHECKS[check]}"


@functools.partial(jax.jit, static_argnames="shots")
def nearest(key: Any, strokes: Any, shots: int) -> Any:
    (x, y), (new, truth) = tasks(key, strokes, shots, 100)
    far = jnp.square(new[:, :, None] - x[:, None]).sum(-1)
    return jnp.mean(jnp.take_along_axis(y, far.argmin(-1), 1) == truth)


def measured(of: Split, seed: int, shots: int, iterations: int = ITERATIONS) -> dict[str, Any]:
    """Accuracy by start, and the choices of rate and steps."""
    key = jr.fold_in(jr.key(seed), shots)
    meta = lambda begin, name, iterations: meta_trained(
        key, begin, of.train, shots, *ORDERS[name], iterations
    )
    joint = functools.partial(jointly_trained, key, of.train, shots)
    random, half = net(of.train.shape[-1]).init(jr.fold_in(key, 0)), iterations // 2
    starts = {name: meta(random, name, iterations) for name in ORDERS}
    starts["joint pre-training"] = joint(iterations)
    starts["joint, then FOMAML"] = meta(joint(half), "FOMAML", half)
    starts["random weights"] = random
    found: dict[str, Any] = {name: tested(p, key, of, shots) for name, p in starts.items()}
    alone = float(nearest(jr.fold_in(key, 3), of.test, shots))
    return found | {"nearest drawing": (alone, "")}


def claims(shots: str, found: dict[str, list[float]]) -> list[Claim]:
    def less(says: str, one: str, other: str, bound: str) -> Claim:
        gap = [x - y for x, y in zip(found[one], found[other], strict=True)]
        return Claim(says, f"{shots}: accuracy of {one} less that of {other}", gap, bound)

    better = "meta-learning gains 3.36 points or more over plain fine-tuning"
    return [
        *(
            less(better, ours, plain, "> 0.0336")
            for ours in ("MAML", "FOMAML")
            for plain in ("random weights", "joint pre-training")
        ),
        less(better, "joint, then FOMAML", "joint pre-training", "> 0.0336"),
        less("the first order is nearly as good as the second", "FOMAML", "MAML", "> -0.02"),
        less("Reptile is about as good as MAML", "Reptile", "MAML", "> -0.02"),
        less("what is learnt is more than a distance of pixels", "MAML", "nearest drawing", "> 0"),
    ]


def measure(seeds: int) -> Outcome:
    alphabets = omniglot()
    skipped = told_missing(alphabets, OMNIGLOT)
    if alphabets is None:
        return Outcome([], {}, skipped)
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    for shots in (1, 5):
        runs = [measured(split(alphabets, seed), seed, shots) for seed in range(seeds)]
        name = f"{shots} drawing{'s' * (shots > 1)} a character"
        found = {start: [run[start][0] for run in runs] for start in runs[0]}
        told += claims(name, found)
        tables[f"Accuracy on new alphabets, {name}"] = [
            {
                "start": start,
                "accuracy": values,
                "rate and steps": "; ".join(sorted({run[start][1] for run in runs})),
            }
            for start, values in found.items()
        ]
    return Outcome(told, tables, skipped)
