"""Products: contracted axes are one, batch axes are one, the others pass."""

import math
from typing import Any

import numpy as np

from wslax.symmetry.types import WINDOW
from wslax.symmetry.walk import Letters, Origins, Reduction, Rule, Tag, Value, Walk


def _contract(
    walk: Walk, lhs: Value, rhs: Value, axes: tuple[tuple[int, ...], ...]
) -> Reduction | None:
    """Note the roles of leaves in a contraction, and reductions without a weight."""
    (left, right), sides = axes, (lhs, rhs)
    weights = [value.origins is not None for value in sides]
    reduction = None
    if not any(weights):
        nodes = [n for a in left for n in lhs.axes[a]]
        count = walk.axes.length(nodes)
        halved = np.isclose(lhs.made.factor * rhs.made.factor, count**-0.5)
        kind = "scaled product" if halved else "product"
        reduction = Reduction(nodes, count, kind, None, False)
        walk.reductions.append(reduction)
    for side, value, contracted in ((0, lhs, left), (1, rhs, right)):
        if value.origins is None:
            continue
        role = "produced" if all(weights) and side == 0 else "consumed"
        for axis in contracted:
            walk.play(value.origins[axis], role)
            if not all(weights) and not value.origins[axis]:
                walk.axes.reduce(value.axes[axis], "sum")
    return reduction


def _free(walk: Walk, value: Value, axes: list[int], other: Value, role: str) -> Origins:
    """Origins of axes that pass a product; they are produced where the other side is data."""
    if value.origins is None:
        return (frozenset(),) * len(axes)
    if other.origins is None:
        for axis in axes:
            walk.play(value.origins[axis], role)
    return tuple(value.origins[axis] for axis in axes)


def dot_general(walk: Walk, eqn: Any, lhs: Value, rhs: Value) -> list[Value]:
    """`batch, left, c` with `batch, right, c` gives `batch, left, right`."""
    (lc, rc), (lb, rb) = eqn.params["dimension_numbers"]
    reduction = _contract(walk, lhs, rhs, (tuple(lc), tuple(rc)))
    left = [a for a in range(len(lhs.axes)) if a not in (*lc, *lb)]
    right = [a for a in range(len(rhs.axes)) if a not in (*rc, *rb)]
    one = {("batch", i): lhs.axes[a] for i, a in enumerate(lb)}
    one |= {("left", a): lhs.axes[a] for a in left}
    two = {("batch", i): rhs.axes[a] for i, a in enumerate(rb)}
    two |= {("right", a): rhs.axes[a] for a in right}
    out = {**one, **two}
    summed = [("sum", i) for i in range(len(lc))]
    walk.match(
        {**one, **{s: lhs.axes[a] for s, a in zip(summed, lc, strict=True)}},
        {**two, **{s: rhs.axes[a] for s, a in zip(summed, rc, strict=True)}},
        out,
    )
    origins = _free(walk, lhs, list(lb), rhs, "elementwise")
    batch = _free(walk, rhs, list(rb), lhs, "elementwise")
    origins = tuple(a | b for a, b in zip(origins, batch, strict=True))
    origins += _free(walk, lhs, left, rhs, "produced") + _free(walk, rhs, right, lhs, "produced")
    order = [*one, *(letter for letter in two if letter not in one)]
    weight = lhs.origins is not None and rhs.origins is not None
    axes = tuple(tuple(out[letter]) for letter in order)
    tag = None if reduction is None else Tag("product", reduction)
    return [Value(axes, origins if weight else None, tag)]


def _windowed(eqn: Any, k: int, width: int, size: int, out: int) -> bool:
    """Whether a spatial axis is more than passed through."""
    params = eqn.params
    plain = (
        params["window_strides"][k] == 1
        and tuple(params["padding"][k]) == (0, 0)
        and params["lhs_dilation"][k] == 1
    )
    return not (width == 1 and plain and size == out)


def conv(walk: Walk, eqn: Any, lhs: Value, rhs: Value) -> list[Value]:
    """Channels are contracted within their group of features; windowed axes are frozen."""
    params, (a, b) = eqn.params, (var.aval.shape for var in eqn.invars)
    shape = eqn.outvars[0].aval.shape
    spec, groups = params["dimension_numbers"], params["feature_group_count"]
    (n, c, *space), (o, i, *window) = spec.lhs_spec, spec.rhs_spec
    (out_n, out_c, *out_space) = spec.out_spec
    channels = walk.axes.regroup(lhs.axes[c], [groups, a[c] // groups])
    features = walk.axes.regroup(rhs.axes[o], [groups, b[o] // groups])
    if params["batch_group_count"] > 1 or channels is None or features is None:
        return walk.unknown(eqn, lhs, rhs)
    one: Letters = {"n": lhs.axes[n], "g": channels[0], "i": channels[1]}
    two: Letters = {"g": features[0], "o": features[1], "i": rhs.axes[i]}
    out: Letters = {"n": lhs.axes[n], "g": features[0], "o": features[1]}
    found: list[tuple[int, ...]] = [()] * len(shape)
    for k, (s, w, t) in enumerate(zip(space, window, out_space, strict=True)):
        if _windowed(eqn, k, b[w], a[s], shape[t]):
            reason = walk.reason(eqn, WINDOW)
            walk.axes.freeze([*lhs.axes[s], *rhs.axes[w]], reason)
            one[s], two["w", w] = lhs.axes[s], rhs.axes[w]
            found[t] = tuple(walk.axes.axis(shape[t], reason))
            out["out", t] = found[t]
        else:
            one[s], out[s], found[t] = lhs.axes[s], lhs.axes[s], lhs.axes[s]
    walk.match(one, two, out)
    found[out_n] = tuple(lhs.axes[n])
    found[out_c] = (*features[0], *features[1])
    if rhs.origins is not None:
        depthwise = groups == a[c] == b[o]
        walk.play(rhs.origins[o], "elementwise" if depthwise else "produced")
        walk.play(rhs.origins[i], "consumed")
        for w in window:
            walk.play(rhs.origins[w], "elementwise")
    elif math.prod(b) > 1:
        walk.axes.reduce(rhs.axes[i], "product")
    return [Value(tuple(found))]


RULES: dict[str, Rule] = {"dot_general": dot_general, "conv_general_dilated": conv}
