"""Charges as linear forms over elements, and the equations that a program demands of them."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

# Unknown to its coefficient at each element; an axis along which it is the same has length 1.
# None is the charge of zeros: any charge at all.
Form = dict[int, np.ndarray] | None
Row = tuple[tuple[int, float], ...]  # an equation: sum of coefficient * unknown = 0
MANY = 64  # elements that are looked at one by one; of more, those alike are one


def plus(a: Form, b: Form, factor: float = 1.0) -> Form:
    """The charge of a product, of a quotient with -1; nothing times zero is zero."""
    if a is None or b is None:
        return None
    rank = max((x.ndim for x in (*a.values(), *b.values())), default=0)
    total = _raised(a, rank)
    for unknown, x in _raised(b, rank).items():
        total[unknown] = total.get(unknown, 0) + factor * x
    return total


def times(form: Form, factor: float) -> Form:
    """The charge of a power."""
    return None if form is None else {unknown: factor * x for unknown, x in form.items()}


def _raised(form: dict[int, np.ndarray], rank: int) -> dict[int, np.ndarray]:
    return {u: x if x.ndim == rank else x.reshape((1,) * rank) for u, x in form.items()}


def distinct(arrays: Sequence[np.ndarray]) -> set[tuple[float, ...]]:
    """What the arrays are together, at one element or another."""
    if all(x.size == 1 for x in arrays):
        return {tuple(x.item() for x in arrays)}
    long = math.prod(np.broadcast_shapes(*(x.shape for x in arrays))) > MANY
    for axis in range(arrays[0].ndim) if long else ():
        varying = [x for x in arrays if x.shape[axis] > 1]
        if varying:
            others = tuple(a for a in range(arrays[0].ndim) if a != axis)
            somewhere = np.any([x.any(others) for x in varying], 0)
            places = [*np.flatnonzero(somewhere), *np.flatnonzero(~somewhere)[:1]]
            arrays = [x.take(places, axis) if x.shape[axis] > 1 else x for x in arrays]
    whole = np.broadcast_arrays(*arrays)
    return set(zip(*(x.ravel().tolist() for x in whole), strict=True))


class System:
    """The equations that a program demands, found while it is walked."""

    def __init__(self, groups: Sequence[int], *, signs: bool) -> None:
        self.groups = groups  # of each unknown; a group's units are scaled alone
        self.signs = signs
        self.rows: set[Row] = set()

    def vanish(self, *forms: Form) -> None:
        """Demand that values do not change."""
        for form in forms:
            by_group: dict[int, list[int]] = defaultdict(list)
            for unknown in form or ():
                by_group[self.groups[unknown]].append(unknown)
            for unknowns in by_group.values():
                arrays = [(form or {})[u] for u in unknowns]
                if not any(x.any() for x in arrays):
                    continue
                if len(unknowns) == 1 and not self.signs:
                    self.rows.add(((unknowns[0], 1.0),))
                    continue
                for found in distinct(arrays):
                    row = tuple((u, n) for u, n in zip(unknowns, found, strict=True) if n)
                    self.rows.update([row] if row else [])

    def same(self, *forms: Form) -> Form:
        """Demand that values change alike; scalars among them meet every element."""
        known = [form for form in forms if form is not None]
        if not known or not all(known):
            self.vanish(*known)
            return {} if known else None
        first = max(known, key=lambda form: next(iter(form.values())).ndim)
        for other in known:
            if other is not first:
                self.vanish(plus(first, other, -1.0))
        return first

    def even(self, form: Form, axes: Iterable[int]) -> Form:
        """Demand that a value changes alike along axes, which then have length 1."""
        axes = set(axes)
        varying = {u: x for u, x in (form or {}).items() if any(x.shape[a] > 1 for a in axes)}
        if form is None or not varying:
            return form
        first = {
            u: x[tuple(slice(0, 1) if a in axes else slice(None) for a in range(x.ndim))]
            for u, x in varying.items()
        }
        self.vanish({u: x - first[u] for u, x in varying.items()})
        return form | first
