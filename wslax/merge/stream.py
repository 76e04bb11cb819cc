"""The streaming engine: a method's rounds and combination over chunks, under numpy.

For each tensor the rounds pass over its chunks and measure, then a last pass combines and writes at
the final offset. A chunk of every source fits a core's cache, buffers are reused, and threads take
tensors one by one: memory does not depend on the size of the models.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.globs import matches
from wslax.io.writer import TensorWriter
from wslax.merge import host
from wslax.merge.method import Gram, Kth, Leaf, Measure, Member, Total
from wslax.merge.plan import KEPT, Job, Plan, chunk_of, sample_of, sources_of
from wslax.numerics import streaming
from wslax.random import bits

_BLOCK = 1024  # elements of one piece of a sample


class Check(NamedTuple):
    """What a merge found out about its output, summed over all elements that were merged.

    Attributes:
      square: squared norm of the output.
      distances: squared distance of the output to each source.
    """

    square: float
    distances: np.ndarray

    def __add__(self, other: Any) -> "Check":
        return Check(self.square + other.square, self.distances + other.distances)


class _Stopped(Exception):
    """Another thread has failed, or the caller gave up."""


class _Chunk(Member):
    """A member's part of the chunk at hand; the task vector is computed once."""

    @cached_property
    def delta(self) -> Any:  # type: ignore[override]
        return self.x - self.base


class _Scratch(threading.local):
    """Buffers of one thread, by use and dtype."""

    def __init__(self) -> None:
        self.buffers: dict[Any, np.ndarray] = {}

    def get(self, use: Any, dtype: np.dtype, size: int) -> np.ndarray:
        buffer = self.buffers.get((use, dtype))
        if buffer is None or buffer.size < size:
            buffer = self.buffers[use, dtype] = np.empty(size, dtype)
        return buffer[:size]


_scratch = _Scratch()


def _settle_malloc() -> None:
    """Let malloc keep freed temporaries for reuse instead of returning their pages each time.

    glibc raises its thresholds to the size of a mapped block that is freed, up to 32 MB; the block
    itself is never touched.
    """
    np.empty(31 << 20, np.uint8)


