"""Nets of all seeds at once: trained in stretches, with a test loss after each, by operations."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.papers.growth_speed import nets

EVERY = 25


class Curve(NamedTuple):
    """Test losses along a training.

    Attributes:
      costs: `[E]`, operations until then, with all that was spent before.
      losses: `[E, seeds]`.
    """

    costs: np.ndarray
    losses: np.ndarray


@functools.partial(jax.jit, static_argnames=("batch", "causal"))
def stretch(
    held: Any, keys: Any, rates: Any, steps: Any, warm: Any, job: Any, *, batch: int, causal: bool
) -> Any:
    """Steps `steps[0]` up to `steps[1]` of all members, and their test losses then."""
    (x, y), test = job

    def member(held: Any, key: Any, rate: Any) -> Any:
        def turn(i: Any, held: Any) -> Any:
            rows = jr.randint(jr.fold_in(key, i), (batch,), 0, len(x))
            now = rate * jnp.minimum(1, (i + 1) / warm)
            return nets.step(held, now, (x[rows], y[rows]), causal=causal)

        held = jax.lax.fori_loop(*steps, turn, held)
        return held, nets.loss(held[0], test, causal=causal)

    return jax.vmap(member)(held, keys, rates)


def train(
    job: nets.Job, held: Any, keys: Any, rates: Any, steps: int, warm: int, each: float, spent: Any
) -> tuple[Any, Curve]:
    """Members `(params, state)` after some steps, and their curve.

    Args:
      job: the data.
      held: parameters and states `[seeds, ...]`.
      keys: `[seeds]`, of the order of the batches.
      rates: `[seeds]`.
      steps: how many.
      warm: steps in which the rate rises.
      each: operations of a step.
      spent: operations before the first.
    """
    ends = [*range(0, steps, EVERY), steps]
    losses = []
    for span in zip([0, *ends], ends, strict=False):
        at = jnp.array(span)
        held, now = stretch(
            held, keys, rates, (at[0], at[1]), float(warm), (job.train, job.test),
            batch=job.batch, causal=job.causal,
        )  # fmt: skip
        losses.append(np.asarray(now))
    return held, Curve(spent + each * np.array(ends), np.stack(losses))


def reached(costs: np.ndarray, losses: np.ndarray, target: float) -> float:
    """Operations at which a curve first is as low as that, between two points on the line.

    Where it never is, all of them.
    """
    below = np.flatnonzero(losses <= target)
    if not len(below):
        return float(costs[-1])
    i = below[0]
    if not i:
        return float(costs[0])
    share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
    return float(costs[i - 1] + share * (costs[i] - costs[i - 1]))


def at(curve: Curve, cost: float) -> np.ndarray:
    """The loss of each seed after so many operations; NaN before the curve begins."""
    return np.array([np.interp(cost, curve.costs, y, left=np.nan) for y in curve.losses.T])
