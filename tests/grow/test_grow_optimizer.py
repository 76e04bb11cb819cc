"""Optimizer states through growth, against the wide model's own gradients and its own history."""

import forwards
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import WeightSpaceError, grow, select

XS = np.random.default_rng(5).normal(size=(4, 8, 3))
YS = np.random.default_rng(6).normal(size=(4, 8, 2))


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def model():
    """A residual net: its parameters, an edit of even and uneven copies, gradients of both."""
    with jax.enable_x64(True):
        params, groups = forwards.residual_params()
        edit = grow.widen(groups, {0: 12, 1: 7}, key=2)

        @jax.jit
        @jax.grad
        def gradient(params, x, y):
            return jnp.mean((forwards.residual(params, x) - y) ** 2)

        wide = edit.apply(params)
        gradients = [[gradient(p, *xy) for xy in zip(XS, YS, strict=True)] for p in (params, wide)]
        yield params, wide, edit, *gradients


def history(optimizer, params, gradients):
    """The state after gradients at one point: what growth has to reproduce for the wide model."""

    @jax.jit
    def run(params, gradients):
        state = optimizer.init(params)
        for gradient in gradients:
            _, state = optimizer.update(gradient, state, params)
        return state

    return run(params, gradients)


def test_gradients_move_by_the_transpose(model):
    """Incoming g / c, outgoing unchanged: on a leaf that is both, on two axes."""
    _, _, edit, narrow, wide = model
    moments = [optax.ScaleByLionState(np.int32(0), g) for g in narrow]
    for state, expected in zip(moments, wide, strict=True):
        grown = edit.optimizer_state(state).mu
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), grown, expected)
    tripled = np.tile(np.asarray(narrow[0]["square"]), (3, 3)) / 3
    np.testing.assert_allclose(wide[0]["square"], tripled, atol=1e-12)


OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "amsgrad": optax.amsgrad(0.1),
    "lion": optax.lion(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "rmsprop, then a trace of scaled updates": optax.rmsprop(0.1, momentum=0.9, eps=0.0),
    "schedule in a chain": optax.chain(
        optax.clip_by_global_norm(1e9), optax.adamw(optax.linear_schedule(0.1, 0, 9), eps=0.0)
    ),
    "hyper-parameters": optax.inject_hyperparams(optax.adam)(0.1),
    "accumulated gradients": optax.MultiSteps(optax.adam(0.1), 2),
    "averaged gradients": optax.chain(optax.ema(0.9), optax.scale(0.1)),
    "adam of its own count": optax.chain(grow.scale_by_adam(), optax.scale(-0.1)),
    "adabelief": optax.adabelief(0.1, eps=0.0, eps_root=0.0),
    "adan": optax.adan(0.1),
    "ademamix": optax.contrib.ademamix(0.1),
    "simplified ademamix": optax.contrib.simplified_ademamix(0.1),
    "rmsprop from zero": optax.rmsprop(0.1, bias_correction=True),
    "centred rmsprop": optax.rmsprop(0.1, centered=True),
    "adagrad": optax.adagrad(0.1, initial_accumulator_value=0.0),
    "adadelta": optax.adadelta(0.1, eps=1e-12),
    "rprop": optax.rprop(0.1),
    "optimistic": optax.optimistic_gradient_descent(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_exact_is_the_history_of_the_wide_model(model, name):
    params, wide, edit, narrow_gradients, wide_gradients = model
    optimizer = OPTIMIZERS[name]
    grown = edit.optimizer_state(history(optimizer, params, narrow_gradients))
    own = history(optimizer, wide, wide_gradients)
    assert jax.tree.structure(grown) == jax.tree.structure(own)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), grown, own)
    for a, b in zip(jax.tree.leaves(grown), jax.tree.leaves(own), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)


def test_the_formula_by_hand():
    """Incoming m / c and v / c**2, outgoing m and v as they are, counts and schedules kept."""
    params, groups = forwards.mlp_params()
    edit = grow.widen(groups, {0: 9}, key=0)
    moments = jax.tree.map(lambda p: p + 3, params)
    state = (optax.ScaleByAdamState(np.int32(7), moments, moments), optax.EmptyState())
    grown = edit.optimizer_state(state)[0]
    numbered = params | {"a": params["a"] | {"bias": np.arange(5)}}
    index = edit.apply(numbered)["a"]["bias"]
    copies = np.bincount(index)[index]
    old = moments["a"]["bias"]
    np.testing.assert_allclose(grown.mu["a"]["bias"], old[index] / copies)
    np.testing.assert_allclose(grown.nu["a"]["bias"], old[index] / copies**2)
    for moment in (grown.mu, grown.nu):
        np.testing.assert_array_equal(moment["b"]["kernel"], moments["b"]["kernel"][index])
        np.testing.assert_array_equal(moment["out"]["kernel"], moments["out"]["kernel"])
    assert grown.count == 7


