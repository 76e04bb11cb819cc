"""The k-th largest without a sort, inside `jit`.

The bits of non-negative floats order like the floats. So the k-th largest is the largest word that
at least k words reach, and a pass over the data that counts against several pivots at once leaves
one of the intervals between them. In large arrays the first pivots come from a sorted sample, about
the rank they should have. Later ones lie where the rank would be if words were spread evenly within
the interval; after a guess that failed they divide it evenly, so that it shrinks whatever the words
are. Guesses only save passes: every count is of all the data. Exact, the same on every backend, and
it vectorises.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from wslax import random
from wslax.errors import WeightSpaceError
from wslax.numerics import explicit
from wslax.typing import Array, Scalar

# A CPU takes 6 ms for 2^24 words and 3 pivots, 12 for 11, and, out of registers, 33 for 15.
_PIVOTS = 11
_STEPS = np.arange(_PIVOTS, dtype=np.float32) - _PIVOTS // 2
_SAMPLE = 1 << 15
_ROW = 4096
_WORDS = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}


def _magnitude(x: Any) -> Any:
    """Words that order as |x|, from 0 up; NaN is above infinity."""
    return jax.lax.bitcast_convert_type(jnp.abs(x), _WORDS[x.dtype.itemsize])


def _value(x: Any) -> Any:
    """Words that order as x: both zeros are one, NaN is the lowest."""
    word = _magnitude(x)
    # Not the least word: ties are counted from the word below.
    lowest = jnp.array(np.iinfo(word.dtype).min + 1, word.dtype)
    return jnp.where(jnp.isnan(x), lowest, jnp.where(jnp.signbit(x), -word, word))


def _counts(words: Any, pivots: Any, axes: tuple[int, ...]) -> tuple[Any, ...]:
    """How many words are above each pivot, along `axes`."""

    def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x + y for x, y in zip(a, b, strict=True))

    above = tuple((words > pivot).astype(jnp.int32) for pivot in pivots)
    return jax.lax.reduce(above, (np.int32(0),) * len(above), add, axes)


def _kth_word(arrays: Sequence[Any], k: Any, order: Any) -> tuple[Any, Any, Any]:
    """The largest w that at least k words reach, else the lowest; how many reach it, are above."""
    size = sum(x.size for x in arrays)
    word = _WORDS[arrays[0].dtype.itemsize]
    ends = np.iinfo(word)
    # Twice the range of a word lies between its ends, so the interval is kept in unsigned words.
    unsigned = jnp.dtype(f"u{word.dtype}").type
    half = unsigned(1 << (ends.bits - 1))

    def across(words: Any) -> Any:
        return jax.lax.bitcast_convert_type(words, unsigned) ^ half

    def back(words: Any) -> Any:
        return jax.lax.bitcast_convert_type(words ^ half, word)

    def evenly(low: Any, high: Any) -> Any:
        span = high - low
        step = span // unsigned(_PIVOTS + 1) + unsigned(1)
        steps = step * jnp.arange(1, _PIVOTS + 1, dtype=unsigned)
        return low - unsigned(1) + jnp.minimum(steps, span)

    def guessed(low: Any, high: Any, reach: Any, above: Any) -> Any:
        room = (reach - above).astype(jnp.float32)
        span = (high - low).astype(jnp.float32)
        share = jnp.maximum(reach - k, 0).astype(jnp.float32) / room
        # At least a word apart: neighbours that are pivots leave one word between them.
        steps = jnp.maximum(1, jnp.abs(_STEPS) * _deviation(share, room) * span)
        places = share * span + _STEPS * steps
        return low + jnp.clip(places, 0, 0.999 * span).astype(unsigned)

    def narrow(held: tuple[Any, ...]) -> tuple[Any, ...]:
        # The barrier keeps XLA from making the words of all before the loop: that is a copy of x.
        data, (pivots, low, high, reach, above) = jax.lax.optimization_barrier((arrays, held))
        before = high - low
        each = [_counts(order(x), tuple(back(pivots)), tuple(range(x.ndim))) for x in data]
        counts = sum(jnp.stack(found) for found in each)
        enough = counts >= k
        low = jnp.max(jnp.where(enough, pivots + unsigned(1), low), initial=low)
        reach = jnp.min(jnp.where(enough, counts, reach), initial=reach)
        high = jnp.min(jnp.where(enough, high, pivots), initial=high)
        above = jnp.max(jnp.where(enough, above, counts), initial=above)
        span, few = high - low, unsigned(2 * _PIVOTS)
        even = (span < few) | (span > before // unsigned(_PIVOTS))
        pivots = jnp.where(even, evenly(low, high), guessed(low, high, reach, above))
        return pivots, low, high, reach, above

    low = across(word(0 if order is _magnitude else ends.min))
    high = across(word(ends.max))
    from_sample = size > 8 * _SAMPLE
    pivots = across(_from_sample(arrays, k, order)) if from_sample else evenly(low, high)
    held = (pivots, low, high, jnp.int32(size), jnp.int32(0))
    _, low, _, reach, above = jax.lax.while_loop(lambda held: held[1] < held[2], narrow, held)
    return back(low), reach, above


def _from_sample(arrays: Sequence[Any], k: Any, order: Any) -> Any:
    """Words about the k-th of all: of a sample's order statistics, up to 4 deviations away."""
    size = sum(x.size for x in arrays)
    parts = []
    for i, x in enumerate(arrays):
        drawn = random.bits(0, "threshold", max(1, _SAMPLE * x.size // size), member=i, xp=jnp)
        parts.append(order(_take(x, (drawn % np.uint32(x.size)).astype(jnp.int32))))
    sample = jnp.sort(jnp.concatenate(parts) if len(parts) > 1 else parts[0])
    share = 1 - k.astype(jnp.float32) / size
    shares = share + _STEPS * np.abs(_STEPS) * _deviation(share, sample.size)
    ranks = sample.size * shares
    return sample[jnp.clip(ranks.astype(jnp.int32), 0, sample.size - 1)]


def _deviation(share: Any, size: Any) -> Any:
    """An eighth of the deviation of a share that so many drawn at random have, and a bit more."""
    return (jnp.sqrt(share * (1 - share) / size) + 1 / size) / 8


def _take(x: Any, places: Any) -> Any:
    """Elements by row-major place. A reshape would gather an x that is spread over devices."""
    return x[jnp.unravel_index(places, x.shape)] if x.ndim > 1 else x[places]


def _check_size(size: int) -> None:
    if size > np.iinfo(np.int32).max:
        raise WeightSpaceError(f"expected at most 2^31 - 1 numbers, got {size}; split the array")


def _checked(x: Any) -> Any:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise WeightSpaceError(f"expected non-negative floats, got {x.dtype}")
    _check_size(x.size)
    return jnp.asarray(x, x.dtype if x.dtype.itemsize in _WORDS else jnp.float32)


def _of_one(x: Any, k: Any) -> tuple[Any, Any, Any]:
    return _kth_word([x], k, _magnitude)


def kth_largest(x: Array, k: Scalar) -> Array:
    """The k-th largest of |x|, exactly.

    Args:
      x: floats of any shape, at most 2^31 - 1; NaN counts as larger than infinity.
      k: rank from 1 (the largest) to `x.size`; may be traced. Below 1 the result is infinity, above
        the size 0.

    Returns:
      A scalar of the dtype of `x`.

    Raises:
      WeightSpaceError: if `x` does not hold floats, or too many.

    Example:
        >>> import jax.numpy as jnp
        >>> float(kth_largest(jnp.array([3.0, 0.5, 2.0, 2.0]), 2))
        2.0
    """
    wide = _checked(x)
    k = jnp.asarray(k, jnp.int32)
    find = explicit.automatic(_of_one, wide, (P(), P(), P()))
    word, _, _ = find(wide, jnp.maximum(k, 1))
    found = jax.lax.bitcast_convert_type(word, wide.dtype)
    return jnp.where(k < 1, jnp.array(jnp.inf, found.dtype), found).astype(x.dtype)


def top_k_mask(x: Array, k: Scalar) -> Array:
    """The mask of the k largest of |x|: exactly k, of equal ones the lowest index first.

    Args:
      x: floats of any shape, at most 2^31 - 1; NaN counts as largest.
      k: how many, from 0 to `x.size`; may be traced.

    Returns:
      Bools of the shape of `x`.

    Raises:
      WeightSpaceError: if `x` does not hold floats, or too many.

    Example:
        >>> import jax.numpy as jnp
        >>> top_k_mask(jnp.array([1.0, 3.0, 1.0, 1.0]), 2)
        Array([ True,  True, False, False], dtype=bool)
    """
    wide = jnp.atleast_1d(_checked(x))
    choose = explicit.automatic(_mask, wide, P(*explicit.spec(wide)))
    return choose(wide, jnp.asarray(k, jnp.int32)).reshape(x.shape)


def largest(arrays: Sequence[Array], k: Scalar) -> list[Array]:
    """The masks of the k largest entries of several arrays together, by value and not by size.

    Exactly k; of equal ones those of the first array, and there of the lowest index, first.

    Args:
      arrays: floats of any shapes, less than 2^31 in all; NaN counts as lowest.
      k: how many, from 0 to the number of all entries; may be traced.

    Returns:
      Bools of the shape of each array.

    Raises:
      WeightSpaceError: if an array does not hold floats, or there are too many numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> largest([jnp.array([1.0, -3.0]), jnp.array([[1.0, 2.0]])], 2)
        [Array([ True, False], dtype=bool), Array([[False,  True]], dtype=bool)]
    """
    dtype = jnp.result_type(*arrays)
    wide = [jnp.atleast_1d(_checked(x.astype(dtype))) for x in arrays]
    _check_size(sum(x.size for x in wide))
    specs = [P(*explicit.spec(x)) for x in wide]
    choose = explicit.automatic(functools.partial(_masks, order=_value), wide[0], specs)
    found = choose(wide, jnp.asarray(k, jnp.int32))
    return [mask.reshape(x.shape) for mask, x in zip(found, arrays, strict=True)]


def _mask(x: Any, k: Any) -> Any:
    return _masks([x], k, _magnitude)[0]


def _masks(arrays: Sequence[Any], k: Any, order: Any) -> list[Any]:
    kth, reach, above = _kth_word(arrays, jnp.maximum(k, 1), order)
    room, masks = k - above, []
    for x in arrays:
        words = order(x)
        equal = reach - above
        if len(arrays) > 1:
            equal = jnp.sum(words == kth, dtype=jnp.int32)
        end = jax.lax.cond(
            equal > room,
            lambda x=x, room=room: _end_of_first(x, kth, room, order),
            lambda x=x: jnp.int32(x.size),
        )
        first = (_index(x.shape) < end) & (room > 0)
        masks.append(((words > kth) | ((words == kth) & first)) & (k > 0))
        room = jnp.maximum(room - equal, 0)
    return masks


def _index(shape: tuple[int, ...]) -> Any:
    """The place of each element in row-major order."""
    index = jnp.zeros(shape, jnp.int32)
    for axis, step in enumerate(np.cumprod((1, *shape[:0:-1]))[::-1]):
        index += jax.lax.broadcasted_iota(jnp.int32, shape, axis) * np.int32(step)
    return index


def _end_of_first(x: Any, kth: Any, count: Any, order: Any) -> Any:
    """The place behind the `count`-th of the words `kth`: found by rows, then within one row."""
    rows, length = x, x.shape[-1]
    if x.ndim == 1:
        length = min(_ROW, x.size)
        rows = x[: x.size // length * length].reshape(-1, length)
    reach, above = _counts(order(rows), (kth - 1, kth), (rows.ndim - 1,))
    reached = jnp.cumsum((reach - above).reshape(-1))
    row = jnp.searchsorted(reached, count).astype(jnp.int32)
    before = jnp.where(row > 0, reached[row - 1], 0)
    # The last row may be a part of one, and is cut from the end.
    start = jnp.minimum(row * length, x.size - length)
    place = start + jnp.arange(length, dtype=jnp.int32)
    equal = (order(_take(x, place)) == kth) & (place >= row * length)
    within = jnp.searchsorted(jnp.cumsum(equal, dtype=jnp.int32), count - before)
    return start + within.astype(jnp.int32) + 1
