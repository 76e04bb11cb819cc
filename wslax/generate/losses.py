"""What a coordinate network is trained with beside the task's own loss."""

import jax.numpy as jnp

from wslax import tree
from wslax.typing import Array, Params


def reconstruction(generated: Params, target: Params) -> Array:
    r"""How far generated weights are from trained ones, large weights first.

    \(\frac1L \sum_l \mathrm{mean}\,\frac{|W^*_l|}{\max |W^*_l|} (W_l - W^*_l)^2\) over the leaves
    of floats; a leaf of zeros adds nothing.

    Args:
      generated: from `materialise`, at full size.
      target: the trained net, its units in the order of `shortest_path`.

    Returns:
      A float32 scalar.

    Raises:
      WeightSpaceError: if the trees differ in structure, shape or dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> target = {"w": jnp.array([1.0, 2.0])}
        >>> float(reconstruction({"w": jnp.array([3.0, 3.0])}, target))
        1.5
    """
    tree.check_like(generated, target, "generated", "target")
    pairs = zip(_floats(generated), _floats(target), strict=True)
    return jnp.stack([_leaf(w, star) for w, star in pairs]).mean()


def penalty(generated: Params) -> Array:
    r"""\(\sum_l \lVert W_l \rVert_2\) over the leaves of floats; the authors add 1e-4 times it.

    Args:
      generated: parameters.

    Returns:
      A float32 scalar; its gradient at a leaf of zeros is zero.

    Example:
        >>> import jax.numpy as jnp
        >>> float(penalty({"a": jnp.array([3.0, 4.0]), "b": jnp.array([2.0])}))
        7.0
    """
    squares = jnp.stack([jnp.square(leaf).sum() for leaf in _floats(generated)])
    zero = squares == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squares))).sum()


def _floats(params: Params) -> list[Array]:
    leaves = tree.named_leaves(params).values()
    return [jnp.asarray(leaf, jnp.float32) for leaf in leaves if tree.is_float(leaf)]


def _leaf(leaf: Array, target: Array) -> Array:
    size = jnp.abs(target)
    most = size.max()
    return (size / jnp.where(most > 0, most, 1) * jnp.square(leaf - target)).mean()
