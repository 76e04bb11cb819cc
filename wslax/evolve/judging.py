"""Fitness as a run takes it: from any Python function of one member, checked, higher is better."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.strategy import Evaluation, told
from wslax.population import size, unstack
from wslax.typing import Array, Params

Direction = Literal["maximize", "minimize"]


def each(judge: Callable[[Params], Any]) -> Callable[[Params], Any]:
    """A fitness of populations from a Python function of one member.

    For a judge that is no JAX function: another process, a game, a language model. A member for
    which it raises gets NaN, which is worse than any number; a warning shows the error, and the
    others go on.

    Args:
      judge: `params -> number`.

    Returns:
      `population -> float32 [N]`, for `run`.

    Raises:
      WeightSpaceError: from what is returned, if the judge fails for every member.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> fitness = ws.evolve.each(lambda params: float(params["w"].sum()))
        >>> fitness({"w": jnp.array([[1.0, 2.0], [3.0, 4.0]])}).tolist()
        [3.0, 7.0]
    """

    def evaluate(population: Params) -> Any:
        found, last = np.full(size(population), np.nan, np.float32), None
        for i, member in enumerate(unstack(population)):
            try:
                found[i] = judge(member)
            except Exception as error:
                last = error
                warnings.warn(f"member {i} failed: {error!r}", stacklevel=2)
        if last is not None and np.isnan(found).all():
            raise WeightSpaceError(f"every member failed, the last with {last!r}") from last
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
        scores = None if scores is None else -jnp.asarray(scores)
    return given._replace(fitness=fitness, scores=scores)


def outward(direction: Direction, value: Array) -> Any:
    """A fitness as the run's direction has it.

    Example:
        >>> import jax.numpy as jnp
        >>> float(outward("minimize", jnp.float32(-2)))
        2.0
    """
    return -value if direction == "minimize" else value
