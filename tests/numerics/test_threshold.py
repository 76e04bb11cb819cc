"""Selection against a full sort, for every dtype, with ties, zeros, subnormals and infinities."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax import WeightSpaceError
from wslax.numerics import streaming, threshold

POOL = [0.0, 0.0, 1e-45, 1e-40, 1e-3, 0.5, 0.5, 0.5, 1.0, 2.0, 3.5, 65504.0, np.inf]
ARRAYS = st.lists(st.sampled_from(POOL) | st.floats(0, 1e4, width=32), min_size=1, max_size=40)
jit_kth = jax.jit(threshold.kth_largest)
jit_mask = jax.jit(threshold.top_k_mask)


def padded(values, dtype=np.float32):
    """One shape, so that one compiled program serves all examples; zeros rank last."""
    return np.pad(np.array(values, np.float32), (0, 40 - len(values))).astype(dtype)


@given(ARRAYS, st.integers(1, 40), st.sampled_from(["f4", "f2", "bf16"]))
@settings(deadline=None, max_examples=60)
def test_kth_largest_is_the_sorted_one(values, k, kind):
    dtype = ml_dtypes.bfloat16 if kind == "bf16" else np.dtype(kind)
    x = padded(values, dtype)
    expected = np.sort(x.astype(np.float32))[-k]
    found = jit_kth(x, k)
    assert found.dtype == x.dtype
    assert np.float32(found) == expected
    assert streaming.kth_largest(x.astype(np.float32), k) == expected
    assert streaming.by_radix(lambda: np.split(x.astype(np.float32), 4), k) == expected


@given(ARRAYS, st.integers(0, 40))
@settings(deadline=None, max_examples=60)
def test_the_mask_is_a_stable_argsort(values, k):
    x = padded(values)
    expected = np.zeros(40, bool)
    expected[np.argsort(-x, kind="stable")[:k]] = True
    assert (np.asarray(jit_mask(x, k)) == expected).all()


def test_ranks_outside_the_array():
    x = jnp.array([3.0, 1.0])
    assert threshold.kth_largest(x, 0) == np.inf
    assert threshold.kth_largest(x, 3) == 0
    assert not threshold.top_k_mask(x, 0).any()
    assert streaming.kth_largest(np.ones(3), 0) == np.inf


def test_members_and_float64():
    x = np.abs(np.random.default_rng(0).normal(size=(3, 50)))
    with jax.enable_x64(True):
        found = jax.vmap(threshold.kth_largest, (0, None))(jnp.asarray(x), 7)
        assert found.dtype == jnp.float64
        assert (np.asarray(found) == np.sort(x)[:, -7]).all()
    masks = jax.vmap(threshold.top_k_mask)(jnp.asarray(x, jnp.float32), jnp.array([1, 2, 3]))
    assert masks.sum(1).tolist() == [1, 2, 3]
    assert streaming.by_radix(lambda: x, 11) == np.sort(x.reshape(-1))[-11]


def test_one_trace_serves_all_ranks():
    traces = []

    @jax.jit
    def find(x, k):
        traces.append(1)
        return threshold.kth_largest(x, k)

    assert [float(find(jnp.arange(5.0), k)) for k in (1, 2, 5)] == [4.0, 3.0, 0.0]
    assert len(traces) == 1


def test_integers_are_refused():
    with pytest.raises(WeightSpaceError, match="expected non-negative floats, got int32"):
        threshold.kth_largest(jnp.arange(3), 1)


KINDS = {
    "normal": lambda r, n: np.abs(r.normal(size=n)),
    "heavy": lambda r, n: np.abs(r.standard_cauchy(n)) ** 3,
    "few values": lambda r, n: r.integers(0, 4, n).astype(float),
    "mostly zero": lambda r, n: np.where(r.random(n) < 0.9, 0, r.random(n)),
    "constant": lambda r, n: np.ones(n),
    "sorted": lambda r, n: np.sort(r.random(n)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1e-5, 0.05, 0.5, 0.999, 1.0])
def test_streaming_selection_is_exact(kind, share):
    rng = np.random.default_rng(1)
    values = KINDS[kind](rng, 200_000).astype(np.float32)
    k = max(1, int(share * values.size))
    band = streaming.begin(values[::97], values.size, k)
    for chunk in np.split(values, 20):
        streaming.update(band, chunk)
    found = streaming.finish(band)
    if found is None:
        found = streaming.by_radix(lambda: np.split(values, 20), k)
    assert found == np.sort(values)[-k]


def test_a_misleading_sample_is_noticed():
    values = np.arange(100_000, dtype=np.float32)
    for sample in (values[:100], values[-100:]):
        band = streaming.begin(sample, values.size, 50_000)
        streaming.update(band, values)
        assert streaming.finish(band) in (None, 50_000.0)


LARGE = {
    **KINDS,
    # What a strided sample would see is one column of it.
    "periodic": lambda r, n: np.where(np.arange(n) % 4096 == 0, 7.0, r.random(n)),
    "few in one place": lambda r, n: np.where(np.arange(n) < 50, 1 + r.random(n), 0),
    "with NaN": lambda r, n: np.where(r.random(n) < 0.01, np.nan, np.abs(r.normal(size=n))),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_array_whose_first_pivots_are_sampled(kind):
    """Of odd length, so that the last row is a part of one; the sign does not matter."""
    n = 8 * threshold._SAMPLE + 1001
    rng = np.random.default_rng(2)
    x = LARGE[kind](rng, n).astype(np.float32)
    order = np.argsort(-np.where(np.isnan(x), np.inf, x), kind="stable")
    for k in (1, 17, n // 20, n // 2, n - 3, n):
        expected = np.zeros(n, bool)
        expected[order[:k]] = True
        assert (np.asarray(jit_mask(x * rng.choice([-1, 1], n), k)) == expected).all()
        np.testing.assert_array_equal(jit_kth(x, k), x[order[k - 1]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_large_arrays_of_half_types_and_of_several_axes(dtype):
    x = jnp.asarray(np.random.default_rng(3).normal(size=(3, 300, 301)), dtype)
    expected = np.zeros(x.size, bool)
    wide = np.abs(np.asarray(x, np.float32)).reshape(-1)
    expected[np.argsort(-wide, kind="stable")[:9999]] = True
    assert (np.asarray(jit_mask(x, 9999)).reshape(-1) == expected).all()


def test_there_is_no_second_copy_of_the_array():
    shape = jax.ShapeDtypeStruct((1 << 20,), np.float32)
    compiled = jit_mask.lower(shape, 5).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * shape.size / 4


def test_more_than_an_index_can_count_is_refused():
    with pytest.raises(WeightSpaceError, match="at most 2\\^31 - 1 numbers, got 2147483648"):
        jax.eval_shape(threshold.kth_largest, jax.ShapeDtypeStruct((1 << 16, 1 << 15), "f4"), 1)
