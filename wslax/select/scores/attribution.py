"""Scores of weights by what is to be forgotten."""

import jax.numpy as jnp

from wslax.select.scores.scoring import scored
from wslax.typing import Params, Scalar


def wagle(params: Params, forget_grads: Params, retain_grads: Params, mu: Scalar = 1e-3) -> Params:
    r"""\(\big| (w - g_r / \mu) \, g_f \big|\): weights that matter to what is forgotten.

    To first order, zeroing a weight changes the loss on the forget set by \(w g_f\); \(g_r/\mu\)
    corrects for how the optimum on the retain set moves along, with a Hessian of \(\mu I\). The
    masks' `scope="model"` ranks as the authors do, who train the best 40 to 95% of all weights.

    Two cautions. \(g_r\) is a sum over batches in the authors' code, so their \(\mu\) goes with the
    number of batches: for means, divide it by that number. And where \(|g_r| / \mu\) is far above
    \(|w|\), as with their \(\mu\) of 1e-6 on a language model, the weight has no say: the ranking
    is that of \(|g_r g_f|\). In training mask the updates (`select.hold`): masked gradients alone
    leave weight decay at work on all weights.

    Args:
      params: a tree.
      forget_grads: gradients of the loss on what is to be forgotten, like `params`.
      retain_grads: gradients of the loss on what is to stay.
      mu: above 0; may be traced. Default: the authors' code's; their scripts have 1e-6.

    Returns:
      A tree like `params` of scores in float32; leaves without floats pass unchanged.

    Raises:
      WeightSpaceError: if a structure or shape differs.

    References:
      Jia et al. 2024, WAGLE, arXiv:2410.17509, as the authors' code computes it.

    Example:
        >>> w, f, r = ({"w": jnp.array([x])} for x in (2.0, 3.0, 0.5))
        >>> wagle(w, f, r, mu=0.5)["w"].tolist()
        [3.0]
    """
    return scored(
        lambda name, w, f, r: jnp.abs((w - r / mu) * f), params, forget_grads, retain_grads
    )
