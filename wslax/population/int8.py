"""Populations whose weights lie in int8, of which a few rows at a time are float32."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.typing import Array, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A leaf of a quantized population: `values * scale`.

    Attributes:
      values: int8 `[N, ...]`.
      scale: float32, as `values` but of size 1 along all axes between the first and the last; of
        vectors, along the last.
    """

    values: Any
    scale: Any


def quantize(population: Params) -> Params:
    r"""A population in int8, a quarter of its bytes, for arithmetic in float32.

    \[q = \mathrm{round}(x / s), \qquad s = \max |x| / 127\]

    with one scale for each column (last axis) of a member's matrix, and one for a vector: the
    error is at most s/2. `genome` and `genetic_algorithm` breed such a population, alone or in
    `ws.evolve.run`: chosen parents become float32 a chunk at a time, and their children int8 again.
    `evaluate` and `ws.evolve.each` give a function float32 members; elsewhere `dequantize` does.
    A change of a weight below s/2 is lost, so mutations should be larger.

    Args:
      population: leaves `[N, ...]`. Floating leaves with an axis beside the members' become
        `Int8`; others pass unchanged. What is quantized stays.

    Returns:
      The population, offloaded or spread over devices as it may then be.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> small = ws.population.quantize({"w": jnp.array([[0.5, -1.27], [0.0, 0.0]])})
        >>> small["w"].values.tolist(), ws.population.dequantize(small)["w"].tolist()
        ([[50, -127], [0, 0]], [[0.5, -1.2699999809265137], [0.0, 0.0]])
    """

    def small(x: Any) -> Any:
        if _is_int8(x) or not tree.is_float(x) or x.ndim < 2:
            return x
        x = jnp.asarray(x, jnp.float32)
        top = jnp.abs(x).max(axis=tuple(range(1, x.ndim - 1)) or 1, keepdims=True)
        scale = top / 127
        return Int8(jnp.round(x / jnp.where(top == 0, 1, scale)).astype(jnp.int8), scale)

    return jax.tree.map(small, population, is_leaf=_is_int8)


def dequantize(params: Params) -> Params:
    """Members with `Int8` leaves in float32; of one member or many, other leaves unchanged.

    Example:
        >>> import jax.numpy as jnp
        >>> dequantize({"w": Int8(jnp.array([2, 1], jnp.int8), jnp.array([0.5]))})["w"].tolist()
        [1.0, 0.5]
    """
    wide = lambda x: x.values.astype(jnp.float32) * x.scale if _is_int8(x) else x
    return jax.tree.map(wide, params, is_leaf=_is_int8)


def one_leaf_each(params: Params) -> Params:
    """Int8 values as the leaves that they stand for, so that names are those before `quantize`.

    Example:
        >>> one_leaf_each(quantize({"w": jnp.ones((1, 2))}))["w"].dtype
        dtype('int8')
    """
    return jax.tree.map(lambda x: x.values if _is_int8(x) else x, params, is_leaf=_is_int8)


def quantized(params: Params) -> bool:
    """Whether a tree has `Int8` leaves.

    Example:
        >>> quantized({"w": jnp.zeros((2, 3))}), quantized(quantize({"w": jnp.zeros((2, 3))}))
        (False, True)
    """
    return any(map(_is_int8, jax.tree.leaves(params, is_leaf=_is_int8)))


@functools.lru_cache(maxsize=128)
def in_float32(make: Callable[..., Params]) -> Callable[..., Params]:
    """`make` of `breed` for quantized rows: float32 while children are made.

    Example:
        >>> make = in_float32(lambda slots, rows, shared: {"w": rows["w"][:, 0] + shared})
        >>> rows = quantize({"w": jnp.ones((3, 2, 5))})
        >>> made = make(jnp.arange(3), rows, 1.0)
        >>> dequantize(made)["w"].shape
        (3, 5)
    """

    def made(slots: Array, rows: Params, shared: Any) -> Params:
        born = make(slots, dequantize(rows), shared)
        small = lambda row, child: quantize(child) if _is_int8(row) else child
        return jax.tree.map(small, rows, born, is_leaf=_is_int8)

    return made


def _is_int8(x: Any) -> bool:
    return isinstance(x, Int8)
