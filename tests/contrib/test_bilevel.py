"""ScaleBiO on a linear regression against the same updates in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax.contrib import bilevel

SOURCES, ALPHA, RATE, LOGITS_RATE, DECAY = 3, 4.0, 0.05, 0.3, 0.1


def losses(params, batch):
    x, y = batch
    return (x @ params["w"] - y) ** 2


def by_hand(w, steps):
    """States after each step; AdamW of the first step only would hide the scale, so SGD."""
    u, logits = w.copy(), np.zeros(SOURCES)
    told = lambda w, x, y: (x @ w - y) ** 2
    for x, y, source, vx, vy in steps:
        p = np.exp(logits) / np.exp(logits).sum()
        counts = np.bincount(source, minlength=SOURCES)
        weight = p[source] / counts[source]
        slope = lambda w, x=x, y=y, weight=weight: 2 * x.T @ (weight * (x @ w - y))
        mean = lambda w, x=x, y=y, s=source, c=counts: (
            np.bincount(s, told(w, x, y), SOURCES) / np.maximum(c, 1)
        )
        gap = mean(w) - mean(u)
        value = told(w, vx, vy).mean()
        d_logits = ALPHA * (np.diag(p) - np.outer(p, p)) @ gap
        d_w = 2 * vx.T @ (vx @ w - vy) / len(vy) + ALPHA * slope(w)
        d_u = ALPHA * slope(u)
        w, u = w - RATE * (d_w + DECAY * w), u - RATE * (d_u + DECAY * u)
        logits = logits - LOGITS_RATE * d_logits
        yield w, u, logits, value, gap


@pytest.fixture(scope="module")
def steps():
    rng = np.random.default_rng(0)
    source = [[0, 0, 1, 2, 2, 2], [0, 1, 1, 1, 0, 1], [2, 2, 2, 2, 2, 2]]  # some are absent
    return [
        (
            rng.normal(size=(6, 2)), rng.normal(size=6), np.array(s),
            rng.normal(size=(4, 2)), rng.normal(size=4),
        )
        for s in source
    ]  # fmt: skip


def test_steps_are_those_of_numpy(steps):
    inner = optax.chain(optax.add_decayed_weights(DECAY), optax.sgd(RATE))
    run = bilevel.scalebio(losses, inner, optax.sgd(LOGITS_RATE), sources=SOURCES, penalty=ALPHA)
    begin = np.array([0.5, -1.0])
    rest = {"steps": jnp.int32(20_000_001), "mask": jnp.array(True), "key": jax.random.key(5)}
    state = run.init({"w": jnp.asarray(begin, "f4"), **rest})
    step = jax.jit(run.step, donate_argnums=0)
    rows = zip(steps, by_hand(begin, steps), strict=True)
    for (x, y, source, vx, vy), (w, u, logits, value, gap) in rows:
        batch, validation = jax.tree.map(lambda a: jnp.asarray(a, "f4"), ((x, y), (vx, vy)))
        state, info = step(state, batch, jnp.asarray(source), validation)
        got = state.params["w"], state.follower["w"], state.logits, info["validation"], info["gap"]
        for a, b in zip(got, (w, u, logits, value, gap), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)
    for name, leaf in rest.items():
        assert {ws.tree.aval(p[name]) for p in state[:2]} == {ws.tree.aval(leaf)}
        assert all(bool(p[name] == leaf) for p in state[:2])
    assert jax.tree.map(ws.tree.aval, state.penalty) == "float32[]"


def test_weights_go_to_the_source_that_agrees_with_validation():
    """No mixture but the first source alone has the validation's mean."""
    scalar = lambda params, batch: (params["w"] - batch) ** 2
    run = bilevel.scalebio(scalar, optax.sgd(0.01), optax.sgd(0.05), sources=3)
    batch, source = jnp.array([1.0, 2.0, 4.0]), jnp.arange(3)

    @jax.jit
    def trained(state):
        turn = lambda state, _: (run.step(state, batch, source, jnp.ones(1))[0], None)
        return jax.lax.scan(turn, state, None, length=2000)[0]

    state = trained(run.init({"w": jnp.array(0.0)}))
    weights = jax.nn.softmax(state.logits)
    assert weights[0] > 0.9
    np.testing.assert_allclose(state.params["w"], 1, atol=0.1)


def test_a_step_needs_one_loss_and_source_a_row():
    run = bilevel.scalebio(losses, optax.sgd(0.1), optax.sgd(0.1), sources=2)
    state, batch = run.init({"w": jnp.ones(2)}), (jnp.ones((3, 2)), jnp.ones(3))
    with pytest.raises(ws.WeightSpaceError, match=r"got float32\[3\] for int32\[2\]"):
        run.step(state, batch, jnp.zeros(2, int), batch)
    with pytest.raises(ws.WeightSpaceError, match="at least 2, got 1"):
        bilevel.scalebio(losses, optax.sgd(0.1), optax.sgd(0.1), sources=1)
