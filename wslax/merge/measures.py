"""The rounds of a streaming merge: sums, products and thresholds over a tensor's chunks."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from wslax.merge import host
from wslax.merge.method import Gram, Kth, Measure, Member, Total
from wslax.merge.plan import KEPT, sample_of
from wslax.merge.tensor import Tensor
from wslax.numerics import streaming

_BLOCK = 1024  # elements of one piece of a sample


def take(tensor: Tensor, name: str, measure: Measure) -> None:
    """Carry out one round over a tensor's chunks; the result goes where the method reads it."""
    match measure:
        case Total(terms=terms):
            for row, value in zip(tensor.measured, _totals(tensor, terms), strict=True):
                row[name] = tuple(np.float64(v) for v in value)
        case Kth():
            for row, value in zip(tensor.measured, _kth(tensor, measure), strict=True):
                row[name] = tensor.typed(value)
        case Gram(vector=vector):
            tensor.shared_measured[name] = _gram(tensor, vector)


def _totals(tensor: Tensor, terms: Any) -> list[list[float]]:
    totals: list[list[float]] = [[] for _ in range(tensor.count)]
    for _ in tensor.chunks():
        for i in range(tensor.count):
            found = [host.total(term) for term in terms(host.xp, tensor.member(i))]
            before = totals[i] or [0.0] * len(found)
            totals[i] = [a + b for a, b in zip(before, found, strict=True)]
    return totals


def _gram(tensor: Tensor, vector: Any) -> np.ndarray:
    gram = np.zeros((tensor.count, tensor.count))
    for _ in tensor.chunks():
        rows = [vector(host.xp, tensor.member(i)) for i in range(tensor.count)]
        for i in range(tensor.count):
            for j in range(i, tensor.count):
                gram[i, j] += host.dot(rows[i], rows[j])
    return np.triu(gram) + np.triu(gram, 1).T


def _kth(tensor: Tensor, measure: Kth) -> list[float]:
    shells = [
        Member(None, None, i, row, tensor.measured[i], lambda label: None)
        for i, row in enumerate(tensor.exact)
    ]
    ranks = [int(measure.count(host.xp, shell, tensor.size)) for shell in shells]
    # A rank at the end keeps everything, one before the start nothing: no pass is needed.
    found = [0.0 if k >= tensor.size else float("inf") for k in ranks]
    wanted = [i for i, k in enumerate(ranks) if 1 <= k < tensor.size]
    _, margin = sample_of(tensor.size)
    room = int(4 * margin * tensor.size) * tensor.compute.itemsize
    together = max(1, KEPT // max(room, 1))
    for first in range(0, len(wanted), together):
        _kth_of(tensor, measure, wanted[first : first + together], ranks, found)
    return found


def _kth_of(
    tensor: Tensor, measure: Kth, which: list[int], ranks: list[int], found: list[float]
) -> None:
    def values(i: int) -> np.ndarray:
        return measure.values(host.xp, tensor.member(i))

    def passes(i: int) -> Iterator[np.ndarray]:
        return (values(i) for _ in tensor.chunks())

    blocks, margin = sample_of(tensor.size)
    starts = [0]
    if tensor.size > blocks * _BLOCK:
        starts = np.linspace(0, tensor.size - _BLOCK, blocks).astype(int).tolist()
    pieces: dict[int, list[np.ndarray]] = {i: [] for i in which}
    for start in starts:
        tensor.read(start, tensor.size if len(starts) == 1 else _BLOCK)
        for i in which:
            pieces[i].append(np.array(values(i)))
    bands = {
        i: streaming.begin(np.concatenate(pieces.pop(i)), tensor.size, ranks[i], margin)
        for i in which
    }
    for _ in tensor.chunks():
        for i, band in bands.items():
            streaming.update(band, values(i))
    for i in which:
        value = streaming.finish(bands.pop(i))
        if value is None:
            value = streaming.by_radix(lambda i=i: passes(i), ranks[i])
        found[i] = value
