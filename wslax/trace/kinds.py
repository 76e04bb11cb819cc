"""The kinds of leaves that are a base and a change."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from wslax.trace.leaves import Dot, Factored, plus, product, rows, slices, wide
from wslax.typing import Array


def _times(scale: Any, x: Any) -> Any:
    """A scalar times an array of any dtype, which it keeps."""
    return None if x is None else jnp.asarray(scale, x.dtype) * x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank(Factored):
    r"""A base plus a product of two thin factors, \(W + s\, D U\).

    Attributes:
      base: `[*left, *right]`.
      down: `[*left, rank]`, an array or factored itself.
      up: `[rank, *right]`, the same.
      scale: \(s\), a scalar; LoRA's alpha / rank.
    """

    down: Any
    up: Any
    scale: Any = 1.0
    shared = ("base", "scale")

    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""
        change = jnp.tensordot(wide(self.down), wide(self.up), 1)
        return plus(wide(self.base), _times(self.scale, change))

    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """`x`, whose last axes meet those of the leaf; None where they cut across the factors."""
        left = tuple(range(self.down.ndim - 1))
        right = tuple(range(len(left), self.ndim))
        if axes == left:
            thin = product(self.down, x, left, dot)
            other, meets = self.up, (0,)
        elif axes == right:
            thin = product(self.up, x, tuple(range(1, self.up.ndim)), dot)
            other, meets = self.down, (len(left),)
        else:
            return None
        change = None if thin is None else product(other, thin, meets, dot)
        return plus(product(self.base, x, axes, dot), _times(self.scale, change))

    def rows(self, index: Array) -> Array:
        """`leaf[index]` along the first axis."""
        change = jnp.tensordot(wide(rows(self.down, index)), wide(self.up), 1)
        return plus(rows(self.base, index), _times(self.scale, change)).astype(self.dtype)

    def slices(self) -> Factored | None:
        """Where factors are stacked with the base."""
        if self.down.ndim + self.up.ndim == self.ndim + 2:
            return None
        base, down, up = map(slices, (self.base, self.down, self.up))
        if base is None or down is None or up is None:
            return None
        scale = jnp.asarray(self.scale)
        return LowRank(base, down, up, scale if scale.ndim else jnp.full(self.shape[0], scale))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mix(Factored):
    r"""A base plus a weighted sum of changes, \(W + \sum_k c_k T_k\).

    Attributes:
      base: the leaf's shape.
      parts: `[K, *shape]`.
      coef: `[K]`.
    """

    parts: Any
    coef: Any
    shared = ("base", "parts")

    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""
        return plus(wide(self.base), jnp.tensordot(wide(self.coef), wide(self.parts), 1))

    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """`x`, whose last axes meet those of the leaf."""
        tail = tuple(range(x.ndim - len(axes), x.ndim))
        each = dot(x, self.parts, tail, tuple(axis + 1 for axis in axes))
        coef = self.coef.astype(each.dtype)
        change = jnp.tensordot(each, coef, ((x.ndim - len(axes),), (0,)))
        return plus(product(self.base, x, axes, dot), change)

    def rows(self, index: Array) -> Array:
        """`leaf[index]` along the first axis."""
        change = jnp.tensordot(wide(self.coef), wide(self.parts[:, index]), 1)
        return plus(rows(self.base, index), change).astype(self.dtype)

    def slices(self) -> Factored | None:
        """Where parts and their weights are stacked with the base."""
        base = slices(self.base) if self.coef.ndim > 1 else None
        return None if base is None else dataclasses.replace(self, base=base)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sparse(Factored):
    """A base plus numbers at some places.

    Attributes:
      base: the leaf's shape.
      index: `[k]` integers, places in the flattened leaf, each at most once.
      values: `[k]`, what is added there.
    """

    index: Any
    values: Any

    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""
        base = wide(self.base)
        flat = jnp.ravel(base).at[self.index].add(self.values.astype(base.dtype))
        return flat.reshape(base.shape)

    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """`x`, whose last axes meet those of the leaf; None where these are not a first or last."""
        shape, n = self.shape, len(axes)
        first, last = tuple(range(n)), tuple(range(len(shape) - n, len(shape)))
        if axes not in (first, last):
            return None
        minor = math.prod(shape[n:] if axes == first else shape[-n:])
        row, column = jnp.divmod(self.index, minor)
        met, free = (row, column) if axes == first else (column, row)
        rest = shape[n:] if axes == first else shape[:-n]
        taken = x.reshape(*x.shape[: x.ndim - n], -1)[..., met]
        taken = taken * self.values.astype(x.dtype).reshape((1,) * (taken.ndim - 1) + (-1,))
        change = jnp.zeros((*taken.shape[:-1], math.prod(rest)), taken.dtype)
        change = change.at[..., free].add(taken).reshape(*taken.shape[:-1], *rest)
        return plus(product(self.base, x, axes, dot), change)

    def slices(self) -> Factored | None:
        """Where places and values are stacked with the base."""
        base = slices(self.base) if self.index.ndim > 1 else None
        return None if base is None else dataclasses.replace(self, base=base)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scaled(Factored):
    """A base times factors along some of its axes, as diag(a) W is and W diag(b).

    Attributes:
      base: the leaf's shape.
      by: as many axes, each of the base's length or 1.
    """

    by: Any

    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""
        return wide(self.base) * wide(self.by)

    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """`x`, whose last axes meet those of the leaf; None if factors vary along both kinds."""
        sizes = self.by.shape
        free = [n for axis, n in enumerate(sizes) if axis not in axes]
        if math.prod(sizes[axis] for axis in axes) == 1:
            out = product(self.base, x, axes, dot)
            return None if out is None else _along(out, self.by, free)
        if math.prod(free) > 1:
            return None
        return product(self.base, _along(x, self.by, [sizes[axis] for axis in axes]), axes, dot)

    def rows(self, index: Array) -> Array:
        """`leaf[index]` along the first axis."""
        by = self.by[index if self.by.shape[0] > 1 else jnp.zeros_like(index)]
        return (wide(rows(self.base, index)) * wide(by)).astype(self.dtype)


def _along(x: Array, by: Array, last: list[int]) -> Array:
    """`x` times factors along its last axes, in the wider dtype."""
    dtype = jnp.promote_types(x.dtype, by.dtype)
    return x.astype(dtype) * by.astype(dtype).reshape((1,) * (x.ndim - len(last)) + (*last,))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Matrices(Factored):
    """A leaf in any layout as a batch of matrices, each a factored leaf.

    Attributes:
      base: a factored leaf `[rows, columns]`; with a batch its arrays are stacked, `[*batch, ...]`.
      sizes: the leaf's shape.
      rows_at: its axes that make the rows.
      columns_at: its axes that make the columns; the others are the batch.
    """

    sizes: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    rows_at: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    columns_at: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    shared = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the leaf."""
        return self.sizes

    def _order(self) -> tuple[int, ...]:
        inside = (*self.rows_at, *self.columns_at)
        return (*(axis for axis in range(self.ndim) if axis not in inside), *inside)

    def _batch(self) -> int:
        return self.ndim - len(self.rows_at) - len(self.columns_at)

    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""
        order, written = self._order(), wide
        for _ in range(self._batch()):
            written = jax.vmap(written)
        laid = written(self.base).reshape([self.sizes[axis] for axis in order])
        return jnp.transpose(laid, sorted(range(self.ndim), key=order.__getitem__))

    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """`x`, whose last axes meet those of the leaf; None unless it is one matrix."""
        sides = {self.rows_at: (0, self.columns_at), self.columns_at: (1, self.rows_at)}
        if self._batch() or axes not in sides:
            return None
        axis, free = sides[axes]
        out = product(self.base, x.reshape(*x.shape[: x.ndim - len(axes)], -1), (axis,), dot)
        if out is None:
            return None
        return out.reshape(*out.shape[:-1], *(self.sizes[axis] for axis in free))

    def slices(self) -> Factored | None:
        """Where the first axis is of the batch."""
        if 0 in (*self.rows_at, *self.columns_at):
            return None
        less = lambda axes: tuple(axis - 1 for axis in axes)
        return Matrices(self.base, self.sizes[1:], less(self.rows_at), less(self.columns_at))
