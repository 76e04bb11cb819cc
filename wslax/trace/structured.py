"""Leaves changed by structured matrices: Kronecker products, rotations, affine maps of blocks.

All are matrices `[in, out]`; `Matrices` lays them out as a leaf of any shape.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from wslax.trace.leaves import Dot, Factored, is_factored, plus, product, rows, wide
from wslax.typing import Array


def _plain(a: Array, b: Array, left: tuple[int, ...], right: tuple[int, ...]) -> Array:
    return jnp.tensordot(a, b, (left, right))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kronecker(Factored):
    r"""A base plus a sum of Kronecker products, \(W + \sum_k L_k \otimes R_k\).

    The products may be larger than the base: what overhangs below and to the right is cut off.

    Attributes:
      base: `[in, out]`.
      left: `[K, rows, columns]`.
      right: `[K, ceil(in / rows), ceil(out / columns)]`.
    """

    left: Any
    right: Any

    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""
        change = jnp.einsum("kab,kcd->acbd", wide(self.left), wide(self.right))
        a, c, b, d = change.shape
        return plus(wide(self.base), change.reshape(a * c, b * d)[: self.shape[0], : self.shape[1]])

    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """`x` with its last axis folded in two, which meet one factor each; the cheaper first."""
        if axes not in ((0,), (1,)):
            return None
        turned = axes == (1,)
        left, right = (jnp.swapaxes(f, 1, 2) if turned else f for f in (self.left, self.right))
        (_, in_left, out_left), (_, in_right, out_right) = left.shape, right.shape
        room = [(0, 0)] * (x.ndim - 1) + [(0, in_left * in_right - x.shape[-1])]
        folded = jnp.pad(x, room).reshape(*x.shape[:-1], in_left, in_right)
        left_first = in_right * out_left * (in_left + out_right)
        right_first = in_left * out_right * (in_right + out_left)
        pair = (x.ndim - 1, x.ndim)  # the axis that is still folded, and K
        if left_first <= right_first:
            half = dot(folded, left, (x.ndim - 1,), (1,))
            change = dot(half, right, pair, (1, 0))
        else:
            half = dot(folded, right, (x.ndim,), (1,))
            change = jnp.swapaxes(dot(half, left, pair, (1, 0)), -1, -2)
        change = change.reshape(*x.shape[:-1], -1)[..., : self.shape[1 - axes[0]]]
        return plus(product(self.base, x, axes, dot), change)

    def rows(self, index: Array) -> Array:
        """`leaf[index]` along the first axis."""
        outer, inner = jnp.divmod(index, self.right.shape[1])
        left, right = wide(self.left[:, outer]), wide(self.right[:, inner])
        change = jnp.einsum("k...b,k...d->...bd", left, right).reshape(*index.shape, -1)
        return plus(rows(self.base, index), change[..., : self.shape[1]]).astype(self.dtype)


def _turned(x: Array, turns: Array, dot: Dot, back: bool = False) -> Array:
    r"""\(x\,M_{m-1} \cdots M_0\), or `back` through it; see `Turned`."""
    count, blocks, size, _ = turns.shape
    each = jax.vmap(lambda a, d: dot(a, d, (a.ndim - 1,), (int(back),)), (-2, 0), -2)
    for i in range(count) if back else reversed(range(count)):
        lead, wings = x.shape[:-1], [2, 2**i]  # halves of 2^i pieces, of which pairs make a block
        if i:
            x = jnp.swapaxes(x.reshape(*lead, -1, *wings, size // 2), -2, -3)
        x = each(x.reshape(*lead, blocks, size), turns[i])
        if i:
            x = jnp.swapaxes(x.reshape(*lead, -1, *reversed(wings), size // 2), -2, -3)
        x = x.reshape(*lead, -1)
    return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Turned(Factored):
    r"""A base behind a product of block-diagonal maps, \(M_{m-1} \cdots M_0\,W\).

    \(M_0\) has its blocks along the diagonal. The blocks of \(M_i\) pair pieces of half a block
    that lie \(2^i\) pieces apart, as the butterflies of a fast Fourier transform do.

    Attributes:
      base: `[in, out]`.
      turns: `[m, in / size, size, size]`, the blocks.
    """

    turns: Any

    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""
        return _turned(wide(self.base).T, wide(self.turns), _plain, back=True).T

    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """`x` turned before it meets the base, or after."""
        if axes == (0,):
            return product(self.base, _turned(x, self.turns, dot), axes, dot)
        met = product(self.base, x, axes, dot) if axes == (1,) else None
        return None if met is None else _turned(met, self.turns, dot, back=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BlockAffine(Factored):
    r"""A base whose square blocks are mapped, \(W_{ij} + C_j W_{ij} + C_j\).

    Attributes:
      base: `[in, out]`, cut into blocks \(W_{ij}\) of `[size, size]`.
      maps: `[out / size, size, size]`: \(C_j\), one for each block of columns.
    """

    maps: Any

    def _blocks(self) -> Array:
        """`[in / size, size, out / size, size]`."""
        size = self.maps.shape[-1]
        base = self.base.dense() if is_factored(self.base) else self.base
        rows, columns = self.shape
        return base.reshape(rows // size, size, columns // size, size)

    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""
        maps, blocks = wide(self.maps), wide(self._blocks())
        mapped = blocks + jnp.einsum("jac,icjb->iajb", maps, blocks)
        return (mapped + jnp.swapaxes(maps, 0, 1)[None]).reshape(self.shape)

    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """`x`, whose last axis meets one of the leaf's.

        A block of columns has a map of its own, so it sees a mapped `x` of its own: the
        work of a dense product, on arrays as large as `x` times the number of blocks.
        """
        if axes not in ((0,), (1,)):
            return None
        size, n = self.maps.shape[-1], x.ndim
        folded = x.reshape(*x.shape[:-1], -1, size)

        def columns(c: Array, w: Array) -> Array:
            mapped = dot(folded, c, (n,), (0,))
            return dot(mapped, w, (n - 1, n), (0, 1)) + dot(folded.sum(-2), c, (n - 1,), (0,))

        def rows(x: Array, c: Array, w: Array) -> Array:
            back = dot(dot(x, w, (n - 1,), (2,)), c, (n,), (1,))
            return back + dot(x, c, (n - 1,), (1,))[..., None, :]

        if axes == (0,):
            change = jax.vmap(columns, (0, 2), -2)(self.maps, self._blocks())
        else:
            change = jax.vmap(rows, (-2, 0, 2))(folded, self.maps, self._blocks()).sum(0)
        change = change.reshape(*x.shape[:-1], -1)
        return plus(product(self.base, x, axes, dot), change)
