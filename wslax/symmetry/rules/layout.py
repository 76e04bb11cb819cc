"""Layout: broadcast, transpose, reshape, slices and concatenation."""

from typing import Any

from wslax.symmetry.walk import Rule, Value, Walk

NONE: frozenset[tuple[str, int]] = frozenset()


def broadcast(walk: Walk, eqn: Any, x: Value, *_: Value) -> list[Value]:
    """New axes have units of their own, all alike so far."""
    shape = eqn.outvars[0].aval.shape
    where = {new: old for old, new in enumerate(eqn.params["broadcast_dimensions"])}
    axes, origins, old, new = [], [], {}, {}
    for a, size in enumerate(shape):
        source = where.get(a)
        if source is not None and (size == 1 or walk.axes.factors(x.axes[source])):
            axes.append(x.axes[source])
            old[source] = new[source] = x.axes[source]
        else:
            axes.append(tuple(walk.axes.axis(size)))
            new["new", a] = axes[-1]
        origins.append(NONE if source is None or x.origins is None else x.origins[source])
    walk.match(old, new)
    value = Value(tuple(axes), None if x.origins is None else tuple(origins), x.tag, x.number)
    walk.axes.see([n for a in axes for n in a if n not in x.nodes], [*value.nodes, *walk.implicit])
    return [value]


