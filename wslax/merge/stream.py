"""The streaming engine: a method's rounds and combination over chunks, under numpy.

For each tensor the rounds pass over its chunks and measure, then a last pass combines and writes at
the final offset. A chunk of every source fits a core's cache, buffers are reused, and threads take
tensors one by one: memory does not depend on the size of the models.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.globs import matches
from wslax.io.reader import Tensors
from wslax.io.writer import TensorWriter
from wslax.merge.method import Gram, Kth, Leaf, Measure, Member, Total
from wslax.merge.plan import CHUNK, Job, Plan
from wslax.numerics import streaming
from wslax.random import bits

_BF16 = np.dtype(ml_dtypes.bfloat16)
_BLOCKS, _BLOCK = 64, 1024  # a sample for thresholds: this many blocks of this many elements


class Check(NamedTuple):
    """What a merge found out about its output, summed over all elements that were merged.

    Attributes:
      square: squared norm of the output.
      squares: squared norm of each source.
      distances: squared distance of the output to each source.
    """

    square: float
    squares: np.ndarray
    distances: np.ndarray

    def __add__(self, other: Any) -> "Check":
        return Check(
            self.square + other.square,
            self.squares + other.squares,
            self.distances + other.distances,
        )


def widen(raw: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Stored floats to the compute dtype, into a buffer; bfloat16 by a shift of its bits.

    Example:
        >>> widen(np.ones(2, np.float16), np.empty(2, np.float32))
        array([1., 1.], dtype=float32)
    """
    if raw.dtype == _BF16 and out.dtype == np.float32:
        np.left_shift(raw.view(np.uint16), 16, out=out.view(np.uint32), dtype=np.uint32)
    else:
        np.copyto(out, raw, casting="unsafe")
    return out