class _Tensor:
    """One tensor being merged: its sources, what was measured, and a chunk at a time."""

    def __init__(self, plan: Plan, job: Job, seed: int, chunk: int, stop: threading.Event) -> None:
        assert job.compute is not None
        self.plan, self.job, self.seed, self.chunk, self.stop = plan, job, seed, chunk, stop
        self.compute = job.compute
        self.size = job.spec.size
        self.count = len(plan.models)
        self.sources = sources_of(plan)
        per = {param.name for param in plan.method.params if param.per == "member"}
        self.shared = {k: self._typed(v) for k, v in job.params.items() if k not in per}
        self.exact = [
            {k: v[i] if k in per else v for k, v in job.params.items()} for i in range(self.count)
        ]
        self.params = [{k: self._typed(v) for k, v in row.items()} for row in self.exact]
        self.measured: list[dict[str, Any]] = [{} for _ in range(self.count)]
        self.shared_measured: dict[str, Any] = {}
        self.start, self.xs, self.members = -1, [], []

    def _typed(self, value: Any) -> Any:
        return value if isinstance(value, bool) else self.compute.type(value)

    @property
    def base(self) -> np.ndarray | None:
        return self.xs[self.count] if self.plan.base is not None else None

    def read(self, start: int, size: int) -> None:
        """Make elements `start` to `start + size` the chunk at hand."""
        if self.stop.is_set():
            raise _Stopped
        if start != self.start or self.xs[0].size != size:
            self.xs = [self._load(i, start, size) for i in range(len(self.sources))]
            self.start = start
            self.members = [None] * self.count

    def _load(self, i: int, start: int, size: int) -> np.ndarray:
        source, name = self.sources[i], self.job.name
        stored, x = source.infos[name].dtype, _scratch.get(("x", i), self.compute, size)
        if stored == self.compute:
            return source.read_into(name, start, x)
        raw = source.read_into(name, start, _scratch.get(("raw", i), stored, size))
        np.copyto(x, raw, casting="unsafe")
        return x

    def chunks(self) -> Iterator[None]:
        for start in range(0, self.size, self.chunk):
            self.read(start, min(self.chunk, self.size - start))
            yield

    def member(self, i: int) -> Member:
        if self.members[i] is None:
            drawn: dict[str, np.ndarray] = {}
            start, size = self.start, self.xs[i].size

            def words(label: str) -> np.ndarray:
                if label not in drawn:
                    name = f"{self.job.name}#{label}"
                    drawn[label] = bits(self.seed, name, size, member=i, start=start)
                return drawn[label]

            row = self.measured[i]
            self.members[i] = _Chunk(self.xs[i], self.base, i, self.params[i], row, words)
        return self.members[i]

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
        shared, found = self.shared, self.shared_measured
        return Leaf(host.xp, self.count, self.size, self.base, shared, found, self.sum)

    def measure(self, name: str, measure: Measure) -> None:
        match measure:
            case Total(terms=terms):
                for row, value in zip(self.measured, self._totals(terms), strict=True):
                    row[name] = tuple(np.float64(v) for v in value)
            case Kth():
                for row, value in zip(self.measured, self._kth(measure), strict=True):
                    row[name] = self._typed(value)
            case Gram(vector=vector):
                self.shared_measured[name] = self._gram(vector)

    def _totals(self, terms: Any) -> list[list[float]]:
        totals: list[list[float]] = [[] for _ in range(self.count)]
        for _ in self.chunks():
            for i in range(self.count):
                found = [host.total(term) for term in terms(host.xp, self.member(i))]
                before = totals[i] or [0.0] * len(found)
                totals[i] = [a + b for a, b in zip(before, found, strict=True)]
        return totals

    def _gram(self, vector: Any) -> np.ndarray:
        gram = np.zeros((self.count, self.count))
        for _ in self.chunks():
            rows = [vector(host.xp, self.member(i)) for i in range(self.count)]
            for i in range(self.count):
                for j in range(i, self.count):
                    gram[i, j] += host.dot(rows[i], rows[j])
        return np.triu(gram) + np.triu(gram, 1).T

    def _kth(self, measure: Kth) -> list[float]:
        shells = [
            Member(None, None, i, row, self.measured[i], lambda label: None)
            for i, row in enumerate(self.exact)
        ]
        ranks = [int(measure.count(host.xp, shell, self.size)) for shell in shells]
        # A rank at the end keeps everything, one before the start nothing: no pass is needed.
        found = [0.0 if k >= self.size else float("inf") for k in ranks]
        wanted = [i for i, k in enumerate(ranks) if 1 <= k < self.size]
        _, margin = sample_of(self.size)
        kept = int(2 * margin * self.size) * self.compute.itemsize
        together = max(1, KEPT // max(kept, 1))
        for first in range(0, len(wanted), together):
            self._kth_of(measure, wanted[first : first + together], ranks, found)
        return found

    def _kth_of(self, measure: Kth, which: list[int], ranks: list[int], found: list[float]) -> None:
        def values(i: int) -> np.ndarray:
            return measure.values(host.xp, self.member(i))

        def passes(i: int) -> Iterator[np.ndarray]:
            return (values(i) for _ in self.chunks())

        blocks, margin = sample_of(self.size)
        starts = [0]
        if self.size > blocks * _BLOCK:
            starts = np.linspace(0, self.size - _BLOCK, blocks).astype(int).tolist()
        pieces: dict[int, list[np.ndarray]] = {i: [] for i in which}
        for start in starts:
            self.read(start, self.size if len(starts) == 1 else _BLOCK)
            for i in which:
                pieces[i].append(np.array(values(i)))
        bands = {
            i: streaming.begin(np.concatenate(pieces.pop(i)), self.size, ranks[i], margin)
            for i in which
        }
        for _ in self.chunks():
            for i, band in bands.items():
                streaming.update(band, values(i))
        for i in which:
            value = streaming.finish(bands.pop(i))
            if value is None:
                value = streaming.by_radix(lambda i=i: passes(i), ranks[i])
            found[i] = value

    def merge(self, writer: TensorWriter) -> Check:
        for name, measure in self.plan.method.rounds(self.job.params).items():
            self.measure(name, measure)
        check = Check(0.0, np.zeros(len(self.sources)))
        for _ in self.chunks():
            merged = np.broadcast_to(self.plan.method.combine(self.leaf()), self.xs[0].shape)
            out = merged.astype(self.job.spec.dtype, copy=False)
            writer.write(self.job.name, self.start, out)
            check += self._check(out)
        return check

    def _check(self, out: np.ndarray) -> Check:
        """Norm and distances of the chunk as stored; raises on NaN or infinity."""
        stored = out
        if out.dtype != self.compute:
            stored = _scratch.get("stored", self.compute, out.size)
            np.copyto(stored, out, casting="unsafe")
        check = self._distances(stored, self.xs)
        if not np.isfinite([check.square, *check.distances]).all():
            self._refuse_nonfinite(out)
            # All are finite: the squares overflowed float32.
            check = self._distances(stored.astype(float), [x.astype(float) for x in self.xs])
        return check

    def _distances(self, stored: np.ndarray, xs: list[np.ndarray]) -> Check:
        gap = _scratch.get("gap", stored.dtype, stored.size)
        squares = []
        for x in xs:
            np.subtract(stored, x, out=gap)
            squares.append(host.dot(gap, gap))
        return Check(host.dot(stored, stored), np.array(squares))

    def _refuse_nonfinite(self, out: np.ndarray) -> None:
        for source, x in zip(self.sources, self.xs, strict=True):
            bad = np.flatnonzero(~np.isfinite(x))
            if bad.size:
                raise WeightSpaceError(
                    f"{self.job.name}: {source.path} holds NaN or infinity (first at element "
                    f"{self.start + int(bad[0])}); where that is meant, --allow-nonfinite "
                    f"{self.job.name!r} copies the tensor"
                )
        if not np.isfinite(out).all():
            raise WeightSpaceError(
                f"{self.job.name}: the result overflows {out.dtype}; choose a wider out_dtype or "
                "smaller weights"
            )

    def copy(self, writer: TensorWriter) -> None:
        """Keep what all models agree on, NaN and infinity included."""
        for _ in self.chunks():
            for source, x in zip(self.sources[1:], self.xs[1:], strict=True):
                if not np.array_equal(x.view(np.uint8), self.xs[0].view(np.uint8)):
                    raise WeightSpaceError(
                        f"{self.job.name}: may hold NaN or infinity, so it is copied and not "
                        f"merged, but {source.path} differs from {self.sources[0].path}"
                    )
            writer.write(self.job.name, self.start, self.xs[0].astype(self.job.spec.dtype))


def _add(a: Any, b: Any, turn: int) -> Any:
    # The first sum made a fresh array; later ones go into it.
    if turn > 1 and isinstance(a, np.ndarray) and a.ndim and np.result_type(a, b) == a.dtype:
        return np.add(a, b, out=a)
    return a + b


def _copy(plan: Plan, job: Job, writer: TensorWriter, chunk: int) -> None:
    """A tensor that holds no floats: kept when all models agree on it."""
    first, *others = sources_of(plan)
    for start in range(0, job.spec.size, chunk):
        count = min(chunk, job.spec.size - start)
        kept = first.read_into(job.name, start, np.empty(count, job.spec.dtype))
        for source in others:
            other = source.read_into(job.name, start, np.empty(count, job.spec.dtype))
            if kept.tobytes() != other.tobytes():
                raise WeightSpaceError(
                    f"{job.name}: {job.spec.dtype} tensors are not averaged, and {source.path} "
                    f"differs from {first.path}"
                )
        writer.write(job.name, start, kept)


@contextmanager
def _flushing(writer: TensorWriter) -> Iterator[None]:
    """Send what is written to the disk meanwhile, so that the sync at the end is short."""
    done = threading.Event()
    files = {place.descriptor for place in writer.places.values()}

    def flush() -> None:
        while not done.wait(0.05):
            for file in files:
                os.fdatasync(file)

    thread = threading.Thread(target=flush, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def execute(
    plan: Plan,
    writer: TensorWriter,
    *,
    seed: int = 0,
    threads: int = 2,
    chunk: int | None = None,
    allow_nonfinite: tuple[str, ...] = (),
    progress: Callable[[int], None] | None = None,
) -> Check:
    """Merge every tensor of a plan into a writer.

    Args:
      plan: from `make_plan`.
      writer: holds the plan's tensors.
      seed: key of random methods.
      threads: tensors worked on at a time; the result does not depend on it.
      chunk: elements at a time; a choice of its own by default. The result depends on it at most
        in the last bit of sums over the tensor.
      allow_nonfinite: globs of tensors that may hold NaN or infinity: they are copied, and must be
        the same in all inputs.
      progress: told the bytes written, tensor by tensor, in the calling thread.

    Returns:
      Norms and distances.

    Raises:
      WeightSpaceError: NaN or infinity in an input, an overflow of the output's dtype, integer
        tensors that differ, a file that ends early.

    Example:
        See `wslax.merge.disk.checkpoints`, which calls it.

        >>> execute.__name__
        'execute'
    """
    nothing = Check(0.0, np.zeros(len(sources_of(plan))))
    step = chunk or chunk_of(len(sources_of(plan)))
    stop = threading.Event()
    _settle_malloc()

    def work(job: Job) -> Check:
        try:
            if job.compute is None:
                _copy(plan, job, writer, step)
                return nothing
            tensor = _Tensor(plan, job, seed, step, stop)
            with np.errstate(all="ignore"):  # NaN, infinity and overflow are found by the check
                if any(matches(job.name, glob) for glob in allow_nonfinite):
                    tensor.copy(writer)
                    return nothing
                return tensor.merge(writer)
        except BaseException:
            stop.set()
            raise

    largest_first = sorted(plan.jobs, key=lambda job: -job.spec.nbytes)
    try:
        with _flushing(writer), ThreadPoolExecutor(threads) as pool:
            futures = {pool.submit(work, job): job for job in largest_first}
            try:
                for future in as_completed(futures):
                    future.result()
                    if progress is not None:
                        progress(futures[future].spec.nbytes)
            except BaseException as error:
                stop.set()
                pool.shutdown(cancel_futures=True)
                if not isinstance(error, _Stopped):
                    raise
                failed = [f.exception() for f in futures if not f.cancelled()]
                raise next(e for e in failed if e and not isinstance(e, _Stopped)) from None
    finally:
        for source in sources_of(plan):
            source.close()
    found = {job.name: future.result() for future, job in futures.items()}
    return sum((found[job.name] for job in plan.jobs), nothing)
