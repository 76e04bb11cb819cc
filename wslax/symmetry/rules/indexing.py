"""Indexing with what is computed, and random numbers."""

from typing import Any

from wslax.symmetry.rules.layout import piece, strided
from wslax.symmetry.walk import Letters, Rule, Value, Walk


def gather(walk: Walk, eqn: Any, x: Value, index: Value) -> list[Value]:
    """Axes taken whole pass (an embedding's width); axes indexed are frozen."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    batching = tuple(getattr(numbers, "operand_batching_dims", ()))
    batching_index = tuple(getattr(numbers, "start_indices_batching_dims", ()))
    gone = (*numbers.collapsed_slice_dims, *batching)
    kept = [a for a in range(len(shape)) if a not in gone]
    one: Letters = {}
    two: Letters = {}
    whole: Letters = {}
    for a, nodes in enumerate(x.axes):
        if a in batching:
            one["index", batching_index[batching.index(a)]] = nodes
        elif sizes[a] == shape[a]:
            one["x", a] = nodes
        else:
            walk.axes.freeze(nodes, walk.reason(eqn))
            one["cut", a] = nodes
    vector = len(index.axes) - 1
    walk.axes.freeze(index.axes[vector], walk.reason(eqn))
    for a, nodes in enumerate(index.axes[:vector]):
        two["index", a] = nodes
    axes: list[tuple[int, ...]] = []
    slices, batch = iter(kept), iter(range(vector))
    for a, size in enumerate(out):
        if a in numbers.offset_dims:
            source = next(slices)
            if sizes[source] == shape[source]:
                axes.append(x.axes[source])
                whole["x", source] = axes[-1]
            else:
                axes.append(tuple(walk.axes.axis(size, walk.reason(eqn))))
                whole["new", a] = axes[-1]
        else:
            source = next(batch)
            axes.append(index.axes[source])
            whole["index", source] = axes[-1]
    walk.match(one, two, whole)
    if x.origins is not None and index.origins is None:
        for a in range(len(shape)):
            passes = ("x", a) in one
            walk.play(x.origins[a], "produced" if passes else "consumed")
        return [Value(tuple(axes))]
    if x.origins is None:
        return [Value(tuple(axes))]
    found = []
    slices = iter(kept)
    for a in range(len(out)):
        found.append(x.origins[next(slices)] if a in numbers.offset_dims else frozenset())
    return [Value(tuple(axes), tuple(found))]


def dynamic_slice(walk: Walk, eqn: Any, x: Value, *starts: Value) -> list[Value]:
    """A slice where the start is a known number, else frozen along the cut axes."""
    for axis, size in enumerate(eqn.params["slice_sizes"]):
        whole = eqn.invars[0].aval.shape[axis]
        start = starts[axis].number
        if size == whole:
            continue
        if start is None:
            x = strided(walk, eqn, x, axis, size)
        else:
            first = min(max(int(start), 0), whole - size)
            x = piece(walk, eqn, x, axis, first, first + size)
    return [x._replace(tag=None)]


def dynamic_update_slice(walk: Walk, eqn: Any, x: Value, new: Value, *_: Value) -> list[Value]:
    """Axes of equal length are one, the others are frozen."""
    whole, part = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape
    same = [a for a in range(len(whole)) if whole[a] == part[a]]
    for a in range(len(whole)):
        if a not in same:
            walk.axes.freeze([*x.axes[a], *new.axes[a]], walk.reason(eqn))
    walk.match(
        dict(enumerate(x.axes)),
        {a if a in same else ("new", a): nodes for a, nodes in enumerate(new.axes)},
    )
    return [Value(x.axes, walk.meet((x, new), (x,)))]


def scatter(walk: Walk, eqn: Any, x: Value, index: Value, update: Value) -> list[Value]:
    """Axes written whole are one with the update's, the others are frozen."""
    numbers = eqn.params["dimension_numbers"]
    whole, part = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    gone = (*numbers.inserted_window_dims, *getattr(numbers, "operand_batching_dims", ()))
    window = [a for a in range(len(whole)) if a not in gone]
    pairs = dict(zip(numbers.update_window_dims, window, strict=True))
    letters: Letters = {}
    for a, nodes in enumerate(update.axes):
        source = pairs.get(a)
        if source is not None and whole[source] == part[a]:
            letters[source] = nodes
        else:
            walk.axes.freeze(nodes, walk.reason(eqn))
            letters["new", a] = nodes
    for a, nodes in enumerate(x.axes):
        if a not in letters:
            walk.axes.freeze(nodes, walk.reason(eqn))
    walk.freeze(eqn, index)
    walk.match(dict(enumerate(x.axes)), letters)
    return [Value(x.axes, walk.meet((x, update), (x,)))]


def top_k(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """The largest along an axis: the units' order decides which index comes out."""
    axis = eqn.params.get("axis", -1) % len(x.axes)
    size = eqn.outvars[0].aval.shape[axis]
    value = strided(walk, eqn, x, axis, size)
    return [Value(value.axes) for _ in eqn.outvars]


def random(walk: Walk, eqn: Any, *operands: Value) -> list[Value]:
    """Random numbers differ from unit to unit."""
    why = "random numbers that differ along it (infer in evaluation mode: dropout off)"
    reason = walk.reason(eqn, why)
    return [walk.fresh(var.aval.shape, reason) for var in eqn.outvars]


RANDOM = """
random_bits random_clone random_fold_in random_gamma random_seed random_split random_unwrap
random_wrap rng_bit_generator rng_uniform threefry2x32
"""

RULES: dict[str, Rule] = {
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter-min", "scatter-max"),
        scatter,
    ),
    **dict.fromkeys(("top_k", "approx_top_k"), top_k),
    **dict.fromkeys(RANDOM.split(), random),
}