def narrow(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The compute dtype to the stored one, rounding to nearest even.

    Example:
        >>> narrow(np.ones(2, np.float32), np.dtype(ml_dtypes.bfloat16))
        array([1, 1], dtype=bfloat16)
    """
    if dtype == _BF16 and x.dtype == np.float32:
        word = x.view(np.uint32)
        half = ((word >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
        return ((word + half) >> np.uint32(16)).astype(np.uint16).view(_BF16)
    with np.errstate(over="ignore"):  # an overflow is found by the check of the output
        return x.astype(dtype, copy=False)


class _Scratch(threading.local):
    """Buffers of one thread, by use and dtype."""

    def __init__(self) -> None:
        self.buffers: dict[Any, np.ndarray] = {}

    def get(self, use: Any, dtype: np.dtype, size: int) -> np.ndarray:
        buffer = self.buffers.get((use, dtype))
        if buffer is None:
            buffer = self.buffers[use, dtype] = np.empty(CHUNK, dtype)
        return buffer[:size]


_scratch = _Scratch()


class _Tensor:
    """One tensor being merged: its sources, what was measured, and a chunk at a time."""

    def __init__(self, plan: Plan, job: Job, seed: int, allowed: bool) -> None:
        assert job.compute is not None
        self.plan, self.job, self.seed, self.allowed = plan, job, seed, allowed
        self.size = job.spec.nbytes // job.spec.dtype.itemsize
        self.count = len(plan.models)
        self.sources = [*plan.models, *([plan.base] if plan.base is not None else [])]
        per = {param.name for param in plan.method.params if param.per == "member"}
        self.shared = {k: v for k, v in job.params.items() if k not in per}
        self.columns = {k: v for k, v in job.params.items() if k in per}
        self.params = [
            {**self.shared, **{k: v[i] for k, v in self.columns.items()}} for i in range(self.count)
        ]
        self.measured: list[dict[str, Any]] = [{} for _ in range(self.count)]
        self.shared_measured: dict[str, Any] = {}
        self.start = -1
        self.xs: list[np.ndarray] = []

    def read(self, start: int, size: int) -> None:
        """Make elements `start` to `start + size` the chunk at hand."""
        if start == self.start and self.xs and self.xs[0].size == size:
            return
        self.xs = []
        for i, source in enumerate(self.sources):
            self.xs.append(self._load(i, source, start, size))
        self.start = start

    def _load(self, i: int, source: Tensors, start: int, size: int) -> np.ndarray:
        name, compute = self.job.name, self.job.compute
        stored = source.infos[name].dtype
        assert compute is not None
        if stored == compute:
            return source.read_into(name, start, _scratch.get(("x", i), compute, size))
        raw = source.read_into(name, start, _scratch.get(("raw", i), stored, size))
        return widen(raw, _scratch.get(("x", i), compute, size))

    def chunks(self) -> Iterator[None]:
        for start in range(0, self.size, CHUNK):
            self.read(start, min(CHUNK, self.size - start))
            yield

    def member(self, i: int) -> Member:
        def words(label: str) -> np.ndarray:
            name = f"{self.job.name}#{label}"
            return bits(self.seed, name, self.xs[i].size, member=i, start=self.start)

        base = self.xs[self.count] if self.plan.base is not None else None
        return Member(self.xs[i], base, i, self.params[i], self.measured[i], words)

    def sum(self, fn: Callable[[Member], Any]) -> Any:
        total = fn(self.member(0))
        for i in range(1, self.count):
            more = fn(self.member(i))
            if isinstance(total, tuple):
                total = tuple(_add(a, b, i) for a, b in zip(total, more, strict=True))
            else:
                total = _add(total, more, i)
        return total

    def leaf(self) -> Leaf:
        base = self.xs[self.count] if self.plan.base is not None else None
        shared = self.shared
        return Leaf(np, self.count, self.size, base, shared, self.shared_measured, self.sum)

    def measure(self, name: str, measure: Measure) -> None:
        match measure:
            case Total(terms=terms):
                totals = [np.zeros(0)] * self.count
                for _ in self.chunks():
                    for i in range(self.count):
                        found = [np.sum(t, dtype=np.float64) for t in terms(np, self.member(i))]
                        totals[i] = totals[i] + found if totals[i].size else np.array(found)
                for row, total in zip(self.measured, totals, strict=True):
                    row[name] = tuple(float(t) for t in total)
            case Kth():
                for row, value in zip(self.measured, self._kth(measure), strict=True):
                    row[name] = value
            case Gram(vector=vector):
                gram = np.zeros((self.count, self.count))
                for _ in self.chunks():
                    rows = [vector(np, self.member(i)) for i in range(self.count)]
                    for i in range(self.count):
                        for j in range(i, self.count):
                            gram[i, j] += np.sum(rows[i] * rows[j], dtype=np.float64)
                self.shared_measured[name] = np.triu(gram) + np.triu(gram, 1).T

    def _kth(self, measure: Kth) -> list[float]:
        ranks = [int(measure.count(np, self.member_shell(i), self.size)) for i in range(self.count)]
        bands = [
            streaming.begin(sample, self.size, k)
            for sample, k in zip(self._samples(measure), ranks, strict=True)
        ]
        for _ in self.chunks():
            for i, band in enumerate(bands):
                streaming.update(band, measure.values(np, self.member(i)))
        found = [streaming.finish(band) for band in bands]

        def passes(i: int) -> Iterator[np.ndarray]:
            for _ in self.chunks():
                yield measure.values(np, self.member(i))

        return [
            streaming.by_radix(lambda i=i: passes(i), ranks[i]) if value is None else value
            for i, value in enumerate(found)
        ]

    def member_shell(self, i: int) -> Member:
        """A member without data, for what depends on parameters only."""
        return Member(None, None, i, self.params[i], self.measured[i], lambda label: None)

    def _samples(self, measure: Kth) -> list[np.ndarray]:
        if self.size <= _BLOCKS * _BLOCK:
            starts, width = [0], self.size
        else:
            starts = np.linspace(0, self.size - _BLOCK, _BLOCKS).astype(int).tolist()
            width = _BLOCK
        rows: list[list[np.ndarray]] = [[] for _ in range(self.count)]
        for start in starts:
            self.read(start, width)
            for i in range(self.count):
                rows[i].append(measure.values(np, self.member(i)))
        return [np.concatenate(row) for row in rows]

    def finite(self) -> np.ndarray:
        """Squared norms of the chunk of each source; raises on NaN or infinity."""
        squares = np.array([_square(x) for x in self.xs])
        if not np.isfinite(squares).all() and not self.allowed:
            for source, x in zip(self.sources, self.xs, strict=True):
                bad = x.size - np.count_nonzero(np.isfinite(x))
                if bad:
                    where = self.start + int(np.flatnonzero(~np.isfinite(x))[0])
                    raise WeightSpaceError(
                        f"{self.job.name}: {source.path} holds NaN or infinity (first at element "
                        f"{where}); legal ones are let through by --allow-nonfinite GLOB"
                    )
        return squares

    def merge(self, writer: TensorWriter) -> Check:
        check = Check(0.0, np.zeros(len(self.sources)), np.zeros(len(self.sources)))
        for name, measure in self.plan.method.rounds(self.job.params).items():
            self.measure(name, measure)
        for _ in self.chunks():
            squares = self.finite()
            out = narrow(self.plan.method.combine(self.leaf()), self.job.spec.dtype)
            stored = widen(out, _scratch.get("out", self.xs[0].dtype, out.size))
            square = _square(stored)
            if not np.isfinite(square) and not self.allowed and not np.isfinite(stored).all():
                raise WeightSpaceError(
                    f"{self.job.name}: the result overflows {out.dtype}; choose a wider out_dtype"
                )
            writer.write(self.job.name, self.start, out)
            gaps = [_square(np.subtract(stored, x, out=_gap(x))) for x in self.xs]
            check += Check(square, squares, np.array(gaps))
        return check


def _gap(x: np.ndarray) -> np.ndarray:
    return _scratch.get("gap", x.dtype, x.size)


def _square(x: np.ndarray) -> float:
    # einsum keeps to one thread; BLAS would start its own beside ours.
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.einsum("i,i->", x, x))


def _add(a: Any, b: Any, turn: int) -> Any:
    if turn > 1 and isinstance(a, np.ndarray) and a.ndim:
        return np.add(a, b, out=a)
    return a + b


def _copy(plan: Plan, job: Job, writer: TensorWriter) -> None:
    """A tensor that holds no floats: kept when all models agree on it."""
    sources = [*plan.models, *([plan.base] if plan.base is not None else [])]
    size = job.spec.nbytes // job.spec.dtype.itemsize
    for start in range(0, size, CHUNK):
        count = min(CHUNK, size - start)
        first = sources[0].read_into(job.name, start, np.empty(count, job.spec.dtype))
        for source in sources[1:]:
            other = source.read_into(job.name, start, np.empty(count, job.spec.dtype))
            if first.tobytes() != other.tobytes():
                raise WeightSpaceError(
                    f"{job.name}: {job.spec.dtype} tensors are not averaged, and {source.path} "
                    f"differs from {sources[0].path}"
                )
        writer.write(job.name, start, first)


def execute(
    plan: Plan,
    writer: TensorWriter,
    *,
    seed: int = 0,
    threads: int = 2,
    allow_nonfinite: tuple[str, ...] = (),
    progress: Callable[[int], None] | None = None,
) -> Check:
    """Merge every tensor of a plan into a writer.

    Args:
      plan: from `make_plan`.
      writer: holds the plan's tensors.
      seed: key of random methods.
      threads: tensors worked on at a time; the result does not depend on it.
      allow_nonfinite: globs of tensors that may hold NaN or infinity.
      progress: told the bytes written, tensor by tensor, in the calling thread.

    Returns:
      Norms and distances.

    Raises:
      WeightSpaceError: NaN or infinity in an input, an overflow of the output's dtype, integer
        tensors that differ, a file that ends early.

    Example:
        See `wslax.merge.checkpoints`, which calls it.

        >>> execute.__name__
        'execute'
    """
    sources = len(plan.models) + (plan.base is not None)
    nothing = Check(0.0, np.zeros(sources), np.zeros(sources))

    def work(job: Job) -> tuple[int, Check]:
        if job.compute is None:
            _copy(plan, job, writer)
            return job.spec.nbytes, nothing
        allowed = any(matches(job.name, glob) for glob in allow_nonfinite)
        return job.spec.nbytes, _Tensor(plan, job, seed, allowed).merge(writer)

    largest_first = sorted(plan.jobs, key=lambda job: -job.spec.nbytes)
    found: dict[str, Check] = {}
    with ThreadPoolExecutor(threads) as pool:
        futures = {job.name: pool.submit(work, job) for job in largest_first}
        try:
            for name, future in futures.items():
                done, found[name] = future.result()
                if progress is not None:
                    progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return sum((found[job.name] for job in plan.jobs), nothing)
