"""Families of tasks: one label space, and inputs that each task sees in a manner of its own."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import wslax as ws
from benchmarks.papers.data import CIFAR, cifar

Part = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """A base task and T tasks after it.

    Attributes:
      name: of the data.
      net: for all of them.
      base: `(x, y)` that the base is trained on, as they are.
      train: `x[T, n, ...]` and `y[T, n]` of the tasks, other examples than the base's.
      validation: likewise, what coefficients are chosen on.
      test: likewise.
      before: steps of the base.
      steps: steps of an expert.
      batch: examples a step.
    """

    name: str
    net: ws.nets.Net
    base: Part
    train: Part
    validation: Part
    test: Part
    before: int
    steps: int
    batch: int

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.train[0])


def seen_as(views: Sequence[Callable[[Any], Any]], x: np.ndarray, y: np.ndarray) -> Part:
    """One set of images as every task sees it."""
    return np.stack([view(x) for view in views]), np.stack([y] * len(views))


def quarter_turn(x: np.ndarray) -> np.ndarray:
    return np.rot90(x, 1, (1, 2))


def half_turn(x: np.ndarray) -> np.ndarray:
    return np.rot90(x, 2, (1, 2))


def halved(x: np.ndarray) -> np.ndarray:
    """Images of half the side, means of two by two."""
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2, -1).mean((2, 4))


def mnist() -> Family:
    data = ws.data.mnist()
    (x, y), validation, test = data.train, data.validation, data.test
    order = np.random.default_rng(0).permutation(x.shape[2])
    views = (quarter_turn, half_turn, lambda x: 1 - x, lambda x: x[:, :, order])
    return Family(
        "MNIST", ws.nets.mlp(784, (128, 128), 10), (x[:1500], y[:1500]),
        *(seen_as(views, *part) for part in ((x[1500:], y[1500:]), validation, test)),
        before=400, steps=200, batch=50,
    )  # fmt: skip


def images() -> Family | None:
    found = cifar(10_000, 1_400)
    if found is None:
        return None
    (x, y), (held_x, held_y) = found
    views = (quarter_turn, half_turn, lambda x: -x, lambda x: x[..., [1, 2, 0]])
    x, held_x = halved(x), halved(held_x)
    parts = ((x[6000:], y[6000:]), (held_x[:400], held_y[:400]), (held_x[400:], held_y[400:]))
    return Family(
        "CIFAR-10-JPEG", ws.nets.mlp(768, (128, 128), 10), (x[:6000], y[:6000]),
        *(seen_as(views, *part) for part in parts),
        before=800, steps=200, batch=50,
    )  # fmt: skip


@functools.cache
def available() -> tuple[tuple[Family, ...], tuple[str, ...]]:
    """Those whose data is here, and what the others lack."""
    found = images()
    if found is None:
        return (mnist(),), (f"data is missing: {CIFAR}",)
    return (mnist(), found), ()
