"""The key-value bottleneck against brute force in numpy, and what a batch may touch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax.contrib import key_value

C, M, D, K = 8, 16, 6, 3
SIZES = {"codebooks": C, "pairs": M, "width": K, "batch": 32, "steps": 200}  # compiled once


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).normal(size=(300, D)).astype(np.float32)


@pytest.fixture(scope="module")
def fixed(features):
    return key_value.fit(0, features, **SIZES)


def far(fixed, features):
    """Squared distances `[B, C, M]` in float64."""
    heads = np.einsum("bd,cdk->bck", features.astype(float), np.asarray(fixed.projections, float))
    return ((heads[:, :, None] - np.asarray(fixed.keys, float)[None]) ** 2).sum(-1)


def test_the_nearest_key_is_that_of_brute_force(fixed, features):
    found = np.asarray(key_value.nearest(fixed, features))
    assert found.shape == (300, C)
    away = far(fixed, features)
    chosen = np.take_along_axis(away, found[:, :, None], 2)[..., 0]
    np.testing.assert_allclose(chosen, away.min(-1), atol=1e-5)
    assert (found == away.argmin(-1)).mean() > 0.999


def test_columns_of_projections_have_length_one(fixed):
    np.testing.assert_allclose(np.linalg.norm(fixed.projections, axis=1), 1, rtol=1e-5)
    assert len(np.unique(np.asarray(fixed.projections))) == C * D * K


@given(st.integers(0, 10_000), st.integers(1, 9))
@settings(max_examples=15, deadline=None)
def test_a_batch_touches_no_more_rows_than_it_reads(seed, size):
    rng = np.random.default_rng(seed)
    index = jnp.asarray(rng.integers(0, M, (9, C)).astype(np.int32))[:size]
    values = jnp.asarray(rng.normal(size=(C, M, 2)), jnp.float32)
    slope = _slope(values, jnp.pad(index, ((0, 9 - size), (0, 0)), mode="edge"))
    touched = np.abs(slope).sum(-1) > 0
    assert touched.sum() <= size * C
    read = np.zeros((C, M), bool)
    read[np.arange(C), np.asarray(index)] = True
    assert (touched == read).all()


_slope = jax.jit(jax.grad(lambda v, i: jnp.sum(key_value.read(v, i) * jnp.array([[1.0, 2.0]]))))


def test_reading_is_the_mean_of_the_rows(fixed, features):
    values = np.random.default_rng(1).normal(size=(C, M, 4)).astype(np.float32)
    index = np.asarray(key_value.nearest(fixed, features))
    expected = np.mean([values[c, index[:, c]] for c in range(C)], 0)
    np.testing.assert_allclose(key_value.read(values, index), expected, rtol=1e-5, atol=1e-6)
    half = key_value.read(jnp.asarray(values, jnp.bfloat16), index)
    assert half.dtype == jnp.bfloat16


def test_tasks_with_other_keys_leave_each_other_alone():
    """Two far clusters: what one task learns changes no output of the other, at any step size."""
    rng = np.random.default_rng(2)
    one, other = rng.normal([[[0.0]], [[60.0]]], size=(2, 150, D)).astype(np.float32)
    fixed = key_value.fit(1, np.concatenate([one, other]), **SIZES)
    index = [key_value.nearest(fixed, x) for x in (one, other)]
    apart = [not set(np.unique(index[0][:, c])) & set(np.unique(index[1][:, c])) for c in range(C)]
    assert all(apart)
    loss = lambda v, i: jnp.sum((key_value.read(v, i) - 1) ** 2)
    values = jnp.zeros((C, M, 1))
    moved = values - 100 * jax.grad(loss)(values, index[1])
    assert (key_value.read(moved, index[0]) == 0).all()


def test_keys_are_means_of_what_comes_to_them():
    """Few distinct features: every one has a key at its place, whatever the keys began as."""
    spots = np.random.default_rng(3).normal(size=(4, D)).astype(np.float32) * 3
    fixed = key_value.fit(2, np.repeat(spots, 75, 0), **SIZES)
    assert far(fixed, spots).min(-1).max() < 1e-8


def test_quantisation_is_near_that_of_lloyd(features):
    """The mean distance to the nearest key, against the authors' objective by plain k-means."""
    fixed = key_value.fit(3, features, **SIZES)
    heads = np.einsum("bd,cdk->cbk", features, np.asarray(fixed.projections))
    rng = np.random.default_rng(0)

    def lloyd(points):
        means = points[rng.choice(len(points), M, replace=False)]
        for _ in range(30):
            near = ((points[:, None] - means) ** 2).sum(-1).argmin(1)
            means = np.stack(
                [points[near == j].mean(0) if (near == j).any() else means[j] for j in range(M)]
            )
        return ((points[:, None] - means) ** 2).sum(-1).min(1).mean()

    best = np.mean([lloyd(points) for points in heads])
    assert far(fixed, features).min(-1).mean() < 1.2 * best


def test_members_vectorise_and_keys_are_determined_by_the_key(features):
    fit = functools.partial(key_value.fit, **SIZES)
    keys = jax.random.split(jax.random.key(4), 2)
    many = jax.vmap(lambda key: fit(key, features))(keys)
    for i in range(2):
        alone = fit(keys[i], features)
        np.testing.assert_allclose(many.keys[i], alone.keys, rtol=1e-4, atol=1e-5)
    assert not np.allclose(many.keys[0], many.keys[1])


def test_bad_input_is_said(fixed, features):
    with pytest.raises(ws.WeightSpaceError, match=r"features: expected \[n >= 1, d\]"):
        key_value.fit(0, features[0])
    with pytest.raises(ws.WeightSpaceError, match="pairs: expected at least 1, got 0"):
        key_value.fit(0, features, pairs=0)
    with pytest.raises(ws.WeightSpaceError, match=r"features: expected \[B, 6\]"):
        key_value.nearest(fixed, features[:, :2])
    with pytest.raises(ws.WeightSpaceError, match=r"values: expected \[C, M, v\]"):
        key_value.read(jnp.zeros((C, M, 1)), jnp.zeros((2, C + 1), jnp.int32))
