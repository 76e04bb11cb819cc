"""The engine's own selection and sums against numpy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax.merge.files import host

SPECIAL = [0.0, -0.0, 1.5, -2.0, np.inf, -np.inf, np.nan, 1e-45]


@given(
    st.lists(st.tuples(st.booleans(), *[st.sampled_from(SPECIAL)] * 2), min_size=1, max_size=30),
    st.sampled_from(["f4", "f8"]),
)
@settings(deadline=None)
def test_where_is_numpys_to_the_bit(rows, dtype):
    condition, a, b = (np.array(column) for column in zip(*rows, strict=True))
    a, b = a.astype(dtype), b.astype(dtype)
    with np.errstate(invalid="ignore"):
        for x, y in [(a, b), (a, a.dtype.type(0)), (a, a.dtype.type(1)), (a.dtype.type(2), b)]:
            found, expected = host.where(condition, x, y), np.where(condition, x, y)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
            assert (np.signbit(found) == np.signbit(expected)).all()


@pytest.mark.parametrize("scalar", [True, False, np.True_])
def test_where_of_a_scalar_condition(scalar):
    a = np.arange(3.0)
    assert np.all(host.where(scalar, a, 0.0) == (a if scalar else 0))
    assert host.where(scalar, np.float64(2), np.float64(3)) == (2 if scalar else 3)


@pytest.mark.parametrize("condition", [np.array([True, False, True])])
def test_where_of_bools_integers_scalars_and_strides(condition):
    a, b = np.array([True, True, False]), np.array([False, True, True])
    assert (host.where(condition, a, b) == np.where(condition, a, b)).all()
    assert (host.where(condition, 2.0, 0.0) == [2, 0, 2]).all()
    assert (host.where(condition, 2.0, 1.0) == [2, 1, 2]).all()
    wide = np.arange(6.0)[::2]
    assert (host.where(condition, wide, -wide) == np.where(condition, wide, -wide)).all()
    assert (host.where(condition, np.arange(3), -np.arange(3)) == [0, -1, 2]).all()
    twice = np.array([True, False, True] * 2)[::2]
    assert (host.where(twice, wide, 0.0) == np.where(twice, wide, 0)).all()


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 50_000])
def test_sums_and_products(size):
    x, y = np.random.default_rng(0).normal(size=(2, size)).astype(np.float32)
    assert host.total(x) == pytest.approx(x.astype(float).sum(), abs=1e-3)
    assert host.dot(x, y) == pytest.approx(x.astype(float) @ y, abs=1e-2)
