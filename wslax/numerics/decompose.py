r"""Exact decompositions of batches of matrices, one after another.

JAX's LAPACK kernels wait inside the thread pool that they need: as many at a time as it has threads
wait for ever. So each function here takes the `done` of the call before it and gives its own.

The singular value decomposition itself and not the eigenvectors of a Gram matrix: that costs half
as much, but squares the singular values, and in float32 directions below a hundredth of the largest
one drown. Methods that give all directions one weight need those as much as the others.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wslax.typing import Array


class Thin(NamedTuple):
    """The thin singular value decomposition, of rank r = min(m, n).

    Attributes:
      left: `[..., m, r]`; a column is 0 where its singular value is at rounding level.
      singular: `[..., r]`, descending, likewise.
      right: `[..., n, r]`, likewise.
    """

    left: Any
    singular: Any
    right: Any


def svd(matrix: Array, done: Any = True) -> tuple[Thin, Any]:
    """The thin singular value decomposition.

    Args:
      matrix: `[..., m, n]` of float32 or float64.
      done: of the decomposition before.

    Returns:
      The factors, and a bool that is true once they are there.

    Example:
        >>> import jax.numpy as jnp
        >>> svd(jnp.diag(jnp.array([1.0, 3.0])))[0].singular.tolist()
        [3.0, 1.0]
    """
    held = jnp.where(done, matrix, jnp.zeros_like(matrix))
    left, singular, right = jnp.linalg.svd(held, full_matrices=False)
    rounding = max(matrix.shape[-2:]) * float(jnp.finfo(matrix.dtype).eps)
    live = (singular > singular[..., :1] * np.asarray(rounding, matrix.dtype)).astype(matrix.dtype)
    right = right.mT * live[..., None, :]
    # True also of NaN; the comparison is there to need the result.
    return Thin(left * live[..., None, :], singular * live, right), ~jnp.any(singular < 0)


def isometry(matrix: Array, done: Any = True) -> tuple[Array, Any]:
    r"""The nearest matrix with orthonormal columns, or rows, \(U V^T\) of \(U \Sigma V^T\).

    Directions that the matrix lacks are lacking in it too: which frame would fill them is not
    determined, and the factorisations' own choice is rounding.

    Example:
        >>> import jax.numpy as jnp
        >>> isometry(jnp.array([[0.0, 2.0], [3.0, 0.0]]))[0].round(4).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    found, done = svd(matrix, done)
    return found.left @ found.right.mT, done


def least_squares(a: Array, b: Array, done: Any = True) -> tuple[Array, Any]:
    r"""The smallest x that minimises \(\|a x - b\|\), by the pseudo-inverse.

    Example:
        >>> import jax.numpy as jnp
        >>> least_squares(jnp.diag(jnp.array([2.0, 0.0])), jnp.ones((2, 1)))[0].tolist()
        [[0.5], [0.0]]
    """
    found, done = svd(a, done)
    inverse = jnp.where(found.singular > 0, 1 / jnp.where(found.singular > 0, found.singular, 1), 0)
    scaled = inverse[..., None] * (found.left.mT @ b)
    return found.right @ scaled, done
