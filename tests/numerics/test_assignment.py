"""Exact assignment against SciPy and against all permutations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from wslax.numerics import assignment as module
from wslax.numerics.assignment import assignment


def test_batches_in_a_program_equal_scipy():
    score = np.random.default_rng(0).normal(size=(2, 3, 9, 9)).astype(np.float32)
    found = jax.jit(assignment)(jnp.asarray(score))
    mapped = jax.vmap(jax.vmap(assignment))(jnp.asarray(score))
    for at in np.ndindex(2, 3):
        expected = linear_sum_assignment(score[at], maximize=True)[1]
        assert (found[at] == expected).all()
        assert (mapped[at] == expected).all()


@pytest.mark.parametrize("solve", [assignment, module._in_program])
def test_the_best_of_all_permutations(solve):
    rng = np.random.default_rng(1)
    for n in (2, 4, 5):
        score = rng.normal(size=(1, n, n)).astype(np.float32)
        best = max(
            sum(score[0, i, p[i]] for i in range(n)) for p in itertools.permutations(range(n))
        )
        found = np.asarray(solve(jnp.asarray(score)))[0]
        assert sorted(found) == list(range(n))
        assert np.isclose(score[0, np.arange(n), found].sum(), best)


def test_one_row_and_what_is_no_number():
    assert assignment(jnp.zeros((1, 1))).tolist() == [0]
    assert assignment(jnp.array([[jnp.nan, 0.0], [0.0, -jnp.inf]])).tolist() == [1, 0]
