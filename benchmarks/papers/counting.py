"""Floating-point operations of a program."""

from collections.abc import Callable
from typing import Any

import jax


def flops(fn: Callable[..., Any], *args: Any) -> float:
    """As the compiler counts them in what it made of `fn`; the body of a loop counts once."""
    return float(jax.jit(fn).lower(*args).compile().cost_analysis()["flops"])
