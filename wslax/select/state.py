"""The state of a sparse optimizer, and its way to whole leaves and back."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.select.budget import Budget, Choice, choices
from wslax.select.places import gathered, places, put, total
from wslax.symmetry.matrices import MatrixAxes
from wslax.typing import Params, Where


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Selection:
    """What a selection was made by and for; no leaf of the state.

    Attributes:
      budget: how many weights.
      where: globs of the leaves.
      shapes: of all leaves of the parameters, `()` for those that are not selected from.
      axes: of the matrices of all leaves, None for those that are not selected from.
    """

    budget: Budget
    where: Any
    shapes: tuple[tuple[int, ...], ...]
    axes: tuple[MatrixAxes | None, ...]


@functools.cache
def known_to_flax() -> None:
    """Tell Flax's serialization, which asks every type, that a selection has nothing to save."""
    from flax import serialization  # when an optimizer begins, as importing it takes a while

    serialization.register_serialization_state(Selection, lambda _: {}, lambda by, _: by)


class Unselected(optax.MaskedNode):
    """Stands for a leaf that is not selected from."""


class Along:
    """Stands for a leaf that is selected from: no array, so that an edit takes it along as it is.

    Attributes:
      axes: of its matrices.
    """

    def __init__(self, axes: MatrixAxes) -> None:
        self.axes = axes


class SparseState(NamedTuple):
    """The state of `sparse` and `lift`.

    Attributes:
      count: int32, updates so far.
      indices: for each leaf that is selected from int32 `[k]`, ascending places in the flat leaf;
        None elsewhere. A place beyond the end of the leaf stands for none.
      inner: the inner transformation's state, over leaves `[k]`.
      selection: static.
    """

    count: Any
    indices: Any
    inner: Any
    selection: Selection

    def dense(self) -> tuple[Any, Any]:
        """The same over whole leaves: which are selected, and the inner state.

        Entries that are not selected are zero; leaves that are not selected from are masked out, as
        in `optax.masked`. So what moves a tree shaped like the parameters moves both.

        Returns:
          `(selected, inner)`; `selected` is a tree of bools, beside it one of the axes.
        """
        indices, structure = jax.tree.flatten(self.indices, is_leaf=_is_none)

        def whole(values: Any) -> Any:
            rows = zip(structure.flatten_up_to(values), indices, self.selection.shapes, strict=True)
            return structure.unflatten([_whole(*row) for row in rows])

        ones = jax.tree.map(lambda at: jnp.ones(at.shape, bool), self.indices)
        axes = [Unselected() if own is None else Along(own) for own in self.selection.axes]
        selected = {"places": whole(ones), "axes": structure.unflatten(axes)}
        return selected, tree.map_like(whole, self.inner, self.indices)

    def compact(self, first: Any, selected: Any, inner: Any) -> "SparseState":
        """The state that `dense` gave, moved to another model, in its short form.

        Of each leaf as many weights are selected as a selection takes there by itself: those of
        `first`, then others of `selected`, lowest place first, as far as they go.

        Args:
          first: which are selected in any case, a part of `selected`.
          selected: which may be.
          inner: the inner state over whole leaves.

        Returns:
          The state, with the count of updates that this one has.

        Raises:
          WeightSpaceError: if `where` picks a leaf that was not selected from.
        """
        masks, structure = jax.tree.flatten(selected["places"], is_leaf=_is_unselected)
        axes = [
            None if _is_unselected(x) else x.axes for x in structure.flatten_up_to(selected["axes"])
        ]
        shapes = tuple(() if _is_unselected(mask) else mask.shape for mask in masks)
        spec = structure.unflatten([jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes])
        by = self.selection
        _check_where(by.where, spec, masks)
        found = choices(spec, by.budget, _still_picked(by.where, spec, axes))
        rows = zip(found, structure.flatten_up_to(first["places"]), masks, strict=True)
        indices = [choice and _first_places(choice, *both) for choice, *both in rows]

        def short(values: Any) -> Any:
            rows = zip(structure.flatten_up_to(values), indices, strict=True)
            return structure.unflatten([None if at is None else gathered(x, at) for x, at in rows])

        inner = tree.map_like(short, inner, selected["places"])
        rows = zip(found, shapes, strict=True)
        selection = dataclasses.replace(
            by,
            shapes=tuple(() if choice is None else shape for choice, shape in rows),
            axes=tuple(None if choice is None else choice.axes for choice in found),
        )
        return SparseState(self.count, structure.unflatten(indices), inner, selection)


def _check_where(where: Where, spec: Params, masks: list[Any]) -> None:
    """Raise if globs pick a leaf without a selection, as when an edit gave it another name."""
    if where is None:
        return
    picked = jax.tree.leaves(tree.picked(spec, where))
    for name, hit, mask in zip(tree.named_leaves(spec), picked, masks, strict=True):
        if hit and _is_unselected(mask):
            raise WeightSpaceError(
                f"{name}: where= picks this leaf of the grown model, and nothing was selected from "
                "the one it comes from; start afresh with `optimizer.init(edit.apply(params))`"
            )


def _is_none(node: Any) -> bool:
    return node is None


def _is_unselected(node: Any) -> bool:
    return isinstance(node, Unselected)


def _whole(values: Any, at: Any, shape: tuple[int, ...]) -> Any:
    if at is None:
        return Unselected()
    return put(jnp.zeros(shape, values.dtype), at, values) if values.ndim else values


def _still_picked(where: Where, spec: Params, axes: list[Any]) -> list[Any]:
    """The axes of the leaves that globs pick by their names after an edit."""
    if where is None:
        return axes
    picked = jax.tree.leaves(tree.picked(spec, where))
    return [own if hit else None for hit, own in zip(picked, axes, strict=True)]


def _first_places(choice: Choice, first: Any, selected: Any) -> Any:
    """The places to select, those of `first` before others; beyond the end what is lacking."""
    count = total(choice, selected)
    first, selected = first.reshape(-1), selected.reshape(-1)
    more = selected & ~first
    room = count - first.sum()
    taken = (first & (jnp.cumsum(first) <= count)) | (more & (jnp.cumsum(more) <= room))
    return places(taken, count)
