"""What growth must know of values: where they are linear in the weights, and what scales them.

Noted beside every plain operation of the walk. What has no entry here is taken for nonlinear and
scaled by nothing.
"""

from typing import Any

from wslax.symmetry.walk import Made, Value, Walk

_PASS = frozenset(
    [
        "convert_element_type",
        "copy",
        "copy_p",
        "neg",
        "transpose",
        "reshape",
        "broadcast_in_dim",
        "squeeze",
        "tile",
        "stop_gradient",
        "reduce_precision",
        "optimization_barrier",
        "device_put",
        "sharding_constraint",
        "name",
    ]
)
# A mean on its way to dividing what it was taken of.
_ON_THE_WAY = ("mean of squares", "spread", "inverse", "root", "normal")


def _free(walk: Walk, value: Value, other: Value, result: Value) -> set[int]:
    """Atoms of a factor that only it brings into a product."""
    alone = set(walk.axes.atoms(result.nodes)) - set(walk.axes.atoms(other.nodes))
    return walk.linear(value) & alone


def _sum(walk: Walk, a: Value, b: Value) -> Made:
    for one, other in ((a, b), (b, a)):
        if other.number is not None and float(other.number) == 0:
            return one.made
    lever = None
    if a.made.lever is not None and b.made.lever is not None:
        lever = a.made.lever | b.made.lever
    return Made(frozenset(walk.linear(a) & walk.linear(b)), lever)


def _product(walk: Walk, a: Value, b: Value, result: Value, *, divided: bool) -> Made:
    for one, other in ((a, b), (b, a)):
        if other.number is not None and float(other.number):
            if divided and one is b:
                return Made()
            number = float(other.number)
            return one.made._replace(factor=one.made.factor * (1 / number if divided else number))
    linear = _free(walk, a, b, result)
    if divided:
        return Made(frozenset(linear), a.made.lever)
    lever = a.made.lever if a.made.lever is not None else b.made.lever
    return Made(frozenset(linear | _free(walk, b, a, result)), lever)


def _along(walk: Walk, operands: list[Value], result: Value) -> frozenset[int]:
    """Nodes of a result whose axis is linear in every operand."""
    known = [(walk.linear(value), value.axes) for value in operands]
    return frozenset(
        node
        for axis, nodes in enumerate(result.axes)
        for node in nodes
        if all(set(walk.axes.atoms(axes[axis])) <= linear for linear, axes in known)
    )


def _contracted(walk: Walk, a: Value, b: Value, axes: Any) -> bool:
    """Note the levers of data that a leaf is contracted with; whether there was such a leaf."""
    found = False
    for data, leaf, contracted in ((a, b, axes[1]), (b, a, axes[0])):
        if data.origins is None and leaf.origins is not None:
            found = True
            for axis in contracted:
                for origin in leaf.origins[axis]:
                    walk.reads.setdefault(origin, []).append(data.made.lever or frozenset())
    return found


def _made(walk: Walk, eqn: Any, operands: list[Value], result: Value) -> tuple[Made, bool]:
    """How the result is made, and whether levers of the operands end here as they should."""
    name = eqn.primitive.name
    a, b = operands[0], operands[-1]
    if name in _PASS:
        return a.made, False
    if result.tag is not None and result.tag.kind.startswith("square"):
        return Made(squared=a.made.linear), False
    if result.tag is not None and result.tag.kind == "centred":
        return Made(a.made.linear), False
    match name:
        case "add" | "sub" | "add_any":
            return _sum(walk, a, b), False
        case "mul" | "div":
            return _product(walk, a, b, result, divided=name == "div"), False
        case "dot_general":
            contracted, _ = eqn.params["dimension_numbers"]
            ended = _contracted(walk, a, b, contracted)
        case "conv_general_dilated":
            numbers = eqn.params["dimension_numbers"]
            ended = _contracted(walk, a, b, ((numbers.lhs_spec[1],), (numbers.rhs_spec[1],)))
        case "gather":
            alone = set(walk.axes.atoms(result.nodes)) & walk.linear(a)
            return Made(frozenset(alone), a.made.lever if a.origins is not None else None), False
        case "slice" | "concatenate":
            return Made(_along(walk, operands, result), a.made.lever if a is b else None), False
        case _:
            return Made(), False
    linear = _free(walk, a, b, result) | _free(walk, b, a, result)
    return Made(frozenset(linear)), ended


def note(walk: Walk, eqn: Any, operands: list[Value], results: list[Value]) -> list[Value]:
    """Results of one operation with how they are made.

    Args:
      walk: keeps what is read, used and astray.
      eqn: the operation.
      operands: its arguments.
      results: what its rule gave.

    Returns:
      The results.
    """
    made, ended = Made(), False
    if operands and len(results) == 1:
        made, ended = _made(walk, eqn, operands, results[0])
        if any(made):
            results = [results[0]._replace(made=made)]
    is_data = any(value.origins is None for value in results)
    for value in operands:
        lever = value.made.lever
        if lever is not None and not ended and not lever <= (made.lever or frozenset()):
            walk.astray |= lever
        if lever is not None and is_data and value.origins is not None:
            walk.uses.update(lever)
        tag = value.tag
        if tag is not None and tag.reduction is not None and tag.kind in _ON_THE_WAY:
            after = [result.tag for result in results]
            kept = all(t is not None and t.reduction is tag.reduction for t in after)
            tag.reduction.astray |= not kept
    return results
