"""Accuracy on the conditions, with intervals, also of differences on the same images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import nets
from wslax.recipes.result import Estimate
from wslax.recipes.tour.task import Task, members_of

# One apply for every net of the tour: widths are read from the parameters.
apply = nets.mlp(784, (1,), 10).apply

# 97.5% quantiles of Student's t by degrees of freedom, and of the normal distribution beyond.
_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_NORMAL = 1.96


@jax.jit
def probabilities(params: Any, x: Any) -> Any:
    """Class probabilities `[..., n, 10]` of images `uint8[..., n, 28, 28]`.

    Example:
        >>> net = nets.mlp(784, (4,), 10)
        >>> probabilities(net.init(jax.random.key(0)), np.zeros((2, 3, 28, 28), np.uint8)).shape
        (2, 3, 10)
    """
    rows = x.reshape(-1, 28, 28).astype(jnp.float32) / 255
    return jax.nn.softmax(apply(params, rows)).reshape(*x.shape[:-2], 10)


@jax.jit
def fitness(population: Any, x: Any, y: Any) -> Any:
    """Accuracy of every member on some images, `float32[N]`.

    Example:
        >>> net = nets.mlp(784, (4,), 10)
        >>> params = jax.tree.map(lambda x: x[None], net.init(jax.random.key(0)))
        >>> fitness(params, np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.int32)).shape
        (1,)
    """
    return jax.vmap(lambda p: nets.accuracy(apply(p, x.astype(jnp.float32) / 255), y))(population)


def hits(task: Task, classes: np.ndarray) -> np.ndarray:
    """Which test images are right in which condition.

    Args:
      task: the task.
      classes: predictions `[views, n]` on the test images.

    Returns:
      `uint8[conditions, n]`; images outside a condition count as wrong.
    """
    right = classes == task.test.y
    views = [condition.view for condition in task.conditions]
    return (right[views] & members_of(task, task.test)).astype(np.uint8)


def judge(task: Task, params: Any) -> np.ndarray:
    """`hits` of one model."""
    return hits(task, np.asarray(probabilities(params, task.test.x)).argmax(-1))


def by_condition(task: Task, found: np.ndarray) -> np.ndarray:
    """Accuracy in each condition, from `hits`."""
    return found.sum(1) / members_of(task, task.test).sum(1)


def _shares(task: Task, found: np.ndarray) -> np.ndarray:
    inside = members_of(task, task.test)
    return (found / inside.sum(1, keepdims=True)).sum(0) / len(inside)


def _spread(task: Task, found: np.ndarray) -> np.ndarray:
    """What each image adds to the deviation of the mean from its expectation."""
    inside = members_of(task, task.test)
    mean = found.sum(1, keepdims=True) / inside.sum(1, keepdims=True)
    return _shares(task, inside * (found - mean))


def accuracy(task: Task, found: np.ndarray) -> Estimate:
    """Mean accuracy over the conditions, with an interval for the choice of test images."""
    return difference(task, found, np.zeros_like(found))


def difference(task: Task, ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    r"""Difference of mean accuracies on the same test images, with its 95% interval.

    Image i adds \\(s_i\\) to the mean; the variance of the difference is
    \\(\sum_i (s_i - E s_i)^2\\) of the paired differences, images being independent and the
    conditions of one image not.
    """
    gap = ours.astype(float) - theirs.astype(float)
    value = float(_shares(task, gap).sum())
    return Estimate(value, float(_NORMAL * np.sqrt(np.square(_spread(task, gap)).sum())))


def over_seeds(values: Any) -> Estimate:
    """Mean over repeats with its 95% interval by Student's t.

    Example:
        >>> found = over_seeds([0.5, 0.7])
        >>> round(found.value, 3), round(found.margin, 3)
        (0.6, 1.271)
    """
    values = np.asarray(values, float)
    n = len(values)
    quantile = _QUANTILES[n - 2] if n - 2 < len(_QUANTILES) else _NORMAL
    return Estimate(float(values.mean()), float(quantile * values.std(ddof=1) / np.sqrt(n)))


def phrase(gap: Estimate, other: str) -> str:
    """What a difference shows, in words: nothing, where the interval holds zero.

    Example:
        >>> phrase(Estimate(0.021, 0.008), "the ensemble")
        '2.1 ± 0.8 points above the ensemble'
        >>> phrase(Estimate(0.001, 0.008), "the ensemble")
        'not distinguishable from the ensemble (+0.1 ± 0.8 points)'
    """
    size, margin = 100 * gap.value, 100 * (gap.margin or 0.0)
    if abs(size) <= margin:
        sign = "+" if size >= 0 else "−"
        return f"not distinguishable from {other} ({sign}{abs(size):.1f} ± {margin:.1f} points)"
    side = "above" if size > 0 else "below"
    return f"{abs(size):.1f} ± {margin:.1f} points {side} {other}"
