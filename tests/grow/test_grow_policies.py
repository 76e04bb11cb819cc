"""The policies for optimizer states, against steps computed by hand and trainings of real nets."""

import functools

import forwards
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import WeightSpaceError, grow

B1, B2, STEPS = 0.9, 0.999, 7


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def hand():
    """An MLP of 5 and 4 units, the first widened to 9: images, `s` and `t` by numpy alone."""
    params, groups = forwards.mlp_params()
    edit = grow.widen(groups, {0: 9}, key=0)
    numbered = params | {"a": params["a"] | {"bias": np.arange(5)}}
    index = edit.apply(numbered)["a"]["bias"]
    copies = np.bincount(index)[index]

    def images(tree):
        a, b = tree["a"], tree["b"]
        return tree | {
            "a": {"kernel": a["kernel"][:, index], "bias": a["bias"][index]},
            "b": b | {"kernel": b["kernel"][index]},
        }

    ones = jax.tree.map(np.ones_like, images(params))
    t = ones | {"a": {"kernel": ones["a"]["kernel"] / copies, "bias": 1 / copies}}
    s = ones | {"b": ones["b"] | {"kernel": ones["b"]["kernel"] / copies[:, None]}}
    new = jax.tree.map(np.zeros_like, images(params))
    new["a"]["kernel"][:, 5:] = new["a"]["bias"][5:] = new["b"]["kernel"][5:] = 1
    rng = np.random.default_rng(1)
    draw = lambda: jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    mu, nu, gradient = draw(), jax.tree.map(np.square, draw()), draw()
    wide_gradient = jax.tree.map(np.multiply, t, images(gradient))
    return params, edit, images, s, t, new, mu, nu, wide_gradient


def adam_step(mu, nu, gradient, count):
    """Adam's step with eps = 0, transcribed."""

    def step(m, v, g, k):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        return m / (1 - B1**k) / np.sqrt(v / (1 - B2**k))

    return jax.tree.map(step, mu, nu, gradient, count)


def close(tree, expected, rtol=1e-5):
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, equal_nan=False)
    jax.tree.map(same, tree, expected)


@pytest.mark.parametrize("policy", ["exact", "trajectory", "reset"])
def test_the_next_step_of_adam_by_hand(hand, policy):
    _, edit, images, s, t, _, mu, nu, gradient = hand
    optimizer = optax.scale_by_adam(B1, B2, eps=0.0)
    state = optax.ScaleByAdamState(jnp.int32(STEPS), mu, nu)
    step, _ = optimizer.update(gradient, edit.optimizer_state(state, policy=policy))
    m = jax.tree.map(np.multiply, t, images(mu))
    v = jax.tree.map(lambda t, v: t**2 * v, t, images(nu))
    if policy == "trajectory":
        v = jax.tree.map(lambda s, v: v / s**2, s, v)
    if policy == "reset":
        m, v = jax.tree.map(np.zeros_like, (m, v))
    count = jax.tree.map(lambda _: 1 if policy == "reset" else STEPS + 1, s)
    close(step, adam_step(m, v, gradient, count))


def test_zero_pad_begins_new_weights_as_a_new_training(hand):
    """New weights step by the sign of their gradient, old ones as under exact."""
    params, edit, images, _, t, new, mu, nu, gradient = hand
    optimizer = grow.scale_by_adam(B1, B2, eps=0.0)
    count = jax.tree.map(lambda p: jnp.full(p.shape, STEPS, jnp.int32), params)
    state = edit.optimizer_state(grow.CountedAdamState(count, mu, nu), policy="zero_pad")
    step, _ = optimizer.update(gradient, state)
    m = jax.tree.map(lambda new, t, m: (1 - new) * t * m, new, t, images(mu))
    v = jax.tree.map(lambda new, t, v: (1 - new) * t**2 * v, new, t, images(nu))
    close(step, adam_step(m, v, gradient, jax.tree.map(lambda n: 1 + STEPS * (1 - n), new)))
    signs = lambda tree: jax.tree.map(lambda n, x: np.where(n == 1, x, 0), new, tree)
    close(signs(step), signs(jax.tree.map(np.sign, gradient)))


def test_zero_pad_of_one_count_is_refused(hand):
    params, edit, *_ = hand
    for optimizer in (optax.adam(0.1), optax.contrib.ademamix(0.1), optax.adan(0.1)):
        with pytest.raises(WeightSpaceError, match=r"State: policy 'zero_pad' .*scale_by_adam"):
            edit.optimizer_state(optimizer.init(params), policy="zero_pad")
    state = edit.optimizer_state(optax.sgd(0.1, 0.9).init(params), policy="zero_pad")
    assert state[0].trace["a"]["bias"].shape == (9,)


