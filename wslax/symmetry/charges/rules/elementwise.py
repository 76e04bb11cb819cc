"""Operations on each element alone, and what no rule knows."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax import dtypes

from wslax.symmetry.charges.forms import Form, System, plus, times

Rule = Callable[..., list[Form]]


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
}
