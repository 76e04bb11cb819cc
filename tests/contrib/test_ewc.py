"""Elastic weight consolidation: where training ends on quadratics, whose solution is closed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax.contrib import ewc
from wslax.numerics.fisher import fisher_information

RNG = np.random.default_rng(0)
NEAR, FAR = (RNG.normal(size=(2, 3)).astype("f4") for _ in range(2))
FIRST, SECOND = (RNG.gamma(1.0, size=(2, 3)).astype("f4") for _ in range(2))


def test_the_minimum_beside_a_memory_is_the_mean_by_importance():
    """The new task is a quadratic with a diagonal of its own: the product of two Gaussians."""
    memory = ewc.Memory({"w": jnp.array(NEAR)}, {"w": jnp.array(FIRST)})
    loss = lambda p: jnp.sum(SECOND * (p["w"] - FAR) ** 2) / 2 + 3 * ewc.penalty(p, memory)
    rule = optax.sgd(0.1)

    def turn(params, _):
        step, _ = rule.update(jax.grad(loss)(params), rule.init(params))
        return optax.apply_updates(params, step), None

    found = jax.lax.scan(turn, {"w": jnp.zeros((2, 3))}, None, length=800)[0]["w"]
    expected = (SECOND * FAR + 3 * FIRST * NEAR) / (SECOND + 3 * FIRST)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_for_a_linear_gaussian_model_it_is_learning_on_both_tasks():
    """Online, three tasks in a row end where all of their data at once would."""
    rows = RNG.normal(size=(3, 8, 2)) * [[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.0]]]  # on one axis
    y = RNG.normal(size=(3, 8))
    gram, moment = np.einsum("tij,tik->tjk", rows, rows), np.einsum("tij,ti->tj", rows, y)
    memory = ewc.Memory({"w": jnp.zeros(2)}, {"w": jnp.zeros(2)})
    for task in range(3):
        prior = np.diag(np.asarray(memory.importance["w"]))
        solution = np.linalg.solve(
            gram[task] + prior + 1e-9 * np.eye(2), moment[task] + prior @ memory.params["w"]
        )
        params = {"w": jnp.asarray(solution, jnp.float32)}
        slope = jax.grad(
            lambda p, t=task, m=memory: (
                jnp.sum((rows[t] @ p["w"] - y[t]) ** 2) / 2 + ewc.penalty(p, m)
            )
        )(params)["w"]
        np.testing.assert_allclose(slope, 0, atol=1e-4)
        diagonal = {"w": jnp.asarray(np.diag(gram[task]), jnp.float32)}
        memory = ewc.remember(memory, params, diagonal)
    at_once = np.linalg.solve(gram.sum(0), moment.sum(0))
    np.testing.assert_allclose(memory.params["w"], at_once, rtol=1e-4)


def test_it_is_the_divergence_of_nearby_outputs():
    """The penalty with the Fisher information is KL to second order, along each weight."""
    params = {"w": jnp.array(RNG.normal(size=(4, 3)), jnp.float32)}
    x = jnp.array(RNG.normal(size=(5, 4)), jnp.float32)
    log_prob = lambda p, x: jax.nn.log_softmax(x @ p["w"])
    memory = ewc.Memory(params, fisher_information(log_prob, params, x))
    moved = {"w": params["w"].at[2, 1].add(0.02)}
    old, new = (jax.vmap(lambda x, p=p: log_prob(p, x))(x) for p in (params, moved))
    divergence = float(jnp.sum(jnp.exp(old) * (old - new), -1).mean())
    np.testing.assert_allclose(ewc.penalty(moved, memory), divergence, rtol=0.05)


def test_old_tasks_fade():
    memory = ewc.Memory({"w": jnp.array(NEAR)}, {"w": jnp.array(FIRST)})
    run = jax.jit(lambda m, p, f, d: ewc.remember(m, p, f, decay=d))
    found = run(memory, {"w": jnp.array(FAR)}, {"w": jnp.array(SECOND)}, 0.25)
    np.testing.assert_allclose(found.importance["w"], FIRST / 4 + SECOND, rtol=1e-6)
    np.testing.assert_array_equal(found.params["w"], FAR)


def test_members_vectorise_half_types_are_wide_and_other_leaves_stay_out():
    params = {"w": jnp.full((2, 4096), 1.0, jnp.bfloat16), "n": jnp.arange(2)}
    weight = {"w": jnp.ones((2, 4096)), "n": jnp.zeros(2)}
    memory = ewc.Memory(jax.tree.map(jnp.zeros_like, params), weight)
    found = jax.vmap(ewc.penalty)(params, memory)
    assert found.dtype == jnp.float32
    assert found.tolist() == [2048.0, 2048.0]  # bfloat16 would stop at 256
    slope = jax.grad(lambda w: ewc.penalty(params | {"w": w}, memory))(params["w"])
    assert slope.dtype == jnp.bfloat16


def test_bad_input_is_said():
    memory = ewc.Memory({"w": jnp.zeros(2)}, {"w": jnp.zeros(3)})
    with pytest.raises(ws.WeightSpaceError, match=r"w: importance is float32\[3\], the weights"):
        ewc.penalty({"w": jnp.zeros(2)}, memory)
    with pytest.raises(ws.WeightSpaceError, match="w: params is"):
        ewc.penalty({"w": jnp.zeros(4)}, memory)
    with pytest.raises(ws.WeightSpaceError, match="lacks 'w'"):
        ewc.remember(ewc.Memory({"w": jnp.zeros(2)}, {"w": jnp.zeros(2)}), {"w": jnp.zeros(2)}, {})
