"""The conditions: views of the same digits, and which classes of a view a condition has."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from wslax import data, random
from wslax.recipes.tour.config import TourConfig

TARGET = "quarter turn"


class Condition(NamedTuple):
    """A view of the digits, restricted to some classes."""

    name: str
    view: int
    classes: tuple[int, ...]


class Part(NamedTuple):
    """Images `uint8[views, n, 28, 28]` and labels `int32[n]`, shared by all views."""

    x: np.ndarray
    y: np.ndarray


class Task(NamedTuple):
    """The job: parts of the data, conditions of the experts, names of the views.

    Attributes:
      train: images to train on.
      validation: images that choices look at.
      test: images for the report.
      conditions: what the experts are trained on, one each.
      views: names; the last one is the new condition, seen by no expert.
    """

    train: Part
    validation: Part
    test: Part
    conditions: tuple[Condition, ...]
    views: tuple[str, ...]


def _turned(x: np.ndarray, degrees: float) -> np.ndarray:
    return ndimage.rotate(x, degrees, axes=(2, 1), reshape=False, order=1)


def _noisy(x: np.ndarray, scale: float, seed: int) -> np.ndarray:
    words = random.bits(seed, "tour/noise", x.size)
    return x + scale * np.asarray(random.normal(words)).reshape(x.shape)


def _views(x: np.ndarray, y: np.ndarray, config: TourConfig, part: int) -> Part:
    experts = config.experts
    seen = [
        x,
        _turned(x, -experts.rotation),
        _turned(x, experts.rotation),
        _noisy(x, experts.noise, part),
        np.rot90(x, axes=(1, 2)),
    ]
    return Part(np.rint(255 * np.clip(np.stack(seen), 0, 1)).astype(np.uint8), y)


def make(config: TourConfig) -> Task:
    """The digits in all views.

    The noise is part of the task: it does not depend on the seed of the run.

    Args:
      config: reads `experts.rotation` and `experts.noise`.

    Returns:
      The task.

    Example:
        >>> task = make(TourConfig())
        >>> task.test.x.shape, task.views[-1]
        ((5, 1000, 28, 28), 'quarter turn')
    """
    every = tuple(range(10))
    conditions = (
        Condition("left 0–4", 1, every[:5]),
        Condition("left 5–9", 1, every[5:]),
        Condition("right 0–4", 2, every[:5]),
        Condition("right 5–9", 2, every[5:]),
        Condition("noisy", 3, every),
    )
    train, validation, test = (_views(*part, config, i) for i, part in enumerate(data.mnist()))
    views = ("upright", "tilted left", "tilted right", "noisy", TARGET)
    return Task(train, validation, test, conditions, views)


def members_of(task: Task, part: Part) -> np.ndarray:
    """Which images belong to which condition, `bool[conditions, n]`.

    Example:
        >>> task = make(TourConfig())
        >>> members_of(task, task.test).sum(1).tolist()
        [500, 500, 500, 500, 1000]
    """
    return np.stack([np.isin(part.y, condition.classes) for condition in task.conditions])


def samples(task: Task, part: Part, count: int) -> tuple[np.ndarray, np.ndarray]:
    """About `count` images of a part, the same number of each condition, no image twice.

    Returns:
      `(uint8[count', 28, 28], int32[count'])`, condition after condition.

    Example:
        >>> task = make(TourConfig())
        >>> samples(task, task.validation, 200)[0].shape
        (200, 28, 28)
    """
    each = max(1, count // len(task.conditions))
    free = np.ones(len(part.y), bool)
    x, y = [], []
    # The conditions with fewer classes choose first.
    order = sorted(range(len(task.conditions)), key=lambda c: len(task.conditions[c].classes))
    for c in order:
        rows = np.flatnonzero(free & members_of(task, part)[c])[:each]
        free[rows] = False
        x.append(part.x[task.conditions[c].view, rows])
        y.append(part.y[rows])
    return np.concatenate(x), np.concatenate(y)
