"""How far two checkpoints lie apart, tensor by tensor, in one pass over both."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np

from wslax.io import statistics
from wslax.io.files import is_orbax, load
from wslax.io.reader import open_tensors


class Sums(NamedTuple):
    """What adds up over pieces of two tensors; all but `changed` over entries finite in both.

    Attributes:
      left: squared norm of the first.
      right: squared norm of the second.
      dot: inner product.
      gap: squared norm of the difference.
      absmax: largest magnitude of the difference.
      changed: how many entries differ.
      size: how many entries there are.
    """

    left: float = 0.0
    right: float = 0.0
    dot: float = 0.0
    gap: float = 0.0
    absmax: float = 0.0
    changed: int = 0
    size: int = 0

    def join(self, other: "Sums") -> "Sums":
        """The sums over both."""
        return Sums(
            self.left + other.left, self.right + other.right, self.dot + other.dot,
            self.gap + other.gap, max(self.absmax, other.absmax),
            self.changed + other.changed, self.size + other.size,
        )  # fmt: skip

    @property
    def relative(self) -> float:
        """Norm of the difference over the larger of the two norms: at most 2."""
        return float(np.sqrt(self.gap / (max(self.left, self.right) or 1.0)))

    @property
    def cosine(self) -> float:
        """Of the angle between the two; 1 where they are equal, 0 where only one is zero."""
        if self.gap == 0:
            return 1.0
        norms = np.sqrt(self.left) * np.sqrt(self.right)
        return float(np.clip(self.dot / norms, -1, 1)) if norms else 0.0

    @property
    def share(self) -> float:
        """Share of the entries that differ."""
        return self.changed / max(self.size, 1)


class Change(NamedTuple):
    """One tensor of two checkpoints.

    Attributes:
      name: its name.
      shape: in both.
      dtypes: as stored in the first and in the second.
      sums: what was measured.
    """

    name: str
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    sums: Sums


class Differences(NamedTuple):
    """What two checkpoints differ in.

    Attributes:
      changes: tensors of one shape in both, the most changed first.
      shapes: name to the two shapes where these differ; the numbers are not compared then.
      left: names only in the first.
      right: names only in the second.
      total: sums over all of `changes`.
    """

    changes: Sequence[Change]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    left: Sequence[str]
    right: Sequence[str]
    total: Sums

    @property
    def same(self) -> bool:
        """Whether names, shapes, dtypes and all entries agree (NaN with NaN)."""
        retyped = any(change.dtypes[0] != change.dtypes[1] for change in self.changes)
        return not (self.shapes or self.left or self.right or retyped or self.total.changed)


def _wide(x: np.ndarray) -> np.ndarray:
    """As float64; complex numbers as pairs of floats."""
    return (x.view(x.real.dtype) if x.dtype.kind == "c" else x).astype(np.float64)


def _piece(a: np.ndarray, b: np.ndarray) -> Sums:
    x, y = _wide(a), _wide(b)
    finite = np.isfinite(x) & np.isfinite(y)
    if a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8)):
        square = float(np.dot(x, x)) if finite.all() else float(np.square(x[finite]).sum())
        return Sums(square, square, square, size=a.size)
    apart = (a != b) & ~((a != a) & (b != b)) if a.dtype == b.dtype else _apart(x, y)
    if not finite.all():
        x, y = x[finite], y[finite]
    gap = x - y
    absmax = float(np.abs(gap).max(initial=0.0))
    left, right, dot, square = (
        float(np.dot(u, v)) for u, v in ((x, x), (y, y), (x, y), (gap, gap))
    )
    return Sums(left, right, dot, square, absmax, int(np.count_nonzero(apart)), a.size)


def _apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x != y) & ~(np.isnan(x) & np.isnan(y))


def compare(left: Iterable[np.ndarray], right: Iterable[np.ndarray]) -> Sums:
    """Sums over two tensors that stream by, in float64.

    Args:
      left: flat pieces of the first tensor; each is used before the next is taken.
      right: pieces of the second, as long.

    Returns:
      Their sums.

    Example:
        >>> sums = compare([np.array([3.0, 4.0])], [np.array([3.0, 0.0])])
        >>> sums.relative, sums.cosine, sums.absmax, sums.share
        (0.8, 0.6, 4.0, 0.5)
    """
    total = Sums()
    for a, b in zip(left, right, strict=True):
        total = total.join(_piece(a, b))
    return total


class _Entry(NamedTuple):
    dtype: np.dtype
    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[np.ndarray]]


def _entries(path: str | os.PathLike[str], stack: ExitStack) -> dict[str, _Entry]:
    """Every tensor of a checkpoint in any of the formats, in pieces of one length."""
    path = pathlib.Path(path)
    if path.suffix == ".npz" or is_orbax(path):
        return {
            name: _Entry(value.dtype, value.shape, lambda value=value: _cut(value.reshape(-1)))
            for name, value in load(path).items()
        }
    tensors = stack.enter_context(open_tensors(path))
    return {
        name: _Entry(info.dtype, info.shape, lambda name=name: statistics.chunks_of(tensors, name))
        for name, info in tensors.infos.items()
    }


def _cut(flat: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, flat.size, statistics.CHUNK):
        yield flat[start : start + statistics.CHUNK]


def differences(left: str | os.PathLike[str], right: str | os.PathLike[str]) -> Differences:
    """Compare two checkpoints; memory does not depend on the size of safetensors.

    Args:
      left: a safetensors file, an index, a folder, an npz or an Orbax checkpoint.
      right: the same.

    Returns:
      The differences.

    Raises:
      WeightSpaceError: if one of them cannot be read.

    Example:
        >>> import tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"w": np.array([3.0, 4.0])}, f"{folder}/a.npz")
        ...     ws.io.save({"w": np.array([3.0, 0.0]), "b": np.ones(1)}, f"{folder}/b.npz")
        ...     found = differences(f"{folder}/a.npz", f"{folder}/b.npz")
        >>> found.right, found.changes[0].sums.relative, found.same
        (['b'], 0.8, False)
    """
    with ExitStack() as stack:
        first, second = _entries(left, stack), _entries(right, stack)
        changes, shapes, total = [], {}, Sums()
        for name in [name for name in first if name in second]:
            a, b = first[name], second[name]
            if a.shape != b.shape:
                shapes[name] = (a.shape, b.shape)
                continue
            sums = compare(a.chunks(), b.chunks())
            total = total.join(sums)
            changes.append(Change(name, a.shape, (a.dtype.name, b.dtype.name), sums))
    changes.sort(key=lambda change: (-change.sums.relative, -change.sums.share))
    return Differences(
        changes, shapes, [n for n in first if n not in second],
        [n for n in second if n not in first], total,
    )  # fmt: skip
