"""Strategies that propose points of the unit cube and are told how good they are, in plain numpy.

What is searched, and who evaluates it (a compiled batch, a script on files), is the caller's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Proposer(NamedTuple):
    """A strategy; its state is data.

    Attributes:
      init: `(seed, size) -> state`, to search `[0, 1]^size`.
      ask: `state -> (points [B, size], state)`.
      tell: `(state, points, fitness [B], slopes [B, size] or None) -> state`; higher is better, NaN
        is worst.
      slopes: whether `tell` needs gradients.
    """

    init: Callable[[int, int], Any]
    ask: Callable[[Any], tuple[Any, Any]]
    tell: Callable[[Any, Any, Any, Any], Any]
    slopes: bool = False


def uniform(batch: int) -> Proposer:
    """Points drawn uniformly, whatever was told.

    Args:
      batch: points a turn.

    Example:
        >>> proposer = uniform(4)
        >>> points, _ = proposer.ask(proposer.init(0, 2))
        >>> points.shape
        (4, 2)
    """

    def ask(state: Any) -> tuple[Any, Any]:
        seed, turn, size = state
        points = np.random.default_rng([seed, turn]).random((batch, size))
        return points, (seed, turn + 1, size)

    return Proposer(lambda seed, size: (seed, 0, size), ask, lambda state, *_: state)


class _Normal(NamedTuple):
    seed: int
    turn: int
    mean: Any
    sigma: float
    cov: Any
    path: Any  # of the covariance
    path_sigma: Any


def cma_es(batch: int, sigma: float = 1 / 6) -> Proposer:
    r"""Covariance matrix adaptation: normal steps that learn scale and direction from the best.

    With negative weights for the worst half, and all constants as in the tutorial. Points are put
    back to the nearest point of the cube.

    Args:
      batch: \(\lambda\), points a turn, at least 2; the tutorial's 4 + 3 ln(size) or more.
      sigma: first standard deviation, around the middle of the cube; mergekit-evolve's 1/6.

    References:
      Hansen 2016, The CMA evolution strategy: a tutorial, arXiv:1604.00772, figure 6 and table 1.

    Example:
        >>> import numpy as np
        >>> proposer = cma_es(8)
        >>> state = proposer.init(0, 2)
        >>> for _ in range(40):
        ...     points, state = proposer.ask(state)
        ...     state = proposer.tell(state, points, -((points - 0.7) ** 2).sum(1), None)
        >>> state.mean.round(3).tolist()
        [0.7, 0.7]
    """

    def init(seed: int, size: int) -> _Normal:
        zero = np.zeros(size)
        return _Normal(seed, 0, zero + 0.5, sigma, np.eye(size), zero, zero)

    def ask(state: _Normal) -> tuple[Any, _Normal]:
        values, vectors = np.linalg.eigh(state.cov)
        normal = np.random.default_rng([state.seed, state.turn]).standard_normal(
            (batch, len(values))
        )
        steps = normal * np.sqrt(np.maximum(values, 0)) @ vectors.T
        return np.clip(state.mean + state.sigma * steps, 0, 1), state

    def tell(state: _Normal, points: Any, fitness: Any, slopes: Any = None) -> _Normal:
        size = len(state.mean)
        raw = np.log((batch + 1) / 2) - np.log(np.arange(1, batch + 1))
        good, bad = raw[: batch // 2], raw[batch // 2 :]
        mass, mass_bad = (w.sum() ** 2 / (w**2).sum() for w in (good, bad))
        c_1 = 2 / ((size + 1.3) ** 2 + mass)
        c_mu = min(1 - c_1 - 1e-8, 2 * (mass - 2 + 1 / mass) / ((size + 2) ** 2 + mass))
        least = min(
            1 + c_1 / max(c_mu, 1e-12),
            1 + 2 * mass_bad / (mass + 2),
            (1 - c_1 - c_mu) / (size * max(c_mu, 1e-12)),
        )
        weights = np.where(raw >= 0, raw / good.sum(), least * raw / -raw[raw < 0].sum())
        c_sigma = (mass + 2) / (size + mass + 5)
        damping = 1 + 2 * max(0, np.sqrt((mass - 1) / (size + 1)) - 1) + c_sigma
        c_c = (4 + mass / size) / (size + 4 + 2 * mass / size)
        expected = np.sqrt(size) * (1 - 1 / (4 * size) + 1 / (21 * size**2))

        order = np.argsort(-np.nan_to_num(np.asarray(fitness, float), nan=-np.inf), kind="stable")
        steps = (np.asarray(points)[order] - state.mean) / state.sigma
        step = weights[: batch // 2] @ steps[: batch // 2]
        values, vectors = np.linalg.eigh(state.cov)
        whiten = vectors / np.sqrt(np.maximum(values, 1e-20)) @ vectors.T

        path_sigma = (1 - c_sigma) * state.path_sigma
        path_sigma = path_sigma + np.sqrt(c_sigma * (2 - c_sigma) * mass) * whiten @ step
        norm = np.linalg.norm(path_sigma)
        grown = norm / np.sqrt(1 - (1 - c_sigma) ** (2 * (state.turn + 1)))
        slow = float(grown < (1.4 + 2 / (size + 1)) * expected)
        path = (1 - c_c) * state.path + slow * np.sqrt(c_c * (2 - c_c) * mass) * step

        length = ((steps @ whiten) ** 2).sum(1)
        own = np.where(weights >= 0, weights, weights * size / (length + 1e-8))
        keep = 1 - c_1 - c_mu * weights.sum() + c_1 * (1 - slow) * c_c * (2 - c_c)
        cov = keep * state.cov + c_1 * np.outer(path, path) + c_mu * (steps.T * own) @ steps
        return state._replace(
            turn=state.turn + 1,
            mean=np.clip(state.mean + state.sigma * step, 0, 1),
            sigma=float(state.sigma * np.exp(c_sigma / damping * (norm / expected - 1))),
            cov=(cov + cov.T) / 2,
            path=path,
            path_sigma=path_sigma,
        )

    return Proposer(init, ask, tell)


class _Ascent(NamedTuple):
    points: Any
    first: Any
    second: Any
    turn: int


def ascent(batch: int, rate: float = 0.05) -> Proposer:
    """Adam from points drawn uniformly (the first from the middle), each on its own.

    Args:
      batch: starts.
      rate: of a step, in sides of the cube.

    Example:
        >>> proposer = ascent(2)
        >>> state = proposer.init(0, 1)
        >>> for _ in range(200):
        ...     points, state = proposer.ask(state)
        ...     state = proposer.tell(state, points, None, 0.7 - points)
        >>> points.round(2).tolist()
        [[0.7], [0.7]]
    """

    def init(seed: int, size: int) -> _Ascent:
        points = np.random.default_rng(seed).random((batch, size))
        points[0] = 0.5
        return _Ascent(points, 0.0, 0.0, 0)

    def tell(state: _Ascent, points: Any, fitness: Any, slopes: Any) -> _Ascent:
        turn, slopes = state.turn + 1, np.nan_to_num(np.asarray(slopes, float))
        first = 0.9 * state.first + 0.1 * slopes
        second = 0.999 * state.second + 0.001 * slopes**2
        step = first / (1 - 0.9**turn) / (np.sqrt(second / (1 - 0.999**turn)) + 1e-8)
        return _Ascent(np.clip(points + rate * step, 0, 1), first, second, turn)

    return Proposer(init, lambda state: (state.points, state), tell, slopes=True)
