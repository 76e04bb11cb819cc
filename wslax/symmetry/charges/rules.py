"""One rule a primitive: what it does to charges, and what it demands of them.

A rule is `rule(system, eqn, *forms) -> forms`. A primitive without one demands that nothing it
touches changes.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jax import dtypes

from wslax.symmetry.charges.forms import Form, System, plus, times
from wslax.symmetry.rules.layout import blocks

Rule = Callable[..., list[Form]]
MOST = 2**22  # elements of a charge that are looked at one by one


def opaque(system: System, eqn: Any, *forms: Form) -> list[Form]:
    """Nothing may change, so the results do not."""
    system.vanish(*forms)
    return [{} for _ in eqn.outvars]


def each(system: System, eqn: Any, *forms: Form) -> list[Form]:
    """Charges pass."""
    return list(forms)


def together(system: System, eqn: Any, *forms: Form) -> list[Form]:
    """Sums and choices: what meets changes alike."""
    return [system.same(*forms)]


def ordered(system: System, eqn: Any, *forms: Form) -> list[Form]:
    """The larger or smaller one: a positive factor keeps the order, a sign does not."""
    return opaque(system, eqn, *forms) if system.signs else together(system, eqn, *forms)


def compared(system: System, eqn: Any, *forms: Form) -> list[Form]:
    """Of what changes alike the order stays, of signs only whether it is equal."""
    if system.signs and eqn.primitive.name not in ("eq", "ne"):
        return opaque(system, eqn, *forms)
    system.same(*forms)
    return [{}]


def select(system: System, eqn: Any, which: Form, *cases: Form) -> list[Form]:
    """One of several."""
    system.vanish(which)
    return [system.same(*cases)]


def converted(system: System, eqn: Any, x: Form) -> list[Form]:
    """A float of another type is the same number; an integer is rounded."""
    exact = dtypes.issubdtype(eqn.outvars[0].aval.dtype, np.inexact)
    return [x] if exact or x is None else opaque(system, eqn, x)


def mul(system: System, eqn: Any, x: Form, y: Form) -> list[Form]:
    """Charges add."""
    return [plus(x, y)]


def div(system: System, eqn: Any, x: Form, y: Form) -> list[Form]:
    """Charges subtract."""
    return opaque(system, eqn, x, y) if y is None else [plus(x, y, -1.0)]


def square(system: System, eqn: Any, x: Form) -> list[Form]:
    """Twice the charge."""
    return [times(x, 2.0)]


def integer_pow(system: System, eqn: Any, x: Form) -> list[Form]:
    """Charges are multiplied."""
    power = eqn.params["y"]
    return [times(x, float(power))] if power > 0 or x is not None else [{}]


def root(power: float) -> Rule:
    """A root of what a positive factor multiplies."""

    def rule(system: System, eqn: Any, x: Form) -> list[Form]:
        return opaque(system, eqn, x) if system.signs or x is None else [times(x, power)]

    return rule


def odd(system: System, eqn: Any, x: Form) -> list[Form]:
    """f(-x) = -f(x): signs pass, scales do not."""
    return [x] if system.signs or x is None else opaque(system, eqn, x)


def even(system: System, eqn: Any, x: Form) -> list[Form]:
    """f(-x) = f(x): signs are lost, scales do not pass."""
    return [{}] if system.signs else opaque(system, eqn, x)


def magnitude(system: System, eqn: Any, x: Form) -> list[Form]:
    """|x|: signs are lost, scales pass."""
    return [{}] if system.signs else [x]


def sign(system: System, eqn: Any, x: Form) -> list[Form]:
    """Signs pass, scales are lost."""
    return [x] if system.signs else [{}]


# Layout


def moving(move: Callable[[Any, np.ndarray], np.ndarray]) -> Rule:
    """A rule that puts the elements of one array elsewhere."""

    def rule(system: System, eqn: Any, x: Form, *rest: Form) -> list[Form]:
        system.vanish(*rest)
        return [x and {u: move(eqn, array) for u, array in x.items()}]

    return rule


def broadcast(eqn: Any, x: np.ndarray) -> np.ndarray:
    """Axes of their own are those along which all is alike."""
    shape = [1] * len(eqn.params["shape"])
    for old, new in enumerate(eqn.params["broadcast_dimensions"]):
        shape[new] = x.shape[old]
    return x.reshape(shape)


def tile(eqn: Any, x: np.ndarray) -> np.ndarray:
    """Copies one after another."""
    reps = eqn.params["reps"]
    x = x.reshape((1,) * (len(reps) - x.ndim) + x.shape)
    return np.tile(x, [n if size > 1 else 1 for n, size in zip(reps, x.shape, strict=True)])


def slice_(eqn: Any, x: np.ndarray) -> np.ndarray:
    """A part of each axis."""
    params = eqn.params
    strides = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    index = (slice(*b) if n > 1 else slice(None) for b, n in zip(bounds, x.shape, strict=True))
    return x[tuple(index)]


def _narrow(x: np.ndarray, axes: list[int]) -> np.ndarray:
    """Axes along which all is alike, to length 1."""
    for a in axes:
        first = x.take([0], a)
        x = first if (x == first).all() else x
    return x


def reshape(system: System, eqn: Any, x: Form, *rest: Form) -> list[Form]:
    """Axes joined and divided."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    if 0 in old:
        return opaque(system, eqn, x)
    found = {}
    for unknown, array in (x or {}).items():
        before, after, varying = list(array.shape), [1] * len(new), []
        for left, right in blocks(old, new):
            if any(array.shape[a] > 1 for a in left):
                varying += right
                for a in left:
                    before[a] = old[a]
                for a in right:
                    after[a] = new[a]
        if math.prod(before) > MOST:
            return opaque(system, eqn, x)
        found[unknown] = _narrow(np.broadcast_to(array, before).reshape(after), varying)
    return [x and found]


