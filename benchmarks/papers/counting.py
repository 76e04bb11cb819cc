"""Floating-point operations of a program."""

from collections.abc import Callable
from typing import Any

import jax

QUICK = {"xla_backend_optimization_level": 0}  # machine code is not what is counted


def _compiled(fn: Callable[..., Any], *args: Any) -> Any:
    return jax.jit(fn).lower(*args).compile(QUICK)


def counted(fn: Callable[..., Any], *args: Any) -> tuple[Any, float]:
    """What `fn` gives, and its operations as `flops` counts them."""
    program = _compiled(fn, *args)
    return program(*args), float(program.cost_analysis().get("flops", 0.0))


def flops(fn: Callable[..., Any], *args: Any) -> float:
    """As the compiler counts them in what it made of `fn`; the body of a loop counts once."""
    return float(_compiled(fn, *args).cost_analysis()["flops"])
