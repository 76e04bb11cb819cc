"""Ensembles: against plain numpy, by exact properties, and with members that are not there."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import wslax as ws
from wslax.contrib import ensemble

# As one program each: many small ones take longer to compile than to test.
vote, average, inverse_variance, mixture, gated = map(
    jax.jit,
    (
        ensemble.vote,
        ensemble.average,
        ensemble.inverse_variance,
        ensemble.mixture,
        ensemble.gated,
    ),
)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 4, 5)).astype(np.float32)  # members, rows, classes


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def test_top_is_by_fitness_and_nan_is_worst():
    fitness = jnp.array([1.0, jnp.nan, 3.0, 3.0, 2.0])
    population = {"w": jnp.arange(5), "key": jax.random.split(jax.random.key(0), 5)}
    assert ensemble.top(population, fitness, 3)["w"].tolist() == [2, 3, 4]
    assert ensemble.top(population, fitness, 5)["w"].tolist()[-1] == 1
    jitted = jax.jit(ensemble.top, static_argnums=2)
    assert jitted(population, fitness, 2)["w"].tolist() == [2, 3]


@given(
    labels=arrays(np.int32, (7, 3), elements=st.integers(0, 3)),
    share=arrays(np.float32, 7, elements=st.floats(0.125, 1, width=32)),
)
@settings(max_examples=20, deadline=None)
def test_votes_are_counted(labels, share):
    outputs = RNG.normal(size=(7, 3, 4)).astype(np.float32)
    np.put_along_axis(outputs, labels[..., None], 9.0, -1)
    plain = [np.bincount(labels[:, i], minlength=4) / 7 for i in range(3)]
    np.testing.assert_allclose(vote(outputs), plain, rtol=1e-6)
    weighed = [np.bincount(labels[:, i], share, 4) / share.sum() for i in range(3)]
    np.testing.assert_allclose(vote(outputs, share), weighed, rtol=1e-5, atol=1e-7)


def test_ties_go_to_the_lower_class():
    outputs = jnp.array([[0.0, 0.0, 1.0], [0.0, 5.0, 5.0]])
    assert vote(outputs).tolist() == [0, 0.5, 0.5]
    assert int(jnp.argmax(vote(outputs))) == 1


def test_probabilities_are_averaged_and_not_logits():
    w = np.array([0.2, 0.5, 1.3])
    expected = np.tensordot(w / w.sum(), softmax(LOGITS.astype(np.float64)), 1)
    np.testing.assert_allclose(np.exp(average(LOGITS, w)), expected, rtol=1e-5)
    shifted = LOGITS + RNG.normal(size=(3, 4, 1)).astype(np.float32)
    np.testing.assert_allclose(average(shifted), average(LOGITS), rtol=1e-4, atol=1e-6)
    sure = jnp.array([[200.0, 0.0], [0.0, 0.1]])  # a mean of logits would be of one mind
    assert float(jnp.exp(average(sure))[0]) == pytest.approx((1 + 0.475) / 2, abs=1e-3)


def test_weights_may_differ_from_row_to_row():
    by_row = RNG.random((3, 4)).astype(np.float32)
    for combine in (average, vote):
        found = np.asarray(combine(LOGITS, by_row))
        for i in range(4):
            row = np.asarray(combine(LOGITS, by_row[:, i]))[i]
            np.testing.assert_allclose(found[i], row, rtol=1e-5, atol=1e-6)


def test_a_member_that_failed_has_no_say():
    broken = LOGITS.copy()
    broken[1, 2, 3] = np.nan
    for combine in (average, vote):
        found = np.asarray(combine(broken))
        others = np.asarray(combine(LOGITS, np.array([1.0, 0.0, 1.0], np.float32)))
        np.testing.assert_allclose(found[2], others[2], rtol=1e-6)
        np.testing.assert_allclose(found[:2], np.asarray(combine(LOGITS))[:2], rtol=1e-6)
        assert np.isnan(combine(np.full_like(LOGITS, np.nan))).all()


def test_inverse_variance_is_its_formula():
    means, variances = RNG.normal(size=(5, 3)), RNG.random((5, 3)) + 0.1
    found = inverse_variance(means, variances)
    np.testing.assert_allclose(found.variance, 1 / (1 / variances).sum(0), rtol=1e-5)
    expected = (means / variances).sum(0) / (1 / variances).sum(0)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-4, atol=1e-6)
    shared = inverse_variance(means, variances[:, 0])
    repeated = np.repeat(variances[:, :1], 3, 1)
    np.testing.assert_allclose(shared.mean, inverse_variance(means, repeated).mean)


def test_inverse_variance_is_calibrated_where_errors_are_independent():
    sd = np.array([0.5, 1.0, 2.0])[:, None]
    noisy = 3 + sd * RNG.normal(size=(3, 20_000))
    found = inverse_variance(noisy, np.broadcast_to(sd**2, noisy.shape).copy())
    assert float(found.mean.var()) == pytest.approx(float(found.variance[0]), rel=0.05)


def test_estimates_that_are_missing_or_exact():
    means = np.array([[1.0, np.nan, np.nan], [3.0, 3.0, np.nan], [9.0, 5.0, 1.0]], np.float32)
    variances = np.array([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, np.inf, np.nan]], np.float32)
    found = inverse_variance(means, variances)
    np.testing.assert_array_equal(found.mean, [1, 3, np.nan])
    np.testing.assert_array_equal(found.variance, [0, 1, np.inf])


LOSSES = arrays(np.float32, (4, 12), elements=st.floats(0, 20, width=32))


@given(losses=LOSSES, prior=arrays(np.float32, 4, elements=st.floats(0.0625, 1, width=32)))
@settings(max_examples=30, deadline=None)
def test_the_mixture_is_bayes_and_within_its_bound(losses, prior):
    found = mixture(losses, prior)
    weight = prior.astype(np.float64) / prior.astype(np.float64).sum()
    whole = losses.astype(np.float64).sum(1)
    # All items at once: -log of the prior's mean likelihood, which sequential losses add up to.
    at_once = whole.min() - np.log((weight * np.exp(whole.min() - whole)).sum())
    assert float(found.losses.sum()) == pytest.approx(at_once, rel=1e-4, abs=1e-4)
    for t in range(12):
        np.testing.assert_allclose(found.weights[:, t], weight, rtol=2e-3, atol=1e-6)
        weight = weight * np.exp(-losses[:, t].astype(np.float64))
        weight /= weight.sum()
    assert float(found.regret) == pytest.approx(at_once - whole.min(), abs=2e-4)
    assert float(found.regret) <= float(found.bound) + 2e-4


@given(losses=LOSSES, temperature=st.floats(1, 8, width=32))
@settings(max_examples=30, deadline=None)
def test_warm_mixtures_are_within_theirs(losses, temperature):
    found = mixture(losses, temperature=temperature)
    assert float(found.bound) == pytest.approx(temperature * np.log(4), rel=1e-5)
    assert float(found.regret) <= float(found.bound) + 1e-3
    assert mixture(losses, temperature=0.5).bound == np.inf


def test_mixture_and_average_are_one_prediction():
    labels = np.array([0, 4, 2, 1])
    losses = -np.take_along_axis(np.log(softmax(LOGITS)), labels[None, :, None], -1)[..., 0]
    found = mixture(losses)
    said = average(LOGITS, found.weights[:, :-1])
    np.testing.assert_allclose(-said[np.arange(4), labels], found.losses, rtol=1e-5)


def test_a_member_that_excludes_what_happens_is_out():
    found = mixture(np.array([[np.nan, 0.1, 0.1], [1.0, 1.0, 1.0]], np.float32))
    np.testing.assert_allclose(found.weights[:, 1:], np.repeat([[0.0], [1.0]], 3, 1))
    assert float(found.losses[0]) == pytest.approx(1 + np.log(2))


@pytest.mark.parametrize("per_feature", [False, True])
@pytest.mark.parametrize("rows", [(), (5,), (2, 3)])
def test_gates_add_up_over_members_whatever_follows(per_feature, rows):
    z = RNG.normal(size=(3, *rows, 4)).astype(np.float32)
    start = ensemble.gate_init(3, 4, per_feature=per_feature)
    np.testing.assert_allclose(gated(start, z).outputs, z.mean(0), atol=1e-6)
    params = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), start)
    present = RNG.random((3, *rows)) < 0.7
    found = gated(params, z, present)
    assert found.gates.shape == (3, *rows, 4 if per_feature else 1)
    np.testing.assert_allclose(found.gates.sum(0), 1, rtol=1e-5)
    seen = np.where(present[..., None], z, 0)
    flat = np.moveaxis(seen, 0, -2).reshape(*rows, 12)  # [z_1; ...; z_N]
    gates = params["kernel"].shape[-1]
    logits = flat @ params["kernel"].reshape(12, 3 * gates) + params["bias"].reshape(-1)
    logits = np.moveaxis(logits.reshape(*rows, 3, gates), -2, 0)
    logits = np.where(present[..., None], logits, np.log(1e-20))
    expected = softmax(logits.astype(np.float64), 0)
    np.testing.assert_allclose(found.gates, expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.outputs, (expected * seen).sum(0), rtol=1e-3, atol=1e-5)


def test_the_missing_are_not_read_and_break_nothing():
    z = np.stack([np.full((2, 3), np.nan, np.float32), np.ones((2, 3), np.float32)])
    params = ensemble.gate_init(2, 3)
    present = jnp.array([[False, False], [True, False]])

    def total(params):
        return ensemble.gated(params, z, present).outputs.sum()

    found = gated(params, z, present).outputs
    np.testing.assert_allclose(found, [[1, 1, 1], [0, 0, 0]], atol=1e-6)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.jit(jax.grad(total))(params)))
    alone = gated(params, z, np.array([False, True])).outputs
    np.testing.assert_allclose(alone, z[1], atol=1e-6)


def test_a_gate_learns_whom_to_trust():
    """Member 1 is right where its second feature says so, member 0 elsewhere."""
    truth, right = RNG.normal(size=256), RNG.random(256) < 0.5
    wrong = RNG.normal(size=256)
    flag = np.where(right, 1.0, -1.0)
    first = np.stack([np.where(right, wrong, truth), flag], 1)
    z = np.stack([first, np.stack([np.where(right, truth, wrong), flag], 1)]).astype(np.float32)
    tx, params = optax.adam(0.1), ensemble.gate_init(2, 2)

    def loss(params):
        said = gated(params, z).outputs[:, 0]
        return jnp.mean(jnp.square(said - truth.astype(np.float32)))

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    end = jax.jit(lambda c: jax.lax.scan(step, c, None, 200))((params, tx.init(params)))[0][0]
    assert float(loss(params)) > 0.3
    assert float(loss(end)) < 0.02


def test_bad_input_is_told():
    two = np.zeros((2, 3))
    cases = [
        (lambda: ensemble.top({"w": two}, np.zeros(2), 3), "top: expected k from 1 to 2, got 3"),
        (lambda: ensemble.top({"w": two}, np.zeros(3), 1), r"fitness: expected \[2\]"),
        (lambda: ensemble.vote(np.zeros(3)), r"outputs: expected \[N, ..., classes\]"),
        (lambda: ensemble.average(two, np.zeros(3)), r"weights: expected \(2,\)"),
        (lambda: ensemble.inverse_variance(two, np.zeros(3)), r"variances: expected \(2, 3\)"),
        (lambda: ensemble.mixture(np.zeros(3)), r"losses: expected \[members, items\]"),
        (lambda: ensemble.mixture(two, np.ones(3)), r"prior: expected one number a member, \[2\]"),
        (lambda: ensemble.gated(ensemble.gate_init(2, 4), two), r"outputs: expected \[2, ..., 4\]"),
        (
            lambda: ensemble.gated(ensemble.gate_init(2, 3), two, np.ones(3, bool)),
            r"present: expected \(2,\)",
        ),
    ]
    for call, words in cases:
        with pytest.raises(ws.WeightSpaceError, match=words):
            call()