def tile(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """Copies of an axis one after another: a new major factor."""
    reps, shape = eqn.params["reps"], eqn.outvars[0].aval.shape
    lead = len(shape) - len(x.axes)
    axes = []
    for a, repeats in enumerate(reps):
        nodes = x.axes[a - lead] if a >= lead else ()
        axes.append((*walk.axes.axis(int(repeats)), *nodes))
    origins = None if x.origins is None else (*[NONE] * lead, *x.origins)
    walk.axes.see(x.nodes, [*x.nodes, *walk.implicit])
    return [walk.born(Value(tuple(axes), origins))]


def transpose(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """Axes in another order."""
    order = eqn.params["permutation"]
    origins = None if x.origins is None else tuple(x.origins[a] for a in order)
    return [Value(tuple(x.axes[a] for a in order), origins, x.tag)]


def squeeze(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """Axes of one element gone."""
    rank = len(x.axes)
    gone = {a % rank for a in eqn.params["dimensions"]}
    keep = [a for a in range(rank) if a not in gone]
    origins = None if x.origins is None else tuple(x.origins[a] for a in keep)
    return [Value(tuple(x.axes[a] for a in keep), origins, x.tag, x.number)]


def blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of old and new axes of equal products."""
    blocks, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        left, right, a, b = [], [], 1, 1
        while True:
            if a <= b and i < len(old) and (a < b or not left):
                left.append(i)
                a *= old[i]
                i += 1
            elif b < a or (j < len(new) and not right):
                right.append(j)
                b *= new[j]
                j += 1
            else:
                break
            if a == b and ((left and right) or i == len(old) or j == len(new)):
                break
        blocks.append((left, right))
    return blocks


def reshape(walk: Walk, eqn: Any, x: Value, *_: Value) -> list[Value]:
    """Axes joined and divided; the division refines what they are made of everywhere."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    axes: list[tuple[int, ...]] = [()] * len(new)
    origins = [NONE] * len(new)
    if 0 in old:
        return [walk.fresh(new, walk.reason(eqn))]
    for left, right in blocks(old, new):
        nodes = [n for a in left for n in x.axes[a]]
        found = walk.axes.regroup(nodes, [new[a] for a in right])
        if found is None:
            reason = walk.reason(eqn)
            walk.axes.freeze(nodes, reason)
            found = [walk.axes.axis(new[a], reason) for a in right]
        source = NONE if x.origins is None else NONE.union(*(x.origins[a] for a in left))
        for a, group in zip(right, found, strict=True):
            axes[a], origins[a] = tuple(group), source
    value = Value(tuple(axes), None if x.origins is None else tuple(origins), x.tag, x.number)
    atoms = set(walk.axes.factors(x.nodes))
    if set(walk.axes.factors(value.nodes)) != atoms:
        walk.born(value)
    return [value]


def piece(walk: Walk, eqn: Any, x: Value, axis: int, start: int, stop: int) -> Value:
    """The value over a range of one axis."""
    whole = walk.axes.length(x.axes[axis])
    if (start, stop) == (0, whole):
        return x
    others = [n for a, nodes in enumerate(x.axes) if a != axis for n in nodes]
    siblings = walk.axes.factors(x.axes[axis])[1:]
    taken = None
    if walk.axes.worth_cutting(x.axes[axis], [*others, *siblings]):
        taken = walk.axes.take(x.axes[axis], start, stop)
    if taken is None:
        reason = walk.reason(eqn)
        walk.axes.freeze(x.axes[axis], reason)
        nodes = walk.axes.axis(stop - start, reason)
        axes = tuple(tuple(nodes) if a == axis else n for a, n in enumerate(x.axes))
        rest = {a: n for a, n in enumerate(x.axes) if a != axis}
        walk.match(rest | {axis: x.axes[axis]}, rest | {"piece": nodes})
        return walk.born(x._replace(axes=axes, tag=None))
    nodes, cut, part = taken
    nodes = walk.axes.factors(nodes) or [part]
    axes = tuple(
        tuple(nodes) if a == axis else tuple(walk.axes.at(n, cut, part))
        for a, n in enumerate(x.axes)
    )
    rest = {a: n for a, n in enumerate(axes) if a != axis}
    same = {a: n for a, n in rest.items() if list(n) == walk.axes.factors(x.axes[a])}
    walk.match(same | {axis: x.axes[axis]}, same | {"piece": nodes})
    return walk.born(x._replace(axes=axes, tag=None))


def slice_(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """Whole pieces are nodes of their own; a stride freezes its axis."""
    params, shape = eqn.params, eqn.invars[0].aval.shape
    strides = params["strides"] or (1,) * len(shape)
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    for axis, (start, stop, stride) in enumerate(bounds):
        if stride == 1 or stop - start <= 1:
            x = piece(walk, eqn, x, axis, int(start), int(stop))
        else:
            x = strided(walk, eqn, x, axis, eqn.outvars[0].aval.shape[axis])
    return [x]


def strided(walk: Walk, eqn: Any, x: Value, axis: int, size: int, why: str = "") -> Value:
    """The value with one axis replaced by a frozen one."""
    reason = walk.reason(eqn, why)
    walk.axes.freeze(x.axes[axis], reason)
    nodes = tuple(walk.axes.axis(size, reason))
    rest = {a: n for a, n in enumerate(x.axes) if a != axis}
    walk.match(rest | {axis: x.axes[axis]}, rest | {"new": nodes})
    axes = tuple(nodes if a == axis else n for a, n in enumerate(x.axes))
    return x._replace(axes=axes, tag=None, number=None)


def split(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """Pieces one after another."""
    axis, start, out = int(eqn.params["axis"]), 0, []
    for size in eqn.params["sizes"]:
        out.append(piece(walk, eqn, x, axis, start, start + int(size)))
        start += int(size)
    return out


def unstack(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """Single units of an axis, without it."""
    axis = int(eqn.params["axis"])
    out = []
    for i in range(len(eqn.outvars)):
        one = piece(walk, eqn, x, axis, i, i + 1)
        origins = None if one.origins is None else _drop(one.origins, axis)
        out.append(Value(_drop(one.axes, axis), origins))
    return out


def _drop(items: tuple[Any, ...], axis: int) -> tuple[Any, ...]:
    return (*items[:axis], *items[axis + 1 :])


def joined(walk: Walk, values: list[Value], sizes: list[int], axis: int) -> Value:
    """Values one after another along an axis."""
    nodes = [
        value.axes[axis] or (walk.axes.atom(1),) if size == 1 else value.axes[axis]
        for value, size in zip(values, sizes, strict=True)
    ]
    if len(values) == 1:
        return values[0]
    cut = walk.axes.join(nodes)
    if walk.axes.shuffled(cut):
        walk.axes.freeze([cut], f"pieces put back in another order at {walk.axes.line}")
    rank = len(values[0].axes)
    axes: list[tuple[int, ...]] = [()] * rank
    axes[axis] = (cut,)
    for a in range(rank):
        if a != axis and walk.axes.factors(values[0].axes[a]):
            beside = [n for b, ns in enumerate(values[0].axes) if b not in (a, axis) for n in ns]
            axes[a] = tuple(walk.axes.gather(cut, [v.axes[a] for v in values], beside))
    origins = walk.meet(values, values)
    for value in values:
        same = {a: n for a, n in enumerate(axes) if a != axis and n and _is(walk, n, value.axes[a])}
        walk.match(same | {axis: value.axes[axis]}, same | {"whole": (cut,)})
    return walk.born(Value(tuple(axes), origins))


def _is(walk: Walk, a: Any, b: Any) -> bool:
    return walk.axes.factors(a) == walk.axes.factors(b)


def concatenate(walk: Walk, eqn: Any, *operands: Value) -> list[Value]:
    """The axis is the sum of the operands' axes."""
    axis = int(eqn.params["dimension"])
    sizes = [var.aval.shape[axis] for var in eqn.invars]
    return [joined(walk, list(operands), sizes, axis)]


def stack(walk: Walk, eqn: Any, *operands: Value) -> list[Value]:
    """A new axis with one unit an operand."""
    axis = int(eqn.params["axis"])
    wide = []
    for x in operands:
        origins = None if x.origins is None else (*x.origins[:axis], NONE, *x.origins[axis:])
        wide.append(Value((*x.axes[:axis], (), *x.axes[axis:]), origins))
    return [joined(walk, wide, [1] * len(wide), axis)]


def pad(walk: Walk, eqn: Any, x: Value, filler: Value) -> list[Value]:
    """Constant pieces before and after; negative or interior padding freezes the axis."""
    for axis, config in enumerate(eqn.params["padding_config"]):
        low, high, interior = map(int, config)
        size = eqn.invars[0].aval.shape[axis]
        if interior or low < 0 or high < 0:
            x = strided(walk, eqn, x, axis, eqn.outvars[0].aval.shape[axis])
        elif low or high:
            parts, sizes = [], []
            for n, value in ((low, None), (size, x), (high, None)):
                if n:
                    nodes = tuple(walk.axes.axis(n))
                    axes = tuple(nodes if a == axis else each for a, each in enumerate(x.axes))
                    parts.append(value or walk.born(Value(axes, (NONE,) * len(axes))))
                    sizes.append(n)
            x = joined(walk, parts, sizes, axis)
    return [x._replace(tag=None, number=None)]


def iota(walk: Walk, eqn: Any, *_: Value) -> list[Value]:
    """Counts along one axis."""
    shape, axis = eqn.outvars[0].aval.shape, eqn.params["dimension"]
    why = walk.reason(eqn, "a count along it")
    axes = tuple(
        tuple(walk.axes.axis(size, why if a == axis else None)) for a, size in enumerate(shape)
    )
    return [walk.born(Value(axes, (NONE,) * len(shape)))]


RULES: dict[str, Rule] = {
    "broadcast_in_dim": broadcast,
    "tile": tile,
    "transpose": transpose,
    "squeeze": squeeze,
    "reshape": reshape,
    "slice": slice_,
    "split": split,
    "unstack": unstack,
    "concatenate": concatenate,
    "stack": stack,
    "pad": pad,
    "iota": iota,
}
