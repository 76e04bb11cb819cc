"""The weight compander."""

import jax
import numpy as np
import pytest

from wslax import WeightSpaceError, adapt, symmetry

W = np.array([[0.5, -0.1, 0.0], [1.2, -1.4, 0.9]], np.float32)


def test_the_formula():
    adapter = adapt.compander(1.0, 0.5)
    train, fixed = adapter.init(0, {"w": W})
    assert np.allclose(train["w"]["value"], 0.5 * np.tan(np.float64(W)), rtol=1e-4)
    value = np.float64([[3.0, -0.2, 0.0], [1e6, -1e6, 1.0]])
    train = {"w": {"value": value.astype(np.float32)}}
    found = adapter.fuse({"w": W}, train, fixed)["w"]
    assert np.allclose(found, np.arctan(value / 0.5), rtol=1e-5)
    assert abs(found).max() <= np.float32(np.pi / 2)


def test_the_gradient_is_that_of_the_weight_times_the_slope():
    adapter = adapt.compander(2.0, 0.5, learn=True)
    train, fixed = adapter.init(0, {"w": W})
    loss = lambda train: (adapter.fuse({"w": W}, train, fixed)["w"] ** 2).sum()
    found = jax.grad(loss)(train)["w"]
    v = np.float64(train["w"]["value"])
    assert np.allclose(found["value"], 2 * W * 2.0 * 0.5 / (0.25 + v**2), atol=1e-4)
    assert np.allclose(found["a"], (2 * W * np.arctan(v / 0.5)).sum(), rtol=1e-4)
    assert np.allclose(found["b"], (2 * W * -2.0 * v / (0.25 + v**2)).sum(), rtol=1e-4)


def test_weights_beyond_the_bound_are_refused():
    with pytest.raises(WeightSpaceError, match=r"w: holds a weight of size 1.4, and a = 0.5"):
        adapt.compander(0.5, 0.1).init(0, {"w": W})
    stack = {"w": np.stack([W, W])}
    sites = [[("w", 1, "consumed")], [("w", 2, "produced")]]
    groups = symmetry.Groups.from_sites(stack, sites)
    with pytest.raises(WeightSpaceError, match=r"w: holds a weight of size 1.4, and a = 0.5"):
        adapt.compander(0.5, 0.1, groups=groups).init(0, stack)
    with pytest.raises(WeightSpaceError, match="positive a and b"):
        adapt.compander(1.0, 0.0)
