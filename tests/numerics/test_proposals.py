"""Strategies against the reference implementation's numbers, and what all of them promise."""

import numpy as np
import pytest

from wslax.numerics import proposals

# Of cmaes 0.13.1.
MEAN = [0.36718914, 0.701327023, 0.561971852]
SIGMA = 0.152433832
COV = [
    [1.999007787, -1.072249114, -0.184857866],
    [-1.072249114, 1.765029991, 0.279777775],
    [-0.184857866, 0.279777775, 0.504171402],
]


def test_cma_es_is_the_reference():
    """The state that `cmaes` 0.13.1 reaches when it is told the same three batches."""
    proposer = proposals.cma_es(8)
    state = proposer.init(0, 3)
    for turn in range(3):
        points = np.random.default_rng(turn).random((8, 3))
        cost = ((points - 0.6) ** 2 * [1, 4, 9]).sum(1)
        state = proposer.tell(state, points, -cost, None)
    np.testing.assert_allclose(state.mean, MEAN, rtol=1e-7)
    np.testing.assert_allclose(state.sigma, SIGMA, rtol=1e-7)
    np.testing.assert_allclose(state.cov, COV, rtol=1e-6)


@pytest.mark.parametrize("make", [proposals.uniform, proposals.cma_es, proposals.ascent])
def test_points_stay_in_the_cube_and_repeat(make):
    proposer = make(6)

    def trace(seed):
        state, seen = proposer.init(seed, 4), []
        for _ in range(5):
            points, state = proposer.ask(state)
            seen.append(points)
            slopes = np.sign(points - 0.3) if proposer.slopes else None
            state = proposer.tell(state, points, np.abs(points - 0.3).sum(1), slopes)
        return np.stack(seen)

    found = trace(1)
    assert found.shape == (5, 6, 4)
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found == trace(1)).all()
    assert (found != trace(2)).any()


def test_cma_es_goes_by_ranks_and_nan_is_worst():
    proposer = proposals.cma_es(6)
    points, state = proposer.ask(proposer.init(0, 2))
    worth = np.arange(6.0)
    a = proposer.tell(state, points, worth, None)
    b = proposer.tell(state, points, np.exp(worth), None)
    c = proposer.tell(state, points, np.where(worth == 0, np.nan, worth), None)
    for other in (b, c):
        np.testing.assert_array_equal(a.cov, other.cov)
        np.testing.assert_array_equal(a.mean, other.mean)
