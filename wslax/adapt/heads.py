"""Heads that grew by classes: new rows as long as the old."""

from typing import Any

import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.typing import Params


def weight_align(params: Params, leaf: str, old: int, *, axis: int = -1) -> Params:
    r"""Weight aligning: a head's new classes scaled to the mean length of the old ones.

    A head that is trained on many examples of its new classes and few of the old gives the new ones
    longer weights, and so prefers them. With \(w_i\) the weights of class i and k old classes,

    \[w_j \leftarrow \gamma\, w_j \quad (j \ge k), \qquad
    \gamma = \frac{\mathrm{mean}_{i < k} \lVert w_i \rVert_2}
    {\mathrm{mean}_{j \ge k} \lVert w_j \rVert_2}.\]

    Biases stay as they are. Aligning twice changes nothing. Norms are taken in float32 (float64 for
    float64); new classes that are all zero stay so.

    Args:
      params: a model, or any tree that holds its head.
      leaf: the name of the head's weights.
      old: k, how many classes there were; they come first.
      axis: of the classes; the last in Flax, 0 in PyTorch's layout.

    Returns:
      The tree with that leaf changed, in its shape and dtype.

    Raises:
      WeightSpaceError: if there is no such leaf, or it has no new or no old classes.

    References:
      Zhao et al. 2020, Maintaining discrimination and fairness in class incremental learning,
      arXiv:1911.07053, section 3.3.

    Example:
        >>> import jax.numpy as jnp
        >>> head = {"kernel": jnp.array([[5.0, 6.0], [0.0, 8.0]]), "bias": jnp.ones(2)}
        >>> weight_align(head, "kernel", 1)["kernel"].tolist()
        [[5.0, 3.0], [0.0, 4.0]]
    """
    named = tree.named_leaves(params)
    if leaf not in named:
        raise WeightSpaceError(f"no leaf is called {leaf!r}.{did_you_mean(leaf, named)}")
    shape = jnp.shape(named[leaf])
    if not shape or not -len(shape) <= axis < len(shape) or not 0 < old < shape[axis]:
        raise WeightSpaceError(
            f"{leaf}: expected 0 < old < classes along axis {axis}, got {old} and {list(shape)}"
        )

    def aligned(name: str, x: Any) -> Any:
        if name != leaf:
            return x
        rows = jnp.moveaxis(jnp.asarray(x).astype(tree.wide(x)), axis, 0)
        norms = jnp.sqrt((rows * rows).reshape(rows.shape[0], -1).sum(-1))
        before, after = norms[:old].mean(), norms[old:].mean()
        gamma = before / jnp.where(after > 0, after, 1)
        scaled = jnp.concatenate([rows[:old], rows[old:] * gamma])
        return tree.cast_like(jnp.moveaxis(scaled, 0, axis), x)

    return tree.map_named(aligned, params)
