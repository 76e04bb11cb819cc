"""Reductions, cumulative operations, sorting: along an axis, the others pass."""

from typing import Any

from wslax.symmetry.walk import Reduction, Rule, Tag, Value, Walk


def without(walk: Walk, x: Value, axes: Any) -> Value:
    """The value with some axes gone, the others passing."""
    keep = [a for a in range(len(x.axes)) if a not in axes]
    walk.axes.use(n for a in axes for n in x.axes[a])
    walk.match(dict(enumerate(x.axes)), {a: x.axes[a] for a in keep})
    origins = None if x.origins is None else tuple(x.origins[a] for a in keep)
    return Value(tuple(x.axes[a] for a in keep), origins)


def reduce_sum(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """Blind to the order of units; noted, because growth is not blind to their number."""
    axes = eqn.params["axes"]
    nodes = [n for a in axes for n in x.axes[a]]
    of = x.tag.kind if x.tag else None
    known = walk.axes.atoms(x.made.linear | x.made.squared)
    linear = set(walk.axes.atoms(nodes)) <= set(known)
    kind = "softmax" if of == "exp" else "sum"
    reduction = Reduction(nodes, walk.axes.length(nodes), kind, of, linear)
    walk.reductions.append(reduction)
    return [without(walk, x, axes)._replace(tag=Tag("sum", reduction))]


def reduce_extreme(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """Blind to order and to copies."""
    return [without(walk, x, eqn.params["axes"])]


def frozen_along(*names: str) -> Rule:
    """A rule that freezes the axes that parameters of those names say, and passes the others."""

    def rule(walk: Walk, eqn: Any, *operands: Value) -> list[Value]:
        said = next(eqn.params[name] for name in names if name in eqn.params)
        rank = len(operands[0].axes)
        axes = [a % rank for a in (said if isinstance(said, (tuple, list)) else (said,))]
        reason = walk.reason(eqn)
        for value in operands:
            walk.axes.freeze([n for a in axes for n in value.axes[a]], reason)
        walk.match(*(dict(enumerate(value.axes)) for value in operands))
        out = []
        for var, value in zip(eqn.outvars, operands * len(eqn.outvars), strict=False):
            if len(var.aval.shape) < rank:
                out.append(without(walk, value, axes)._replace(origins=None))
                continue
            kept = [
                tuple(walk.axes.axis(size, reason)) if a in axes else value.axes[a]
                for a, size in enumerate(var.aval.shape)
            ]
            letters = {a: value.axes[a] for a in range(rank) if a not in axes}
            fresh = {("new", a): kept[a] for a in axes}
            walk.match(dict(enumerate(value.axes)), letters | fresh)
            out.append(Value(tuple(kept), None))
        return out

    return rule


def reduce_window(walk: Walk, eqn: Any, *operands: Value) -> list[Value]:
    """Pooling: frozen along axes with a window, the others pass."""
    params = eqn.params
    x = operands[0]
    rank = len(x.axes)
    ones = (1,) * rank
    axes = [
        a
        for a in range(rank)
        if params["window_dimensions"][a] != 1
        or params["window_strides"][a] != 1
        or tuple(params["padding"][a]) != (0, 0)
        or (params.get("base_dilation") or ones)[a] != 1
    ]
    reason = walk.reason(eqn)
    walk.axes.freeze([n for a in axes for n in x.axes[a]], reason)
    shape = eqn.outvars[0].aval.shape
    kept = [
        tuple(walk.axes.axis(shape[a], reason)) if a in axes else x.axes[a] for a in range(rank)
    ]
    letters = {a: x.axes[a] for a in range(rank) if a not in axes}
    walk.match(dict(enumerate(x.axes)), letters | {("new", a): kept[a] for a in axes})
    return [Value(tuple(kept)) for _ in eqn.outvars]


RULES: dict[str, Rule] = {
    "reduce_sum": reduce_sum,
    **dict.fromkeys(
        ("reduce_max", "reduce_min", "reduce_and", "reduce_or", "reduce_xor"), reduce_extreme
    ),
    **dict.fromkeys(("argmax", "argmin", "reduce_prod"), frozen_along("axes")),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), frozen_along("axis")
    ),
    "sort": frozen_along("dimension"),
    "rev": frozen_along("dimensions"),
    **dict.fromkeys(
        ("reduce_window", "reduce_window_sum", "reduce_window_max", "reduce_window_min"),
        reduce_window,
    ),
}
