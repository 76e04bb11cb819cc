"""Meta-gradients against closed forms on quadratics, merging, and numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax.contrib import maml

RATE, STEPS, TASKS = 0.1, 3, 4


def quadratic(params, batch):
    """Half of (w - c)' A (w - c): its descent is linear."""
    a, c = batch
    d = params["w"] - c
    return d @ a @ d / 2


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(2, TASKS, 3, 3)) / 2
    a = np.einsum("stij,stkj->stik", root, root)
    c = rng.normal(size=(2, TASKS, 3))
    w = rng.normal(size=3)
    tasks = tuple((jnp.asarray(a[i], "f4"), jnp.asarray(c[i], "f4")) for i in (0, 1))
    return w, a, c, {"w": jnp.asarray(w, "f4")}, tasks


def closed(w, a, c):
    """By task: the adapted weights, the query's loss and gradient there, and the Jacobian."""
    for t in range(TASKS):
        turn = np.linalg.matrix_power(np.eye(3) - RATE * a[0, t], STEPS)
        after = c[0, t] + turn @ (w - c[0, t])
        d = after - c[1, t]
        yield after, d @ a[1, t] @ d / 2, a[1, t] @ d, turn


def test_on_quadratics_all_orders_are_their_closed_forms(problem):
    w, a, c, params, tasks = problem
    found = list(closed(w, a, c))
    expected = {
        "first": np.mean([g for _, _, g, _ in found], 0),
        "second": np.mean([turn.T @ g for _, _, g, turn in found], 0),
        "reptile": np.mean([w - after for after, *_ in found], 0),
    }
    loss = np.mean([value for _, value, *_ in found])
    for order, gradient in expected.items():
        run = functools.partial(maml.meta_gradient, quadratic, steps=STEPS, order=order)
        told, got = jax.jit(lambda p, t, r, run=run: run(p, t, rate=r))(params, tasks, RATE)
        np.testing.assert_allclose(got["w"], gradient, rtol=2e-5, atol=1e-6)
        np.testing.assert_allclose(told, loss, rtol=2e-5)


def test_reptile_is_task_arithmetic(problem):
    *_, params, tasks = problem
    adapted = jax.vmap(lambda s: maml.adapt(quadratic, params, s, rate=RATE, steps=STEPS))(tasks[0])
    eps = 0.7
    merged = ws.merge.task_arithmetic(adapted, params, lam=eps / TASKS)
    _, gradient = maml.meta_gradient(
        quadratic, params, tasks, rate=RATE, steps=STEPS, order="reptile"
    )
    rule = optax.sgd(eps)
    step, _ = rule.update(gradient, rule.init(params))
    np.testing.assert_allclose(optax.apply_updates(params, step)["w"], merged["w"], rtol=1e-5)


def test_no_steps_are_joint_training(problem):
    w, a, c, params, tasks = problem
    joint = np.mean([a[1, t] @ (w - c[1, t]) for t in range(TASKS)], 0)
    for order in ("first", "second"):
        _, got = maml.meta_gradient(quadratic, params, tasks, rate=RATE, steps=0, order=order)
        np.testing.assert_allclose(got["w"], joint, rtol=1e-5)


def test_the_best_rate_can_be_learnt(problem):
    """The gradient in the rate, against a difference quotient of the closed form."""
    w, a, c, params, tasks = problem
    support, query = (jax.tree.map(lambda x: x[0], part) for part in tasks)
    loss = lambda rate: quadratic(
        maml.adapt(quadratic, params, support, rate=rate, steps=STEPS), query
    )

    def by_hand(rate):
        turn = np.linalg.matrix_power(np.eye(3) - rate * a[0, 0], STEPS)
        d = c[0, 0] + turn @ (w - c[0, 0]) - c[1, 0]
        return d @ a[1, 0] @ d / 2

    slope = (by_hand(RATE + 1e-5) - by_hand(RATE - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(RATE), slope, rtol=1e-3)


def test_leaves_keep_their_kind_and_half_types_are_summed_in_float32():
    params = {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.arange(3), "s": jnp.asarray(2.0)}
    params |= {"key": jax.random.key(0), "on": jnp.array(True)}
    loss = lambda p, x: jnp.sum(p["w"].astype(jnp.float32)) * x + p["s"] + p["n"][0]
    # The mean of 1 and 600 terms of 2^-8: summed in bfloat16 the small ones would be lost.
    x = jnp.concatenate([jnp.ones(1), jnp.full(600, 2.0**-8)])
    for order in ("first", "second"):
        _, got = maml.meta_gradient(loss, params, (x, x), rate=0.5, order=order)
        assert jax.tree.map(ws.tree.aval, got) == jax.tree.map(ws.tree.aval, params)
        assert got["s"].weak_type
        assert got["n"].tolist() == [0, 0, 0]
        mean = (1 + 600 / 256) / 601
        np.testing.assert_allclose(got["w"].astype("f4"), mean, rtol=2**-8)
    adapted = maml.adapt(loss, params, 0.5, rate=1.0)
    assert jax.tree.map(ws.tree.aval, adapted) == jax.tree.map(ws.tree.aval, params)
    assert adapted["w"].tolist() == [0.5, 0.5]
    assert adapted["n"].tolist() == [0, 1, 2]


def test_few_copies_are_held(problem):
    """Tasks are taken one after another: memory does not grow with them."""
    params = {"w": jnp.zeros(1 << 16)}
    loss = lambda p, x: jnp.sum((p["w"] - x) ** 2)

    def peak(count):
        tasks = (jnp.zeros(count), jnp.zeros(count))
        run = lambda p, t: maml.meta_gradient(loss, p, t, rate=0.1)[1]
        return jax.jit(run).lower(params, tasks).compile().memory_analysis().temp_size_in_bytes

    assert peak(64) <= peak(2) + 4096


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"order": "frist"}, "Did you mean 'first'"),
        ({"steps": -1}, "at least 0, got -1"),
        ({"tasks": (np.zeros((2, 3)), np.zeros((3, 3)))}, r"tasks 1: .* 2 tasks, got float64\[3,3"),
        ({"tasks": (np.zeros((0, 3)), np.zeros((0, 3)))}, "T >= 1"),
        ({"tasks": ((), ())}, "at least one array"),
    ],
)
def test_bad_input_is_said(change, says):
    given = {"tasks": (np.zeros((2, 3)), np.zeros((2, 3))), "rate": 0.1} | change
    with pytest.raises(ws.WeightSpaceError, match=says):
        maml.meta_gradient(lambda p, x: p["w"].sum(), {"w": jnp.ones(1)}, **given)
