"""Statistics of a tensor that streams by."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from wslax.io.reader import Tensors

CHUNK = 1 << 20


class Statistics(NamedTuple):
    """What one pass shows; the first three are of the finite elements.

    Attributes:
      mean: their mean.
      std: their standard deviation (of the population: divided by n).
      absmax: the largest magnitude.
      nan: how many elements are NaN.
      inf: how many are infinite.
    """

    mean: float
    std: float
    absmax: float
    nan: int
    inf: int


def summarise(chunks: Iterable[np.ndarray]) -> Statistics:
    """Statistics over chunks in float64, merged by Chan, Golub and LeVeque's update.

    Joining n values (mean m, sum of squares around it s) with n' more (m', s'), with d = m' - m:
    mean m + d n' / (n + n'), squares s + s' + d^2 n n' / (n + n'). No cancellation, unlike
    E[x^2] - E[x]^2. Complex numbers count by their magnitude.

    Args:
      chunks: flat arrays of one tensor; each is used before the next is taken.

    Returns:
      The statistics; zeros if there is no finite element.

    References:
      Chan, Golub, LeVeque, "Algorithms for computing the sample variance" (1983).

    Example:
        >>> import numpy as np
        >>> summarise([np.array([1.0, 3.0]), np.array([np.nan, 5.0])])
        Statistics(mean=3.0, std=1.632993161855452, absmax=5.0, nan=1, inf=0)
    """
    count = nan = inf = 0
    mean = squares = absmax = 0.0
    for chunk in chunks:
        x = (np.abs(chunk) if chunk.dtype.kind == "c" else chunk).astype(np.float64)
        finite = np.isfinite(x)
        if not finite.all():
            bad = int(np.isnan(x).sum())
            nan, inf = nan + bad, inf + x.size - int(finite.sum()) - bad
            x = x[finite]
        if x.size == 0:
            continue
        middle = float(x.mean())
        apart = middle - mean
        absmax = max(absmax, float(x.max()), -float(x.min()))
        x -= middle
        squares += float(np.dot(x, x)) + apart**2 * count * x.size / (count + x.size)
        mean += apart * x.size / (count + x.size)
        count += x.size
    return Statistics(mean, float(np.sqrt(squares / max(count, 1))), absmax, nan, inf)


def chunks_of(tensors: Tensors, name: str) -> Iterator[np.ndarray]:
    """A tensor of an open checkpoint in chunks, all in one reused buffer.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"w": np.array([1.0, 3.0])}, f"{folder}/m.safetensors")
        ...     with ws.io.open_tensors(f"{folder}/m.safetensors") as tensors:
        ...         summarise(chunks_of(tensors, "w")).mean
        2.0
    """
    info = tensors.info(name)
    buffer = np.empty(min(CHUNK, info.size), info.dtype)
    for start in range(0, info.size, CHUNK):
        yield tensors.read_into(name, start, buffer[: info.size - start])
