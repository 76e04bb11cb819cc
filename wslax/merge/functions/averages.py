"""Weighted means, and the copy, as functions of a population."""

from typing import Any

from wslax.merge.memory import run
from wslax.merge.registry import METHODS
from wslax.typing import Params, Population, Where


def linear(
    population: Population,
    base: Params | None = None,
    *,
    coef: Any = 1.0,
    normalize: bool = True,
    where: Where = None,
) -> Params:
    r"""Weighted mean: \(y = \sum_i w_i x_i / \sum_i w_i\).

    Args:
      population: N members.
      base: only where leaves outside `where` come from.
      coef: weight per member; equal by default (mergekit has no default).
      normalize: divide by the sum of the weights; mergekit's default. Without it the plain sum.
        Weights that add up to zero then give NaN or infinity, as in mergekit.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the leaves do not share a member axis, or `coef` has another length.

    References:
      Wortsman et al. 2022, Model soups, arXiv:2203.05482.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = ws.population.stack([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}])
        >>> ws.merge.linear(experts, coef=jnp.array([1.0, 3.0]))
        {'w': Array([0.75, 0.75], dtype=float32)}
    """
    params = {"coef": coef, "normalize": normalize}
    return run(METHODS["linear"], population, base, params, where=where)


def passthrough(
    population: Population,
    base: Params | None = None,
    *,
    scale: Any = 1.0,
    where: Where = None,
) -> Params:
    """One member, its weights times `scale`.

    Args:
      population: one member.
      base: only where leaves outside `where` come from.
      scale: factor.
      where: globs of the leaves to scale.

    Returns:
      The parameters.

    Raises:
      WeightSpaceError: if there is more than one member.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.merge.passthrough({"w": jnp.ones((1, 2))}, scale=ws.by_leaf({"w": 2.0}))
        {'w': Array([2., 2.], dtype=float32)}
    """
    return run(METHODS["passthrough"], population, base, {"scale": scale}, where=where)
