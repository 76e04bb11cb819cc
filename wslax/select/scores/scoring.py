"""Leaf by leaf from weights to scores."""

from collections.abc import Callable
from typing import Any

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Params


def scored(fn: Callable[..., Any], params: Params, *rest: Params) -> Params:
    """Scores of all leaves of floats; other leaves pass unchanged, and masks leave them alone.

    Args:
      fn: `fn(name, leaf, *leaves of rest)`, all in float32 (float64 for float64), to scores of the
        leaf's shape, higher for what is to be kept.
      params: gives the structure.
      *rest: trees of the same structure.

    Returns:
      A tree like `params`.

    Raises:
      WeightSpaceError: if a structure or a shape differs.

    Example:
        >>> import numpy as np
        >>> scored(lambda name, w: abs(w), {"a": np.float16([-2.0]), "step": 3})
        {'a': array([2.], dtype=float32), 'step': 3}
    """

    def one(name: str, leaf: Any, *others: Any) -> Any:
        if not tree.is_float(leaf):
            return leaf
        for other in others:
            if other.shape != leaf.shape:
                raise WeightSpaceError(f"{name}: {tree.aval(other)} beside {tree.aval(leaf)}")
        return fn(name, *(x.astype(tree.wide(leaf)) for x in (leaf, *others)))

    return tree.map_named(one, params, *rest)


def needed(name: str, grads: Params | None) -> Params:
    """The gradients, or an error if there are none.

    Example:
        >>> needed("saliency", {"w": 1.0})
        {'w': 1.0}
    """
    if grads is None:
        raise WeightSpaceError(
            f"{name} needs gradients: {name}(params, grads); with a selector that has none, as "
            f"`functools.partial({name}, grads=grads)`"
        )
    return grads