def _parts(eqn: Any, x: Form, axis: int, sizes: list[int]) -> list[Form]:
    out, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        out.append(
            x
            and {
                u: a.take(range(*part.indices(a.shape[axis])), axis) if a.shape[axis] > 1 else a
                for u, a in x.items()
            }
        )
        start += size
    return out


def split(system: System, eqn: Any, x: Form) -> list[Form]:
    """Pieces one after another."""
    return _parts(eqn, x, eqn.params["axis"], list(map(int, eqn.params["sizes"])))


def unstack(system: System, eqn: Any, x: Form) -> list[Form]:
    """Single units of an axis, without it."""
    axis = eqn.params["axis"]
    parts = _parts(eqn, x, axis, [1] * len(eqn.outvars))
    return [part and {u: a.squeeze(axis) for u, a in part.items()} for part in parts]


def _alike(arrays: list[Any]) -> bool:
    return all(x is not None and np.array_equal(x, arrays[0]) for x in arrays)


def _joined(forms: list[Form], sizes: list[int], axis: int) -> Form:
    """Values one after another; zeros among them count as unchanged where the others differ."""
    known = [form for form in forms if form is not None]
    if not known:
        return None
    found = {}
    for unknown in dict.fromkeys(u for form in known for u in form):
        parts = [form.get(unknown) for form in known]
        first = parts[0]
        if first is not None and first.shape[axis] == 1 and _alike(parts):
            found[unknown] = first
            continue
        parts = [None if form is None else form.get(unknown) for form in forms]
        rank = next(x.ndim for x in parts if x is not None)
        parts = [np.zeros((1,) * rank) if x is None else x for x in parts]
        shape = np.broadcast_shapes(*(np.delete(x.shape, axis) for x in parts))
        found[unknown] = np.concatenate(
            [
                np.broadcast_to(x, (*shape[:axis], size, *shape[axis:]))
                for x, size in zip(parts, sizes, strict=True)
            ],
            axis,
        )
    return found


def concatenate(system: System, eqn: Any, *forms: Form) -> list[Form]:
    """Values one after another."""
    axis = eqn.params["dimension"]
    return [_joined(list(forms), [var.aval.shape[axis] for var in eqn.invars], axis)]


def stack(system: System, eqn: Any, *forms: Form) -> list[Form]:
    """Values along a new axis."""
    axis = eqn.params["axis"]
    wide = [x and {u: np.expand_dims(a, axis) for u, a in x.items()} for x in forms]
    return [_joined(wide, [1] * len(wide), axis)]


def pad(system: System, eqn: Any, x: Form, filler: Form) -> list[Form]:
    """A constant before and after."""
    sizes = eqn.invars[0].aval.shape
    for axis, (low, high, interior) in enumerate(eqn.params["padding_config"]):
        if interior or low < 0 or high < 0:
            x = system.even(x, [axis])
            x = system.same(x, filler)
        elif low or high:
            rank = len(sizes)
            fill = filler and {u: a.reshape((1,) * rank) for u, a in filler.items()}
            x = _joined([fill, x, fill], [low, sizes[axis], high], axis)
    return [x]


# Products and reductions


