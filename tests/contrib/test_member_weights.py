"""Weights from scores: the formulas in plain numpy, and what holds for all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import wslax as ws
from wslax.contrib import weights

JITTED = {
    rule: jax.jit(rule)  # one program each
    for rule in (
        weights.softmax,
        weights.precision,
        weights.linear_upper,
        weights.quadratic,
        weights.extremes,
    )
}
RANGED = (weights.linear_upper, weights.quadratic, weights.extremes)
ALL = (*RANGED, weights.softmax)
NUMBERS = arrays(np.float32, 6, elements=st.floats(-50, 50, width=32))


def reference(rule, losses, delta, r):
    """The authors' pipeline, their names, in float64."""
    losses = losses.astype(np.float64)
    lmax, lmin = losses.max(), losses.min()
    h = delta * (2 * losses - (lmax + lmin)) / max(lmax - lmin, 1e-6)
    f = {
        "linear_upper": np.minimum(h + delta, delta),
        "quadratic": 1 - h**2 / delta**2,
        "extremes": np.abs(h),
    }[rule]
    w = np.exp(f / r)
    return w / w.sum()


@pytest.mark.parametrize("rule", RANGED)
@given(losses=NUMBERS, r=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_the_authors_pipeline(rule, losses, r):
    expected = reference(rule.__name__, losses, 1.0, r)
    np.testing.assert_allclose(JITTED[rule](losses, temperature=r), expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("rule", [weights.linear_upper, weights.extremes])
def test_the_bound_of_h_is_a_temperature(rule):
    losses = np.array([0.3, 2.0, 1.1, 0.9], np.float32)
    expected = reference(rule.__name__, losses, 2.5, 0.7)
    np.testing.assert_allclose(JITTED[rule](losses, temperature=0.7 / 2.5), expected, rtol=1e-5)


@pytest.mark.parametrize("rule", ALL)
@given(values=NUMBERS, order=st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_shares_move_with_their_members(rule, values, order):
    order = np.array(order)
    found = np.asarray(JITTED[rule](values))
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(JITTED[rule](values[order]), found[order], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("rule", RANGED)
@given(
    values=arrays(np.int8, 6, unique=True),
    scale=st.floats(0.5, 20, width=32),
    shift=st.floats(-20, 20, width=32),
)
@settings(max_examples=20, deadline=None)
def test_scale_and_origin_do_not_matter(rule, values, scale, shift):
    values = values.astype(np.float32)
    np.testing.assert_allclose(
        JITTED[rule](values * scale + shift), JITTED[rule](values), atol=1e-4
    )


@pytest.mark.parametrize("rule", [*ALL, weights.precision])
def test_what_is_not_a_number_weighs_nothing_and_equals_alike(rule):
    values = np.array([0.5, 2.0, 3.5], np.float32)
    with_nan = np.insert(values, 1, np.nan)
    np.testing.assert_allclose(
        JITTED[rule](with_nan), np.insert(np.asarray(JITTED[rule](values)), 1, 0), rtol=1e-6
    )
    for alike in (np.full(4, 7.0), np.full(4, np.nan)):
        np.testing.assert_allclose(JITTED[rule](alike), np.full(4, 0.25))


def test_the_infinite():
    inf = np.inf
    softmax, precision, extremes = (
        lambda *x, rule=rule: JITTED[rule](np.array(x, np.float32)).tolist()
        for rule in (weights.softmax, weights.precision, weights.extremes)
    )
    assert softmax(1.0, inf, -inf, inf) == [0, 0.5, 0, 0.5]
    assert softmax(-inf, -inf, -inf, -inf) == [0.25] * 4
    assert extremes(1.0, inf, 3.0, -inf) == [0.5, 0, 0.5, 0]
    assert precision(0.0, 1.0, 0.0, -1.0) == [0.5, 0, 0.5, 0]
    far = np.array([1e30, -1e30, 0, 0], np.float32)
    assert JITTED[weights.softmax](far, temperature=inf).tolist() == [0.25] * 4


@given(variances=arrays(np.float32, (4, 2), elements=st.floats(2**-10, 2**20, width=32)))
@settings(max_examples=20, deadline=None)
def test_precision_is_one_over_variance(variances):
    exact = 1 / variances.astype(np.float64)
    np.testing.assert_allclose(
        JITTED[weights.precision](variances), exact / exact.sum(0), rtol=1e-5
    )


def test_columns_are_weighed_apart_under_jit_in_half_types():
    values = jnp.arange(12.0, dtype=jnp.bfloat16).reshape(4, 3) ** 2
    for rule in (*ALL, weights.precision):
        found = JITTED[rule](values)
        assert found.dtype == jnp.float32
        for i in range(3):
            column = JITTED[rule](np.asarray(values, np.float32)[:, i])
            np.testing.assert_allclose(np.asarray(found)[:, i], column, rtol=1e-6)


def test_the_gradient_is_the_formulas():
    values = jnp.array([0.1, jnp.nan, 1.0])
    found = jax.jit(jax.jacobian(weights.softmax))(values)
    w = np.asarray(JITTED[weights.softmax](values))
    np.testing.assert_allclose(found, np.diag(w) - np.outer(w, w), atol=1e-7)


def test_weights_merge_members():
    w = weights.softmax(np.array([0.0, np.log(3.0), np.nan]))
    merged = ws.merge.linear({"w": jnp.array([1.0, 5.0, 100.0])}, coef=w)
    assert float(merged["w"]) == pytest.approx(4)


def test_bad_input_is_told():
    with pytest.raises(ws.WeightSpaceError, match="values: expected one number a member"):
        weights.extremes(np.zeros(()))
    with pytest.raises(ws.WeightSpaceError, match="variances: expected one number a member"):
        weights.precision(np.zeros((0, 2)))
    with pytest.raises(ws.WeightSpaceError, match="temperature: expected a positive number, got 0"):
        weights.quadratic(np.zeros(3), temperature=0)
