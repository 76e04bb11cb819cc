"""Scores of weights by the gradient of a loss."""

from wslax.select.scores.scoring import needed, scored
from wslax.typing import Key, Params


def gradient(params: Params, grads: Params | None = None, *, key: Key | None = None) -> Params:
    r"""\(|g|\): the weights that the loss asks to move most.

    Args:
      params: a tree.
      grads: the gradients, like `params`.
      key: not used.

    Returns:
      A tree like `params` of scores in float32; leaves without floats pass unchanged.

    Raises:
      WeightSpaceError: if there are no gradients or they do not fit.

    Example:
        >>> import numpy as np
        >>> gradient({"w": np.float32([1.0])}, {"w": np.float32([-3.0])})["w"].tolist()
        [3.0]
    """
    return scored(lambda name, w, g: abs(g), params, needed("gradient", grads))


def saliency(params: Params, grads: Params | None = None, *, key: Key | None = None) -> Params:
    r"""\(|w g|\), by how much the loss changes if a weight goes to zero, to first order.

    Args:
      params: as in `gradient`.
      grads: as in `gradient`.
      key: not used.

    Returns:
      As `gradient`.

    Raises:
      WeightSpaceError: as `gradient`.

    References:
      Lee et al. 2019, SNIP, arXiv:1810.02340, equation 4 (without its normalisation, which changes
      no ranking); Molchanov et al. 2017, arXiv:1611.06440.

    Example:
        >>> import numpy as np
        >>> saliency({"w": np.float32([2.0])}, {"w": np.float32([-3.0])})["w"].tolist()
        [6.0]
    """
    return scored(lambda name, w, g: abs(w * g), params, needed("saliency", grads))


def fisher(params: Params, grads: Params | None = None, *, key: Key | None = None) -> Params:
    r"""\(\tfrac12 w^2 F\), by how much the loss grows if a weight goes to zero, to second order.

    At a minimum the first order is zero, and \(F = \frac1n \sum_i g_i^2\), the mean over examples
    of squared gradients of the log-likelihood, stands for the diagonal of the Hessian.

    Args:
      params: as in `gradient`.
      grads: \(F\), not gradients: squares are taken of each example's gradient before the mean.
      key: not used.

    Returns:
      As `gradient`.

    Raises:
      WeightSpaceError: as `gradient`.

    References:
      LeCun et al. 1990, Optimal Brain Damage; Theis et al. 2018, arXiv:1801.05787, section 2.1.

    Example:
        >>> import numpy as np
        >>> fisher({"w": np.float32([2.0])}, {"w": np.float32([3.0])})["w"].tolist()
        [6.0]
    """
    return scored(lambda name, w, f: w * w * f / 2, params, needed("fisher", grads))


def movement(
    params: Params,
    grads: Params | None = None,
    *,
    key: Key | None = None,
    total: Params | None = None,
) -> Params:
    r"""\(S = -\sum_t w_t g_t\): high for weights that training moves away from zero.

    One step's score, added to the sum of those before: `total = movement(params, grads,
    total=total)` in each step of training. Scores are negative for weights that move to zero.

    Args:
      params: as in `gradient`, before the step.
      grads: as in `gradient`.
      key: not used.
      total: what `movement` gave in the step before; by default none was.

    Returns:
      As `gradient`.

    Raises:
      WeightSpaceError: as `gradient`.

    References:
      Sanh et al. 2020, Movement Pruning, arXiv:2005.07683, section 3, equation 2 (without its rate,
      a factor of all).

    Example:
        >>> import numpy as np
        >>> params, grads = {"w": np.float32([2.0, 2.0])}, {"w": np.float32([-3.0, 1.0])}
        >>> movement(params, grads)["w"].tolist()
        [6.0, -2.0]
    """
    grads = needed("movement", grads)
    if total is None:
        return scored(lambda name, w, g: -w * g, params, grads)
    return scored(lambda name, w, g, before: before - w * g, params, grads, total)
