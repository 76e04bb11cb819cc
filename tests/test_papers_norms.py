"""The experiment on norms alone: its net and its choices by hand, and a tiny run."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import wslax as ws
from benchmarks.papers import norm_only
from benchmarks.papers.norm_only import nets

NUMBERS = 6


@pytest.fixture(scope="module")
def net():
    return jax.jit(functools.partial(nets.init, numbers=NUMBERS, blocks=2, channels=3))(jr.key(0))


def test_patches_are_read_row_by_row():
    x = np.arange(64.0).reshape(1, 8, 8, 1)
    found = nets.patches(x)
    assert found.shape == (1, 16, 4)
    assert found[0, 0].tolist() == [0, 1, 8, 9]
    assert found[0, 1].tolist() == [2, 3, 10, 11]
    assert found[0, 4].tolist() == [16, 17, 24, 25]


def test_the_product_is_the_convolution():
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=size).astype(np.float32) for size in ((2, 4, 4, 3), (3, 3, 3, 5)))
    layout = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
    found = nets.convolved(x.reshape(2, 16, 3), kernel.reshape(27, 5))
    np.testing.assert_allclose(found, expected.reshape(2, 16, 5), atol=1e-5)


def test_norms_take_the_statistics_of_the_first_rows():
    norm = {"scale": jnp.array([2.0]), "bias": jnp.array([1.0])}
    x = jnp.array([-1.0, 1.0, 3.0])[:, None, None]
    np.testing.assert_allclose(nets.normed(x, norm, 2).ravel(), [-1, 3, 7], atol=1e-4)
    whole = (np.array([-2, 0, 2]) / np.sqrt(8 / 3)) * 2 + 1
    np.testing.assert_allclose(nets.normed(x, norm, None).ravel(), whole, atol=1e-4)


def test_ways_train_the_numbers_they_say(net):
    sizes = {}
    for arm, where in norm_only.ARMS.items():
        train, _ = ws.adapt.whole(where=where(net)).init(jr.key(0), net)
        if arm == "random weights":
            mask = norm_only.scattered(train, jr.key(0))
            assert all((leaf.sum(-2) == 2).all() for leaf in jax.tree.leaves(mask))
            sizes[arm] = sum(int(leaf.sum()) for leaf in jax.tree.leaves(mask))
        else:
            sizes[arm] = ws.tree.size(train)
        assert sizes[arm] == norm_only.trained_numbers(arm, (2, 3))
    assert sizes == {"norms": 30, "random weights": 30, "head": 40}


def test_scales_that_are_off_are_counted_in_all_norms():
    part = lambda *values: {"norm": {"scale": jnp.array(values)}}
    params = {"stem": part(0.5, -0.005), "blocks": part(0.001, 1.0, -1.0, 0.02, 0.0, 3.0)}
    assert norm_only.off(params) == pytest.approx(3 / 8)


def test_claims_are_gaps_of_test_accuracy():
    of = lambda *test: norm_only.Found(0.1, np.array(test), np.array([0.3, 0.2]))
    found = {
        ("norms", (2, 16)): of(4, 1),
        ("norms", (16, 16)): of(5, 6),
        ("norms", (4, 8)): of(1, 0),
        ("norms", (4, 32)): of(9, 7),
        ("random weights", (16, 16)): of(3, 4),
        ("head", (16, 16)): of(2, 1),
    }
    told = [claim.values for claim in norm_only.claims(found)]
    assert told == [[3, 5], [2, 2], [1, 5], [8, 7], [0.3, 0.2]]


def test_a_tiny_run_learns_and_chooses_its_rate(monkeypatch):
    monkeypatch.setattr(norm_only, "RATES", (1e-6, 0.1))
    monkeypatch.setattr(norm_only, "SEEN", 20)
    rng = np.random.default_rng(0)
    y = np.arange(40, dtype=np.int32) % 2
    at = np.where(y == 0, 1, -1)[:, None, None] * np.arange(-7.5, 8)[:, None] / 4
    x = (at + 0.3 * rng.normal(size=(40, 16, NUMBERS))).astype(np.float32)
    part = x[20:], y[20:]
    case = "norms", (1, 16)
    found = norm_only.measured(((x[:20], y[:20]), part, part), [case], 2, 100)[case]
    assert float(found.rate) == pytest.approx(0.1)
    assert found.test.shape == found.off.shape == (2,)
    assert found.test.min() > 0.8
