"""Streaming statistics against numpy on the whole array."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws

BITS = st.lists(st.floats(width=32), max_size=40)


@given(BITS, st.integers(1, 7))
@settings(deadline=None)
def test_any_chunking_gives_what_numpy_gives(numbers, size):
    x = np.array(numbers, np.float32)
    got = ws.io.summarise(x[i : i + size] for i in range(0, len(x), size))
    finite = x[np.isfinite(x)].astype(np.float64)
    assert (got.nan, got.inf) == (np.isnan(x).sum(), np.isinf(x).sum())
    if finite.size:
        np.testing.assert_allclose(
            (got.mean, got.std, got.absmax),
            (finite.mean(), finite.std(), np.abs(finite).max()),
            rtol=1e-9,
            atol=1e-12 * np.abs(finite).max(),
        )
    else:
        assert got[:3] == (0, 0, 0)


def test_a_large_mean_does_not_cancel():
    x = 1e9 + np.random.default_rng(0).normal(size=1000)
    assert ws.io.summarise([x[:300], x[300:]]).std == pytest.approx(x.std(), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_every_kind_of_number(dtype):
    got = ws.io.summarise([np.array([0, 1, 1, 0]).astype(dtype)])
    assert got == (0.5, 0.5, 1, 0, 0)
