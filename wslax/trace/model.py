"""A model traced once: its program, and its leaves by name in the order of the program's inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from wslax import tree
from wslax.trace import jaxpr
from wslax.trace.jaxpr import Program
from wslax.trace.leaves import is_factored
from wslax.typing import Params


class Model(NamedTuple):
    """A traced model.

    Attributes:
      program: its operands are `leaves`, then `inputs`.
      leaves: name to leaf, of those that are arrays or factored.
      inputs: the arrays among the inputs.
      out: the tree of `ShapeDtypeStruct`s that it returns.
    """

    program: Program
    leaves: dict[str, Any]
    inputs: list[Any]
    out: Any


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array or stands for one; anything else is part of the model's code."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def traced(apply: Callable[..., Any], params: Params, inputs: tuple[Any, ...]) -> Model:
    """Trace `apply(params, *inputs)` on shapes alone.

    Args:
      apply: any traceable function.
      params: a tree; what is no array (the functions in an Equinox module) is part of the code.
      inputs: trees of arrays or `ShapeDtypeStruct`s, the same.

    Returns:
      The model.
    """
    leaves, structure = jax.tree.flatten(params, is_leaf=is_factored)
    marks = jax.tree.map(lambda leaf: 0, params, is_leaf=is_factored)
    names = tree.leaf_names(marks)
    given, given_structure = jax.tree.flatten(inputs)
    shapes = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_factored(leaf) else leaf
        for leaf in leaves
    ]
    arrays = [i for i, leaf in enumerate(shapes) if is_array(leaf)]
    fed = [i for i, leaf in enumerate(given) if is_array(leaf)]

    def fn(new_leaves: list[Any], new_inputs: list[Any]) -> Any:
        whole, entered = list(shapes), list(given)
        for i, leaf in zip(arrays, new_leaves, strict=True):
            whole[i] = leaf
        for i, leaf in zip(fed, new_inputs, strict=True):
            entered[i] = leaf
        model = jax.tree.unflatten(structure, whole)
        return apply(model, *jax.tree.unflatten(given_structure, entered))

    program, out = jaxpr.trace(fn, [shapes[i] for i in arrays], [given[i] for i in fed])
    named = {names[i]: leaves[i] for i in arrays}
    return Model(program, named, [given[i] for i in fed], out)