@pytest.mark.parametrize(
    ("optimizer", "policy"),
    [
        (optax.lion(0.1), "trajectory"),
        (optax.rprop(0.1), "reset"),
        (optax.adagrad(0.1), "zero_pad"),
        (optax.optimistic_gradient_descent(0.1), "reset"),
    ],
)
def test_what_a_policy_cannot_do_is_refused(hand, optimizer, policy):
    params, edit, *_ = hand
    with pytest.raises(WeightSpaceError, match=f"State: policy '{policy}' .*'exact'"):
        edit.optimizer_state(optimizer.init(params), policy=policy)


X = np.random.default_rng(5).normal(size=(16, 3))
Y = np.random.default_rng(6).normal(size=(16, 2))


@functools.partial(jax.jit, static_argnums=0)
def train(optimizer, params, state, steps):
    def step(_, carry):
        params, state = carry
        gradient = jax.grad(lambda p: jnp.mean((forwards.mlp(p, X) - Y) ** 2))(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, state))


SLOW = 1 - 1e-7  # a second moment that keeps its past, so that the trajectory hardly fades
NORMALISED = {
    "multi_transform": optax.multi_transform(
        {
            "x": optax.adamw(1e-4, b2=SLOW, eps=0.0),
            "y": optax.chain(
                optax.trace(0.5),
                optax.masked(
                    optax.scale_by_amsgrad(b2=SLOW, eps=0.0), {"a": False, "b": True, "out": False}
                ),
                optax.scale(-1e-4),
            ),
        },
        {"a": "x", "b": "y", "out": "x"},
    ),
    "a trace of steps": optax.chain(
        # Some second moment to begin with: the first deviation from a mean is zero.
        optax.scale_by_stddev(SLOW, eps=0.0, initial_scale=1 - SLOW, bias_correction=True),
        optax.trace(0.5),
        optax.scale(-1e-5),
    ),
    "adadelta": optax.chain(optax.scale_by_adadelta(SLOW, eps=1e-20), optax.scale(-1e3)),
    "schedule-free": optax.contrib.schedule_free(
        optax.chain(grow.scale_by_adam(b1=0.0, b2=SLOW, eps=0.0), optax.scale(-1e-4)),
        learning_rate=1e-4,
    ),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_trajectory_goes_on_as_the_narrow_net_would(name):
    """Five more steps of the wide net are five of the narrow one, on two widened layers."""
    optimizer = NORMALISED[name]
    params, groups = forwards.mlp_params()
    edit = grow.widen(groups, {0: 9, 1: 6}, key=0)
    params = jax.tree.map(jnp.asarray, params)
    params, state = train(optimizer, params, optimizer.init(params), 1000)
    later, _ = train(optimizer, params, state, 5)
    start, expected = edit.apply(params), edit.apply(later)
    grown = edit.optimizer_state(state, policy="trajectory")
    moved, expected = (
        jax.tree.map(jnp.subtract, end, start)
        for end in (train(optimizer, start, grown, 5)[0], expected)
    )
    close(moved, expected, rtol=0.02)


def test_trajectory_of_momentum_moves_like_the_weights(hand):
    _, edit, images, s, _, _, mu, _, gradient = hand
    optimizer = optax.trace(0.5)
    grown = edit.optimizer_state(optax.TraceState(mu), policy="trajectory")
    step, _ = optimizer.update(gradient, grown)
    close(step, jax.tree.map(lambda s, m, g: 0.5 * s * m + g, s, images(mu), gradient))


@pytest.mark.parametrize("policy", grow.POLICIES)
def test_members_with_maps_of_their_own(policy):
    params, groups = forwards.mlp_params()
    members = jax.tree.map(lambda p: jnp.stack([p, p + 1]), params)
    optimizer = optax.chain(grow.scale_by_adam(), optax.trace(0.5))
    gradients = jax.tree.map(jnp.cos, members)
    _, states = jax.vmap(optimizer.update)(gradients, jax.vmap(optimizer.init)(members))

    def grown(key, state):
        return grow.widen(groups, {0: 9}, key=key).optimizer_state(state, policy=policy)

    keys = jax.random.split(jax.random.key(0), 2)
    together = jax.jit(jax.vmap(grown))(keys, states)
    for i in range(2):
        alone = grown(keys[i], jax.tree.map(lambda x, i=i: x[i], states))
        close(jax.tree.map(lambda x, i=i: x[i], together), alone, rtol=1e-6)
