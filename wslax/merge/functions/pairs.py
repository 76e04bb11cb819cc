"""One member against its base, as functions of a population."""

from typing import Any

from wslax.merge.memory import run
from wslax.merge.registry import METHODS
from wslax.typing import Params, Population, Where


def nearswap(population: Population, base: Params, *, t: Any, where: Where = None) -> Params:
    r"""The base, moved towards a member where the two are near.

    \(y = a x + (1 - a) b\) with \(a = \mathrm{clip}(t / \max(|x - b|, 10^{-6}), 0, 1)\), entry by
    entry: differences up to t are taken over, larger ones move by t. mergekit 0.1.5's.

    Args:
      population: one member.
      base: the model that is moved.
      t: the step, in units of weights; the author's 0.0001.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if there is more than one member, or the base is missing or unlike it.

    References:
      alchemonaut 2024, QuartetAnemoi-70B-t0.0001 (Hugging Face).

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.merge.nearswap({"w": jnp.array([[1.5, 3.0]])}, {"w": jnp.ones(2)}, t=0.5)
        {'w': Array([1.5, 1.5], dtype=float32)}
    """
    return run(METHODS["nearswap"], population, base, {"t": t}, where=where)


def arcee_fusion(population: Population, base: Params, *, where: Where = None) -> Params:
    r"""The base, with a member's weights where the change matters most.

    \[S = |x - b| \cdot \mathrm{KL}(p \,\|\, q), \qquad
    y = b + (x - b)\,[S \ge \tilde S + 1.5\,(S_{3/4} - S_{1/4})],\]

    with p and q the softmax of x and of b along the last axis (plus 1e-8), one divergence a row;
    median and quartiles are over the leaf.

    Semantics are mergekit 0.1.5's, with two differences: above a million entries it takes the
    quartiles from a random sample, here they are exact; and a divergence that rounding makes
    negative counts as zero. The divergence of two nearly equal rows is mostly rounding in float32,
    so implementations differ in a few of a thousand entries.

    Args:
      population: one member.
      base: the model that takes from it.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if there is more than one member, or the base is missing or unlike it.

    References:
      Arcee AI 2024, Arcee Fusion; mergekit 0.1.5.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> member = {"w": jnp.array([[0.1, 0.0, 2.0, 0.1, -0.1, 0.0]])}
        >>> ws.merge.arcee_fusion(member, {"w": jnp.zeros(6)})
        {'w': Array([0., 0., 2., 0., 0., 0.], dtype=float32)}
    """
    return run(METHODS["arcee_fusion"], population, base, {}, where=where)
