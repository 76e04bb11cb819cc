"""Task vectors trimmed by magnitude, as functions of a population."""

from typing import Any

from wslax.merge.memory import run
from wslax.merge.registry import METHODS
from wslax.typing import Params, Population, Where


def ties(
    population: Population,
    base: Params,
    *,
    coef: Any = 1.0,
    density: Any = 1.0,
    lam: Any = 1.0,
    normalize: bool = True,
    rescale: bool = False,
    where: Where = None,
) -> Params:
    r"""Trim, elect a sign, average what agrees.

    Each task vector keeps its \(k = \max(1, \lfloor \text{density} \cdot n \rfloor)\) largest
    entries (all that equal the k-th) and is weighted, \(D_i = w_i \hat d_i\); then

    \[s = \mathrm{sign} \sum_i D_i, \quad A = \{i : \mathrm{sign} D_i = s\}, \quad
    y = b + \lambda \frac{\sum_{i \in A} D_i}{\sum_{i \in A} w_i}.\]

    Semantics are mergekit 0.1.5's: thresholds per leaf (the paper: over the whole model) and a
    weighted mean (the paper: a plain one).

    Args:
      population: N members.
      base: the model they came from.
      coef: weight per member.
      density: share kept per member, 0 to 1; the paper keeps 0.2, mergekit all.
      lam: \(\lambda\), the factor of the merged task vector.
      normalize: divide by the weights that took part, where they do not cancel.
      rescale: restore each task vector's L1 norm after trimming; not in the paper.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a density is out of range.

    References:
      Yadav et al. 2023, TIES-Merging, arXiv:2306.01708, section 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[3.0, 0.1, 1.0], [1.0, 0.2, -2.0]])}
        >>> ws.merge.ties(experts, {"w": jnp.zeros(3)}, density=0.67)
        {'w': Array([ 2.,  0., -2.], dtype=float32)}
    """
    params = {
        "coef": coef, "density": density, "lam": lam, "normalize": normalize, "rescale": rescale,
    }  # fmt: skip
    return run(METHODS["ties"], population, base, params, where=where)


def breadcrumbs(
    population: Population,
    base: Params,
    *,
    coef: Any = 1.0,
    density: Any = 1.0,
    gamma: Any = 0.01,
    lam: Any = 1.0,
    normalize: bool = False,
    rescale: bool = False,
    where: Where = None,
) -> Params:
    r"""Drop the largest and the smallest entries of task vectors, add the rest.

    Of each task vector of n entries the \(\lfloor \gamma n \rfloor\) largest go, and the smallest,
    so that \(k = \lfloor \text{density} \cdot n \rfloor\) are left (and all that equal the least
    or the greatest of them); fewer of the largest go where otherwise less than k were left. Then
    \(y = b + \lambda \sum_i w_i \hat d_i\).

    Semantics are mergekit 0.1.5's. The paper drops both shares layer by layer, keeps
    \(\beta = 0.85\) and drops \(\gamma = 0.01\) at the top.

    Args:
      population: N members.
      base: the model they came from.
      coef: weight per member.
      density: share kept per member, 0 to 1; mergekit's default keeps all.
      gamma: share of largest entries dropped per member, 0 to 1; mergekit's and the paper's 0.01.
      lam: \(\lambda\), the factor of the merged task vector.
      normalize: divide by \(\sum_i w_i\) (by 1 where that is below 1e-8).
      rescale: restore each task vector's L1 norm after dropping; not in the paper.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a share is out of range.

    References:
      Davari and Belilovsky 2024, Model Breadcrumbs, arXiv:2312.06795, section 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.array([[9.0, 0.1, 2.0, -1.0]])}, {"w": jnp.zeros(4)}
        >>> ws.merge.breadcrumbs(experts, base, density=0.5, gamma=0.25)
        {'w': Array([ 0.,  0.,  2., -1.], dtype=float32)}
    """
    params = {
        "coef": coef, "density": density, "gamma": gamma, "lam": lam, "normalize": normalize,
        "rescale": rescale,
    }  # fmt: skip
    return run(METHODS["breadcrumbs"], population, base, params, where=where)


def breadcrumbs_ties(
    population: Population,
    base: Params,
    *,
    coef: Any = 1.0,
    density: Any = 1.0,
    gamma: Any = 0.01,
    lam: Any = 1.0,
    normalize: bool = False,
    rescale: bool = False,
    where: Where = None,
) -> Params:
    r"""Drop the largest and the smallest entries, elect a sign, add what agrees.

    The sparsified task vectors of `breadcrumbs` under the election of `ties`. By default the sum is
    not divided, as in mergekit 0.1.5, whose combination this is.

    Args:
      population: N members.
      base: the model they came from.
      coef: weight per member.
      density: share kept per member, 0 to 1.
      gamma: share of largest entries dropped per member, 0 to 1.
      lam: \(\lambda\), the factor of the merged task vector.
      normalize: divide by the weights that took part.
      rescale: restore each task vector's L1 norm after dropping.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a share is out of range.

    References:
      Davari and Belilovsky 2024, arXiv:2312.06795; Yadav et al. 2023, arXiv:2306.01708.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[9.0, 3.0, 1.0, 0.1], [-8.0, 2.0, -5.0, 0.1]])}
        >>> ws.merge.breadcrumbs_ties(experts, {"w": jnp.zeros(4)}, density=0.5, gamma=0.25)
        {'w': Array([ 0.,  5., -5.,  0.], dtype=float32)}
    """
    params = {
        "coef": coef, "density": density, "gamma": gamma, "lam": lam, "normalize": normalize,
        "rescale": rescale,
    }  # fmt: skip
    return run(METHODS["breadcrumbs_ties"], population, base, params, where=where)
