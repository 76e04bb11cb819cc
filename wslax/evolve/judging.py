"""Fitness as a run takes it: from any Python function of one member, checked, higher is better."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.strategy import Evaluation, told
from wslax.population import size, unstack
from wslax.population.int8 import dequantize
from wslax.typing import Array, Params

Direction = Literal["maximize", "minimize"]


def each(judge: Callable[[Params], Any]) -> Callable[[Params], Any]:
    """A fitness of populations from a Python function of one member.

    For a judge that is no JAX function: another process, a game, a language model. A member for
    which it raises, or gives no number, gets NaN, which is worse than any number; a warning shows
    the error, and the others go on.

    Args:
      judge: `params -> number`.

    Returns:
      `population -> float32 [N]`, for `run`.

    Raises:
      WeightSpaceError: from what is returned, if it is traced (`segment` above 1).

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> fitness = ws.evolve.each(lambda params: float(params["w"].sum()))
        >>> fitness({"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}).tolist()
        [3.0, 7.0]
    """

    def evaluate(population: Params) -> Any:
        if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(population)):
            raise WeightSpaceError("each: a Python judge cannot be traced; run it with segment=1")
        found = np.full(size(population), np.nan, np.float32)
        for i, member in enumerate(unstack(population)):
            try:
                found[i] = float(judge(dequantize(member)))
            except Exception as error:
                warnings.warn(f"member {i} failed: {error!r}", stacklevel=2)
        return found

    return evaluate


def inward(direction: Direction, evaluation: Array | Evaluation, n: int) -> Evaluation:
    """What was measured of `n` members, so that higher is better; not finite becomes NaN.

    Raises:
      WeightSpaceError: if there is not one number a member.

    Example:
        >>> import jax.numpy as jnp
        >>> inward("minimize", jnp.array([1, 2]), 2).fitness.tolist()
        [-1.0, -2.0]
    """
    given = told(evaluation, n)
    fitness = jnp.asarray(given.fitness)
    fitness = fitness.astype(tree.wide(fitness))
    fitness = jnp.where(jnp.isfinite(fitness), fitness, jnp.nan)
    scores = given.scores
    if direction == "minimize":
        fitness = -fitness
        scores = None if scores is None else -_signed(scores)
    return given._replace(fitness=fitness, scores=scores)


def _signed(scores: Array) -> Any:
    """Scores that a minus turns round: booleans and unsigned integers become floats."""
    scores = jnp.asarray(scores)
    turns = tree.is_float(scores) or jnp.issubdtype(scores.dtype, jnp.signedinteger)
    return scores if turns else scores.astype(jnp.float32)


def outward(direction: Direction, value: Array) -> Any:
    """A fitness as the run's direction has it.

    Example:
        >>> import jax.numpy as jnp
        >>> float(outward("minimize", jnp.float32(-2)))
        2.0
    """
    return -value if direction == "minimize" else value
