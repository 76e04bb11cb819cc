"""The assignment problem: which row goes with which column."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax.typing import Array


def _on_host(score: Array) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    cost = -np.asarray(score, np.float64)
    # The solver starts from no prices; these two steps make most rows final at once.
    cost -= cost.min(-1, keepdims=True)
    cost -= cost.min(-2, keepdims=True)
    found = np.empty(cost.shape[:-1], np.int32)
    for at in np.ndindex(cost.shape[:-2]):
        found[at] = linear_sum_assignment(cost[at])[1]
    return found


def _in_program(score: Array) -> Array:
    from optax.assignment import hungarian_algorithm

    def one(matrix: Array) -> Array:
        rows, columns = hungarian_algorithm(-matrix)
        return jnp.zeros(len(matrix), jnp.int32).at[rows].set(columns.astype(jnp.int32))

    flat = jax.lax.map(one, score.reshape(-1, *score.shape[-2:]))
    return flat.reshape(score.shape[:-1])


def assignment(score: Array) -> Array:
    r"""The permutation of largest total score, exactly: \(\arg\max_p \sum_i s_{i\,p_i}\).

    On CPUs and GPUs SciPy's `linear_sum_assignment` (Jonker and Volgenant; Crouse, 2016) solves the
    whole batch in one call out of the program; elsewhere Optax's Hungarian algorithm runs inside
    the program, which on a GPU is many times slower.

    Args:
      score: `[..., n, n]` floats; leading axes are a batch. What is NaN counts as the lowest.

    Returns:
      int32 `[..., n]`: the column of each row. Works under `jax.jit` and `jax.vmap`; ties are
      broken as the solver does, so not alike on all platforms.

    Example:
        >>> import jax.numpy as jnp
        >>> assignment(jnp.array([[1.0, 5.0], [2.0, 3.0]])).tolist()
        [1, 0]
    """
    score = score.astype(jnp.promote_types(score.dtype, jnp.float32))
    low = jnp.finfo(score.dtype).min
    score = jnp.nan_to_num(score, nan=low, neginf=low, posinf=jnp.finfo(score.dtype).max)
    if jax.default_backend() not in ("cpu", "gpu"):
        return _in_program(score)
    out = jax.ShapeDtypeStruct(score.shape[:-1], jnp.int32)
    solve: Any = jax.pure_callback(_on_host, out, score, vmap_method="broadcast_all")
    return solve
