"""Adam with a count for every weight: Optax's Adam bit for bit, wherever Optax's goes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import grow

RNG = np.random.default_rng(0)
SHAPES = {"w": (5, 3), "b": (3,), "s": ()}
PARAMS = {name: jnp.asarray(RNG.normal(size=s), jnp.float32) for name, s in SHAPES.items()}
GRADIENTS = {n: jnp.asarray(RNG.normal(size=(6, *s)), jnp.float32) for n, s in SHAPES.items()}
LABELS = {"w": "x", "b": "y", "s": "x"}

WRAPPERS = {
    "alone": lambda adam: adam(0.8, 0.95, 1e-6, 1e-7),
    "half types": lambda adam: adam(mu_dtype=jnp.bfloat16),
    "in a chain": lambda adam: optax.chain(optax.clip(0.5), adam(), optax.scale(-0.1)),
    "masked": lambda adam: optax.masked(adam(), {"w": True, "b": False, "s": True}),
    "multi_transform": lambda adam: optax.multi_transform(
        {"x": adam(), "y": optax.identity()}, LABELS
    ),
    "MultiSteps": lambda adam: optax.MultiSteps(adam(), 2),
    "inject_hyperparams": lambda adam: optax.inject_hyperparams(adam)(b1=0.7, eps=1e-3),
}


def updates(optimizer, gradients):
    def step(state, gradient):
        out, state = optimizer.update(gradient, state, PARAMS)
        return state, out

    return jax.lax.scan(step, optimizer.init(PARAMS), gradients)[1]


@pytest.mark.parametrize("name", WRAPPERS)
def test_equals_optax_bit_for_bit(name):
    ours, theirs = (
        jax.jit(lambda g, adam=adam: updates(WRAPPERS[name](adam), g))(GRADIENTS)
        for adam in (grow.scale_by_adam, optax.scale_by_adam)
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert jax.tree.map(jax.typeof, ours) == jax.tree.map(jax.typeof, theirs)


def test_members_under_vmap():
    members = jax.tree.map(lambda g: jnp.stack([g, -2 * g]), GRADIENTS)
    together = jax.vmap(lambda g: updates(grow.scale_by_adam(), g))(members)
    alone = updates(grow.scale_by_adam(), GRADIENTS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-6), together, alone)


def test_every_weight_is_corrected_by_its_own_count():
    """The first step of a weight is sign(g), the k-th that of the formula, side by side."""
    adam = grow.scale_by_adam(eps=0.0)
    count, m, v = np.array([0, 3], np.int32), np.array([0.0, 0.2]), np.array([0.0, 0.5])
    gradient = np.array([-7.0, 0.3])
    state = grow.CountedAdamState(*({"w": jnp.asarray(x)} for x in (count, m, v)))
    out, state = adam.update({"w": jnp.asarray(gradient)}, state)
    m, v, t = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2, count + 1
    expected = m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.999**t))
    np.testing.assert_allclose(out["w"], expected, rtol=1e-4)
    np.testing.assert_allclose(out["w"][0], -1, rtol=1e-4)
    np.testing.assert_array_equal(state.count["w"], [1, 4])
