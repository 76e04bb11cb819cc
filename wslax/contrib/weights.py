r"""Weights from one number a member (or a sample): they add up to 1 over the leading axis.

All are \(w = \mathrm{softmax}(f(x))\). The larger `values` weigh more: give fitness, or losses with
a minus, to weigh members for a merge or an ensemble; give losses as they are to weigh samples by
how hard they are. NaN weighs nothing; all equal, or none valid, is uniform. Gradients go through:
`jax.lax.stop_gradient` keeps weights out of the gradient of a weighted loss.
"""

import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Scalar

_NARROWEST = 1e-6  # the reference's least range of values


def softmax(values: Array, *, temperature: Scalar = 1.0) -> Array:
    r"""\(w_i \propto \exp(x_i / T)\) over the leading axis.

    The exponential weights of fitness or of minus a loss; with cumulative log-likelihoods and
    \(T = 1\) the posterior of Bayes under a uniform prior.

    Args:
      values: `[N, ...]`; half types and integers become float32. Next to +inf only +inf weighs.
      temperature: \(T > 0\); infinite is uniform.

    Returns:
      `[N, ...]`, of sum 1 over N.

    Raises:
      WeightSpaceError: if there is no leading axis, or the temperature is not positive.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.contrib.weights.softmax(jnp.array([0.0, jnp.log(3.0), jnp.nan])).round(4)
        Array([0.25, 0.75, 0.  ], dtype=float32)
    """
    values = _checked(values, "values")
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise WeightSpaceError(f"temperature: expected a positive number, got {temperature}")
    valid = ~jnp.isnan(values)
    high = jnp.max(values, 0, where=valid, initial=-jnp.inf, keepdims=True)
    gap = jnp.where(valid & (values != high), values - high, 0)  # inf - inf is no gap
    weight = jnp.where(valid | ~valid.any(0, keepdims=True), jnp.exp(gap / temperature), 0)
    return weight / weight.sum(0, keepdims=True)


def precision(variances: Array) -> Array:
    r"""\(w_i \propto 1 / \sigma_i^2\): the weights of the mean of least variance.

    Optimal for independent unbiased estimates.

    Args:
      variances: `[N, ...]`. Where some are 0 only they weigh; infinite and negative ones do not.

    Returns:
      `[N, ...]`, of sum 1 over N.

    Raises:
      WeightSpaceError: if there is no leading axis.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.contrib.weights.precision(jnp.array([1.0, 3.0, jnp.inf])).round(4)
        Array([0.75, 0.25, 0.  ], dtype=float32)
    """
    return softmax(-jnp.log(_checked(variances, "variances")))


def linear_upper(values: Array, *, temperature: Scalar = 1.0) -> Array:
    r"""Linear up to the middle of the range and flat above (LinUpper): only the lowest weigh less.

    \[h_i = \frac{2 x_i - (\max x + \min x)}{\max(\max x - \min x, 10^{-6})} \in [-1, 1], \qquad
      w = \mathrm{softmax}\big(\min(h + 1, 1) / T\big)\]

    The paper's choice for pre-training with the losses of a batch. Its \(\delta\), the bound of h,
    is a temperature too: \(T = r / \delta\).

    Args:
      values: `[N, ...]`; what is not finite weighs nothing.
      temperature: \(T > 0\); default 1 as in the reference.

    Returns:
      `[N, ...]`, of sum 1 over N.

    Raises:
      WeightSpaceError: as `softmax`.

    References:
      Sow et al. 2025, Dynamic loss-based sample reweighting, arXiv:2502.06733, and its code.

    Example:
        >>> import numpy as np, wslax as ws
        >>> np.asarray(ws.contrib.weights.linear_upper(np.array([0.0, 1.0, 2.0]))).round(3)
        array([0.155, 0.422, 0.422], dtype=float32)
    """
    return softmax(jnp.minimum(_ranged(values) + 1, 1), temperature=temperature)


def quadratic(values: Array, *, temperature: Scalar = 1.0) -> Array:
    r"""\(w = \mathrm{softmax}((1 - h^2) / T)\): what lies in the middle of the range weighs most.

    Args:
      values: `[N, ...]`, ranged to \(h\) as in `linear_upper`.
      temperature: \(T > 0\); default 1 as in the reference.

    Returns:
      `[N, ...]`, of sum 1 over N.

    Raises:
      WeightSpaceError: as `softmax`.

    References:
      Sow et al. 2025, arXiv:2502.06733.

    Example:
        >>> import numpy as np, wslax as ws
        >>> np.asarray(ws.contrib.weights.quadratic(np.array([0.0, 1.0, 2.0]))).round(3)
        array([0.212, 0.576, 0.212], dtype=float32)
    """
    return softmax(1 - jnp.square(_ranged(values)), temperature=temperature)


def extremes(values: Array, *, temperature: Scalar = 1.0) -> Array:
    r"""\(w = \mathrm{softmax}(|h| / T)\): both ends of the range weigh most.

    Args:
      values: `[N, ...]`, ranged to \(h\) as in `linear_upper`.
      temperature: \(T > 0\); default 1 as in the reference.

    Returns:
      `[N, ...]`, of sum 1 over N.

    Raises:
      WeightSpaceError: as `softmax`.

    References:
      Sow et al. 2025, arXiv:2502.06733.

    Example:
        >>> import numpy as np, wslax as ws
        >>> np.asarray(ws.contrib.weights.extremes(np.array([0.0, 1.0, 2.0]))).round(3)
        array([0.422, 0.155, 0.422], dtype=float32)
    """
    return softmax(jnp.abs(_ranged(values)), temperature=temperature)


def _checked(values: Array, what: str) -> Array:
    values = jnp.asarray(values)
    if values.ndim == 0 or values.shape[0] == 0:
        raise WeightSpaceError(
            f"{what}: expected one number a member, [N, ...], got {values.shape}"
        )
    return values.astype(tree.wide(values))


def _ranged(values: Array) -> Array:
    """Values on [-1, 1] between their least and greatest; NaN where they are not finite."""
    values = _checked(values, "values")
    valid = jnp.isfinite(values)
    low = jnp.min(values, 0, where=valid, initial=jnp.inf, keepdims=True)
    high = jnp.max(values, 0, where=valid, initial=-jnp.inf, keepdims=True)
    h = (2 * values - (high + low)) / jnp.maximum(high - low, _NARROWEST)
    return jnp.where(valid, h, jnp.nan)
