"""By what a mutation of each weight is multiplied: for `gaussian(scale=...)`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.typing import Params


def rms(params: Params) -> Params:
    r"""The root mean square of each leaf, \(\sqrt{\overline{w^2}}\); 1 for leaves of zeros.

    With `gaussian(scale=rms(params))` a deviation of 0.01 is one percent of a leaf's own size.

    Args:
      params: one member. Leaves that hold no floats get 1.

    Returns:
      A tree like `params`, of float32 scalars.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> float(ws.evolve.rms({"w": jnp.array([3.0, -3.0])})["w"])
        3.0
    """

    def of(x: Any) -> Any:
        if not tree.is_float(x):
            return jnp.ones((), jnp.float32)
        size = jnp.sqrt(jnp.square(x.astype(jnp.float32)).mean())
        return jnp.where(size > 0, size, 1.0)

    return jax.tree.map(of, params)


def safe_scale(
    apply: Callable[..., Any], params: Params, *inputs: Any, least: float = 0.01
) -> Params:
    r"""One over how much outputs depend on each weight: safe mutation (SM-G-SUM).

    \[s_w = \frac{1}{\max(\text{least}, \tau_w)}, \qquad
      \tau_w^2 = \sum_k \Big(\sum_i \frac{\partial y_{ik}}{\partial w}\Big)^2\]

    over outputs k and inputs i, one backward pass an output. With `gaussian(scale=...)` weights
    that outputs hang on move little, others far.

    Args:
      apply: `(params, *inputs) -> array [..., outputs]`.
      params: one member.
      *inputs: a batch that it has met.
      least: the smallest sensitivity that counts.

    Returns:
      A tree like `params`, of arrays of the leaves' shapes; ones for leaves that hold no floats.

    References:
      Lehman et al. 2018, Safe mutations for deep and recurrent neural networks through output
      gradients, arXiv:1712.06563, section 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> apply = lambda params, x: x * params["w"][None]
        >>> scale = ws.evolve.safe_scale(apply, {"w": jnp.ones(2)}, jnp.array([[4.0, 0.0]]))
        >>> [round(x, 6) for x in scale["w"].tolist()]
        [0.25, 100.0]
    """
    leaves, structure = jax.tree.flatten(params)
    floats = [tree.is_float(x) for x in leaves]

    def totals(moving: Any) -> Any:
        moved = iter(moving)
        whole = [next(moved) if mine else x for x, mine in zip(leaves, floats, strict=True)]
        outputs = apply(structure.unflatten(whole), *inputs)
        return outputs.reshape(-1, outputs.shape[-1]).sum(0)

    moving = [x for x, mine in zip(leaves, floats, strict=True) if mine]
    summed, back = jax.vjp(totals, moving)

    def add(k: Any, total: Any) -> Any:
        (slopes,) = back(jax.nn.one_hot(k, summed.size, dtype=summed.dtype))
        return [t + jnp.square(s.astype(jnp.float32)) for t, s in zip(total, slopes, strict=True)]

    zero = [jnp.zeros(x.shape, jnp.float32) for x in moving]
    found = iter(jax.lax.fori_loop(0, summed.size, add, zero))
    scales = [
        1 / jnp.maximum(jnp.sqrt(next(found)), least) if mine else jnp.ones((), jnp.float32)
        for mine in floats
    ]
    return structure.unflatten(scales)
