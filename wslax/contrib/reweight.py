"""Training on samples that count by their losses of the moment."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wslax.errors import WeightSpaceError
from wslax.tree import aval
from wslax.typing import Array, Scalar


def weighted_loss(
    losses: Array,
    weigh: Callable[[Array], Array],
    *,
    step: Scalar = 0,
    warmup: int = 0,
) -> Array:
    r"""The loss of a batch whose samples have weights that depend on their losses.

    \[L = \sum_i w_i \ell_i, \qquad w = \mathrm{weigh}(\ell) \text{ without gradient}\]

    Until step `warmup` all samples count alike: the losses of an untrained model say little.

    Args:
      losses: `[B]`, one a sample.
      weigh: `[B] -> [B]`, weights that sum to 1; fix a temperature with `functools.partial`.
      step: the number of this step; may be traced.
      warmup: steps to wait, default 0 (the paper takes 1,000 of 20,000).

    Returns:
      A scalar, to differentiate.

    Raises:
      WeightSpaceError: if losses are not `[B]`, or weights are not one a loss.

    References:
      Sow et al. 2025, Dynamic loss-based sample reweighting for improved large language model
      pretraining, arXiv:2502.06733.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> losses = jnp.array([0.0, 1.0])
        >>> float(ws.contrib.reweight.weighted_loss(losses, lambda x: x / x.sum()))
        1.0
        >>> float(ws.contrib.reweight.weighted_loss(losses, lambda x: x / x.sum(), warmup=10))
        0.5
    """
    if losses.ndim != 1:
        raise WeightSpaceError(f"losses: expected [B], one a sample, got {aval(losses)}")
    fixed = jax.lax.stop_gradient(losses)
    weights: Any = weigh(fixed)
    if jnp.shape(weights) != losses.shape:
        raise WeightSpaceError(
            f"weigh: expected one weight a loss, {aval(losses)}, got {aval(weights)}"
        )
    alike = jnp.full_like(fixed, 1 / losses.shape[0])
    weights = jnp.where(jnp.asarray(step) < warmup, alike, weights)
    # A loss that is not a number weighs nothing, and is not to be summed.
    counted = jnp.where(weights == 0, jnp.zeros_like(losses), losses)
    return jnp.dot(jax.lax.stop_gradient(weights), counted)
