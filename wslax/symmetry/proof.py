"""The proof by numbers: permuting and scaling the units of free groups changes nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.symmetry.actions import permute
from wslax.symmetry.find import locate
from wslax.symmetry.scaling import rescale, unit_shape
from wslax.symmetry.types import Groups
from wslax.typing import Array, Key, Params


def random_permutation(key: Key, groups: Groups) -> dict[int, Array]:
    """A uniform random permutation of every free group, its own at each outer unit.

    Args:
      key: a JAX random key.
      groups: the groups.

    Returns:
      Group id to int32 `[*sizes of per, size]`, for `permute`.

    Example:
        >>> import jax, numpy as np
        >>> groups = Groups.from_sites({"w": np.zeros((2, 3))}, [[("w", 1, "produced")]])
        >>> sorted(random_permutation(jax.random.key(0), groups)[0].tolist())
        [0, 1, 2]
    """
    drawn: dict[int, Array] = {}
    for group in groups.free:
        shape = unit_shape(groups, group)
        noise = jax.random.uniform(jax.random.fold_in(key, group.id), shape)
        drawn[group.id] = jnp.argsort(noise, -1).astype(jnp.int32)
    return drawn


def random_signs(key: Key, groups: Groups) -> dict[int, Array]:
    """Signs for `permute`, of every group that has some."""
    return {
        g.id: jax.random.rademacher(
            jax.random.fold_in(key, g.id), (len(g.signs), *unit_shape(groups, g)), jnp.float32
        )
        for g in groups.free
        if g.signs
    }


def random_scales(key: Key, groups: Groups) -> dict[int, Array]:
    """Factors for `rescale` between 1/2 and 2, of every group that has some."""
    return {
        g.id: 2.0
        ** jax.random.uniform(
            jax.random.fold_in(key, g.id), (len(g.scales), *unit_shape(groups, g)), minval=-1.0
        )
        for g in groups.free
        if g.scales
    }


def randomised(key: Key, params: Params) -> Params:
    """Every float leaf drawn anew, so that no zero or one hides what a model does with it.

    Matrices and kernels are normal with the variance of one over their fan-in, vectors and
    scalars uniform in [0.5, 1.5], so that scales and running variances are fit to divide by.
    """

    def draw(name: str, leaf: Any) -> Any:
        if not tree.is_float(leaf):
            return leaf
        at = jax.random.fold_in(key, sum(map(ord, name)) * 31 + len(name))
        if leaf.ndim < 2:
            return jax.random.uniform(at, leaf.shape, leaf.dtype, 0.5, 1.5)
        fan_in = max(leaf.size // leaf.shape[-1], 1)
        return jax.random.normal(at, leaf.shape, leaf.dtype) / fan_in**0.5

    return tree.map_named(draw, params)


def _filled(key: Key, value: Any) -> Any:
    """Numbers for an input that is a `ShapeDtypeStruct`; counts are 0 or 1."""
    if not isinstance(value, jax.ShapeDtypeStruct):
        return value
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jax.random.normal(key, value.shape, value.dtype)
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jax.random.split(key, value.shape)
    return jax.random.randint(key, value.shape, 0, 2).astype(value.dtype)


def _apart(a: Array, b: Array) -> Array:
    """The largest difference, as a share of the largest magnitude."""
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return jnp.any(a != b).astype(jnp.float32)
    scale = jnp.max(jnp.abs(a), initial=0.0)
    worst = jnp.max(jnp.abs(a - b), initial=0.0)
    return (worst / jnp.where(scale > 0, scale, 1.0)).astype(jnp.float32)


def check(
    apply: Callable[..., Any], params: Params, groups: Groups, *inputs: Any, key: Key
) -> Array:
    r"""How far permuting, flipping and scaling every free group moves the model's output.

    Every float leaf is drawn anew (layers at zero prove nothing), then each free group is permuted
    at random, on its own at each unit of the groups it is `per`; where it has `signs` and `scales`
    its units are multiplied by random ones, too: \(\max|f(\theta) - f(\pi\theta)| /
    \max|f(\theta)|\) over the output leaves.

    Args:
      apply: `(params, *inputs) -> outputs`.
      params: its parameters.
      groups: of the model, from `infer` or `Groups.from_sites`.
      *inputs: arrays, or `ShapeDtypeStruct`s for random ones (integers are 0 or 1).
      key: a JAX random key.

    Returns:
      A float32 scalar: below 1e-5 in float32 where the groups are right; NaN where the model
      gives NaN. A model that is blind to its parameters gives 0 whatever the groups say.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> params = {"a": jnp.zeros((3, 8)), "b": jnp.zeros((8, 2))}
        >>> apply = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
        >>> groups = ws.symmetry.infer(apply, params, jnp.zeros((1, 3)))
        >>> bool(check(apply, params, groups, jnp.ones((5, 3)), key=jax.random.key(0)) < 1e-5)
        True
    """
    locate(params, groups)
    draw, order, data, sign, scale = jax.random.split(key, 5)
    leaves, structure = jax.tree.flatten(inputs)
    keys = jax.random.split(data, max(len(leaves), 1))
    filled = [_filled(keys[i], leaf) for i, leaf in enumerate(leaves)]
    fed = jax.tree.unflatten(structure, filled)
    params = randomised(draw, params)
    before = jax.tree.leaves(apply(params, *fed))
    moved = permute(params, groups, random_permutation(order, groups), random_signs(sign, groups))
    moved = rescale(moved, groups, random_scales(scale, groups))
    after = jax.tree.leaves(apply(moved, *fed))
    return jnp.max(jnp.stack([_apart(a, b) for a, b in zip(before, after, strict=True)]))
