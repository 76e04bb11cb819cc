"""The rounds of a streaming merge: sums, products and thresholds over a tensor's chunks."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from wslax.merge.files import host
from wslax.merge.files.plan import KEPT, sample_of
from wslax.merge.files.tensor import Tensor
from wslax.merge.method import Across, Each, Gram, Kth, Measure, Member, Scope, Total
from wslax.numerics import streaming

_BLOCK = 1024  # elements of one piece of a sample


def take(tensor: Tensor, name: str, measure: Measure) -> None:
    """Carry out one round over a tensor's chunks; the result goes where the method reads it.

    What only needs the chunk at hand, such as products along its rows, is left for then.
    """
    scope = tensor.plan.method.scope(tensor.job.params)
    match measure:
        case Across(values=values):
            tensor.makers[name] = lambda: values(tensor.leaf())
        case Each(values=values):
            tensor.each[name] = values
        case Gram(vector=vector) if scope == "row":
            tensor.makers[name] = lambda: _products(tensor, vector, scope)
        case Gram(vector=vector):
            tensor.shared_measured[name] = sum(
                _products(tensor, vector, scope) for _ in tensor.chunks()
            )
        case Total() | Kth():
            found = (
                _totals(tensor, measure) if isinstance(measure, Total) else _kth(tensor, measure)
            )
            rows = tensor.measured if measure.per == "member" else [tensor.shared_measured]
            for row, value in zip(rows, found, strict=True):
                row[name] = tuple(value)


def _members(tensor: Tensor, measure: Total | Kth) -> range:
    return range(tensor.count if measure.per == "member" else 1)


def _totals(tensor: Tensor, measure: Total) -> list[list[np.float64]]:
    totals: list[list[np.float64]] = [[] for _ in _members(tensor, measure)]
    for _ in tensor.chunks():
        for i, total in enumerate(totals):
            found = [
                np.float64(host.total(term)) for term in measure.terms(host.xp, tensor.member(i))
            ]
            totals[i] = [a + b for a, b in zip(total or [0.0] * len(found), found, strict=True)]
    return totals


def _products(tensor: Tensor, vector: Any, scope: Scope) -> np.ndarray:
    """Inner products of the chunk at hand, of all of it, of its rows or of its columns."""
    rows = [vector(host.xp, tensor.member(i)) for i in range(tensor.count)]
    found = {
        (i, j): _PRODUCTS[scope](rows[i], rows[j])
        for i in range(tensor.count)
        for j in range(i, tensor.count)
    }
    return np.stack([
        np.stack([found[min(i, j), max(i, j)] for j in range(tensor.count)])
        for i in range(tensor.count)
    ])  # fmt: skip


_PRODUCTS = {
    "leaf": host.dot,
    "row": lambda x, y: np.vecdot(x, y)[:, None],
    "column": lambda x, y: np.sum(x * y, axis=0, keepdims=True, dtype=np.float64),
}


class _Wanted(NamedTuple):
    """A value to find: of which member, its place among that member's, its rank."""

    member: int
    place: int
    rank: int


def _kth(tensor: Tensor, measure: Kth) -> list[list[Any]]:
    ranks = [_ranks(tensor, measure, i, tensor.size) for i in _members(tensor, measure)]
    # A rank behind the end or before the start needs no pass.
    found: list[list[Any]] = [
        [tensor.typed(0.0 if k > tensor.size else np.inf) for k in row] for row in ranks
    ]
    wanted = [
        _Wanted(i, j, k)
        for i, row in enumerate(ranks)
        for j, k in enumerate(row)
        if 1 <= k <= tensor.size
    ]
    _, margin = sample_of(tensor.size)
    room = int(4 * margin * tensor.size) * tensor.compute.itemsize
    together = max(1, KEPT // max(room, 1))
    for first in range(0, len(wanted), together):
        some = wanted[first : first + together]
        for want, value in zip(some, _select(tensor, measure, some), strict=True):
            found[want.member][want.place] = tensor.typed(value)
    return found


def _ranks(tensor: Tensor, measure: Kth, i: int, size: int) -> list[int]:
    shell = Member(None, None, i, tensor.exact[i], {}, lambda label: None)
    return [int(k) for k in measure.ranks(host.xp, shell, size)]


def _select(tensor: Tensor, measure: Kth, wanted: list[_Wanted]) -> list[float]:
    """The wanted values, in one pass where the sample does not mislead."""
    members = sorted({want.member for want in wanted})

    def values(i: int) -> np.ndarray:
        return measure.values(host.xp, tensor.member(i)).reshape(-1)

    def passes(i: int) -> Iterator[np.ndarray]:
        return (values(i) for _ in tensor.chunks())

    margin = sample_of(tensor.size)[1]
    pieces: dict[int, list[np.ndarray]] = {i: [] for i in members}
    for start, size in _pieces(tensor):
        tensor.read(start, size)
        for i in members:
            pieces[i].append(np.array(values(i)))
    samples = {i: np.sort(np.concatenate(pieces.pop(i))) for i in members}

    def rank(want: _Wanted, positive: int, size: int) -> int:
        """The rank, where zeros do not count from how many values are positive."""
        if not measure.positive:
            return want.rank
        count = round(positive / size * tensor.size)
        return _ranks(tensor, measure, want.member, count)[want.place]

    bands, positive = [], dict.fromkeys(members, 0)
    for want in wanted:
        sample = samples[want.member]
        k = rank(want, int(np.count_nonzero(sample)), sample.size)
        bands.append(streaming.begin(sample, tensor.size, k, margin))
    for _ in tensor.chunks():
        for i in members:
            found = values(i)
            positive[i] += int(np.count_nonzero(found)) if measure.positive else 0
            for want, band in zip(wanted, bands, strict=True):
                if want.member == i:
                    streaming.update(band, found)
    exact = []
    for want, band in zip(wanted, bands, strict=True):
        k = rank(want, positive[want.member], tensor.size)
        value = streaming.finish(band._replace(k=k))
        if value is None:
            value = streaming.by_radix(lambda i=want.member: passes(i), k)
        exact.append(value)
    return exact


def _pieces(tensor: Tensor) -> list[tuple[int, int]]:
    """Where a sample of a tensor lies: starts and sizes, in whole rows."""
    blocks, _ = sample_of(tensor.size)
    row = tensor.job.row or 1
    size = -(-_BLOCK // row) * row
    if tensor.size <= blocks * size:
        return [(0, tensor.size)]
    last = (tensor.size - size) // row
    return [(start * row, size) for start in np.linspace(0, last, blocks).astype(int).tolist()]
