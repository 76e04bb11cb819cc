"""Operations on each element alone: axis by axis, operands are one."""

import operator
from typing import Any

import numpy as np

from wslax.symmetry.walk import Reduction, Rule, Tag, Value, Walk

NAMES = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp
clz complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc
exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite le le_to lgamma log log1p log2
logistic lt lt_to max min mul mulhi ne neg nextafter not one_minus_square or pcast polygamma
polynomial population_count pow pvary real reduce_precision regularized_incomplete_beta rem round
rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
stop_gradient sub tan tanh xor zeta
"""

# Scalars that decide where a slice starts are computed in the program; these follow them.
SCALARS = {
    "add": operator.add,
    "sub": operator.sub,
    "div": operator.truediv,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "mul": operator.mul,
    "neg": operator.neg,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "max": max,
    "min": min,
    "convert_element_type": lambda x: x,
    "select_n": lambda which, *cases: cases[int(which)],
    "clamp": lambda low, x, high: min(max(x, low), high),
}


def _number(eqn: Any, operands: tuple[Value, ...]) -> Any:
    compute = SCALARS.get(eqn.primitive.name)
    if compute is None or any(value.number is None for value in operands):
        return None
    return np.asarray(compute(*(value.number for value in operands)))


def _squared(eqn: Any) -> bool:
    name = eqn.primitive.name
    twice = name == "mul" and len({id(atom) for atom in eqn.invars}) == 1
    return twice or name == "square" or (name == "integer_pow" and eqn.params["y"] == 2)


def _averaged(eqn: Any, operands: tuple[Value, ...]) -> Reduction | None:
    """The sum that is divided here by the number of its terms."""
    name, tag = eqn.primitive.name, operands[0].tag
    if name not in ("div", "mul") or tag is None or tag.kind != "sum" or tag.reduction is None:
        return None
    number = operands[1].number
    if number is None or not float(number):
        return None
    terms = float(number) if name == "div" else 1 / float(number)
    return tag.reduction if np.isclose(terms, tag.reduction.count, rtol=1e-2) else None


def _normalising(eqn: Any, operands: tuple[Value, ...]) -> Tag | None:
    """What becomes of a mean of squares or variance that divides what it was taken of.

    It gets an epsilon, its root, is multiplied by a gain before or after what it divides.
    """
    name = eqn.primitive.name
    for value in operands:
        other = next((each for each in operands if each is not value), value)
        tag = value.tag
        if tag is None or tag.reduction is None:
            continue
        reduction = tag.reduction
        match name, tag.kind:
            case "add", "mean of squares" | "spread" if other.number is not None:
                reduction.eps = float(other.number)
                return Tag("spread", reduction)
            case "rsqrt", "mean of squares" | "spread":
                return Tag("inverse", reduction)
            case "sqrt", "mean of squares" | "spread":
                return Tag("root", reduction)
            case "mul", "inverse" | "normal" if other.made.lever and other.origins is not None:
                reduction.gains |= {name for name, _ in other.made.lever}
                return Tag("gained", reduction)
            case "mul", "inverse":
                return Tag("normal", reduction)
            case "div", "root" if value is operands[1]:
                return Tag("normal", reduction)
    return None


def _product(eqn: Any, operands: tuple[Value, ...]) -> Tag | None:
    """A product of activations that is divided by the root of the number of its terms."""
    name, tag = eqn.primitive.name, operands[0].tag
    number = operands[-1].number
    if name not in ("mul", "div") or tag is None or tag.kind != "product" or number is None:
        return None
    factor = float(number) if name == "mul" else 1 / float(number)
    if tag.reduction is not None and np.isclose(factor, tag.reduction.count**-0.5):
        tag.reduction.kind = "scaled product"
    return None


def _tag(eqn: Any, operands: tuple[Value, ...]) -> Tag | None:
    """What is known of the result, from what is known of the operands."""
    name, tags = eqn.primitive.name, [value.tag for value in operands]
    _product(eqn, operands)
    if (found := _normalising(eqn, operands)) is not None:
        return found
    kinds = [tag.kind if tag else "" for tag in tags]
    if _squared(eqn):
        return Tag({"centred": "square centred", "mean": "square of mean"}.get(kinds[0], "square"))
    if name in ("exp", "exp2"):
        return Tag("exp")
    if (reduction := _averaged(eqn, operands)) is not None:
        reduction.kind = "variance" if reduction.of == "square centred" else "mean"
        spread = {"square centred": "spread", "square": "mean of squares"}
        return Tag(spread.get(reduction.of or "", "mean"), reduction)
    if name == "sub" and kinds == ["mean of squares", "square of mean"]:
        reduction = tags[0].reduction if tags[0] else None
        if reduction is not None:
            reduction.kind = "variance"
        return Tag("spread", reduction)
    if name == "sub" and kinds[1] == "mean":
        return Tag("centred")
    if name in ("convert_element_type", "stop_gradient", "copy", "max", "reduce_precision"):
        return next((tag for tag in tags if tag is not None), None)
    return None


def together(walk: Walk, *operands: Value) -> Value:
    """Operands of one rank (or scalars) met element by element; single elements are repeated."""
    full = [value for value in operands if value.axes] or [operands[0]]
    letters = [
        {a: nodes for a, nodes in enumerate(value.axes) if walk.axes.factors(nodes)}
        for value in full
    ]
    out = {a: nodes for each in reversed(letters) for a, nodes in each.items()}
    walk.match(*letters, *([out] if any(each.keys() != out.keys() for each in letters) else []))
    axes = tuple(out.get(a, ()) for a in range(len(full[0].axes)))
    return Value(axes, walk.meet(operands, full))


def elementwise(walk: Walk, eqn: Any, *operands: Value) -> list[Value]:
    """The result's axes are the operands'."""
    value = together(walk, *operands)
    return [value._replace(tag=_tag(eqn, operands), number=_number(eqn, operands))]


def bitcast(walk: Walk, eqn: Any, x: Value) -> list[Value]:
    """The bits of each element as another type; of another width they are no longer elements."""
    if eqn.outvars[0].aval.shape != eqn.invars[0].aval.shape:
        return walk.unknown(eqn, x)
    return elementwise(walk, eqn, x)


def each(walk: Walk, eqn: Any, *operands: Value) -> list[Value]:
    """Several arrays passed through, each on its own."""
    return list(operands)


def collective(walk: Walk, eqn: Any, *operands: Value) -> list[Value]:
    """A reduction over devices: the same units on each of them from here on."""
    for value in operands:
        walk.axes.see(value.nodes, value.nodes)
    return [Value(value.axes) for value in operands]


RULES: dict[str, Rule] = {
    **dict.fromkeys(NAMES.split(), elementwise),
    "bitcast_convert_type": bitcast,
    **dict.fromkeys(
        (
            "optimization_barrier",
            "device_put",
            "sharding_constraint",
            "mesh_cast",
            "reshard",
            "layout_constraint",
            "name",
        ),
        each,
    ),
    **dict.fromkeys(
        ("psum", "psum_invariant", "psum2", "pmax", "pmin", "ppermute", "all_reduce"), collective
    ),
}
