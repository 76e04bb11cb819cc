"""Whether a parameter's value in a recipe is one: a number, a gradient, filters."""

import math
from typing import Any

from wslax.merge.method import Param


def problems_of_value(param: Param, value: Any) -> list[str]:
    """What is wrong with a value, in sentences without a subject.

    Example:
        >>> from wslax.merge.registry import METHODS
        >>> density = next(p for p in METHODS["ties"].params if p.name == "density")
        >>> problems_of_value(density, [0.5, {"value": 1}]), problems_of_value(density, 0.5)
        (["expected a number, a list of them, or value and filter; got [0.5, {'value': 1}]"], [])
    """
    match value:
        case {"value": inner, **rest} if set(rest) <= {"filter"} and not isinstance(inner, dict):
            if not isinstance(rest.get("filter") or "*", str):
                return ["a filter is a part of a tensor name"]
            return problems_of_value(param, inner)
        case {"low": _, "high": _, **rest} if not rest:
            return ["a range is for --search; give a number"]
        case [dict(), *_] if all(isinstance(entry, dict) for entry in value):
            return [p for entry in value for p in problems_of_value(param, entry)]
        case [_, *_] if not any(isinstance(entry, (dict, list)) for entry in value):
            return [p for entry in value for p in problems_of_value(param, entry)]
        case bool():
            return [] if param.kind is bool else [f"expected a number, got {value}"]
        case int() | float() | str() if param.kind is not bool and _is_number(value):
            low, high, number = param.low, param.high, float(value)
            if param.kind is int and not number.is_integer():
                return [f"expected a whole number, got {value}"]
            below = low is not None and not number >= low
            above = high is not None and not number <= high
            if below or above or not math.isfinite(number):
                return [f"expected {param.legal}, got {value}"]
            return []
        case _:
            wanted = "true or false" if param.kind is bool else "a number"
            return [f"expected {wanted}, a list of them, or value and filter; got {value!r}"]


def _is_number(value: Any) -> bool:
    """Whether it is a number, or a string that is one: YAML reads `1e-5` as a string."""
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True
