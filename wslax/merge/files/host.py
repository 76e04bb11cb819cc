"""numpy as the streaming engine hands it to the methods: faster selection, exact sums.

`numpy.where` branches on every element and is ten times slower than an addition where the condition
is irregular, as masks of weights are. Here it is a few bit operations with the same result.
"""

from typing import Any

import numpy as np

BLOCK = 8192  # elements a partial sum spans; BLAS stays on one thread at this length


def _mask(condition: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """All bits set where `condition` holds, as integers as wide as `dtype`."""
    return (-condition.view(np.int8)).astype(f"i{dtype.itemsize}")


def _is_zero(x: Any) -> bool:
    return bool(np.ndim(x) == 0 and x == 0 and not np.signbit(x))


def _select(condition: np.ndarray, a: np.ndarray, b: Any) -> np.ndarray:
    """`where` for contiguous floats `a`, and `b` the same or the scalar 0."""
    mask = _mask(condition, a.dtype)
    bits = a.view(mask.dtype)
    if _is_zero(b):
        mask &= bits
        return mask.view(a.dtype)
    other = b.view(mask.dtype)
    mask &= bits ^ other
    mask ^= other
    return mask.view(a.dtype)


def where(condition: Any, a: Any, b: Any) -> Any:
    """`numpy.where` for what methods select: floats, bools and scalars.

    Example:
        >>> where(np.array([True, False]), np.array([1.0, 2.0]), 0.0)
        array([1., 0.])
    """
    if np.ndim(condition) == 0:
        return (
            (a if condition else b) if np.ndim(a) or np.ndim(b) else np.where(condition, a, b)[()]
        )
    if np.ndim(a) == np.ndim(b) == 0:
        simple = _is_zero(b) and np.isfinite(a)
        return condition * a if simple else np.where(condition, a, b)
    dtype = np.result_type(a, b)
    if dtype.kind == "b":
        return (condition & a) | (~condition & b)
    if dtype.kind != "f" or not condition.flags.c_contiguous:
        return np.where(condition, a, b)
    a = _whole(a, condition.shape, dtype)
    return _select(condition, a, b if _is_zero(b) else _whole(b, condition.shape, dtype))


def _whole(x: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`x` as a contiguous array; no copy where it is one."""
    if np.ndim(x) == 0:
        return np.full(shape, x, dtype)
    return np.ascontiguousarray(np.broadcast_to(x, shape), dtype)


def zeros_like(x: Any, dtype: Any = None) -> Any:
    """A scalar zero, which broadcasts where a method wants an array of them."""
    return np.asarray(x).dtype.type(0) if dtype is None else np.dtype(dtype).type(0)


def ones_like(x: Any, dtype: Any = None) -> Any:
    """A scalar one."""
    return np.asarray(x).dtype.type(1) if dtype is None else np.dtype(dtype).type(1)


def take_along_axis(x: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """`numpy.take_along_axis`, for the last axis of a matrix in one flat gather.

    Example:
        >>> take_along_axis(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1], [0]]), -1)
        array([[2.],
               [3.]])
    """
    if axis != -1:
        return np.take_along_axis(x, index, axis)
    first = np.arange(x.shape[0], dtype=np.intp)[:, None] * x.shape[1]
    return x.reshape(-1).take(index + first, mode="clip")


class _Namespace:
    """`numpy` with the functions above in place of its own."""

    where = staticmethod(where)
    take_along_axis = staticmethod(take_along_axis)
    zeros_like = staticmethod(zeros_like)
    ones_like = staticmethod(ones_like)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


xp = _Namespace()


def _blocks(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = x.reshape(-1)
    whole = x.size - x.size % BLOCK
    return x[:whole].reshape(-1, BLOCK), x[whole:]


def total(x: np.ndarray) -> float:
    """The sum: pairwise within blocks, float64 across them.

    Example:
        >>> total(np.ones(10000, np.float32))
        10000.0
    """
    body, tail = _blocks(x)
    return float(body.sum(axis=1).sum(dtype=np.float64)) + float(tail.sum())


def dot(x: np.ndarray, y: np.ndarray) -> float:
    """The inner product: BLAS within blocks, float64 across them.

    Example:
        >>> dot(np.full(10000, 2.0, np.float32), np.ones(10000, np.float32))
        20000.0
    """
    (bodies, tail), (others, rest) = _blocks(x), _blocks(y)
    return float(np.vecdot(bodies, others).sum(dtype=np.float64)) + float(np.vecdot(tail, rest))
