"""Where a leaf meets data: in a product or a convolution, and what becomes of its axes there."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax.trace.interpret import View
from wslax.typing import Array


class Place(NamedTuple):
    """What a product does with the axes of a leaf.

    Attributes:
      loops: how many scans run over its first axes.
      batch: axes that it takes one by one.
      consumed: axes that it sums over.
      produced: axes that it passes on.
      groups: of the features of a convolution; 1 elsewhere.
    """

    loops: int
    batch: tuple[int, ...]
    consumed: tuple[int, ...]
    produced: tuple[int, ...]
    groups: int = 1

    def lead(self, what: str) -> int:
        """Axes before the samples in what is read; groups of features are one, but of outputs."""
        return len(self.batch) + (self.groups > 1 and what != "outputs")


class Meeting(NamedTuple):
    """A leaf in a product with data.

    Attributes:
      view: the leaf.
      place: what becomes of its axes.
      read: `(what, result)` to `[*lead, samples, *axes]`: of the `inputs`, over consumed axes; of
        the `features`, the same without the window of a convolution; of the `outputs`, over
        produced axes.
      at: axis of the leaf, as viewed, to axis of the result, for batch and produced axes.
    """

    view: View
    place: Place
    read: Callable[[str, Array], Array]
    at: dict[int, int]


def _arranged(x: Array, batch: Sequence[int], rest: Sequence[int]) -> Array:
    """`[*batch, samples, *rest]` with all other axes of `x` as samples."""
    other = [axis for axis in range(x.ndim) if axis not in (*batch, *rest)]
    x = jnp.transpose(x, (*batch, *other, *rest))
    lead, tail = x.shape[: len(batch)], x.shape[x.ndim - len(rest) :]
    return x.reshape(*lead, -1, *tail)


def product(eqn: Any, lhs: Any, rhs: Any) -> Meeting | None:
    """The meeting of a leaf with data in a `dot_general`; None if both sides are leaves."""
    sides = (lhs, rhs)
    if isinstance(lhs, View) == isinstance(rhs, View):
        return None
    side = 1 if isinstance(rhs, View) else 0
    view, x = sides[side], sides[1 - side]
    contracted, batched = eqn.params["dimension_numbers"]

    def met(pairs: Any) -> list[tuple[int, int]]:
        """Axes of the leaf, in its order, and those of `x` that they meet."""
        both = zip(pairs[side], pairs[1 - side], strict=True)
        return sorted((view.order[a], b) for a, b in both if view.order[a] is not None)

    consumed, batch = met(contracted), met(batched)
    known = {axis for axis, _ in (*consumed, *batch)}
    produced = [axis for axis in view.axes if axis not in known]

    free = [
        [a for a in range(len(var.aval.shape)) if a not in (*c, *b)]
        for var, c, b in zip(eqn.invars, contracted, batched, strict=True)
    ]
    first = len(batched[0]) + (len(free[0]) if side else 0)
    at = {view.order[a]: k for k, a in enumerate(batched[side])}
    at |= {view.order[a]: first + k for k, a in enumerate(free[side])}
    at.pop(None, None)

    def read(what: str, result: Array) -> Array:
        if what != "outputs":
            return _arranged(x, [b for _, b in batch], [b for _, b in consumed])
        return _arranged(result, [at[a] for a, _ in batch], [at[a] for a in sorted(produced)])

    axes = ([a for a, _ in batch], [a for a, _ in consumed], sorted(produced))
    return Meeting(view, _place(view, *axes), read, at)


def _place(view: View, *axes: Sequence[int], groups: int = 1) -> Place:
    """Axes of what a scan sees of a leaf, as axes of the leaf."""
    loops = len(view.loops)
    return Place(loops, *(tuple(a + loops for a in each) for each in axes), groups=groups)


def convolution(eqn: Any, lhs: Any, rhs: Any) -> Meeting | None:
    """The meeting of a kernel with data in a convolution."""
    params = eqn.params
    if not isinstance(rhs, View) or isinstance(lhs, View) or params["batch_group_count"] > 1:
        return None
    spec, groups = params["dimension_numbers"], params["feature_group_count"]
    (n, c, *space), (o, i, *across) = spec.lhs_spec, spec.rhs_spec
    shape = eqn.invars[1].aval.shape
    axes = [rhs.order[a] for a in (o, i, *across)]
    if None in axes:
        return None
    consumed = sorted(axes[1:])

    def patches() -> Array:
        """`[samples, groups, inputs, *window]`."""
        found = jax.lax.conv_general_dilated_patches(
            jnp.moveaxis(lhs, (n, c, *space), range(lhs.ndim)),
            [shape[a] for a in across],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            precision=params["precision"],
        )
        found = jnp.moveaxis(found, 1, -1)
        sizes = [shape[a] for a in (i, *across)]
        return found.reshape(-1, groups, *sizes)

    def read(what: str, result: Array) -> Array:
        if what == "outputs":
            return _arranged(result, (), (spec.out_spec[1],))
        if what == "features":
            window = [shape[i] if a == axes[1] else 1 for a in consumed]
            features = _arranged(lhs, (), (c,)).reshape(-1, groups, *window)
            return jnp.moveaxis(features, 1, 0) if groups > 1 else features[:, 0]
        order = [2 + axes[1:].index(a) for a in consumed]
        x = jnp.transpose(patches(), (1, 0, *order))
        return x if groups > 1 else x[0]

    return Meeting(
        rhs, _place(rhs, (), consumed, axes[:1], groups=groups), read, {axes[0]: spec.out_spec[1]}
    )


MEETINGS: dict[str, Callable[..., Meeting | None]] = {
    "dot_general": product,
    "conv_general_dilated": convolution,
}
