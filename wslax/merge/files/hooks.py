"""Functions of the user that see a merged checkpoint: evaluations and fitness."""

import importlib
import math
import numbers
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from wslax.errors import WeightSpaceError, did_you_mean


def load_function(name: str) -> Callable[[str], Any]:
    """A function by `module:function`; modules of the working directory are found too.

    Args:
      name: such as `my_eval:accuracy` or `package.module:function`.

    Raises:
      WeightSpaceError: if there is none.

    Example:
        >>> load_function("os.path:basename")("models/merged")
        'merged'
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise WeightSpaceError(f"{name}: expected module:function")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever its code does
        raise WeightSpaceError(
            f"{name}: the module cannot be imported ({type(error).__name__}: {error})"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [n for n in dir(module) if callable(getattr(module, n)) and not n.startswith("_")]
        hint = did_you_mean(function_name, known)
        raise WeightSpaceError(f"{name}: the module has no such function.{hint}")
    return function


def evaluated(function: Callable[[str], Any], out: str) -> dict[str, float]:
    """What an evaluation says of a checkpoint: a number, or several by name.

    Example:
        >>> evaluated(lambda path: {"accuracy": 0.5}, "merged"), evaluated(len, "merged")
        ({'accuracy': 0.5}, {'score': 6.0})
    """
    try:
        found = function(out)
    except Exception as error:
        name = getattr(function, "__name__", "the evaluation")
        raise WeightSpaceError(
            f"{name} failed on {out}: {type(error).__name__}: {error}"
        ) from error
    scores = found if isinstance(found, Mapping) else {"score": found}
    for name, value in scores.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise WeightSpaceError(f"the evaluation gave {value!r} as {name}, expected a number")
    return {str(name): float(value) for name, value in scores.items()}


def fitness_of(function: Callable[[str], Any], out: str) -> float:
    """One number; of several the one named `score`.

    Example:
        >>> fitness_of(lambda path: {"score": 2, "loss": 0.1}, "merged")
        2.0
    """
    scores = evaluated(function, out)
    if "score" not in scores:
        raise WeightSpaceError(f"a fitness is one number, or has a 'score' among {list(scores)}")
    value = scores["score"]
    return value if math.isfinite(value) else math.nan
