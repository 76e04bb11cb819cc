"""Task vectors with entries dropped at random, as functions of a population."""

from typing import Any

from wslax.merge.memory import run
from wslax.merge.registry import METHODS
from wslax.typing import Key, Params, PerMember, Population, Where


def dare_linear(
    population: Population,
    base: Params,
    *,
    key: Key,
    coef: Any = 1.0,
    density: Any = 1.0,
    lam: Any = 1.0,
    normalize: bool = False,
    rescale: bool = True,
    ids: PerMember | None = None,
    where: Where = None,
) -> Params:
    r"""Drop entries of task vectors at random, rescale what is left, add.

    \(y = b + \lambda \sum_i w_i r_i (m_i \odot d_i)\) with \(m_i\) Bernoulli(density) and
    \(r_i = \sum|d_i| / \sum|m_i \odot d_i|\) per leaf, as in mergekit 0.1.5; the paper's
    \(r = 1/\text{density}\) is its expectation.

    Args:
      population: N members.
      base: the model they came from.
      key: one JAX key or an integer seed.
      coef: weight per member.
      density: share kept per member, 0 to 1.
      lam: \(\lambda\), the factor of the merged task vector.
      normalize: divide by \(\sum_i w_i\).
      rescale: multiply by \(r_i\).
      ids: `[N]` ids of the members in the random stream; 0 to N - 1 by default.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a density is out of range.

    References:
      Yu et al. 2024, Language models are super Mario, arXiv:2311.03099, section 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.ones((2, 4))}, {"w": jnp.zeros(4)}
        >>> merged = ws.merge.dare_linear(experts, base, key=0, density=0.5, coef=0.5)
        >>> float(merged["w"].sum())
        4.0
    """
    params = {
        "coef": coef, "density": density, "lam": lam, "normalize": normalize, "rescale": rescale,
    }  # fmt: skip
    return run(METHODS["dare_linear"], population, base, params, key=key, ids=ids, where=where)


def dare_ties(
    population: Population,
    base: Params,
    *,
    key: Key,
    coef: Any = 1.0,
    density: Any = 1.0,
    lam: Any = 1.0,
    normalize: bool = False,
    rescale: bool = True,
    ids: PerMember | None = None,
    where: Where = None,
) -> Params:
    r"""Drop entries of task vectors at random, rescale, elect a sign, add what agrees.

    The sparsified task vectors of `dare_linear` under the election of `ties`. By default the sum
    is not divided, as in mergekit 0.1.5.

    Args:
      population: N members.
      base: the model they came from.
      key: one JAX key or an integer seed.
      coef: weight per member.
      density: share kept per member, 0 to 1.
      lam: the factor of the merged task vector.
      normalize: divide by the weights that took part.
      rescale: restore each task vector's L1 norm after dropping.
      ids: `[N]` ids of the members in the random stream; 0 to N - 1 by default.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a density is out of range.

    References:
      Yu et al. 2024, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.array([[2.0, 2.0], [-1.0, 2.0]])}, {"w": jnp.zeros(2)}
        >>> ws.merge.dare_ties(experts, base, key=0)
        {'w': Array([2., 4.], dtype=float32)}
    """
    params = {
        "coef": coef, "density": density, "lam": lam, "normalize": normalize, "rescale": rescale,
    }  # fmt: skip
    return run(METHODS["dare_ties"], population, base, params, key=key, ids=ids, where=where)


def della_linear(
    population: Population,
    base: Params,
    *,
    key: Key,
    coef: Any = 1.0,
    density: Any = 1.0,
    epsilon: Any = 0.15,
    lam: Any = 1.0,
    normalize: bool = False,
    rescale: bool = True,
    ids: PerMember | None = None,
    where: Where = None,
) -> Params:
    r"""Drop entries of task vectors at random, small ones more often, rescale, add.

    The entry of rank r (0 for the smallest) among the n of its vector along the last axis is kept
    with probability \(p = \text{density} - \epsilon + 2 \epsilon r / (n - 1)\), and
    \(y = b + \lambda \sum_i w_i r_i (m_i \odot d_i)\) as in `dare_linear`. Equal entries share the
    highest of their ranks; density 1 keeps all, 0 nothing.

    Semantics are mergekit 0.1.5's: \(r_i\) restores the leaf's L1 norm, where the paper divides
    each entry by its p. mergekit refuses probabilities outside (0, 1); here they mean never and
    always. A row of one entry, for which it has no number, is kept with the density.

    Args:
      population: N members.
      base: the model they came from.
      key: one JAX key or an integer seed.
      coef: weight per member.
      density: share kept per member, 0 to 1.
      epsilon: \(\epsilon\), slack per member, 0 to 1; mergekit's 0.15.
      lam: \(\lambda\), the factor of the merged task vector.
      normalize: divide by \(\sum_i w_i\).
      rescale: restore each task vector's L1 norm after dropping.
      ids: `[N]` ids of the members in the random stream; 0 to N - 1 by default.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a share is out of range.

    References:
      Deep et al. 2024, DELLA-Merging, arXiv:2406.11617, section 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.ones((2, 4))}, {"w": jnp.zeros(4)}
        >>> merged = ws.merge.della_linear(experts, base, key=0, density=0.8, coef=0.5)
        >>> float(merged["w"].sum())
        4.0
    """
    params = {
        "coef": coef, "density": density, "epsilon": epsilon, "lam": lam, "normalize": normalize,
        "rescale": rescale,
    }  # fmt: skip
    return run(METHODS["della_linear"], population, base, params, key=key, ids=ids, where=where)


def della(
    population: Population,
    base: Params,
    *,
    key: Key,
    coef: Any = 1.0,
    density: Any = 1.0,
    epsilon: Any = 0.15,
    lam: Any = 1.0,
    normalize: bool = True,
    rescale: bool = True,
    ids: PerMember | None = None,
    where: Where = None,
) -> Params:
    r"""Drop entries at random, small ones more often, rescale, elect a sign, average what agrees.

    The sparsified task vectors of `della_linear` under the election of `ties`. By default the sum
    is divided by the weights that took part, as in mergekit 0.1.5 and the paper.

    Args:
      population: N members.
      base: the model they came from.
      key: one JAX key or an integer seed.
      coef: weight per member.
      density: share kept per member, 0 to 1.
      epsilon: \(\epsilon\), slack per member, 0 to 1; mergekit's 0.15.
      lam: \(\lambda\), the factor of the merged task vector.
      normalize: divide by the weights that took part, where they do not cancel.
      rescale: restore each task vector's L1 norm after dropping.
      ids: `[N]` ids of the members in the random stream; 0 to N - 1 by default.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a share is out of range.

    References:
      Deep et al. 2024, arXiv:2406.11617; Yadav et al. 2023, arXiv:2306.01708.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.array([[2.0, 2.0], [-1.0, 2.0]])}, {"w": jnp.zeros(2)}
        >>> ws.merge.della(experts, base, key=0)
        {'w': Array([2., 2.], dtype=float32)}
    """
    params = {
        "coef": coef, "density": density, "epsilon": epsilon, "lam": lam, "normalize": normalize,
        "rescale": rescale,
    }  # fmt: skip
    return run(METHODS["della"], population, base, params, key=key, ids=ids, where=where)
