"""Layout: elements put elsewhere, and arrays put together."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from wslax.symmetry.charges.forms import Form, System
from wslax.symmetry.charges.rules.elementwise import Rule, opaque
from wslax.symmetry.rules.layout import blocks

MOST = 2**22  # elements of a charge that are looked at one by one


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
    return _parts(eqn, x, int(eqn.params["axis"]), list(map(int, eqn.params["sizes"])))


def unstack(system: System, eqn: Any, x: Form) -> list[Form]:
    """Single units of an axis, without it."""
    axis = int(eqn.params["axis"])
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
    axis = int(eqn.params["dimension"])
    return [_joined(list(forms), [var.aval.shape[axis] for var in eqn.invars], axis)]


def stack(system: System, eqn: Any, *forms: Form) -> list[Form]:
    """Values along a new axis."""
    axis = int(eqn.params["axis"])
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
            x = _joined([fill, x, fill], [int(low), sizes[axis], int(high)], axis)
    return [x]


RULES: dict[str, Rule] = {
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
}
