"""The groups of a model, read from its own program."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax import dtypes

from wslax.symmetry.charges.find import charged
from wslax.symmetry.export import export
from wslax.symmetry.making import note
from wslax.symmetry.rules import RULES
from wslax.symmetry.types import Groups
from wslax.symmetry.walk import Made, Rule, Value, Walk
from wslax.trace.model import traced
from wslax.typing import Params


def infer(
    apply: Callable[..., Any], params: Params, *inputs: Any, rules: Mapping[str, Rule] = RULES
) -> Groups:
    r"""Read a model's groups from its own program: which axes of which leaves are one dimension.

    The model is traced once, on shapes alone. Each axis of each leaf starts as a set of units of
    its own; every operation of the program then unites the axes that it ties (contracted with each
    other, added, multiplied), passes on the others, or freezes what depends on the order of units:
    the axes of inputs and outputs, the window of a convolution, what varies along an axis
    (constants, counts, random numbers), cumulative operations, sorting, strides. Reshapes factor
    an axis into heads and their widths; slices and concatenations divide it into pieces. An
    operation without a rule freezes everything it touches.

    A group that is called free has this property: permuting its units alike at all of its sites
    (at each unit of the groups in `Group.per` on its own) leaves the function unchanged. `check`
    proves it by numbers.

    Args:
      apply: any traceable `(params, *inputs) -> outputs`: `module.apply` of Flax, a function that
        calls an Equinox module or `nnx.merge`, or your own. In evaluation mode: dropout draws
        numbers that differ from unit to unit, so it freezes what it drops.
      params: a tree of arrays or `ShapeDtypeStruct`s; running statistics count where they are in
        it. What is no array (the functions in an Equinox module) is taken as part of the code.
      *inputs: arrays or `ShapeDtypeStruct`s, with any batch axes that `apply` takes.
      rules: primitive name to rule, to teach it an operation: `{**RULES, "name": rule}`.

    Returns:
      The groups, numbered in the order of leaves and their axes; frozen ones say by what, with the
      line of the model. An axis of length 1 has no group.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def apply(params, x):
        ...     return jax.nn.relu(x @ params["hidden"]) @ params["out"]
        >>> params = {"hidden": jnp.zeros((3, 8)), "out": jnp.zeros((8, 2))}
        >>> groups = infer(apply, params, jax.ShapeDtypeStruct((5, 3), "float32"))
        >>> print(groups.free[0].size, *groups.free[0].sites, sep="\n")
        8
        hidden[1: 0:8] produced
        out[0: 0:8] consumed
    """
    model = traced(apply, params, inputs)
    walk = Walk(rules, note)
    shapes = {name: tuple(leaf.shape) for name, leaf in model.leaves.items()}
    found: dict[str, Value] = {}
    for name, shape in shapes.items():
        origins = tuple(frozenset({(name, axis)}) for axis in range(len(shape)))
        leaf = walk.fresh(shape)
        made = Made(frozenset(leaf.nodes), frozenset((name, axis) for axis in range(len(shape))))
        found[name] = walk.born(leaf._replace(origins=origins, made=made))
    entered = [
        walk.fresh(given.shape, f"input {k}, of which it is an axis")
        for k, given in enumerate(model.inputs)
    ]
    for value in walk.run(model.program, [*found.values(), *entered]):
        walk.axes.freeze(value.nodes, "the output, of which it is an axis")
        walk.astray |= value.made.lever or frozenset()
    groups = export(walk, found, shapes)
    exact = {
        name: bool(dtypes.issubdtype(leaf.dtype, np.inexact)) for name, leaf in model.leaves.items()
    }
    return charged(groups, model.program, exact, len(model.inputs))
