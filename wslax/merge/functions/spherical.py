"""Combinations by the angles between members, as functions of a population."""

from typing import Any

from wslax.merge.memory import run
from wslax.merge.registry import METHODS
from wslax.typing import Params, Population, Where


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


def nuslerp(
    population: Population,
    base: Params | None = None,
    *,
    coef: Any = 1.0,
    nuslerp_row_wise: bool = False,
    nuslerp_flatten: bool = True,
    where: Where = None,
) -> Params:
    r"""Spherical interpolation of two members, or of their task vectors, by weights.

    `slerp` at \(t = w_1 / (w_0 + w_1)\) (0.5 where the sum is below 1e-6), of the task vectors
    where there is a base: \(y = b + \mathrm{slerp}(d_0, d_1)\). Linear only where the vectors are
    parallel up to rounding, \(1 - \cos^2\theta \le 8\) units of the compute dtype (mergekit 0.1.5,
    whose semantics these are otherwise: 1e-16); in the cosine a norm counts at least 1e-7.

    Args:
      population: two members.
      base: the model they came from; without one the weights themselves are interpolated.
      coef: weight per member.
      nuslerp_row_wise: where not flat, the vectors lie along the first axis and not the last;
        mergekit's name.
      nuslerp_flatten: a leaf is one vector; else each vector turns by an angle of its own.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if there are not two members, or the base is unlike one.

    References:
      Shoemake 1985, Animating rotation with quaternion curves; mergekit 0.1.5.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> pair = {"w": jnp.array([[2.0, 1.0], [1.0, 2.0]])}
        >>> ws.merge.nuslerp(pair, {"w": jnp.ones(2)})
        {'w': Array([1.7071068, 1.7071068], dtype=float32)}
    """
    params = {
        "coef": coef, "nuslerp_row_wise": nuslerp_row_wise, "nuslerp_flatten": nuslerp_flatten,
    }  # fmt: skip
    return run(METHODS["nuslerp"], population, base, params, where=where)


def multislerp(
    population: Population,
    base: Params | None = None,
    *,
    coef: Any = 1.0,
    normalize_weights: bool = True,
    eps: Any = 1e-8,
    where: Where = None,
) -> Params:
    r"""The weighted mean of directions, as long as the vectors are on average.

    With \(v_i = d_i\), or \(x_i\) without a base, and \(u_i = v_i / (|v_i| + \epsilon)\),

    \[y = b + \frac{\sum_i w_i u_i}{|\sum_i w_i u_i|} \sum_i w_i |v_i|.\]

    mergekit 0.1.5 goes on with one step along the mean of the vectors tangent there, but these add
    up to zero, so it moves by its rounding alone; `karcher` is the mean on the sphere proper. Where
    the directions cancel, \(|\sum_i w_i u_i| < \epsilon\), the result is the plain weighted sum;
    mergekit has it for two members, and an error for more. One member is returned as it is.

    Args:
      population: N members.
      base: the model they came from; without one directions are those of the weights.
      coef: weight per member.
      normalize_weights: divide the weights by their sum.
      eps: \(\epsilon\), added to norms; mergekit's 1e-8.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is unlike a member, or `coef` has another length.

    References:
      Goddard 2025, Multi-SLERP (goddard.blog); mergekit 0.1.5.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.merge.multislerp({"w": jnp.array([[2.0, 0.0], [0.0, 4.0]])})
        {'w': Array([2.1213205, 2.1213205], dtype=float32)}
    """
    params = {"coef": coef, "normalize_weights": normalize_weights, "eps": eps}
    return run(METHODS["multislerp"], population, base, params, where=where)


def karcher(
    population: Population,
    base: Params | None = None,
    *,
    max_iter: int = 10,
    tol: Any = 1e-5,
    where: Where = None,
) -> Params:
    r"""The members' mean direction on the sphere, as long as they are on average.

    With \(u_i = x_i / |x_i|\), the mean \(m\) starts at the normalised sum and follows

    \[\tau = \frac{1}{N} \sum_i \frac{\theta_i}{\sin\theta_i} (u_i - \cos\theta_i\, m),
    \quad \theta_i = \arccos\langle u_i, m\rangle, \qquad
    m \leftarrow m \cos|\tau| + \frac{\tau}{|\tau|} \sin|\tau|\]

    until \(|\tau| <\) `tol`; then \(y = m \cdot \frac{1}{N}\sum_i |x_i|\). All iterates lie in
    the span of the members, so one pass measures their inner products and one combines. Members
    whose norm is at most `tol` have no direction; they count in the mean length. A member opposite
    to the mean up to rounding pulls nowhere; in mergekit 0.1.5, whose semantics these are
    otherwise, rounding says where.

    Args:
      population: N members, of equal weight.
      base: only where leaves outside `where` come from.
      max_iter: most steps, static; mergekit's 10.
      tol: angle (of a member, of a step) and norm that count as zero, up to 0.1; mergekit's 1e-5.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if `max_iter` is not a whole number from 0, or `tol` not 0 to 0.1.

    References:
      Karcher 1977, Riemannian center of mass; arXiv:2603.04972.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.merge.karcher({"w": jnp.array([[2.0, 0.0], [0.0, 4.0]])})
        {'w': Array([2.1213202, 2.1213202], dtype=float32)}
    """
    params = {"max_iter": max_iter, "tol": tol}
    return run(METHODS["karcher"], population, base, params, where=where)


def model_stock(
    population: Population, base: Params, *, filter_wise: bool = False, where: Where = None
) -> Params:
    r"""Between the base and the members' mean, by how much the task vectors agree.

    \[y = t \bar x + (1 - t) b, \qquad t = \frac{N c}{1 + (N - 1) c},\]

    with \(c\) the mean over pairs of \(\langle d_i, d_j\rangle / \max(|d_i||d_j|, 10^{-6})\). Where
    the divisor is below 1e-6 the result is the base. As in mergekit 0.1.5, \(t\) is not clipped:
    task vectors that oppose each other push the result beyond the base.

    Args:
      population: two members or more.
      base: the model they came from.
      filter_wise: an angle for each vector along the last axis; else one a leaf, as in the paper.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if there is one member, or the base is missing or unlike a member.

    References:
      Jang et al. 2024, Model Stock: All we need is just a few fine-tuned models, arXiv:2403.19522.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts, base = {"w": jnp.array([[1.0, 0.0], [1.0, 1.0]])}, {"w": jnp.zeros(2)}
        >>> ws.merge.model_stock(experts, base)
        {'w': Array([0.8284271 , 0.41421354], dtype=float32)}
    """
    return run(METHODS["model_stock"], population, base, {"filter_wise": filter_wise}, where=where)
