"""Products and reductions: all terms of a sum change alike."""

from typing import Any

import numpy as np

from wslax.symmetry.charges.forms import Form, System, plus
from wslax.symmetry.charges.rules.elementwise import Rule, opaque


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


RULES: dict[str, Rule] = {
    "dot_general": dot_general,
    "conv_general_dilated": conv,
    "reduce_sum": reduce_sum,
    **dict.fromkeys(("reduce_max", "reduce_min"), reduce_extreme),
    "cumsum": cumsum,
    "reduce_window_sum": window(linear=True),
    **dict.fromkeys(("reduce_window_max", "reduce_window_min"), window(linear=False)),
}
