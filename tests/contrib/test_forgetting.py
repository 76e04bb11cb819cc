"""Forgetting: what changes and when, against a loop in numpy of the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax.contrib import forgetting

LIKE = {"body": {"w": jnp.full((2, 2), 0.5)}, "embed": jnp.ones((6, 2), jnp.bfloat16)}
RULE = optax.chain(ws.grow.scale_by_adam(), optax.scale(-0.1))


def init(key):
    return jax.tree.map(lambda x: jax.random.normal(key, x.shape, x.dtype), LIKE)


def steps(key, every, until, count=12):
    """Parameters and optimizer states after each of so many steps, the gradient always 1."""

    def turn(carry, step):
        params, state = carry
        update, state = RULE.update(jax.tree.map(jnp.ones_like, params), state)
        params = optax.apply_updates(params, update)
        now = forgetting.periodic(
            params, state, key, step, init=init, where="embed", every=every, until=until
        )
        return now, (params, now)

    begin = LIKE, RULE.init(LIKE)
    return jax.lax.scan(turn, begin, jnp.arange(1, count + 1))[1]


_steps = jax.jit(steps)


@pytest.mark.parametrize(("every", "until"), [(3, 9), (5, 100), (100, 100)])
def test_only_picked_leaves_change_and_only_at_their_steps(every, until):
    key = jax.random.key(3)
    before, (after, state) = _steps(key, every, until)
    np.testing.assert_array_equal(before["body"]["w"], after["body"]["w"])
    count = 0
    for i in range(12):
        step = i + 1
        due = step % every == 0 and step < until
        count = 0 if due else count + 1
        assert bool((before["embed"][i] == after["embed"][i]).all()) != due
        adam = state[0]
        assert (adam.count["embed"][i] == count).all()
        assert (adam.count["body"]["w"][i] == step).all()
        if due:
            expected = init(jax.random.fold_in(key, step))["embed"]
            np.testing.assert_array_equal(after["embed"][i], expected)
            assert not adam.mu["embed"][i].any()
            assert not adam.nu["embed"][i].any()
        np.testing.assert_allclose(adam.mu["body"]["w"][i], 1 - 0.9**step, rtol=1e-5)


def test_there_need_be_no_end():
    state = RULE.init(LIKE)
    run = lambda step, until: forgetting.periodic(
        LIKE, state, 0, step, init=init, where="embed", every=2, until=until
    )[0]["embed"]
    assert (run(1_000_000, None) != 1).any()
    assert (run(1_000_000, 1_000_000) == 1).all()
    assert (run(0, None) == 1).all()


def test_members_vectorise_and_draw_apart():
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.vmap(lambda key: steps(key, 3, 9, 3)[1][0]["embed"][-1])(keys)
    assert len({np.asarray(x, "f4").tobytes() for x in many}) == 3
    alone = _steps(keys[1], 3, 9)[1][0]["embed"][2]
    np.testing.assert_array_equal(many[1], alone)


def test_leaves_keep_their_kind():
    params = {"embed": jnp.asarray(2.0), "n": jnp.arange(3)}
    fresh = lambda key: {"embed": jnp.asarray(1.0), "n": jnp.zeros(3, int)}
    state = optax.adam(1.0).init(params)
    given = jax.tree.map(ws.tree.aval, (params, state))
    for step in (1, 2):
        found = forgetting.periodic(params, state, 0, step, init=fresh, where="embed", every=2)
        assert jax.tree.map(ws.tree.aval, found) == given
        assert found[0]["embed"].weak_type
        assert float(found[0]["embed"]) == 3 - step
        assert found[1][0].count == 0


def test_so_many_rows_are_replaced_and_get_no_gradient():
    like = {"body": jnp.ones(2), "embed": jnp.ones((4000, 2)), "head": {"embed": jnp.ones(4000)}}
    zeros = lambda key: jax.tree.map(jnp.zeros_like, like)
    run = jax.jit(
        lambda p, key, rate: forgetting.probabilistic(
            p, key, init=zeros, where=["embed", "head/*"], rate=rate
        )
    )
    for rate in (0.0, 0.3, 1.0):
        found = run(like, jax.random.key(1), rate)
        rows = np.asarray(found["embed"])
        assert (rows[:, 0] == rows[:, 1]).all()
        np.testing.assert_array_equal(rows[:, 0], found["head"]["embed"])
        assert (rows == 0).mean() == pytest.approx(rate, abs=0.03)
        assert (found["body"] == 1).all()
    slope = jax.grad(lambda p: run(p, jax.random.key(1), 0.3)["embed"].sum())(like)["embed"]
    np.testing.assert_array_equal(slope, run(like, jax.random.key(1), 0.3)["embed"])


def test_bad_input_is_said():
    state = RULE.init(LIKE)
    run = lambda **change: forgetting.periodic(
        LIKE, state, 0, 1, **{"init": init, "where": "embed", "every": 2} | change
    )
    with pytest.raises(ws.WeightSpaceError, match="emed"):
        run(where="emed")
    with pytest.raises(ws.WeightSpaceError, match="embed: what init gives is float32"):
        run(init=lambda key: LIKE | {"embed": jnp.ones((6, 2))})
    with pytest.raises(ws.WeightSpaceError, match="s: expected a leaf of rows"):
        forgetting.probabilistic(
            {"s": jnp.ones(())}, 0, init=lambda key: {"s": jnp.ones(())}, where="s"
        )
