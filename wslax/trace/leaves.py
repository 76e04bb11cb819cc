"""Leaves kept as a base and a change: multiplied as such, never written out."""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array

Dot = Callable[..., Array]  # (a, b, axes of a, axes of b): the product to use


@dataclasses.dataclass(frozen=True)
class Factored(abc.ABC):
    """A leaf kept as a base and a change.

    A kind says what the leaf is (`wide`) and how it is multiplied (`contract`); it reaches its base
    by `wide`, `product` and `rows` of this module, for the base may be factored itself.

    Attributes:
      base: an array of the leaf's shape and dtype, or a factored leaf.
    """

    base: Any
    shared: ClassVar[tuple[str, ...]] = ("base",)  # fields that members of a population share

    def __jax_array__(self) -> Array:
        """What JAX calls where a model that was not made for it takes the leaf for an array."""
        raise WeightSpaceError(
            f"a leaf kept as a base and a change is no array ({tree.aval(self)}); run the model as "
            "wslax.trace.factored(apply), or on the weights of adapter.fuse"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the leaf."""
        return self.base.shape

    @property
    def ndim(self) -> int:
        """Of the leaf."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """Of the leaf."""
        return self.base.dtype

    def dense(self) -> Array:
        """The leaf written out in its dtype, rounded once."""
        return self.wide().astype(self.dtype)

    @abc.abstractmethod
    def wide(self) -> Array:
        """The leaf written out in float32 (float64 for float64)."""

    @abc.abstractmethod
    def contract(self, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
        """The product with `x`.

        Args:
          x: its last axes meet the leaf's.
          axes: of the leaf, ascending.
          dot: `(a, b, axes of a, axes of b) -> array`, the product to use; it promotes dtypes.

        Returns:
          The free axes of `x`, then those of the leaf in their order; None where `axes` cut across
          the change.
        """

    def rows(self, index: Array) -> Array:
        """`leaf[index]` along the first axis; written out, where a kind knows no better."""
        return self.dense()[index]

    def slices(self) -> "Factored | None":
        """The leaf as a scan over its first axis takes it: the slices, their arrays stacked.

        None where there is no such form, as where the change has no part for each slice.
        """
        return None


def is_factored(node: Any) -> bool:
    """Whether a node of a tree of parameters is a leaf kept as base and change."""
    return isinstance(node, Factored)


def wide(leaf: Any) -> Any:
    """An array or a factored leaf as an array in float32 (float64 for float64)."""
    return leaf.wide() if is_factored(leaf) else leaf.astype(tree.wide(leaf))


def product(leaf: Any, x: Array, axes: tuple[int, ...], dot: Dot) -> Array | None:
    """`Factored.contract` of an array or a factored leaf."""
    if is_factored(leaf):
        return leaf.contract(x, axes, dot)
    return dot(x, leaf, tuple(range(x.ndim - len(axes), x.ndim)), axes)


def rows(leaf: Any, index: Array) -> Array:
    """`leaf[index]` of an array or a factored leaf."""
    return leaf.rows(index) if is_factored(leaf) else leaf[index]


def slices(leaf: Any) -> Any:
    """What a scan over the first axis of an array or a factored leaf takes; None if it cannot."""
    return leaf.slices() if is_factored(leaf) else leaf


def plus(one: Any, other: Any) -> Any:
    """A sum in the wider dtype; None if either is."""
    if one is None or other is None:
        return None
    dtype = jnp.promote_types(one.dtype, other.dtype)
    return one.astype(dtype) + other.astype(dtype)


def own(node: Any) -> Any:
    """What differs by member of a factored leaf whose base is shared; of any other, all."""
    if not is_factored(node):
        return node
    parts = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    inner = {name: own(part) for name, part in parts.items() if is_factored(part)}
    return dataclasses.replace(node, **(inner | dict.fromkeys(node.shared)))


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
        >>> from wslax.trace import LowRank
        >>> leaf = LowRank(jnp.zeros((4, 3)), jnp.zeros((8, 4, 2)), jnp.zeros((8, 2, 3)))
        >>> over_members({"bias": jnp.zeros(3), "kernel": leaf})
        {'bias': None, 'kernel': LowRank(base=None, down=0, up=0, scale=None)}
    """

    def axes(node: Any) -> Any:
        return jax.tree.map(lambda _: 0, own(node)) if is_factored(node) else dense

    return jax.tree.map(axes, params, is_leaf=is_factored)
