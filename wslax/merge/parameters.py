"""Parameters of a merge in memory: resolved by leaf and checked where they are concrete."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.merge.method import Method, Param


def is_concrete(value: Any) -> bool:
    """Whether a value can be looked at, and is not being traced.

    Example:
        >>> is_concrete(1.0)
        True
    """
    return not isinstance(value, jax.core.Tracer)


def _check_range(param: Param, value: Any) -> None:
    found = np.asarray(value, np.float64)
    low, high = param.low, param.high
    if not np.isfinite(found).all():
        raise WeightSpaceError(f"{param.name}: expected finite numbers, got {value}")
    if (low is not None and (found < low).any()) or (high is not None and (found > high).any()):
        raise WeightSpaceError(f"{param.name}: expected {param.legal}, got {value}")


def _array(value: Any) -> Any:
    """A list of numbers as an array: host float64, or traced if any of them is."""
    if not isinstance(value, (list, tuple)):
        return value
    return np.asarray(value) if all(map(is_concrete, value)) else jnp.stack(value)


def _number(param: Param, value: Any, count: int) -> Any:
    value = _array(value)
    per_member = param.per == "member"
    wanted = f"a number or {count} numbers (one a member)" if per_member else "a number"
    kind = jnp.result_type(value).kind if not isinstance(value, str) and value is not None else "O"
    if kind not in "fiub":
        raise WeightSpaceError(f"{param.name}: expected {wanted}, got {value!r}")
    shape = np.shape(value)
    if shape != () and not (per_member and shape == (count,)):
        raise WeightSpaceError(f"{param.name}: expected {wanted}, got shape {list(shape)}")
    if is_concrete(value):
        _check_range(param, value)
    return value


def _checked(method: Method, param: Param, value: Any, count: int) -> Any:
    if param.kind is float:
        if value is None:
            raise WeightSpaceError(f"{method.name} needs {param.name}=: {param.about}")
        return _number(param, value, count)
    is_bool = isinstance(value, (bool, np.bool_))
    if param.kind is bool and not is_bool:
        raise WeightSpaceError(f"{param.name}: expected True or False, got {value!r}")
    if param.kind is int and (is_bool or not isinstance(value, (int, np.integer))):
        raise WeightSpaceError(f"{param.name}: expected a whole number, got {value!r}")
    _check_range(param, value)
    return param.kind(value)


def resolved(
    method: Method, given: Mapping[str, Any], names: tuple[str, ...], count: int
) -> list[dict[str, Any]]:
    """The parameters of each leaf, checked.

    Args:
      method: declares them.
      given: a value by parameter name: a number, an array `[N]` where it is per member, or
        `wslax.by_leaf` of either. What is not given has its default.
      names: leaf names.
      count: N.

    Returns:
      For each leaf a value by name.

    Raises:
      WeightSpaceError: an unknown or missing parameter, a wrong shape, a number out of range.

    Example:
        >>> import wslax as ws
        >>> resolved(ws.merge.METHODS["passthrough"], {"scale": 2.0}, ("w",), 1)
        [{'scale': 2.0}]
    """
    known = [param.name for param in method.params]
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise WeightSpaceError(f"{method.name} has no parameter {name!r}.{hint}")
    rows: list[dict[str, Any]] = [{} for _ in names]
    for param in method.params:
        values = tree.resolve(given.get(param.name, param.default), names, param.name)
        for row, value in zip(rows, values, strict=True):
            row[param.name] = _checked(method, param, value, count)
    return rows
