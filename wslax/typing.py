"""Aliases of types: shape-only, over numpy or JAX arrays.

They are checked at run time only where jaxtyping is loaded before wslax, as the test suite does;
otherwise they cost nothing.
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
Where: TypeAlias = str | Sequence[str] | None

if TYPE_CHECKING or "jaxtyping" not in sys.modules:
    Key: TypeAlias = Any
    Params: TypeAlias = Any
    Population: TypeAlias = Any
    Mask: TypeAlias = Any
    PerMember: TypeAlias = Any
    Scalar: TypeAlias = Any
else:
    from jaxtyping import Bool, PyTree, Shaped

    # A JAX key (typed or raw words), or an integer seed.
    Key = Shaped[jax.Array | np.ndarray, "..."] | int
    # Any tree of arrays: integer, bool and key leaves and `ShapeDtypeStruct`s are allowed.
    Params = PyTree
    # One model per slice of a leading member axis that all leaves share.
    Population = PyTree[Shaped[jax.Array | np.ndarray, "members ..."]]
    Mask = PyTree[Bool[jax.Array | np.ndarray, "..."] | bool]
    PerMember = Shaped[jax.Array | np.ndarray, " members"]
    Scalar = Shaped[jax.Array | np.ndarray, ""] | int | float
