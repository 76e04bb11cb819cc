r"""The methods as functions of a population.

All of them take a population (members along the leading axis of every leaf), work under `jit`,
`vmap` and, in their coefficients, `grad`, and return one member's tree with every leaf's shape,
dtype and weak type. Half types compute in float32. A numeric argument is a number, `ws.by_leaf` of
numbers, or where it says *per member* an array `[N]`; it may be traced, so a sweep compiles once.
Leaves that hold no floats, and leaves that `where=` does not pick, come from the base, or without
one from member 0 (integers and bools must then agree).

Formulas use \(x_i\) for member i, \(b\) for the base, \(d_i = x_i - b\), \(w_i\) for `coef`.
"""

from typing import Any

from wslax.merge.memory import run
from wslax.merge.registry import METHODS
from wslax.typing import Key, Params, PerMember, Population, Where


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


def slerp(
    population: Population, base: Params | None = None, *, t: Any, where: Where = None
) -> Params:
    r"""Spherical interpolation between two members, leaf by leaf.

    \[y = \frac{\sin((1-t)\theta)}{\sin\theta} x_0 + \frac{\sin(t\theta)}{\sin\theta} x_1,
    \qquad \cos\theta = \frac{\langle x_0, x_1\rangle}{|x_0||x_1|},\]

    linear where \(|\cos\theta| > 0.9995\), which includes opposite vectors; in the cosine a norm
    below 1e-8 counts as 1. Both thresholds, and the scope of one leaf, are mergekit's.

    Args:
      population: two members; t = 0 is the first.
      base: only where leaves outside `where` come from.
      t: position from 0 to 1, or beyond.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if there are not two members.

    References:
      Shoemake 1985, Animating rotation with quaternion curves.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> pair = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
        >>> ws.merge.slerp(pair, t=0.5)
        {'w': Array([0.70710677, 0.70710677], dtype=float32)}
    """
    return run(METHODS["slerp"], population, base, {"t": t}, where=where)


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