def _along(form: Form, groups: list[list[int]], out: list[list[int]]) -> Form:
    """Axes put in order, group after group, with axes of length 1 for the other side's."""

    def move(x: np.ndarray) -> np.ndarray:
        order = [a for axes in groups for a in axes]
        shape = [
            n
            for axes, new in zip(groups, out, strict=True)
            for n in ([x.shape[a] for a in axes] if axes else [1] * len(new))
        ]
        return x.transpose(order).reshape(shape)

    return form and {u: move(x) for u, x in form.items()}


def dot_general(system: System, eqn: Any, lhs: Form, rhs: Form) -> list[Form]:
    """Charges add, and all terms of a sum change alike."""
    if not lhs and not rhs:
        return [None if lhs is None or rhs is None else {}]
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    ranks = [len(var.aval.shape) for var in eqn.invars]
    left = [a for a in range(ranks[0]) if a not in (*lc, *lb)]
    right = [a for a in range(ranks[1]) if a not in (*rc, *rb)]
    lhs = _along(lhs, [list(lb), left, [], list(lc)], [list(lb), left, right, list(lc)])
    rhs = _along(rhs, [list(rb), [], right, list(rc)], [list(rb), left, right, list(rc)])
    kept = len(lb) + len(left) + len(right)
    total = system.even(plus(lhs, rhs), range(kept, kept + len(lc)))
    return [total and {u: x.reshape(x.shape[:kept]) for u, x in total.items()}]


