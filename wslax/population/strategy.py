"""How a step is mapped over members: read from its jaxpr, so that a resumed run maps it alike."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import jax

from wslax import tree
from wslax.population.steps import Step

Strategy = Literal["vmap", "map", "step"]

# Measured by `python -m benchmarks training`: beyond these one member at a time is faster on CPU.
MOST_PRODUCT = 3072
MOST_NUMBERS = 16384


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr and of the jaxprs inside it.

    Example:
        >>> import jax
        >>> jaxpr = jax.make_jaxpr(jax.jit(lambda x: x + 1))(1.0).jaxpr
        >>> [eqn.primitive.name for eqn in equations(jaxpr)]
        ['jit', 'add']
    """
    for eqn in jaxpr.eqns:
        yield eqn
        parts = list(eqn.params.values())
        for value in jax.tree.leaves(parts, is_leaf=lambda v: hasattr(v, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def choose_strategy(step: Step, member: Any, batch: Any, key: Any) -> Strategy:
    """How `train` maps a step over members when it is not told.

    An accelerator takes `"vmap"`. A CPU takes it while a step costs little more than its own
    overhead: no matrix product of more than 3,072 numbers (vectorised products of larger matrices
    are transposed first), and at most 16,384 numbers in a member (it stays in the cache when
    members take turns); otherwise `"map"`. With a convolution it takes `"step"`: XLA makes a
    vectorised convolution gradient a grouped one, far slower than a loop, and a convolution inside
    a compiled loop over steps costs two to three times one outside. The rule reads shapes only, so
    a resumed run takes the same path.

    Args:
      step: the step.
      member: one member (arrays or `jax.ShapeDtypeStruct`s).
      batch: one batch, likewise.
      key: a JAX key.

    Returns:
      `"vmap"`, `"map"` or `"step"`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def step(member, batch, key):
        ...     return member - batch @ member, {}
        >>> [choose_strategy(step, jnp.zeros((n, n)), jnp.zeros((n, n)), jax.random.key(0))
        ...  for n in (32, 64)]
        ['vmap', 'map']
    """
    if jax.default_backend() != "cpu":
        return "vmap"
    found = list(equations(jax.make_jaxpr(step)(member, batch, key).jaxpr))
    if any(eqn.primitive.name == "conv_general_dilated" for eqn in found):
        return "step"
    products = [eqn.outvars[0].aval.shape for eqn in found if eqn.primitive.name == "dot_general"]
    large = any(math.prod(shape) > MOST_PRODUCT for shape in products)
    return "map" if large or tree.size(member) > MOST_NUMBERS else "vmap"
