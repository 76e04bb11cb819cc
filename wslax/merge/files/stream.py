"""The streaming engine: a method's rounds and combination over chunks, under numpy.

For each tensor the rounds pass over its chunks and measure, then a last pass combines and writes at
the final offset. A chunk of every source fits a core's cache, buffers are reused, and threads take
tensors one by one: memory does not depend on the size of the models.
"""

import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.globs import matches
from wslax.io.writer import TensorWriter
from wslax.merge.files import host
from wslax.merge.files.measures import take
from wslax.merge.files.plan import Job, Plan, chunk_of, most_sources
from wslax.merge.files.scratch import scratch
from wslax.merge.files.tensor import Stopped, Tensor


class Check(NamedTuple):
    """What a merge found out about one tensor of its output.

    Attributes:
      crc32: of the bytes as stored.
      square: squared norm; 0 for a tensor that was copied.
      distances: squared distance to each of the tensor's parts.
    """

    crc32: int
    square: float
    distances: tuple[float, ...]

    def after(self, part: "Check") -> "Check":
        """With the next chunk, whose `crc32` goes on from this one's."""
        added = tuple(a + b for a, b in zip(self.distances, part.distances, strict=True))
        return Check(part.crc32, self.square + part.square, added)


def _nothing(job: Job) -> Check:
    return Check(0, 0.0, (0.0,) * len(job.parts))


def _put(writer: TensorWriter, job: Job, start: int, values: np.ndarray, crc32: int) -> int:
    """Write the next chunk; returns the checksum up to here."""
    values = np.ascontiguousarray(values)
    writer.write(job.name, start, values)
    return zlib.crc32(values.view(np.uint8).data, crc32) if values.size else crc32


def _merge(tensor: Tensor, writer: TensorWriter) -> Check:
    for name, measure in tensor.plan.method.rounds(tensor.job.params).items():
        take(tensor, name, measure)
    check = _nothing(tensor.job)
    for _ in tensor.chunks():
        merged = np.broadcast_to(tensor.plan.method.combine(tensor.leaf()), tensor.xs[0].shape)
        out = merged.astype(tensor.job.spec.dtype, copy=False).reshape(-1)
        crc32 = _put(writer, tensor.job, tensor.start, out, check.crc32)
        check = check.after(_check(tensor, out, crc32))
    return check


def _check(tensor: Tensor, out: np.ndarray, crc32: int) -> Check:
    """Norm and distances of the chunk as stored; raises on NaN or infinity."""
    stored, xs = out, [x.reshape(-1) for x in tensor.xs]
    if out.dtype != tensor.compute:
        stored = scratch.get("stored", tensor.compute, out.size)
        np.copyto(stored, out, casting="unsafe")
    square, distances = _distances(stored, xs)
    if not np.isfinite([square, *distances]).all():
        _refuse_nonfinite(tensor, out)
        # All are finite: the squares overflowed float32.
        square, distances = _distances(stored.astype(float), [x.astype(float) for x in xs])
    return Check(crc32, square, distances)


def _distances(stored: np.ndarray, xs: list[np.ndarray]) -> tuple[float, tuple[float, ...]]:
    gap = scratch.get("gap", stored.dtype, stored.size)
    squares = []
    for x in xs:
        np.subtract(stored, x, out=gap)
        squares.append(host.dot(gap, gap))
    return float(host.dot(stored, stored)), tuple(map(float, squares))


def _refuse_nonfinite(tensor: Tensor, out: np.ndarray) -> None:
    for part, x in zip(tensor.parts, tensor.xs, strict=True):
        bad = np.flatnonzero(~np.isfinite(x))
        if bad.size:
            raise WeightSpaceError(
                f"{tensor.job.name}: {part.path} holds NaN or infinity (first at element "
                f"{tensor.start + int(bad[0])}); where that is meant, --allow-nonfinite "
                f"{tensor.job.name!r} copies the tensor"
            )
    if not np.isfinite(out).all():
        raise WeightSpaceError(
            f"{tensor.job.name}: the result overflows {out.dtype}; choose a wider out_dtype or "
            "smaller weights, or such that do not sum to zero"
        )


