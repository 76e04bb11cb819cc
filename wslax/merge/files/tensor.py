"""One tensor of a streaming merge: a chunk of every source at hand, under numpy."""

import threading
from collections import ChainMap
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from wslax.merge.files import host
from wslax.merge.files.plan import Job, Plan, whole_rows
from wslax.merge.files.scratch import scratch
from wslax.merge.method import Leaf, Made, Member
from wslax.random import bits


class Stopped(Exception):
    """Another thread has failed, or the caller gave up."""


class _Chunk(Member):
    """A member's part of the chunk at hand; the task vector is computed once."""

    @cached_property
    def delta(self) -> Any:  # type: ignore[override]
        return self.x - self.base


class Tensor:
    """One tensor being merged: its sources, what was measured, and a chunk at a time."""

    def __init__(self, plan: Plan, job: Job, seed: int, chunk: int, stop: threading.Event) -> None:
        assert job.compute is not None
        self.plan, self.job, self.seed, self.stop = plan, job, seed, stop
        self.chunk = whole_rows(chunk, job.row)
        self.compute = job.compute
        self.view = None if job.row is None else (-1, job.row)
        if plan.method.scope(job.params) == "whole":
            self.view = job.spec.shape
        self.size = job.spec.size
        self.count, self.parts = job.count, job.parts
        per = {param.name for param in plan.method.params if param.per == "member"}
        self.shared = {k: self.typed(v) for k, v in job.params.items() if k not in per}
        self.exact = [
            {k: v[i] if k in per else v for k, v in job.params.items()} for i in range(self.count)
        ]
        self.params = [{k: self.typed(v) for k, v in row.items()} for row in self.exact]
        self.measured: list[dict[str, Any]] = [{} for _ in range(self.count)]
        self.shared_measured: dict[str, Any] = {}
        self.makers: dict[str, Callable[[], Any]] = {}
        self.each: dict[str, Callable[[Any, Member], Any]] = {}
        self.kept: dict[tuple[str, int, int], Any] = {}
        self.start, self.xs, self.members, self.at_hand = -1, [], [], Made({})
        self.passing = False

    def typed(self, value: Any) -> Any:
        """A parameter in the compute dtype, so that arithmetic stays in it."""
        return value if isinstance(value, (bool, int)) else self.compute.type(value)

    @property
    def base(self) -> np.ndarray | None:
        """The base's part of the chunk, or None."""
        return self.xs[self.count] if len(self.parts) > self.count else None

    def read(self, start: int, size: int) -> None:
        """Make elements `start` to `start + size` the chunk at hand."""
        if self.stop.is_set():
            raise Stopped
        if start != self.start or self.xs[0].size != size:
            self.xs = [self._load(i, start, size) for i in range(len(self.parts))]
            self.start = start
            self.members = [None] * self.count
            self.at_hand = Made(self.makers)

    def _load(self, i: int, start: int, size: int) -> np.ndarray:
        x = scratch.get(("x", i), self.compute, size)
        self.parts[i].read(start, x)
        return x if self.view is None else x.reshape(self.view)

    def chunks(self) -> Iterator[None]:
        """One pass: each chunk in turn is the one at hand."""
        self.passing = True
        for start in range(0, self.size, self.chunk):
            self.read(start, min(self.chunk, self.size - start))
            yield
        self.passing = False

    def member(self, i: int) -> Member:
        """Member `i` at the chunk at hand; made once a chunk, so that what it caches is kept."""
        if self.members[i] is None:
            drawn: dict[str, np.ndarray] = {}
            start, x = self.start, self.xs[i]

            def words(label: str) -> np.ndarray:
                if label not in drawn:
                    name = f"{self.job.name}#{label}"
                    found = bits(self.seed, name, x.size, member=i, start=start)
                    drawn[label] = found.reshape(x.shape)
                return drawn[label]

            made = Made({name: lambda name=name: self._each(name, i) for name in self.each})
            measured = ChainMap(self.measured[i], self.shared_measured, self.at_hand, made)
            self.members[i] = _Chunk(x, self.base, i, self.params[i], measured, words)
        return self.members[i]

    def _each(self, name: str, i: int) -> Any:
        """An `Each` of the chunk at hand: made in the first pass over it, kept for later ones."""
        key, shape = (name, i, self.start), self.xs[i].shape
        if key not in self.kept or not self.passing:
            value = self.each[name](host.xp, self.member(i))
            if self.passing:
                self.kept[key] = np.packbits(value) if value.dtype == bool else value
            return value
        value = self.kept[key]
        if value.dtype != np.uint8:
            return value
        return np.unpackbits(value, count=self.xs[i].size).view(bool).reshape(shape)

    def sum(self, fn: Callable[[Member], Any]) -> Any:
        """`Leaf.sum` over the members at hand."""
        total = fn(self.member(0))
        for i in range(1, self.count):
            more = fn(self.member(i))
            if isinstance(total, tuple):
                total = tuple(_add(a, b, i) for a, b in zip(total, more, strict=True))
            else:
                total = _add(total, more, i)
        return total

    def stack(self, fn: Callable[[Member], Any]) -> np.ndarray:
        """`Leaf.stack` over the members at hand."""
        return np.stack([fn(self.member(i)) for i in range(self.count)])

    def leaf(self) -> Leaf:
        """What a method combines."""
        found = ChainMap(self.shared_measured, self.at_hand)
        shared, size = self.shared, self.size
        return Leaf(
            host.xp, self.job.name, self.count, size, self.base, shared, found, self.sum,
            self.stack, _repeat,
        )  # fmt: skip


def _repeat(times: int, step: Callable[[Any], Any], state: Any) -> Any:
    for _ in range(times):
        state = step(state)
    return state


def _add(a: Any, b: Any, turn: int) -> Any:
    if np.ndim(b) == 0 and b == 0 and np.ndim(a):
        return a
    # The first sum made a fresh array; later ones go into it.
    if turn > 1 and isinstance(a, np.ndarray) and a.ndim and np.result_type(a, b) == a.dtype:
        return np.add(a, b, out=a)
    return a + b
