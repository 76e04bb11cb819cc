"""The experiment on the weight compander: starts, choices by hand, and a tiny run."""

import jax
import jax.random as jr
import numpy as np
import pytest

import wslax as ws
from benchmarks.papers import compander

NET = ws.nets.mlp(6, (5, 4), 3)


def test_a_net_starts_as_it_is_and_its_weights_are_bounded_by_their_inputs():
    params = jax.jit(NET.init)(jr.key(0))
    adapter = compander.companded(params, 1.5)
    train, fixed = adapter.init(jr.key(0), params)
    assert ws.tree.size(train) == ws.tree.size(params)
    begun = adapter.fuse(params, train, fixed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), begun, params)
    far = adapter.fuse(params, jax.tree.map(lambda x: x + 1e9, train), fixed)
    for name, inputs in (("hidden_0", 6), ("hidden_1", 5), ("out", 4)):
        bound = 1.5 * np.pi / 2 / np.sqrt(inputs)
        np.testing.assert_allclose(far[name]["kernel"], bound, rtol=1e-5)


def test_weights_are_told_in_units_of_their_inputs():
    kernel = np.array([[0.04, -1.0], [0.06, 0.0], [0.5, 0.2], [0.3, 0.1]], np.float32)  # / 2
    near, largest = compander.weights({"out": {"kernel": kernel, "bias": np.zeros(2, np.float32)}})
    assert float(near) == pytest.approx(2 / 8)
    assert float(largest) == pytest.approx(2.0)


def test_each_way_chooses_in_its_own_part_of_the_grid():
    sides = len(compander.STRENGTHS), len(compander.DECAYS), len(compander.RATES), 1
    validation = np.zeros(sides)
    best = {
        "none": (0, 0, 1),
        "decay": (0, 3, 2),
        "compander": (2, 0, 0),
        "compander and decay": (3, 1, 3),
    }
    for at in best.values():
        validation[at] = 0.5
    assert {way: compander.chosen(validation, way) for way in compander.WAYS} == best
    test = np.zeros(sides)
    for value, at in zip((1.0, 3.0, 4.0, 9.0), best.values(), strict=True):
        test[at] = value
    told = compander.claims("x", compander.Found(validation, test, test, test))
    assert [claim.values for claim in told] == [[3], [1], [6], [-3], [-3]]


def test_a_tiny_run(monkeypatch):
    monkeypatch.setattr(compander, "STRENGTHS", (None, 3.0))
    monkeypatch.setattr(compander, "DECAYS", (0.0, 10.0))
    monkeypatch.setattr(compander, "RATES", (1e-2, 3e-2))
    rng = np.random.default_rng(0)
    y = np.arange(60, dtype=np.int32) % 3
    x = (2 * np.eye(3, 6)[y] + 0.3 * rng.normal(size=(60, 6))).astype(np.float32)
    of = compander.Case("toy", NET, (x[:40], y[:40]), 30, (x[40:], y[40:]), (x[40:], y[40:]))
    found = compander.measured(of, 2, steps=40)
    assert {part.shape for part in found} == {(2, 2, 2, 2)}
    np.testing.assert_array_equal(found.validation, found.test)
    assert found.test[:, 0].mean() > 0.8
    assert (found.largest[:, 1] < found.largest[:, 0]).all()  # what decays is smaller
    assert len(compander.rows(found)) == 4
