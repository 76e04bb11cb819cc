"""Samples that count by their losses: steps until a loss on test data, under noise and copies."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import weights
from wslax.contrib.reweight import weighted_loss

TITLE = "Samples that count by their losses"
PAPER = "Sow et al., Dynamic loss-based sample reweighting, arXiv:2502.06733"
ABOUT = """
Digits of 8 x 8, an MLP with a hidden layer of 64, 1,000 steps of Adam on 64 rows. Training data are
*clean*, or *noisy* (random labels in a third of the rows), or *redundant* (nine of ten rows are
copies of 20 drawings). LinUpper weighs samples of low loss less, *quadratic* those of low and of
high loss, with the temperature of 1 and the uniform first twentieth of the paper. The speed-up is
the steps that uniform weights take to their lowest loss on test data over those until the same
loss; who never gets there has taken all steps. The rate, of 5e-4, 1e-3, 3e-3, 1e-2 and 3e-2, is the
one with which uniform weights reach the lowest loss on another seed, and equal for all.
"""
STEPS, BATCH, EVERY = 1000, 64, 10
RATES = (5e-4, 1e-3, 3e-3, 1e-2, 3e-2)
DATA = ("clean", "noisy", "redundant")
NET = ws.nets.mlp(64, (64,), 10)


def uniform(losses: Any) -> Any:
    return jnp.full_like(losses, 1 / len(losses))


ARMS: dict[str, Callable[[Any], Any]] = {
    "uniform": uniform, "LinUpper": weights.linear_upper, "quadratic": weights.quadratic,
}  # fmt: skip


def spoilt(kind: str, key: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Training rows as the kind says."""
    chance = jr.uniform(jr.fold_in(key, 0), y.shape)
    if kind == "noisy":
        return x, jnp.where(chance < 1 / 3, jr.randint(jr.fold_in(key, 1), y.shape, 0, 10), y)
    if kind == "redundant":
        few = jr.randint(jr.fold_in(key, 1), y.shape, 0, 20)
        rows = jnp.where(chance < 0.9, few, jnp.arange(len(y)))
        return x[rows], y[rows]
    return x, y


def losses(params: Any, x: Any, y: Any) -> Any:
    logits = jax.nn.log_softmax(NET.apply(params, x))
    return -jnp.take_along_axis(logits, y[:, None], 1)[:, 0]


@functools.partial(jax.jit, static_argnames=("arm", "steps"))
def curve(arm: str, key: Any, train: Any, test: Any, rate: Any, steps: int = STEPS) -> Any:
    """Loss and accuracy on test data, every so many steps: `[2, steps / EVERY]`."""
    x, y = train
    rule = optax.adam(rate)

    def turn(carry: Any, step: Any) -> tuple[Any, None]:
        params, state = carry
        rows = jr.randint(jr.fold_in(key, step), (BATCH,), 0, len(x))
        loss = lambda p: weighted_loss(
            losses(p, x[rows], y[rows]), ARMS[arm], step=step, warmup=steps // 20
        )
        change, state = rule.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, change), state), None

    def round_(carry: Any, steps: Any) -> tuple[Any, Any]:
        carry, _ = jax.lax.scan(turn, carry, steps)
        of = jnp.mean(losses(carry[0], *test))
        return carry, jnp.stack([of, ws.nets.accuracy(NET.apply(carry[0], test[0]), test[1])])

    params = NET.init(jr.fold_in(key, steps))
    rounds = jnp.arange(steps).reshape(-1, EVERY)
    return jax.lax.scan(round_, (params, rule.init(params)), rounds)[1].T


def speed_up(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Evaluations until the lowest of `theirs`, theirs over ours; all where never."""
    reached = ours <= theirs.min()
    first = reached.argmax() + 1 if reached.any() else len(ours)
    return float((theirs.argmin() + 1) / first)


def measured(kind: str, seeds: int, train: Any, test: Any) -> tuple[float, dict[str, Any]]:
    """The chosen rate, and by arm the curves `[seeds, 2, points]`."""

    def run(arm: str, seed: int, rate: float) -> np.ndarray:
        key = jr.key(seed)
        return np.asarray(curve(arm, key, spoilt(kind, key, *train), test, rate))

    rate = min(RATES, key=lambda rate: run("uniform", seeds, rate)[0].min())
    return rate, {arm: np.stack([run(arm, s, rate) for s in range(seeds)]) for arm in ARMS}


def claims(kind: str, found: dict[str, Any]) -> list[Claim]:
    def fast(arm: str) -> Claim:
        pairs = zip(found[arm][:, 0], found["uniform"][:, 0], strict=True)
        return Claim(
            f"{arm} converges faster than uniform weights",
            f"{kind}: steps of uniform weights to their lowest test loss over those of {arm}",
            [speed_up(*pair) for pair in pairs], "> 1",
        )  # fmt: skip

    best = lambda arm: found[arm][:, 1].max(1)
    return [
        fast("LinUpper"),
        fast("quadratic"),
        Claim(
            "LinUpper ends no worse",
            f"{kind}: highest accuracy of LinUpper less that of uniform weights",
            (best("LinUpper") - best("uniform")).tolist(), "> -0.005",
        ),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    digits = ws.data.digits()
    train, test = jax.tree.map(jnp.asarray, (digits.train, digits.test))
    told: list[Claim] = []
    rows = []
    for kind in DATA:
        rate, found = measured(kind, seeds, train, test)
        told += claims(kind, found)
        rows += [
            {
                "data": kind,
                "weights": arm,
                "rate": f"{rate:g}",
                "lowest loss": curves[:, 0].min(1).tolist(),
                "after steps": (EVERY * (1.0 + curves[:, 0].argmin(1))).tolist(),
                "highest accuracy": curves[:, 1].max(1).tolist(),
                "accuracy at the end": curves[:, 1, -1].tolist(),
            }
            for arm, curves in found.items()
        ]
    return Outcome(told, {"On test data": rows})
