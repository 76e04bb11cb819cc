"""Leaves kept as a base and a change: multiplied as such, never written out."""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from wslax.typing import Array


@dataclasses.dataclass(frozen=True)
class Factored(abc.ABC):
    """A leaf kept as a base and a change.

    Attributes:
      base: an array of the leaf's shape and dtype, or a factored leaf itself.
    """

    base: Any
    shared: ClassVar[tuple[str, ...]] = ("base",)  # fields that members of a population share

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the leaf."""
        return self.base.shape

    @property
    def dtype(self) -> Any:
        """Of the leaf."""
        return self.base.dtype

    @abc.abstractmethod
    def dense(self) -> Array:
        """The leaf written out."""

    @abc.abstractmethod
    def contract(self, x: Array, axes: tuple[int, ...], dot: Any) -> Array | None:
        """The product with `x`.

        Args:
          x: its last axes meet the leaf's.
          axes: of the leaf, ascending.
          dot: `(a, b, axes of a, axes of b) -> array`, the product to use.

        Returns:
          The free axes of `x`, then those of the leaf in their order; None where `axes` cut across
          the change.
        """

    def rows(self, index: Array) -> Array:
        """`leaf[index]` along the first axis; written out, where a kind knows no better."""
        return self.dense()[index]


def is_factored(node: Any) -> bool:
    """Whether a node of a tree of parameters is a leaf kept as base and change."""
    return isinstance(node, Factored)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank(Factored):
    r"""A base plus a product of two thin factors, \(W + s\, D U\).

    Attributes:
      base: `[*left, *right]`.
      down: `[*left, rank]`.
      up: `[rank, *right]`.
      scale: \(s\), a scalar; LoRA's alpha / rank.
    """

    down: Any
    up: Any
    scale: Any = 1.0
    shared = ("base", "scale")

    def dense(self) -> Array:
        """The leaf written out."""
        change = self.scale * jnp.tensordot(self.down, self.up, 1)
        return self.base + change.astype(self.base.dtype)

    def contract(self, x: Array, axes: tuple[int, ...], dot: Any) -> Array | None:
        """`x`, whose last axes meet those of the leaf; None where they cut across the factors."""
        left = tuple(range(self.down.ndim - 1))
        right = tuple(range(len(left), self.base.ndim))
        n = len(axes)
        tail = tuple(range(x.ndim - n, x.ndim))
        if axes == left:
            thin = dot(x, self.down, tail, left)
            change = dot(thin, self.up, (thin.ndim - 1,), (0,))
        elif axes == right:
            thin = dot(x, self.up, tail, tuple(range(1, n + 1)))
            change = dot(thin, self.down, (thin.ndim - 1,), (len(left),))
        else:
            return None
        return dot(x, self.base, tail, axes) + self.scale * change

    def rows(self, index: Array) -> Array:
        """`leaf[index]` along the first axis."""
        change = self.scale * jnp.tensordot(self.down[index], self.up, 1)
        return self.base[index] + change.astype(self.base.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mix(Factored):
    r"""A base plus a weighted sum of changes, \(W + \sum_k c_k T_k\).

    Attributes:
      base: the leaf's shape.
      parts: `[K, ...]`, shared by all members: task vectors, experts less their base.
      coef: `[K]`.
    """

    parts: Any
    coef: Any
    shared = ("base", "parts")

    def dense(self) -> Array:
        """The leaf written out."""
        return self.base + jnp.tensordot(self.coef, self.parts, 1).astype(self.base.dtype)

    def contract(self, x: Array, axes: tuple[int, ...], dot: Any) -> Array | None:
        """`x`, whose last axes meet those of the leaf."""
        tail = tuple(range(x.ndim - len(axes), x.ndim))
        each = dot(x, self.parts, tail, tuple(axis + 1 for axis in axes))
        change = jnp.tensordot(each, self.coef, ((x.ndim - len(axes),), (0,)))
        return dot(x, self.base, tail, axes) + change

    def rows(self, index: Array) -> Array:
        """`leaf[index]` along the first axis."""
        change = jnp.tensordot(self.coef, self.parts[:, index], 1)
        return self.base[index] + change.astype(self.base.dtype)


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

    def dense(self) -> Array:
        """The leaf written out."""
        flat = self.base.reshape(-1).at[self.index].add(self.values.astype(self.base.dtype))
        return flat.reshape(self.base.shape)

    def contract(self, x: Array, axes: tuple[int, ...], dot: Any) -> Array | None:
        """`x`, whose last axes meet those of the leaf; None where these are not a first or last."""
        shape, n = self.base.shape, len(axes)
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
        return dot(x, self.base, tuple(range(x.ndim - n, x.ndim)), axes) + change


def own(node: Any) -> Any:
    """What differs by member of a factored leaf whose base is shared; of any other, all."""
    if not is_factored(node):
        return node
    return dataclasses.replace(node, **dict.fromkeys(node.shared))


def written_out(params: Any) -> Any:
    """A tree with its factored leaves as arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> written_out({"w": Sparse(jnp.zeros(3), jnp.array([1]), jnp.array([2.0]))})["w"].tolist()
        [0.0, 2.0, 0.0]
    """
    return jax.tree.map(lambda x: x.dense() if is_factored(x) else x, params, is_leaf=is_factored)


def over_members(params: Any, *, dense: int | None = None) -> Any:
    """The `in_axes` of a population that shares its bases: only the changes differ by member.

    Args:
      params: one tree whose factored leaves hold `[N, ...]` in `down` and `up`, in `coef`, or in
        `values` (and `index`); their other parts are shared.
      dense: the member axis of the other leaves; None where these are shared, 0 where each member
        has its own, as the children of `evolve.low_rank_es` and any ordinary population do.

    Returns:
      A tree for `jax.vmap(..., in_axes=(over_members(params), None))`.

    Example:
        >>> import jax.numpy as jnp
        >>> leaf = LowRank(jnp.zeros((4, 3)), jnp.zeros((8, 4, 2)), jnp.zeros((8, 2, 3)))
        >>> over_members({"bias": jnp.zeros(3), "kernel": leaf})
        {'bias': None, 'kernel': LowRank(base=None, down=0, up=0, scale=None)}
    """

    def axes(node: Any) -> Any:
        return jax.tree.map(lambda _: 0, own(node)) if is_factored(node) else dense

    return jax.tree.map(axes, params, is_leaf=is_factored)
