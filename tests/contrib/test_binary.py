"""Binary weights against enumeration of all of them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import wslax as ws
from wslax.contrib import binary

N = 8
ALL = np.array(list(itertools.product((-1, 1), repeat=N)))  # [256, N]


def chances(fields):
    p = np.exp(ALL @ fields)
    return p / p.sum()


@pytest.fixture(scope="module")
def fields():
    return np.random.default_rng(0).normal(size=(2, N))


def test_divergence_and_moments_are_those_of_all_weights(fields):
    p, q = chances(fields[0]), chances(fields[1])
    new, old = ({"a": jnp.asarray(f[:3], "f4"), "b": jnp.asarray(f[3:], "f4")} for f in fields)
    np.testing.assert_allclose(binary.kl(new, old), p @ np.log(p / q), rtol=1e-5)
    np.testing.assert_allclose(binary.kl(new, new), 0, atol=1e-6)
    mean, variance = binary.moments(new)
    np.testing.assert_allclose(np.hstack([mean["a"], mean["b"]]), p @ ALL, rtol=1e-5)
    by_hand = p @ ALL**2 - (p @ ALL) ** 2
    np.testing.assert_allclose(np.hstack([variance["a"], variance["b"]]), by_hand, rtol=1e-5)
    x = np.random.default_rng(1).normal(size=(5, N))
    z = x @ ALL.T / np.sqrt(N)
    mean, variance = binary.preactivation(jnp.asarray(fields[0], "f4"), jnp.asarray(x, "f4"))
    np.testing.assert_allclose(mean, z @ p, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(variance, z**2 @ p - (z @ p) ** 2, rtol=1e-4)


def test_inputs_that_are_not_sure_add_their_variance(fields):
    """Two independent vectors of signs, over all pairs of them."""
    p, q = chances(fields[0]), chances(fields[1])
    mu = q @ ALL
    z = ALL @ ALL.T / np.sqrt(N)  # weights, inputs
    mean, variance = binary.preactivation(
        jnp.asarray(fields[0], "f4"), jnp.asarray(mu[None], "f4"), jnp.asarray(1 - mu[None] ** 2)
    )
    np.testing.assert_allclose(mean[0], p @ z @ q, rtol=1e-4)
    np.testing.assert_allclose(variance[0], p @ z**2 @ q - (p @ z @ q) ** 2, rtol=1e-4)


def test_signs_and_labels_of_gaussians_are_those_of_scipy():
    mean, variance = np.array([-2.0, 0.1, 3.0]), np.array([0.5, 1.0, 2.0])
    up = stats.norm.cdf(mean / np.sqrt(variance))
    got = binary.signed(jnp.asarray(mean, "f4"), jnp.asarray(variance, "f4"))
    np.testing.assert_allclose(got[0], 2 * up - 1, rtol=1e-4)
    np.testing.assert_allclose(got[1], 1 - (2 * up - 1) ** 2, rtol=1e-3)
    told = binary.log_likelihood(*map(jnp.asarray, (mean, variance)), -jnp.ones(3))
    np.testing.assert_allclose(told, stats.norm.logsf(mean / np.sqrt(variance)), rtol=1e-4)
    sure = binary.log_likelihood(jnp.ones(1), jnp.zeros(1), -jnp.ones(1))
    assert np.isfinite(sure).all()


def test_close_to_the_prior_the_divergence_is_the_penalty_of_ewc(fields):
    at = jnp.asarray(fields[0], "f4").at[0].set(0)
    curvature = jax.hessian(lambda f: binary.kl({"w": f}, {"w": at}))(at)
    np.testing.assert_allclose(curvature, np.diag(1 - np.tanh(at) ** 2), rtol=1e-4, atol=1e-6)


def test_sure_weights_have_finite_slopes():
    fields, prior = {"w": jnp.array([200.0, -200.0])}, {"w": jnp.zeros(2)}
    value, slope = jax.value_and_grad(binary.kl)(fields, prior)
    np.testing.assert_allclose(value, 2 * np.log(2), rtol=1e-4)
    assert np.isfinite(slope["w"]).all()
    spread = jax.grad(lambda f: binary.moments(f)[1]["w"].sum())(fields)
    assert np.isfinite(spread["w"]).all()


def test_draws_have_the_chances_and_do_not_depend_on_the_count():
    fields = {"w": jnp.array([-1.0, 0.0, 0.5], jnp.bfloat16), "b": jnp.zeros((2, 2))}
    count = 20_000
    draws = binary.sample(0, fields, count)
    p = 1 / (1 + np.exp(-2 * np.array([-1.0, 0.0, 0.5])))
    share = (np.asarray(draws["w"], "f4") > 0).mean(0)
    assert (abs(share - p) < 5 * np.sqrt(p * (1 - p) / count)).all()
    assert set(np.unique(draws["b"])) == {-1.0, 1.0}
    assert abs(np.corrcoef(np.asarray(draws["b"]).reshape(count, 4).T)[0, 1]) < 5 / count**0.5
    assert draws["w"].dtype == jnp.bfloat16
    few = binary.sample(0, fields, 3)
    assert all((draws[name][:3] == few[name]).all() for name in fields)


def test_turning_all_signs_turns_what_is_predicted(fields):
    f, x = jnp.asarray(fields[0], "f4"), jnp.asarray(fields[1:], "f4")
    (mean, variance), (back, same) = binary.preactivation(f, x), binary.preactivation(-f, x)
    np.testing.assert_allclose(mean, -back, rtol=1e-6)
    np.testing.assert_allclose(variance, same, rtol=1e-6)
    assert (binary.mode({"w": f})["w"] == -binary.mode({"w": -f})["w"]).all()


def test_wrong_shapes_are_said():
    with pytest.raises(ws.WeightSpaceError, match=r"\[B, 4\] for these fields, got float32\[3,5\]"):
        binary.preactivation(jnp.ones((4, 2)), jnp.ones((3, 5)))
    with pytest.raises(ws.WeightSpaceError, match="prior"):
        binary.kl({"w": jnp.ones(2)}, {"w": jnp.ones(3)})