def conv(system: System, eqn: Any, lhs: Form, rhs: Form) -> list[Form]:
    """Like a product, the window's places changing alike."""
    params = eqn.params
    if params["batch_group_count"] > 1:
        return opaque(system, eqn, lhs, rhs)
    spec, groups = params["dimension_numbers"], params["feature_group_count"]
    (n, c, *space), (o, i, *window) = spec.lhs_spec, spec.rhs_spec
    (out_n, out_c, *_), rank = spec.out_spec, len(spec.out_spec)

    def halves(x: np.ndarray, axis: int, rest: int) -> np.ndarray:
        """`[rest, groups, axis / groups]`."""
        flat = x.transpose(rest, axis, *(a for a in range(rank) if a not in (axis, rest)))
        flat = flat.reshape(flat.shape[:2])
        if flat.shape[1] == 1:
            return flat[:, :, None]
        return flat.reshape(flat.shape[0], groups, -1)

    # `[n, groups, features of a group, channels of a group]`
    lhs, rhs = system.even(lhs, space), system.even(rhs, window)
    lhs = lhs and {u: halves(x, c, n)[:, :, None] for u, x in lhs.items()}
    rhs = rhs and {u: np.moveaxis(halves(x, o, i), 0, 2)[None] for u, x in rhs.items()}
    total = system.even(plus(lhs, rhs), [3])

    def placed(x: np.ndarray) -> np.ndarray:
        if max(x.shape[1:3]) > 1:
            features = eqn.invars[1].aval.shape[o]
            x = np.broadcast_to(x, (len(x), groups, features // groups, 1))
        shape = [1] * rank
        shape[out_n], shape[out_c] = len(x), x.size // len(x)
        flat = x.reshape(len(x), -1)
        return (flat if out_n < out_c else flat.T).reshape(shape)

    return [total and {u: placed(x) for u, x in total.items()}]


def _without(form: Form, axes: Any) -> Form:
    return form and {u: x.squeeze(tuple(axes)) for u, x in form.items()}


def reduce_sum(system: System, eqn: Any, x: Form) -> list[Form]:
    """The terms change alike."""
    return [_without(system.even(x, eqn.params["axes"]), eqn.params["axes"])]


def reduce_extreme(system: System, eqn: Any, x: Form) -> list[Form]:
    """A positive factor keeps the order, a sign does not."""
    return opaque(system, eqn, x) if system.signs else reduce_sum(system, eqn, x)


def cumsum(system: System, eqn: Any, x: Form) -> list[Form]:
    """The terms change alike."""
    return [system.even(x, [eqn.params["axis"]])]


def window(linear: bool) -> Rule:
    """Pooling: what a window sees changes alike."""

    def rule(system: System, eqn: Any, x: Form) -> list[Form]:
        if system.signs and not linear:
            return opaque(system, eqn, x)
        shapes = zip(eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape, strict=True)
        sizes, padding = eqn.params["window_dimensions"], eqn.params["padding"]
        seen = [n > 1 or tuple(p) != (0, 0) for n, p in zip(sizes, padding, strict=True)]
        axes = [a for a, (old, new) in enumerate(shapes) if seen[a] or old != new]
        return [system.even(x, axes)]

    return rule


# Indexing


def gather(system: System, eqn: Any, x: Form, index: Form) -> list[Form]:
    """Axes taken whole pass, along the others all changes alike."""
    system.vanish(index)
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape, rank = eqn.invars[0].aval.shape, len(eqn.outvars[0].aval.shape)
    gone = (*numbers.collapsed_slice_dims, *getattr(numbers, "operand_batching_dims", ()))
    x = system.even(x, [a for a in range(len(shape)) if a in gone or sizes[a] != shape[a]])
    kept = [a for a in range(len(shape)) if a not in gone]

    def move(array: np.ndarray) -> np.ndarray:
        new = [1] * rank
        for a, source in zip(numbers.offset_dims, kept, strict=True):
            new[a] = array.shape[source]
        return array.reshape(new)

    return [x and {u: move(array) for u, array in x.items()}]


def dynamic_slice(system: System, eqn: Any, x: Form, *starts: Form) -> list[Form]:
    """Along the axes that are cut all changes alike."""
    system.vanish(*starts)
    whole, sizes = eqn.invars[0].aval.shape, eqn.params["slice_sizes"]
    return [system.even(x, [a for a in range(len(whole)) if sizes[a] != whole[a]])]


def dynamic_update_slice(system: System, eqn: Any, x: Form, new: Form, *starts: Form) -> list[Form]:
    """Old and new change alike, and all along the axes that are cut."""
    system.vanish(*starts)
    whole, part = (var.aval.shape for var in eqn.invars[:2])
    cut = [a for a in range(len(whole)) if whole[a] != part[a]]
    return [system.same(system.even(x, cut), system.even(new, cut))]


def scatter(system: System, eqn: Any, x: Form, index: Form, update: Form) -> list[Form]:
    """Old and new change alike, and all along the axes that are not written whole."""
    system.vanish(index)
    numbers = eqn.params["dimension_numbers"]
    shape, part = eqn.invars[0].aval.shape, eqn.invars[2].aval.shape
    gone = (*numbers.inserted_window_dims, *getattr(numbers, "operand_batching_dims", ()))
    kept = [a for a in range(len(shape)) if a not in gone]
    pairs = zip(numbers.update_window_dims, kept, strict=True)
    whole = {source: a for a, source in pairs if part[a] == shape[source]}
    x = system.even(x, [a for a in range(len(shape)) if a not in whole])
    update = system.even(update, [a for a in range(len(part)) if a not in whole.values()])

    def move(array: np.ndarray) -> np.ndarray:
        return array.reshape(
            [array.shape[whole[a]] if a in whole else 1 for a in range(len(shape))]
        )

    return [system.same(x, update and {u: move(array) for u, array in update.items()})]


PASSING = """
conj copy copy_p device_put layout_constraint mesh_cast name neg optimization_barrier pcast pvary
reduce_precision reshard sharding_constraint stop_gradient
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSING.split(), each),
    **dict.fromkeys(("add", "add_any", "sub"), together),
    **dict.fromkeys(("max", "min", "clamp"), ordered),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), compared),
    **dict.fromkeys(("tanh", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh"), odd),
    **dict.fromkeys(("erf", "erf_inv", "cbrt"), odd),
    **dict.fromkeys(("cos", "cosh"), even),
    "abs": magnitude,
    "sign": sign,
    "select_n": select,
    "convert_element_type": converted,
    "mul": mul,
    "div": div,
    "square": square,
    "integer_pow": integer_pow,
    "sqrt": root(0.5),
    "rsqrt": root(-0.5),
    "broadcast_in_dim": moving(broadcast),
    "transpose": moving(lambda eqn, x: x.transpose(eqn.params["permutation"])),
    "squeeze": moving(lambda eqn, x: x.squeeze(tuple(eqn.params["dimensions"]))),
    "rev": moving(lambda eqn, x: np.flip(x, eqn.params["dimensions"])),
    "tile": moving(tile),
    "slice": moving(slice_),
    "reshape": reshape,
    "split": split,
    "unstack": unstack,
    "concatenate": concatenate,
    "stack": stack,
    "pad": pad,
    "dot_general": dot_general,
    "conv_general_dilated": conv,
    "reduce_sum": reduce_sum,
    **dict.fromkeys(("reduce_max", "reduce_min"), reduce_extreme),
    "cumsum": cumsum,
    "reduce_window_sum": window(linear=True),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min"), window(linear=False)),
    "gather": gather,
    "dynamic_slice": dynamic_slice,
    "dynamic_update_slice": dynamic_update_slice,
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add"), scatter),
}
