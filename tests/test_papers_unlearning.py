"""The experiment on unlearning: its parts, by hand."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from benchmarks.papers import wagle
from benchmarks.papers.fitting import fitted
from benchmarks.papers.wagle import unlearning


def test_training_takes_as_many_steps_as_told():
    distance = lambda p, x, y: jnp.mean(jnp.square(p - y))
    data = jnp.zeros(3), jnp.full(3, 2.0)
    run = jax.jit(lambda n: fitted(distance, optax.sgd(0.1), jnp.zeros(()), jr.key(0), data, n))
    for steps in (0, 1, 5):
        assert float(run(steps)) == pytest.approx(2 * (1 - 0.8**steps), rel=1e-5)


def test_what_is_to_be_forgotten_is_apart():
    x, y = np.arange(100), np.tile(np.arange(10), 10)
    for digit in (True, False):
        (gone, labels), (stays, _) = unlearning.shared_out(x, y, digit, 3)
        assert sorted([*gone, *stays]) == x.tolist()
        assert len(gone) == 10
        assert (set(labels.tolist()) == {3}) == digit


def test_score_is_the_gradients_product_where_the_hessian_is_small():
    rng = np.random.default_rng(0)
    params, forget, retain = ({"w": jnp.asarray(rng.normal(size=(1, 50)))} for _ in range(3))
    score = lambda mu: unlearning.wagle(params, forget, retain, None, 2.0, mu)
    product = jax.tree.map(lambda f, r: jnp.abs(f * r), forget, retain)
    weighed = jax.tree.map(lambda w, f: jnp.abs(w * f), params, forget)
    found = unlearning.alike([score(1e-6), score(1e6)], [product, weighed])
    assert found[0, 0, 0] == pytest.approx(1, abs=1e-3)
    assert found[1, 1, 0] == pytest.approx(1, abs=1e-3)
    assert found[0, 1, 0] < 0.9


def test_ways_are_compared_at_equal_forgetting():
    # Forgotten, then kept on validation data, on test data, on other training images.
    line = lambda *rows: np.array([[[f, v, t, t]] for f, v, t in rows])
    lines = {
        ("WAGLE", 0.1): line((0, 1, 1), (1, 0.2, 0.2)),
        ("WAGLE", 0.4): line((0, 1, 1), (0.5, 0.9, 0.8), (1, 0.1, 0.1)),
        ("random", 0.1): line((0, 1, 1), (1, 0.5, 0.5)),
    }
    again = np.array([[0.5, 1, 1, 1]])
    np.testing.assert_allclose(wagle.levels(lines, again[:, 0]), [0.45])
    by = wagle.equal(unlearning.Found(lines, again, np.zeros((1, 1, 1))))
    assert by["WAGLE"][0] == "40%"
    assert by["WAGLE"][1] == pytest.approx([0.82])
    assert by["random"][1] == pytest.approx([0.775])
    told = wagle.claims("toy", by, np.array([0.5]))
    assert [np.round(c.values, 6).tolist() for c in told] == [[0.045], [0.5]]


def test_unlearning_moves_masked_weights_alone():
    net = jax.jit(unlearning.NET.init)(jr.key(0))
    rng = np.random.default_rng(0)
    forget, retain = (
        (rng.normal(size=(n, 784)).astype(np.float32), np.full(n, label))
        for n, label in ((6, 1), (9, 2))
    )
    mask = jax.tree.map(lambda x: jnp.zeros(x.shape, bool), net)
    mask["out"]["bias"] = jnp.arange(10) < 5
    run = jax.jit(functools.partial(unlearning.unlearned, jr.key(1), net, mask, 0.01))
    found = run(forget, retain)
    moved = jax.tree.map(lambda a, b: np.asarray(a != b), found, net)
    assert not any(moved[name]["kernel"].any() for name in moved)
    assert moved["out"]["bias"].tolist() == [True] * 5 + [False] * 5
    assert found["out"]["bias"][1] < net["out"]["bias"][1] < found["out"]["bias"][2]