def _keep(tensor: Tensor, writer: TensorWriter) -> Check:
    """Keep what all models agree on, NaN and infinity included."""
    check = _nothing(tensor.job)
    for _ in tensor.chunks():
        for part, x in zip(tensor.parts[1:], tensor.xs[1:], strict=True):
            if not np.array_equal(x.view(np.uint8), tensor.xs[0].view(np.uint8)):
                raise WeightSpaceError(
                    f"{tensor.job.name}: may hold NaN or infinity, so it is copied and not "
                    f"merged, but {part.path} differs from {tensor.parts[0].path}"
                )
        kept = tensor.xs[0].astype(tensor.job.spec.dtype)
        crc32 = _put(writer, tensor.job, tensor.start, kept, check.crc32)
        check = check._replace(crc32=crc32)
    return check


def _copy(job: Job, writer: TensorWriter, chunk: int) -> Check:
    """A tensor that holds no floats: kept when all models agree on it."""
    check, (first, *others) = _nothing(job), job.parts
    for start in range(0, job.spec.size, chunk):
        count = min(chunk, job.spec.size - start)
        kept, other = np.empty(count, job.spec.dtype), np.empty(count, job.spec.dtype)
        first.read(start, kept)
        for part in others:
            part.read(start, other)
            if kept.tobytes() != other.tobytes():
                raise WeightSpaceError(
                    f"{job.name}: {job.spec.dtype} tensors are not averaged, and {part.path} "
                    f"differs from {first.path}"
                )
        check = check._replace(crc32=_put(writer, job, start, kept, check.crc32))
    return check


def _settle_malloc() -> None:
    """Let malloc keep freed temporaries for reuse instead of returning their pages each time.

    glibc raises its thresholds to the size of a mapped block that is freed, up to 32 MB; the block
    itself is never touched.
    """
    np.empty(31 << 20, np.uint8)


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
    done: Mapping[str, Check] = MappingProxyType({}),
    told: Callable[[Job, Check], None] | None = None,
) -> dict[str, Check]:
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
      done: what was found out about tensors that are written already.
      told: called in this thread with each tensor that is written, and what was found out.

    Returns:
      What was found out about each tensor, in the plan's order.

    Raises:
      WeightSpaceError: NaN or infinity in an input, an overflow of the output's dtype, integer
        tensors that differ, a file that ends early.
    """
    step = chunk or chunk_of(most_sources(plan.jobs))
    stop = threading.Event()
    _settle_malloc()

    def work(job: Job) -> Check:
        try:
            if job.compute is None:
                return _copy(job, writer, step)
            tensor = Tensor(plan, job, seed, step, stop)
            with np.errstate(all="ignore"):  # NaN, infinity and overflow are found by the check
                if any(matches(job.name, glob) for glob in allow_nonfinite):
                    return _keep(tensor, writer)
                return _merge(tensor, writer)
        except BaseException:
            stop.set()
            raise

    found = dict(done)
    largest_first = sorted(
        (job for job in plan.jobs if job.name not in done), key=lambda job: -job.spec.nbytes
    )
    try:
        with _flushing(writer), ThreadPoolExecutor(threads) as pool:
            futures = {pool.submit(work, job): job for job in largest_first}
            try:
                for future in as_completed(futures):
                    job = futures[future]
                    found[job.name] = future.result()
                    if told is not None:
                        told(job, found[job.name])
            except BaseException as error:
                stop.set()
                pool.shutdown(cancel_futures=True)
                if not isinstance(error, Stopped):
                    raise
                failed = [f.exception() for f in futures if not f.cancelled()]
                raise next(e for e in failed if e and not isinstance(e, Stopped)) from None
    finally:
        for model in plan.models:
            model.tensors.close()
    return {job.name: found[job.name] for job in plan.jobs}
