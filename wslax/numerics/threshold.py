"""The k-th largest without a sort, inside `jit`.

The bits of non-negative floats order like the floats. So the k-th largest is found digit by digit,
from the top: a digit is the largest one for which at least k values still reach the prefix. A pass
over the data settles two bits by counting against three pivots at once. Exact, the same on every
backend, and it vectorises.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.typing import Array, Scalar

_DIGIT = 2
_ROW = 4096
_UNSIGNED = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def _kth_bits(bits: Any, k: Any) -> Any:
    """The largest b with at least k of the unsigned `bits` >= b; the maximal word where k < 1."""
    word = bits.dtype.type
    top = bits.dtype.itemsize * 8 - _DIGIT
    digits = range(1, 1 << _DIGIT)

    def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    def settle(i: Any, prefix: Any) -> Any:
        shift = word(top) - word(_DIGIT) * i.astype(bits.dtype)
        reached = tuple(
            (bits >= (prefix | (word(digit) << shift))).astype(jnp.int32) for digit in digits
        )
        axes = tuple(range(bits.ndim))
        counts = jax.lax.reduce(reached, (np.int32(0),) * len(digits), add, axes)
        digit = sum((count >= k).astype(bits.dtype) for count in counts)
        return prefix | (digit << shift)

    return jax.lax.fori_loop(0, top // _DIGIT + 1, settle, word(0))


def _as_bits(x: Any) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise WeightSpaceError(f"expected non-negative floats, got {x.dtype}")
    if x.dtype.itemsize not in _UNSIGNED:
        x = x.astype(jnp.float32)
    return jax.lax.bitcast_convert_type(jnp.abs(x), _UNSIGNED[x.dtype.itemsize])


def kth_largest(x: Array, k: Scalar) -> Array:
    """The k-th largest of |x|, exactly.

    Args:
      x: floats of any shape and dtype; NaN counts as larger than infinity.
      k: rank from 1 (the largest) to `x.size`; may be traced. Below 1 the result is infinity, above
        the size 0.

    Returns:
      A scalar of the dtype of `x`.

    Raises:
      WeightSpaceError: if `x` does not hold floats.

    Example:
        >>> import jax.numpy as jnp
        >>> float(kth_largest(jnp.array([3.0, 0.5, 2.0, 2.0]), 2))
        2.0
    """
    bits = _as_bits(x)
    k = jnp.asarray(k, jnp.int32)
    found = jax.lax.bitcast_convert_type(_kth_bits(bits, jnp.maximum(k, 1)), _float_of(x))
    return jnp.where(k < 1, jnp.array(jnp.inf, found.dtype), found).astype(x.dtype)


def _float_of(x: Any) -> Any:
    return x.dtype if x.dtype.itemsize in _UNSIGNED else jnp.float32


def top_k_mask(x: Array, k: Scalar) -> Array:
    """The mask of the k largest of |x|: exactly k, of equal ones the lowest index first.

    Args:
      x: floats of any shape; NaN counts as largest.
      k: how many, from 0 to `x.size`; may be traced.

    Returns:
      Bools of the shape of `x`.

    Raises:
      WeightSpaceError: if `x` does not hold floats.

    Example:
        >>> import jax.numpy as jnp
        >>> top_k_mask(jnp.array([1.0, 3.0, 1.0, 1.0]), 2)
        Array([ True,  True, False, False], dtype=bool)
    """
    k = jnp.asarray(k, jnp.int32)
    bits = _as_bits(x).reshape(-1)
    kth = _kth_bits(bits, jnp.maximum(k, 1))
    above, equal = bits > kth, bits == kth
    end = _end_of_first(equal, k - jnp.sum(above, dtype=jnp.int32))
    chosen = above | (equal & (jnp.arange(bits.size, dtype=jnp.int32) < end))
    return (chosen & (k > 0)).reshape(x.shape)


def _end_of_first(flags: Any, count: Any) -> Any:
    """The place behind the `count`-th true flag: found by rows, then within one row."""
    size = min(_ROW, flags.size)
    rows = jnp.pad(flags, (0, -flags.size % size)).reshape(-1, size)
    reached = jnp.cumsum(jnp.sum(rows, axis=1, dtype=jnp.int32))
    row = jnp.searchsorted(reached, count)
    before = jnp.where(row > 0, reached[row - 1], 0)
    within = jnp.searchsorted(jnp.cumsum(rows[row], dtype=jnp.int32), count - before)
    return row * size + within + 1


def _ordered(x: Any) -> Any:
    """Words that order as floats with their signs do: both zeros alike, NaN the lowest."""
    bits = _as_bits(x)
    half = bits.dtype.type(1 << (bits.dtype.itemsize * 8 - 1))
    return jnp.where(jnp.isnan(x), 0, jnp.where(jnp.signbit(x), half - bits, half | bits))


def largest(arrays: Sequence[Array], k: Scalar) -> list[Array]:
    """The masks of the k largest entries of several arrays together, by value and not by size.

    Exactly k; of equal ones those of the first array, and there of the lowest index, first.

    Args:
      arrays: floats of any shapes, less than 2^31 in all; NaN counts as lowest.
      k: how many, from 0 to the number of all entries; may be traced.

    Returns:
      Bools of the shape of each array.

    Raises:
      WeightSpaceError: if an array does not hold floats.

    Example:
        >>> import jax.numpy as jnp
        >>> largest([jnp.array([1.0, -3.0]), jnp.array([[1.0, 2.0]])], 2)
        [Array([ True, False], dtype=bool), Array([[False,  True]], dtype=bool)]
    """
    k = jnp.asarray(k, jnp.int32)
    dtype = jnp.result_type(*arrays)
    words = [_ordered(x.astype(dtype)).reshape(-1) for x in arrays]
    kth = _kth_bits(jnp.concatenate(words) if len(words) > 1 else words[0], jnp.maximum(k, 1))
    room = k - sum(jnp.sum(w > kth, dtype=jnp.int32) for w in words)
    masks = []
    for x, w in zip(arrays, words, strict=True):
        equal = w == kth
        found = jnp.sum(equal, dtype=jnp.int32)
        end = _end_of_first(equal, jnp.minimum(room, found))
        first = (room > 0) & (jnp.arange(w.size, dtype=jnp.int32) < end)
        masks.append((((w > kth) | (equal & first)) & (k > 0)).reshape(x.shape))
        room = room - found
    return masks
