"""Training that leaves some weights as they are."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.typing import Mask


def hold(inner: optax.GradientTransformation, mask: Mask) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer that moves weights only where the mask is true; pruned ones stay zero.

    Gradients are zero elsewhere before `inner` sees them (so that norms and moments are of what
    trains), and so are updates after it (so that weight decay and momentum move nothing).
    `optax.masked` masks whole leaves, and passes on the gradients of those it leaves out.

    The state is that of `inner`: for another mask, as in iterative pruning, make another
    `hold` and go on with the state.

    Args:
      inner: an Optax transformation that makes whole updates.
      mask: bools like the parameters, as from `wslax.select.masks` with `rest=True`.

    Returns:
      An Optax transformation.

    Raises:
      WeightSpaceError: from `init`, if mask and parameters differ in structure.

    Example:
        >>> params = {"w": jnp.array([1.0, 0.0])}
        >>> optimizer = hold(optax.sgd(0.1), {"w": params["w"] != 0})
        >>> updates, _ = optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
        >>> print(updates["w"])
        [-0.1  0. ]
    """
    inner = optax.with_extra_args_support(inner)

    def masked(updates: Any) -> Any:
        return jax.tree.map(lambda u, m: jnp.where(m, u, jnp.zeros_like(u)), updates, mask)

    def init(params: Any) -> Any:
        tree.check_structure(mask, params, "mask", "params")
        return inner.init(params)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = inner.update(masked(updates), state, params, **extra)
        return masked(updates), state

    return optax.GradientTransformationExtraArgs(init, update)
