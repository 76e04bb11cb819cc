r"""The replica-symmetric saddle point of variational learning with infinitely many binary weights.

Labels are the signs of a teacher of binary weights, inputs are independent signs, alpha N examples.
Of fields that minimise minus the log-likelihood plus the divergence from the fields before, the
order parameters are M, the mean of the teacher's weight times m, Q, the mean of m^2, and chi, the
response of m. With V = 1 - Q the variance of each pre-activation, the energy a weight is the
extremum, over these and their conjugates, of

    M^ M - Q^ Q / 2 + chi^ chi / 2 + E min_m [KL(m) + Q^ m^2 / 2 - (M^ w + sqrt(chi^) xi) m]
    + alpha E min_z [-log Phi(y z / sqrt V) + (z - omega)^2 / (2 chi)],

(omega, teacher's field) Gaussian with covariance ((Q, M), (M, 1)), and y the sign of the latter.
The minimum over m is at theta + Q^ tanh(theta) = M^ w + sqrt(chi^) xi + theta_before: the
solution of one task, site by site, is the disorder of the next. Task one is then Franz and Parisi's
reference and task two the system bound to it.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr, ndtr

NODES = 41


def normal(count: int = NODES) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a standard Gaussian."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    return x, w / w.sum()


class Sites(NamedTuple):
    """Kinds of weights: the fields so far, the teachers' weights, and how many are of the kind."""

    fields: np.ndarray
    teachers: np.ndarray  # [tasks, kinds]
    share: np.ndarray


def sites(overlap: float) -> Sites:
    """Before any task; the first teacher is 1 everywhere, which is a choice of signs."""
    teachers = np.array([[1.0, 1.0], [1.0, -1.0]])
    return Sites(np.zeros(2), teachers, np.array([1 + overlap, 1 - overlap]) / 2)


def minimum(b: np.ndarray, pull: float) -> np.ndarray:
    """The theta of the sign of b with theta + pull tanh(theta) = b, by bisection."""
    low, high = np.zeros_like(b), np.abs(b) + abs(pull)
    for _ in range(40):
        middle = (low + high) / 2
        below = middle + pull * np.tanh(middle) < np.abs(b)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.sign(b) * (low + high) / 2


def hazard(s: np.ndarray) -> np.ndarray:
    """Density over distribution function of a standard Gaussian."""
    return np.exp(-(s**2) / 2 - log_ndtr(s)) / np.sqrt(2 * np.pi)


def answer(omega: np.ndarray, chi: float, v: float) -> tuple[np.ndarray, ...]:
    """For a label of 1: (z - omega) / chi, its slope in omega, and the loss's slope in V."""
    z, root = np.maximum(omega, 0.0), np.sqrt(v)
    for _ in range(100):  # Newton's steps; the function is convex
        s = z / root
        h = hazard(s)
        z = z - (z - omega - chi * h / root) / (1 + chi / v * h * (s + h))
    s = z / root
    h = hazard(s)
    curve = h * (s + h) / v
    return h / root, -curve / (1 + chi * curve), h * s / (2 * v)


def conjugates(alpha: float, m: float, q: float, chi: float) -> tuple[float, float, float]:
    """M^, Q^ and chi^."""
    x, w = normal()
    omega, v = np.sqrt(q) * x, 1 - q
    tilt = 2 * ndtr(m / q * omega / np.sqrt(1 - m**2 / q))
    g, slope, of_v = answer(omega, chi, v)
    mean = lambda values: float(w @ (tilt * values))
    at_zero, _, _ = answer(np.sqrt(q - m**2) * x, chi, v)  # where the teacher's field is 0
    return (
        alpha * 2 / np.sqrt(2 * np.pi) * float(w @ at_zero),
        -alpha * (mean(slope) + 2 * mean(of_v)),
        alpha * mean(g**2),
    )


def learnt(alpha: float, before: Sites, task: int, steps: int = 1000) -> Sites:
    """Kinds of weights after a task, from weights that know nothing of it."""
    xi, w = normal()
    many = lambda values: np.repeat(values, NODES, -1)
    fields, teachers = many(before.fields), many(before.teachers)
    noise, share = np.tile(xi, len(before.fields)), np.outer(before.share, w).ravel()
    m, q, chi = 0.05, max(0.1, float(share @ np.tanh(fields) ** 2)), 1.0
    theta = fields
    for _ in range(steps):
        old = np.array([m, q, chi])
        m_hat, q_hat, chi_hat = conjugates(alpha, m, q, chi)
        field = m_hat * teachers[task] + np.sqrt(chi_hat) * noise
        theta = minimum(field + fields, q_hat)
        mean = np.tanh(theta)
        new = share @ np.array([teachers[task] * mean, mean**2, noise * mean / np.sqrt(chi_hat)]).T
        m, q, chi = (float(value) for value in 0.5 * old + 0.5 * new)
        if np.abs(new - old).max() < 1e-6:
            break
    else:
        raise ArithmeticError(f"no saddle point after {steps} steps at load {alpha}")
    return Sites(theta, teachers, share)


def error(of: Sites, task: int) -> float:
    """The chance that the mean weights and a teacher disagree on an input."""
    mean = np.tanh(of.fields)
    overlap = of.share @ (of.teachers[task] * mean) / np.sqrt(of.share @ mean**2)
    return float(np.arccos(overlap) / np.pi)
