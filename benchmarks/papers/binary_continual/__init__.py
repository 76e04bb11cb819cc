"""Binary weights that learn two tasks in turn, against the theory of infinitely many weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from benchmarks.papers.binary_continual import replica
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import binary

TITLE = "Binary weights that learn two tasks in turn"
PAPER = "Li et al., Statistical mechanics of continual learning, arXiv:2212.02846"
ABOUT = """
Perceptrons of 600 binary weights with fields (`wslax.contrib.binary`) learn from two teachers in
turn, whose binary weights have an overlap of 0.5, each from as many random examples as the load
says, in units of the number of weights. Errors are exact, the angle between the mean weights and a
teacher over pi. *Theory* is the replica-symmetric saddle point of the same objective for infinitely
many weights, solved numerically; the distribution of fields after the first task is the disorder of
the second. *Afresh* is the same learning of the second task with fields of zero as the prior: what
it keeps of the first it owes to the overlap of the teachers. *No prior* goes on from the fields of
the first task with the likelihood alone. Adam at 0.05, falling to 0 by a cosine in 800 steps on
all examples.
"""
N, OVERLAP, LOADS, STEPS = 600, 0.5, (0.5, 1.0, 1.5, 2.0), 800
ARMS = ("the fields before as prior", "afresh", "no prior")


def examples(key: Any, teacher: Any, load: float) -> tuple[Any, Any]:
    x = jr.rademacher(key, (round(load * teacher.size), teacher.size), jnp.float32)
    return x, jnp.where(x @ teacher >= 0, 1.0, -1.0)


def learnt(data: tuple[Any, Any], begin: Any, prior: Any | None) -> Any:
    """Fields after a task."""
    x, y = data
    rule = optax.adam(optax.cosine_decay_schedule(0.05, STEPS))

    def energy(fields: Any) -> Any:
        likelihood = binary.log_likelihood(*binary.preactivation(fields, x), y).sum()
        return (0.0 if prior is None else binary.kl(fields, prior)) - likelihood

    def turn(carry: Any, _: None) -> tuple[Any, None]:
        fields, state = carry
        change, state = rule.update(jax.grad(energy)(fields), state)
        return (optax.apply_updates(fields, change), state), None

    return jax.lax.scan(turn, (begin, rule.init(begin)), None, length=STEPS)[0][0]


def error(fields: Any, teacher: Any) -> Any:
    mean = jnp.tanh(fields)
    return jnp.arccos(mean @ teacher / jnp.linalg.norm(mean) / teacher.size**0.5) / jnp.pi


@functools.partial(jax.jit, static_argnames=("load", "n"))
def simulated(key: Any, load: float, n: int = N) -> tuple[Any, Any]:
    """Error after task one, and `[arms, 2]` on both tasks after task two."""
    first, other = jr.rademacher(jr.fold_in(key, 0), (n,), jnp.float32), jr.fold_in(key, 1)
    # Exactly so many weights differ.
    teachers = first, jnp.where(jr.permutation(other, n) < n * (1 - OVERLAP) / 2, -first, first)
    data = [examples(jr.fold_in(key, 2 + i), teacher, load) for i, teacher in enumerate(teachers)]
    zero = jnp.zeros(n)
    before = learnt(data[0], zero, zero)
    after = (
        learnt(data[1], before, before), learnt(data[1], zero, zero), learnt(data[1], before, None),
    )  # fmt: skip
    told = lambda fields: jnp.stack([error(fields, teacher) for teacher in teachers])
    return error(before, teachers[0]), jnp.stack([told(fields) for fields in after])


def predicted(load: float) -> tuple[float, np.ndarray]:
    """As `simulated`, of the arms that have a prior."""
    nothing = replica.sites(OVERLAP)
    before = replica.learnt(load, nothing, 0)
    after = replica.learnt(load, before, 1), replica.learnt(load, nothing, 1)
    told = lambda of: [replica.error(of, task) for task in (0, 1)]
    return replica.error(before, 0), np.array([told(of) for of in after])


def claims(single: Any, both: Any, theory: Any) -> list[Claim]:
    """Of errors `[seeds, loads]` and `[seeds, loads, arms, 2]`."""
    off = lambda ours, theirs: np.abs(ours - theirs[None]).mean(1).tolist()
    curves = "theory matches what is learnt"
    where = "mean over loads of the distance of the error from theory, "
    arm = {name: both[:, :, i].mean(1) for i, name in enumerate(ARMS)}  # [seeds, 2]
    bound, afresh, free = (arm[name] for name in ARMS)
    return [
        Claim(curves, f"{where}after task one", off(single, theory[0]), "< 0.02"),
        *(
            Claim(
                curves,
                f"{where}on task {name} after task two",
                off(both[:, :, 0, i], theory[1][:, 0, i]), "< 0.02",
            )
            for i, name in enumerate(("one", "two"))
        ),
        Claim(
            "the fields before as prior keep the first task",
            "error on task one of learning afresh less that with the prior",
            (afresh - bound)[:, 0].tolist(), "> 0",
        ),
        Claim(
            "the fields before as prior keep the first task",
            "error on task one without a prior less that with it",
            (free - bound)[:, 0].tolist(), "> 0",
        ),
        Claim(
            "the prior does not keep the second task from being learnt",
            "error on task two with the prior less that of learning afresh",
            (bound - afresh)[:, 1].tolist(), "< 0.01",
        ),
        Claim(
            "the prior does not keep the second task from being learnt",
            "error on task two with the prior less that without one",
            (bound - free)[:, 1].tolist(), "< 0.01",
        ),
        Claim(
            "of both tasks more is known with the prior",
            "mean error without a prior less that with it",
            (free - bound).mean(1).tolist(), "> 0",
        ),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    found = [jax.lax.map(functools.partial(simulated, load=load), keys) for load in LOADS]
    single, both = (np.stack(part, 1) for part in zip(*found, strict=True))
    theory = tuple(np.stack(part) for part in zip(*map(predicted, LOADS), strict=True))
    one = [
        {
            "load": str(load),
            "measured": single[:, i].tolist(),
            "theory": f"{theory[0][i]:.3f}",
        }
        for i, load in enumerate(LOADS)
    ]
    two = [
        {"load": str(load), "second task": name}
        | {
            f"error on task {task}{of}": value
            for t, task in enumerate(("one", "two"))
            for of, value in (
                ("", both[:, i, a, t].tolist()),
                (", theory", f"{theory[1][i, a, t]:.3f}" if a < 2 else ""),
            )
        }
        for i, load in enumerate(LOADS)
        for a, name in enumerate(ARMS)
    ]
    tables = {"Error after task one": one, "Errors after task two": two}
    return Outcome(claims(single, both, theory), tables)
