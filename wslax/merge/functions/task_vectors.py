"""Sums of whole task vectors, as functions of a population."""

from typing import Any

from wslax.merge.memory import run
from wslax.merge.registry import METHODS
from wslax.typing import Params, Population, Where


def task_arithmetic(
    population: Population,
    base: Params,
    *,
    coef: Any = 1.0,
    lam: Any = 1.0,
    normalize: bool = False,
    where: Where = None,
) -> Params:
    r"""Base plus a weighted sum of task vectors: \(y = b + \lambda \sum_i w_i d_i\).

    Args:
      population: N members.
      base: the model they came from.
      coef: weight per member.
      lam: \(\lambda\), the factor of the sum; the paper's scaling coefficient.
      normalize: divide the sum by \(\sum_i w_i\) (by 1 where that is below 1e-8).
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member.

    References:
      Ilharco et al. 2023, Editing models with task arithmetic, arXiv:2212.04089.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.array([[2.0], [4.0]])}, {"w": jnp.array([1.0])}
        >>> ws.merge.task_arithmetic(experts, base, lam=0.5)
        {'w': Array([3.], dtype=float32)}
    """
    params = {"coef": coef, "lam": lam, "normalize": normalize}
    return run(METHODS["task_arithmetic"], population, base, params, where=where)
