"""ScaleBiO: what weight noisy sources of data end with, and what that is worth."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import bilevel

TITLE = "Weights of data sources, learnt"
PAPER = "Pan et al., ScaleBiO, arXiv:2406.19976"
ABOUT = """
Digits of 8 x 8, an MLP with a hidden layer of 64. A hundred drawings with right labels are for
validation; the rest of the training part is dealt to four sources of which two are right, one has
random labels in half of its rows and one in all. ScaleBiO with penalty 10: 3,000 steps on 64 rows
of the sources and 64 of validation, Adam at 1e-3 for both copies of the weights and at 1e-2 for the
logits. Other runs have the same steps and fixed weights: *uniform*; *right sources alone*, an
oracle; and *validation alone*, with penalty 0. All of them see the validation rows. *Trained again*
is a new net under the final weights of ScaleBiO, fixed.
"""
SOURCES, NOISE = 4, (0.0, 0.0, 0.5, 1.0)
STEPS, BATCH, VALIDATION, PENALTY = 3000, 64, 100, 10.0
NET = ws.nets.mlp(64, (64,), 10)


def losses(params: Any, batch: Any) -> Any:
    x, y = batch
    logits = jax.nn.log_softmax(NET.apply(params, x))
    return -jnp.take_along_axis(logits, y[:, None], 1)[:, 0]


def dealt(key: Any, x: Any, y: Any) -> tuple[Any, Any, Any]:
    """Training rows with noise, the source of each, and rows for validation."""
    order = jr.permutation(jr.fold_in(key, 0), len(x))
    x, y = x[order], y[order]
    validation = x[:VALIDATION], y[:VALIDATION]
    x, y = x[VALIDATION:], y[VALIDATION:]
    source = jnp.arange(len(x)) % SOURCES
    wrong = jr.uniform(jr.fold_in(key, 1), y.shape) < jnp.array(NOISE)[source]
    y = jnp.where(wrong, jr.randint(jr.fold_in(key, 2), y.shape, 0, 10), y)
    return (x, y), source, validation


@functools.partial(jax.jit, static_argnames="steps")
def trained(
    key: Any, data: Any, logits: Any, rate: Any, penalty: Any, steps: int = STEPS
) -> tuple[Any, Any]:
    """Parameters, and the weights of the sources over the steps; a rate of 0 fixes them."""
    rows, source, validation = data
    rules = optax.adam(1e-3), optax.adam(rate)
    run = bilevel.scalebio(losses, *rules, sources=SOURCES, penalty=penalty)
    state = run.init(NET.init(jr.fold_in(key, 3)))._replace(logits=logits)

    def turn(state: Any, key: Any) -> tuple[Any, Any]:
        pick = lambda i, of: jr.randint(jr.fold_in(key, i), (BATCH,), 0, len(of[0]))
        some, held = pick(0, rows), pick(1, validation)
        part = lambda of, at: jax.tree.map(lambda a: a[at], of)
        state, _ = run.step(state, part(rows, some), source[some], part(validation, held))
        return state, jax.nn.softmax(state.logits)

    state, weights = jax.lax.scan(turn, state, jr.split(jr.fold_in(key, 4), steps))
    return state, weights


def measured(seed: int, train: Any, test: Any, steps: int = STEPS) -> dict[str, Any]:
    """Accuracies by run, and the weights of sources over steps `[steps, S]`."""
    key = jr.key(seed)
    data = dealt(key, *train)
    alike = jnp.zeros(SOURCES)
    right = jnp.where(jnp.array(NOISE) == 0, 0.0, -30.0)
    run = functools.partial(trained, key, data, steps=steps)
    told = lambda state: float(ws.nets.accuracy(NET.apply(state.params, test[0]), test[1]))
    ours, weights = run(alike, 1e-2, PENALTY)
    states = {
        "ScaleBiO": ours,
        "uniform": run(alike, 0.0, PENALTY)[0],
        "right sources alone": run(right, 0.0, PENALTY)[0],
        "validation alone": run(alike, 0.0, 0.0)[0],
        "trained again": run(ours.logits, 0.0, PENALTY)[0],
    }
    return {name: told(state) for name, state in states.items()} | {"weights": np.array(weights)}


def claims(found: dict[str, list[float]], weights: Any) -> list[Claim]:
    """Of accuracies by run and final weights `[seeds, S]`."""
    less = lambda one, other: [x - y for x, y in zip(found[one], found[other], strict=True)]
    better = "learnt weights are better than uniform ones"
    return [
        Claim(
            "noisy sources end with next to no weight",
            "weight of both noisy sources", weights[:, 2:].sum(1).tolist(), "< 0.05",
        ),
        Claim(
            better, "accuracy of ScaleBiO less that of uniform weights",
            less("ScaleBiO", "uniform"), "> 0",
        ),
        Claim(
            better, "accuracy of ScaleBiO less that of validation alone",
            less("ScaleBiO", "validation alone"), "> 0",
        ),
        Claim(
            "learnt weights are as good as knowing which sources are right",
            "accuracy of ScaleBiO less that of the right sources alone",
            less("ScaleBiO", "right sources alone"), "> -0.01",
        ),
        Claim(
            "learnt weights carry over to a new training",
            "accuracy of a net trained again less that of uniform weights",
            less("trained again", "uniform"), "> 0",
        ),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    digits = ws.data.digits()
    train, test = jax.tree.map(jnp.asarray, (digits.train, digits.test))
    runs = [measured(seed, train, test) for seed in range(seeds)]
    weights = np.stack([run.pop("weights") for run in runs])  # [seeds, steps, S]
    found = {name: [run[name] for run in runs] for name in runs[0]}
    accuracies = [{"run": name, "accuracy": values} for name, values in found.items()]
    rows = [
        {"after steps": str(at)}
        | {
            f"source {s + 1}, {noise:.0%} noise": weights[:, at - 1, s].tolist()
            for s, noise in enumerate(NOISE)
        }
        for at in (STEPS // 10, STEPS // 3, STEPS)
    ]
    tables = {"Accuracy": accuracies, "Weights of the sources": rows}
    return Outcome(claims(found, weights[:, -1]), tables)
