"""Merge matrices by a kernel, all of one shape in one call; other leaves by the mean."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from wslax.merge.leaves import Leaves, add_merged
from wslax.population.members import row_spec
from wslax.symmetry.matrices import MatrixAxes, from_matrices, matrix_axes, to_matrices

Axes = tuple[tuple[str, MatrixAxes], ...]


def axes_of(population: Any, groups: Any) -> Axes:
    """The matrices of one member, hashable.

    Example:
        >>> import jax.numpy as jnp
        >>> axes_of({"w": jnp.zeros((3, 2, 5)), "b": jnp.zeros((3, 5))}, None)
        (('w', MatrixAxes(consumed=(0,), produced=(1,))),)
    """
    return tuple(matrix_axes(row_spec(population), groups).items())


def views(leaves: Leaves, axes: Axes) -> Leaves:
    """The leaves `[N, ...]` that are matrices as `[N, *batch, m, n]`.

    Example:
        >>> import jax.numpy as jnp
        >>> views({"w": jnp.zeros((3, 4, 2))}, (("w", MatrixAxes((1,), (0,))),))["w"].shape
        (3, 2, 4)
    """
    return {
        n: jax.vmap(lambda x, at=at: to_matrices(x, at))(leaves[n]) for n, at in axes if n in leaves
    }


def together(names: list[str], matrices: Leaves) -> Any:
    """Matrices `[N, *batch, m, n]` of one m and n as `[N, batch, m, n]` of all of them.

    Example:
        >>> import jax.numpy as jnp
        >>> together(["a", "b"], {"a": jnp.zeros((3, 2, 4)), "b": jnp.zeros((3, 5, 2, 4))}).shape
        (3, 6, 2, 4)
    """
    flat = [matrices[n].reshape(len(matrices[n]), -1, *matrices[n].shape[-2:]) for n in names]
    return jnp.concatenate(flat, axis=1)


def alike(matrices: Leaves) -> Iterator[tuple[list[str], Any]]:
    """Matrices of one shape and dtype together: names, and `[N, batch, m, n]` of all of them.

    Example:
        >>> import jax.numpy as jnp
        >>> both = {"a": jnp.zeros((3, 2, 4)), "b": jnp.zeros((3, 5, 2, 4))}
        >>> [(names, x.shape) for names, x in alike(both)]
        [(['a', 'b'], (3, 6, 2, 4))]
    """
    kinds: dict[Any, list[str]] = {}
    for name, x in matrices.items():
        kinds.setdefault((x.shape[-2:], x.dtype), []).append(name)
    for names in kinds.values():
        yield names, together(names, matrices)


def apart(names: list[str], merged: Any, matrices: Leaves) -> Leaves:
    """`[batch, m, k]` of all of them back by name, `[*batch, m, k]`.

    Example:
        >>> import jax.numpy as jnp
        >>> apart(["a"], jnp.zeros((5, 2, 3)), {"a": jnp.zeros((3, 5, 2, 4))})["a"].shape
        (5, 2, 3)
    """
    found, start = {}, 0
    for name in names:
        batch = matrices[name].shape[1:-2]
        count = matrices[name][0, ..., 0, 0].size
        found[name] = merged[start : start + count].reshape(*batch, *merged.shape[-2:])
        start += count
    return found


def over_matrices(vectors: Leaves, kernel: Any, options: tuple[Any, ...], axes: Axes) -> Leaves:
    """Task vectors merged: matrices by a kernel, the others by their mean.

    Args:
      vectors: `[N, ...]` by leaf name.
      kernel: `([N, batch, m, n], done, *options) -> ([batch, m, n], done)`, with the `done` of
        `wslax.numerics.decompose`.
      options: for the kernel.
      axes: which leaves are matrices.

    Example:
        >>> import jax.numpy as jnp
        >>> largest = lambda x, done: (x.max(0), done)
        >>> vectors = {"w": jnp.arange(4.0).reshape(2, 2, 1), "b": jnp.array([[1.0], [3.0]])}
        >>> found = over_matrices(vectors, largest, (), (("w", MatrixAxes((0,), (1,))),))
        >>> found["w"].tolist(), found["b"].tolist()
        ([[2.0], [3.0]], [2.0])
    """
    found, where, done = {}, dict(axes), True
    matrices = views(vectors, axes)
    for names, stack in alike(matrices):
        merged, done = kernel(stack, done, *options)
        for name, x in apart(names, merged, matrices).items():
            found[name] = from_matrices(x, where[name], vectors[name].shape[1:])
    return {n: found[n] if n in found else x.mean(0) for n, x in vectors.items()}


def merge_matrices(
    kernel: Callable[..., Any],
    population: Any,
    base: Any,
    lam: Any,
    where: Any,
    groups: Any,
    *options: Any,
) -> Any:
    r"""\(b + \lambda F(d_1, \ldots, d_N)\) with F a kernel on matrices and the mean elsewhere.

    Example:
        >>> import jax.numpy as jnp
        >>> total = lambda x, done: (x.sum(0), done)
        >>> population = {"w": jnp.ones((3, 1, 2)), "b": jnp.ones((3, 1))}
        >>> base = {"w": jnp.zeros((1, 2)), "b": jnp.zeros(1)}
        >>> merge_matrices(total, population, base, 1.0, None, None)
        {'b': Array([1.], dtype=float32), 'w': Array([[3., 3.]], dtype=float32)}
    """
    static = (kernel, options, axes_of(population, groups))
    return add_merged(over_matrices, population, base, lam, where, static=static)
