"""Activation matching: correlation by numpy and SciPy, and planted orders."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from wslax import WeightSpaceError, align
from wslax.symmetry import Groups, Site


def groups():
    whole = [("w", 1, "produced")]
    heads = [("q", 1, "produced")]
    width = [Site("q", 2, size=5, role="produced")]
    params = {"w": np.zeros((2, 7)), "q": np.zeros((2, 3, 5))}
    return Groups.from_sites(params, [whole, heads, width], per={2: (1,)})


def test_equal_to_correlation_and_scipy():
    a, b = (np.asarray(jr.normal(jr.key(i), (40, 7))) * np.arange(1, 8) for i in (0, 1))
    found = jax.jit(lambda a, b: align.activation_matching({0: a}, {0: b}, groups()))(a, b)[0]
    correlation = np.corrcoef(a.T, b.T)[:7, 7:]
    assert (found == linear_sum_assignment(correlation, maximize=True)[1]).all()


def test_planted_orders_come_back_per_head():
    a = jr.normal(jr.key(0), (30, 3, 5))
    orders = np.stack([np.random.default_rng(i).permutation(5) for i in range(3)])
    b = 3 * jnp.take_along_axis(a, jnp.asarray(orders)[None], -1) + 1
    found = align.activation_matching({2: a}, {2: b}, groups())[2]
    assert (np.take_along_axis(orders, np.asarray(found), -1) == np.arange(5)).all()


def test_units_that_never_vary_and_populations():
    a = jr.normal(jr.key(0), (4, 30, 7)).at[:, :, 2].set(1.0)
    match = jax.vmap(lambda a: align.activation_matching({0: a}, {0: a[:, ::-1]}, groups())[0])
    assert (np.asarray(match(a)) == np.arange(7)[::-1]).all()


def test_what_is_wrong_is_said():
    a = jnp.ones((4, 7))
    with pytest.raises(WeightSpaceError, match=r"as in a, got \[\]"):
        align.activation_matching({0: a}, {}, groups())
    with pytest.raises(WeightSpaceError, match=r"b: expected activations \[4, 7\] of group 0"):
        align.activation_matching({0: a}, {0: a[:, :5]}, groups())
