"""The k-th largest of values that come in chunks, on the host, in a few megabytes.

A sample gives two pivots around the wanted rank. One pass counts what lies above the band and keeps
what lies in it, a few percent; the answer is then a selection among those. Where the sample misled,
or most values are equal, radix passes over the float's bits follow: exact always, one pass nearly
always. Nothing here imports JAX.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

MARGIN = 0.01  # half width of the band, as a share of all values
_RADIX = 16


def kth_largest(values: np.ndarray, k: int) -> float:
    """The k-th largest of an array, by introselect; infinity where k < 1.

    Args:
      values: non-negative floats, any shape.
      k: rank from 1 to `values.size`.

    Returns:
      A Python float.

    Example:
        >>> kth_largest(np.array([3.0, 0.5, 2.0]), 2)
        2.0
    """
    if k < 1:
        return float("inf")
    place = values.size - k
    return float(np.partition(values.reshape(-1), place)[place])


class Band(NamedTuple):
    """What one pass gathers about the k-th largest.

    Attributes:
      low: values at or below are skipped.
      high: values above are counted.
      k: the wanted rank.
      counts: `[2]`: how many values lay above `high`, and in the band; updated in place.
      kept: room for the values in `(low, high]`; pages of it that are never written cost nothing.
    """

    low: float
    high: float
    k: int
    counts: np.ndarray
    kept: np.ndarray


def begin(sample: np.ndarray, n: int, k: int, margin: float = MARGIN) -> Band:
    """A band around the wanted rank, from a sample.

    Args:
      sample: some of the values, sorted.
      n: how many values there are.
      k: the wanted rank.
      margin: half width of the band, as a share of all values; a larger sample allows a smaller.

    Returns:
      An empty band.

    Example:
        >>> band = begin(np.arange(100.0), 100, 50)
        >>> band.low < 50 < band.high
        True
    """
    share = 1 - k / n
    places = np.clip([share - margin, share + margin], 0, 1) * (sample.size - 1)
    low = sample[int(places[0])] if places[0] > 0 else -1.0
    high = sample[int(np.ceil(places[1]))] if places[1] < sample.size - 1 else np.inf
    room = min(n, int(4 * margin * n) + (1 << 16))
    return Band(float(low), float(high), k, np.zeros(2, np.int64), np.empty(room, sample.dtype))


def update(band: Band, values: np.ndarray) -> None:
    """Count and keep one chunk.

    Example:
        >>> band = begin(np.arange(100.0), 100, 50)
        >>> update(band, np.arange(100.0))
    """
    over = values > values.dtype.type(band.high)
    inside = (values > values.dtype.type(band.low)) ^ over
    start = int(band.counts[1])
    found = values[inside] if start <= band.kept.size else values[:0]
    band.counts[0] += np.count_nonzero(over)
    band.counts[1] += found.size
    if band.counts[1] <= band.kept.size:
        band.kept[start : start + found.size] = found


def finish(band: Band) -> float | None:
    """The k-th largest, or None where the band missed it or overflowed.

    Example:
        >>> band = begin(np.arange(100.0), 100, 50)
        >>> update(band, np.arange(100.0))
        >>> finish(band)
        50.0
    """
    if band.k < 1:
        return float("inf")
    above, inside = band.counts.tolist()
    rank = band.k - above
    if rank < 1 or inside > band.kept.size:
        return None
    if rank <= inside:
        band.kept[:inside].partition(inside - rank)
        return float(band.kept[inside - rank])
    return 0.0 if band.low == 0.0 else None


def by_radix(passes: Callable[[], Iterable[np.ndarray]], k: int) -> float:
    """The k-th largest by histograms of 16 bits a pass, from the top: two passes in float32.

    Args:
      passes: starts one more pass over the chunks (float32 or float64, non-negative).
      k: rank from 1; below 1 the result is infinity.

    Returns:
      A Python float.

    Example:
        >>> by_radix(lambda: [np.array([3.0, 0.5]), np.array([2.0])], 2)
        2.0
    """
    if k < 1:
        return float("inf")
    prefix, shift = 0, None
    dtype = np.dtype(np.float32)
    while shift is None or shift > 0:
        counts = np.zeros(1 << _RADIX, np.int64)
        for chunk in passes():
            dtype = chunk.dtype
            bits = chunk.reshape(-1).view(f"u{dtype.itemsize}")
            digit_at = dtype.itemsize * 8 - _RADIX if shift is None else shift - _RADIX
            if shift is not None:
                bits = bits[(bits >> np.uint64(shift).astype(bits.dtype)) == prefix]
            digits = (bits >> np.uint64(digit_at).astype(bits.dtype)) & bits.dtype.type(0xFFFF)
            counts += np.bincount(digits.astype(np.intp), minlength=1 << _RADIX)
        shift = (dtype.itemsize * 8 if shift is None else shift) - _RADIX
        reached = np.cumsum(counts[::-1])[::-1]
        digit = int(np.flatnonzero(reached >= k)[-1])
        k -= int(reached[digit] - counts[digit])
        prefix = (prefix << _RADIX) | digit
    return float(np.array(prefix, f"u{dtype.itemsize}").view(dtype))
