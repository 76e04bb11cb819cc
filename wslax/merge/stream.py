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
from typing import Any, NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.globs import matches
from wslax.io.writer import TensorWriter
from wslax.merge import host
from wslax.merge.measures import take
from wslax.merge.plan import Job, Plan, chunk_of, sources_of
from wslax.merge.tensor import Stopped, Tensor, scratch


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


def _merge(tensor: Tensor, writer: TensorWriter) -> Check:
    for name, measure in tensor.plan.method.rounds(tensor.job.params).items():
        take(tensor, name, measure)
    check = Check(0.0, np.zeros(len(tensor.sources)))
    for _ in tensor.chunks():
        merged = np.broadcast_to(tensor.plan.method.combine(tensor.leaf()), tensor.xs[0].shape)
        out = merged.astype(tensor.job.spec.dtype, copy=False).reshape(-1)
        writer.write(tensor.job.name, tensor.start, out)
        check += _check(tensor, out)
    return check


def _check(tensor: Tensor, out: np.ndarray) -> Check:
    """Norm and distances of the chunk as stored; raises on NaN or infinity."""
    stored, xs = out, [x.reshape(-1) for x in tensor.xs]
    if out.dtype != tensor.compute:
        stored = scratch.get("stored", tensor.compute, out.size)
        np.copyto(stored, out, casting="unsafe")
    check = _distances(stored, xs)
    if not np.isfinite([check.square, *check.distances]).all():
        _refuse_nonfinite(tensor, out)
        # All are finite: the squares overflowed float32.
        check = _distances(stored.astype(float), [x.astype(float) for x in xs])
    return check


def _distances(stored: np.ndarray, xs: list[np.ndarray]) -> Check:
    gap = scratch.get("gap", stored.dtype, stored.size)
    squares = []
    for x in xs:
        np.subtract(stored, x, out=gap)
        squares.append(host.dot(gap, gap))
    return Check(host.dot(stored, stored), np.array(squares))


def _refuse_nonfinite(tensor: Tensor, out: np.ndarray) -> None:
    for source, x in zip(tensor.sources, tensor.xs, strict=True):
        bad = np.flatnonzero(~np.isfinite(x))
        if bad.size:
            raise WeightSpaceError(
                f"{tensor.job.name}: {source.path} holds NaN or infinity (first at element "
                f"{tensor.start + int(bad[0])}); where that is meant, --allow-nonfinite "
                f"{tensor.job.name!r} copies the tensor"
            )
    if not np.isfinite(out).all():
        raise WeightSpaceError(
            f"{tensor.job.name}: the result overflows {out.dtype}; choose a wider out_dtype or "
            "smaller weights"
        )


def _keep(tensor: Tensor, writer: TensorWriter) -> None:
    """Keep what all models agree on, NaN and infinity included."""
    for _ in tensor.chunks():
        for source, x in zip(tensor.sources[1:], tensor.xs[1:], strict=True):
            if not np.array_equal(x.view(np.uint8), tensor.xs[0].view(np.uint8)):
                raise WeightSpaceError(
                    f"{tensor.job.name}: may hold NaN or infinity, so it is copied and not "
                    f"merged, but {source.path} differs from {tensor.sources[0].path}"
                )
        writer.write(tensor.job.name, tensor.start, tensor.xs[0].astype(tensor.job.spec.dtype))


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
            tensor = Tensor(plan, job, seed, step, stop)
            with np.errstate(all="ignore"):  # NaN, infinity and overflow are found by the check
                if any(matches(job.name, glob) for glob in allow_nonfinite):
                    _keep(tensor, writer)
                    return nothing
                return _merge(tensor, writer)
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
                if not isinstance(error, Stopped):
                    raise
                failed = [f.exception() for f in futures if not f.cancelled()]
                raise next(e for e in failed if e and not isinstance(e, Stopped)) from None
    finally:
        for source in sources_of(plan):
            source.close()
    found = {job.name: future.result() for future, job in futures.items()}
    return sum((found[job.name] for job in plan.jobs), nothing)
