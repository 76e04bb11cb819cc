"""Adapters that change a model leaf by leaf."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from wslax import tree
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.trace.leaves import is_factored
from wslax.typing import Key, Params, Where

Parts = Mapping[str, Any]


def is_matrix(leaf: Any) -> bool:
    """Whether a leaf is a matrix of floats.

    Example:
        >>> import numpy as np
        >>> is_matrix(np.zeros((3, 2))), is_matrix(np.zeros(3))
        (True, False)
    """
    return tree.is_float(leaf) and len(leaf.shape) == 2 and 0 not in leaf.shape


def _named(params: Params) -> tuple[dict[str, Any], Any]:
    """Name to leaf, factored ones whole, and the structure of the tree."""
    leaves, structure = jax.tree.flatten(params, is_leaf=is_factored)
    marks = structure.unflatten(range(len(leaves)))
    return dict(zip(tree.leaf_names(marks), leaves, strict=True)), structure


def _picked(named: Mapping[str, Any], where: Where) -> list[str]:
    picked = tree.picked(dict(named), where)
    if where is None:
        found = [name for name, leaf in named.items() if is_matrix(leaf)]
    else:
        found = [name for name in named if picked[name]]
        for name in found:
            if not is_matrix(named[name]):
                raise WeightSpaceError(
                    f"{name}: expected a matrix of floats [in, out], got {tree.aval(named[name])}; "
                    "let where= pick matrices alone"
                )
    if not found:
        raise WeightSpaceError("there is no matrix of floats to adapt")
    return found


def leafwise(
    start: Callable[[Key, str, Any], tuple[Parts, Parts]],
    change: Callable[[Any, Parts], Any],
    where: Where = None,
) -> Adapter:
    """An adapter from what it is for one matrix.

    Args:
      start: `(key, name, leaf) -> (train, fixed)`, two dicts of arrays without a name in common.
      change: `(leaf, parts) -> leaf`, arrays or factored; `parts` are both dicts in one.
      where: globs of the leaves to adapt; by default all that are matrices of floats.

    Returns:
      The adapter.
    """

    def init(key: Key, params: Params) -> tuple[Any, Any]:
        named, _ = _named(params)
        parts = {name: start(key, name, named[name]) for name in _picked(named, where)}
        train, fixed = ({name: dict(p[i]) for name, p in parts.items()} for i in (0, 1))
        return train, fixed

    def apply(params: Params, train: Any, fixed: Any) -> Params:
        named, structure = _named(params)
        for name in train:
            if name not in named:
                raise WeightSpaceError(f"the adapter changes {name!r}, which the model lacks")
        changed = {
            name: change(leaf, {**train[name], **fixed[name]}) if name in train else leaf
            for name, leaf in named.items()
        }
        return structure.unflatten(changed.values())

    def fuse(params: Params, train: Any, fixed: Any) -> Params:
        found = apply(params, train, fixed)
        dense = lambda new: new.dense() if is_factored(new) else new
        written = jax.tree.map(dense, found, is_leaf=is_factored)
        return jax.tree.map(tree.cast_like, written, params, is_leaf=is_factored)

    return Adapter(init, apply, fuse)
