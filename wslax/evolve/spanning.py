"""Searching among the affine combinations of a few models by their coefficients."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.population import size
from wslax.typing import Array, Params, Population


class Span(NamedTuple):
    """A population in the coordinates of some models.

    Attributes:
      coordinates: `[K, K]`, the models themselves: a population for `run`.
      materialise: `coordinates [N, K] -> leaves [N, ...]`; goes under `jit` and `vmap`. For one
        member at a time, pass `[1, K]` inside `jax.lax.map`.
    """

    coordinates: Array
    materialise: Callable[[Array], Params]


def span(models: Population) -> Span:
    r"""Coordinates in which a member is \(\sum_k c_k x_k\) of K models.

    For strategies that only mix: one whose operators are affine in the members (`genome` with
    `linear` and no mutation, `model_swarm`) does in these coordinates what it does in weights, to
    rounding: a population of N costs N x K numbers beside the K models, and a member is made only
    to be evaluated.

    Args:
      models: leaves `[K, ...]`. Leaves that hold no floats must be equal in all models.

    Returns:
      `Span(coordinates, materialise)`.

    Raises:
      WeightSpaceError: naming a leaf that holds no floats and differs between models.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> space = ws.evolve.span({"w": jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])})
        >>> fitness = lambda c: -jnp.square(space.materialise(c)["w"] - 0.25).sum(1)
        >>> end = ws.evolve.run(ws.evolve.model_swarm(), space.coordinates, fitness,
        ...     key=0, generations=20, direction="maximize")
        >>> float(abs(end.state.top[0].sum() - 1)) < 1e-5
        True
    """
    k = size(models)
    for name, leaf in tree.named_leaves(models).items():
        if not tree.is_float(leaf) and not bool((leaf == leaf[:1]).all()):
            raise WeightSpaceError(
                f"{name}: is {leaf.dtype} and differs between the models, so no combination of "
                "them has one"
            )

    def materialise(coordinates: Array) -> Params:
        n = coordinates.shape[0]

        def mixed(x: Array) -> Array:
            if not tree.is_float(x):
                return jnp.broadcast_to(x[:1], (n, *x.shape[1:]))
            wide = tree.wide(x)
            return jnp.tensordot(coordinates.astype(wide), x.astype(wide), 1).astype(x.dtype)

        return jax.tree.map(mixed, models)

    return Span(jnp.eye(k), materialise)