@pytest.mark.parametrize("name", ["adam", "momentum", "schedule in a chain"])
def test_reset_is_a_fresh_state_whose_schedule_goes_on(model, name):
    params, wide, edit, gradients, _ = model
    optimizer = OPTIMIZERS[name]
    grown = edit.optimizer_state(history(optimizer, params, gradients), policy="reset")
    fresh = optimizer.init(wide)
    is_schedule = lambda node: isinstance(node, optax.ScaleByScheduleState)
    counts = [n.count for n in jax.tree.leaves(grown, is_leaf=is_schedule) if is_schedule(n)]
    assert counts == [4] * (name == "schedule in a chain")
    drop = lambda node: 0 if is_schedule(node) else node
    same = [jax.tree.map(drop, tree, is_leaf=is_schedule) for tree in (grown, fresh)]
    jax.tree.map(np.testing.assert_array_equal, *same)


def test_masked_parts_and_collections():
    """Labels by layer mask whole subtrees out; a linen state speaks of `params` alone."""
    variables, groups = forwards.conv_variables()
    edit = grow.widen(groups, {0: 6, 1: 5}, key=0)
    labels = {"c0": "x", "n0": "x", "c1": "y", "out": "z"}
    parts = {"x": optax.adam(0.1), "y": optax.sgd(0.1, momentum=0.5), "z": optax.set_to_zero()}
    optimizer = optax.multi_transform(parts, labels)
    params, wide = variables["params"], edit.apply(variables)["params"]
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    grown = jax.jit(edit.optimizer_state)(state)
    fresh = optimizer.init(wide)
    assert jax.tree.structure(grown) == jax.tree.structure(fresh)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), grown, fresh)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adafactor(0.1),
        optax.sm3(0.1),
        optax.novograd(0.1),
        optax.contrib.prodigy(0.1),
        optax.contrib.madgrad(0.1),
        optax.contrib.galore(0.1),
        select.lift(optax.contrib.madgrad(0.1), rank=2, density=0.3, refresh_every=9),
    ],
)
def test_a_state_that_is_not_known_is_refused_by_name(optimizer):
    params, groups = forwards.mlp_params()
    edit = grow.widen(groups, {0: 9}, key=0)
    with pytest.raises(WeightSpaceError, match=r"a/\w+: \w+State\.\w+ holds values .*init"):
        edit.optimizer_state(optimizer.init(jax.tree.map(jnp.asarray, params)))


def test_other_wrong_states():
    params, groups = forwards.mlp_params()
    edit = grow.widen(groups, {0: 9}, key=0)
    state = optax.adam(0.1).init(edit.apply(params))
    with pytest.raises(WeightSpaceError, match=r"a/bias: .* shape \[5\], got \[9\]"):
        edit.optimizer_state(state)
    with pytest.raises(WeightSpaceError, match=r"'exakt' is unknown. Did you mean 'exact'"):
        edit.optimizer_state(state, policy="exakt")
    with pytest.raises(WeightSpaceError, match=r"a/bias: .* none of that name"):
        edit.optimizer_state(optax.adam(0.1).init({"other": np.ones(3)}))


def test_training_goes_on_without_a_spike():
    """Adam's loss right after growth, against new units at random and the same carried state."""
    params, groups = forwards.mlp_params(widths=(3, 8, 8, 2))
    optimizer = optax.adam(3e-3)
    x = np.random.default_rng(0).normal(size=(64, 3))
    y = np.stack([np.sin(2 * x[:, 0]) * x[:, 1], np.cos(x[:, 2])], 1)

    def loss(params):
        return jnp.mean((forwards.mlp(params, x) - y) ** 2)

    @jax.jit
    def train(params, state):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(loss)(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, state), length=300)

    (params, state), losses = train(params, optimizer.init(params))
    edit = grow.widen(groups, {0: 16, 1: 16}, key=0, noise=0.01)
    wide, carried = edit.apply(params), edit.optimizer_state(state)
    rng = np.random.default_rng(1)
    padded = jax.tree.map(
        lambda old, new: np.concatenate(
            [a := np.concatenate([old, rng.normal(size=(len(new) - len(old), *old.shape[1:]))]),
             rng.normal(size=(len(a), new.shape[-1] - old.shape[-1]))], -1)
        if old.ndim > 1 else np.concatenate([old, rng.normal(size=len(new) - len(old))]),
        params, wide,
    )  # fmt: skip
    (_, _), kept = train(wide, carried)
    (_, _), random = train(padded, carried)
    at_growth = losses[-1]
    assert kept[:50].max() - at_growth < 0.1 * (random[:50].max() - at_growth)
    assert kept[:50].max() < 1.2 * at_growth
    assert kept[-1] < at_growth
