"""Weighted losses against the reference's formula in numpy, and their gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax.contrib.reweight import weighted_loss


def linear_upper(losses, xp):
    low, high = losses.min(), losses.max()
    h = (2 * losses - (high + low)) / xp.maximum(high - low, 1e-6)
    weight = xp.exp(xp.minimum(h + 1, 1))
    return weight / weight.sum()


def test_weights_have_no_gradient():
    x, w = np.array([0.3, -1.0, 2.0, 0.1]), 0.7
    losses = (w * x - 1) ** 2
    weights = linear_upper(losses, np)
    weigh = lambda losses: linear_upper(losses, jnp)
    run = lambda w: weighted_loss((w * jnp.asarray(x, "f4") - 1) ** 2, weigh)
    value, slope = jax.value_and_grad(run)(w)
    np.testing.assert_allclose(value, weights @ losses, rtol=1e-5)
    np.testing.assert_allclose(slope, weights @ (2 * x * (w * x - 1)), rtol=1e-5)


def test_samples_count_alike_until_the_warm_up_is_over():
    losses = jnp.array([0.0, 1.0, 5.0])
    last = lambda x: jnp.array([0.0, 0.0, 1.0])
    run = jax.jit(lambda step: weighted_loss(losses, last, step=step, warmup=3))
    assert [float(run(step)) for step in (0, 2, 3, 4)] == [2.0, 2.0, 5.0, 5.0]


def test_bad_input_is_said():
    with pytest.raises(ws.WeightSpaceError, match=r"one a sample, got float32\[2,1"):
        weighted_loss(jnp.ones((2, 1)), lambda x: x)
    with pytest.raises(ws.WeightSpaceError, match=r"float32\[2\], got float32\[\]"):
        weighted_loss(jnp.ones(2), jnp.sum)
