"""The compact optimizer for any score, and among the wrappers and loops that users have."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx, serialization
from flax.training.train_state import TrainState

import wslax as ws
from wslax.select import lift, masks, master, principal_mask, scores, sparse


def draw(*shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


PARAMS = {"a": {"kernel": draw(6, 8), "bias": draw(8)}, "b": draw(8, 3, seed=1)}


def slope(params, i=0.0):
    return jax.tree.map(lambda x: jnp.sin(3 * x + i), params)


def same(a, b, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.parametrize("score", [scores.saliency, functools.partial(scores.random, key=3)])
def test_what_moves_is_the_mask_of_the_score(score):
    optimizer = sparse(optax.sgd(0.1), score, density=0.2)
    grads = slope(PARAMS)
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    mask = masks.top(score(PARAMS, grads), density=0.2, axis=(-2, -1))
    same(updates, jax.tree.map(lambda m, g: jnp.where(m, -0.1 * g, 0), mask, grads))


def test_counts_and_leaves_named():
    optimizer = sparse(
        optax.sgd(0.1), scores.magnitude, where=["b", "*bias"], count=ws.by_leaf({"b": 5, "*": 2})
    )
    updates, _ = optimizer.update(slope(PARAMS), optimizer.init(PARAMS), PARAMS)
    moved = jax.tree.map(lambda u: int((u != 0).sum()), updates)
    assert moved == {"a": {"kernel": 0, "bias": 2}, "b": 5}
    of_lora = lift(optax.sgd(0.1), 2, lora_rank=1)
    updates, _ = of_lora.update(slope(PARAMS), of_lora.init(PARAMS), PARAMS)
    moved = jax.tree.map(lambda u: int((u != 0).sum()), updates)
    assert moved == {"a": {"kernel": 14, "bias": 0}, "b": 11}


def test_a_rank_above_the_matrix():
    """One number for all means the whole spectrum of small ones; a named leaf must have it."""
    mask = principal_mask(PARAMS, rank=5, density=0.2)
    np.testing.assert_array_equal(mask["b"], masks.top(scores.magnitude(PARAMS), density=0.2)["b"])
    lift(optax.sgd(0.1), 5, density=0.2).init(PARAMS)
    message = r"b: rank 5 is above the smaller side of float32\[8,3\], and where= picks it"
    with pytest.raises(ws.WeightSpaceError, match=message):
        lift(optax.sgd(0.1), 5, density=0.2, where=["b"]).init(PARAMS)
    lift(optax.sgd(0.1), ws.by_leaf({"b": 3, "*": 5}), density=0.2, where=["b", "*kernel"]).init(
        PARAMS
    )


def turning(i):
    """Parameters whose largest weights are others at each i, so that each refresh changes them."""
    return {"w": jnp.roll(jnp.arange(1.0, 11.0), 4 * i)[:, None]}


def steps(optimizer, n):
    """The updates of constant gradients, the weights turning by four places in each step."""
    state, out = optimizer.init(turning(0)), []
    update = jax.jit(optimizer.update)
    for i in range(n):
        updates, state = update({"w": jnp.ones((10, 1))}, state, turning(i))
        out.append(np.ravel(updates["w"]))
    return out, state


def test_first_steps_of_new_weights():
    """Adam's constants: with one count 3.16 rates, counted for each weight 1, after a reset 1."""
    made = functools.partial(sparse, scores=scores.magnitude, count=5, refresh_every=4)
    moved = lambda updates, before: (updates != 0) & (before == 0)
    one_count, _ = steps(made(optax.scale_by_adam()), 5)
    new = moved(one_count[4], one_count[3])
    m, v = 0.1 / (1 - 0.9**5), 0.001 / (1 - 0.999**5)
    np.testing.assert_allclose(one_count[4][new], m / np.sqrt(v), rtol=1e-3)
    assert new.any()
    assert not new.all()
    counted, _ = steps(made(ws.grow.scale_by_adam()), 5)
    np.testing.assert_allclose(counted[4][new], 1, rtol=1e-3)
    reset, state = steps(made(optax.scale_by_adam(), moments="reset"), 5)
    np.testing.assert_allclose(reset[4][reset[4] != 0], 1, rtol=1e-3)
    assert (int(state.inner.count), int(state.count)) == (1, 5)


def test_new_weights_begin_as_the_inner_state_does():
    """Adagrad begins with 0.1 and not with 0."""
    made = sparse(optax.scale_by_rss(0.1), scores.magnitude, count=5, refresh_every=1)
    updates, _ = steps(made, 1)
    np.testing.assert_allclose(updates[0][updates[0] != 0], 1 / np.sqrt(1.1), rtol=1e-3)


def test_without_refresh_the_first_selection_stays():
    updates, _ = steps(sparse(optax.sgd(1.0), scores.magnitude, count=5), 4)
    for later in updates[1:]:
        np.testing.assert_array_equal(later, updates[0])


OPTIMIZER = lift(optax.adamw(0.05, b2=0.95), 2, density=0.2, refresh_every=2)


@pytest.fixture(scope="module")
def plain():
    """Parameters and state after each of four updates."""
    update = jax.jit(OPTIMIZER.update)
    out = [(PARAMS, OPTIMIZER.init(PARAMS))]
    for i in range(4):
        params, state = out[-1]
        updates, state = update(slope(params, float(i)), state, params)
        out.append((optax.apply_updates(params, updates), state))
    return out


def test_a_step_that_is_not_finite_leaves_all_as_it_was(plain):
    """In the step of a selection too: it is due again."""
    safe = optax.apply_if_finite(OPTIMIZER, 5)
    update = jax.jit(safe.update)
    params, state = PARAMS, safe.init(PARAMS)
    for i in range(4):
        bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), slope(params, float(i)))
        updates, after = update(bad, state, params)
        assert not any(np.any(u) for u in jax.tree.leaves(updates))
        same(after.inner_state, state.inner_state)
        updates, state = update(slope(params, float(i)), after, params)
        params = optax.apply_updates(params, updates)
    same(params, plain[-1][0], rtol=1e-6)
    same(state.inner_state, plain[-1][1], rtol=1e-5)


def test_accumulated_gradients(plain):
    many = optax.MultiSteps(OPTIMIZER, 2)
    update = jax.jit(many.update)
    params, state = PARAMS, many.init(PARAMS)
    for i in range(3):
        grads = slope(params, float(i))
        for part in (0.5, 1.5):
            updates, state = update(jax.tree.map(lambda g, c=part: c * g, grads), state, params)
            params = optax.apply_updates(params, updates)
    same(params, plain[3][0], rtol=1e-4, atol=1e-6)


def test_injected_into_the_inner_transformation():
    inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
    optimizer = sparse(inner, scores.magnitude, density=0.2)
    state = optimizer.init(PARAMS)
    state.inner.hyperparams["learning_rate"] = jnp.float32(0.25)
    updates, _ = optimizer.update(slope(PARAMS), state, PARAMS)
    moved = updates["b"] != 0
    np.testing.assert_allclose(updates["b"], jnp.where(moved, -0.25 * slope(PARAMS)["b"], 0))


def test_further_arguments_go_to_the_inner_transformation():
    inner = optax.chain(master(optax.sgd(0.5)), optax.contrib.reduce_on_plateau(patience=1))
    optimizer = sparse(inner, scores.magnitude, density=0.2)
    state = optimizer.init(PARAMS)
    for _ in range(4):
        _, state = optimizer.update(slope(PARAMS), state, PARAMS, value=jnp.float32(1))
    assert state.inner[1].scale < 1


@pytest.mark.parametrize("kind", ["safetensors", "orbax"])
def test_a_saved_state_goes_on_exactly(plain, tmp_path, kind):
    path = str(tmp_path / f"state.{kind}")
    ws.io.save(plain[2], path)
    params, state = ws.io.load(path, like=jax.eval_shape(lambda: plain[2]))
    update = jax.jit(OPTIMIZER.update)
    for i in (2, 3):
        updates, state = update(slope(params, float(i)), state, params)
        params = optax.apply_updates(params, updates)
    same((params, state), plain[4])


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("spec", [("x",), (None, "x"), ("x", "y")])
def test_spread_over_devices(plain, spec, kind):
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(getattr(jax.sharding.AxisType, kind),) * 2)
    spread, whole = jax.sharding.PartitionSpec(*spec), jax.sharding.PartitionSpec()
    fits = lambda x: x.ndim == 2 and x.shape[1] % 2 == 0
    place = lambda x: jax.device_put(x, jax.NamedSharding(mesh, spread if fits(x) else whole))
    with jax.set_mesh(mesh):
        params = jax.tree.map(place, PARAMS)
        state = jax.jit(OPTIMIZER.init)(params)
        step = jax.jit(lambda params, state, i: OPTIMIZER.update(slope(params, i), state, params))
        for i in range(3):
            updates, state = step(params, state, float(i))
            params = optax.apply_updates(params, updates)
            held = params["a"]["kernel"].sharding
            assert held.is_equivalent_to(jax.NamedSharding(mesh, spread), 2)
            assert {len(x.sharding.device_set) for x in jax.tree.leaves(state)} == {4}
    same((params, state), plain[3], rtol=1e-4, atol=1e-5)


def test_masters_keep_what_bfloat16_rounds_away():
    params, ends = {"w": jnp.ones((4, 4), "bfloat16")}, []
    for wrap in (lambda inner: inner, master):
        optimizer = sparse(wrap(optax.sgd(1e-4)), scores.magnitude, count=4)
        end, state, update = params, optimizer.init(params), jax.jit(optimizer.update)
        for _ in range(100):
            updates, state = update({"w": jnp.ones((4, 4), "bfloat16")}, state, end)
            end = optax.apply_updates(end, updates)
        ends.append(np.ravel(end["w"]))
    assert (ends[0] == 1).all()
    assert (ends[1] == jnp.asarray([0.99] * 4 + [1.0] * 12, "bfloat16")).all()
    np.testing.assert_allclose(state.inner.weights["w"], 0.99, rtol=1e-4)
    with pytest.raises(ws.WeightSpaceError, match="master: update needs the parameters"):
        master(optax.sgd(0.1)).update(params, master(optax.sgd(0.1)).init(params))


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Embed(20, 16, name="embed")(x).mean(-2)
        x = linen.relu(linen.Dense(48, name="hidden")(x))
        return linen.Dense(10, name="head")(x)


TOKENS = np.random.default_rng(0).integers(0, 20, (6, 5))
LIFT = dict(rank=32, density=0.05)


def test_swapped_in_a_flax_train_state():
    net = Net()
    variables = net.init(jax.random.key(0), TOKENS)
    tx = ws.select.lift(optax.adamw(1e-2), **LIFT)
    state = TrainState.create(apply_fn=net.apply, params=variables["params"], tx=tx)

    @jax.jit
    def train_step(state):
        loss = lambda p: jnp.mean(state.apply_fn({"params": p}, TOKENS) ** 2)
        value, grads = jax.value_and_grad(loss)(state.params)
        return state.apply_gradients(grads=grads), value

    values = []
    for _ in range(10):
        state, value = train_step(state)
        values.append(float(value))
    assert values[-1] < 0.9 * values[0]
    moved = jax.tree.map(lambda a, b: int((a != b).sum()), state.params, variables["params"])
    assert moved["hidden"] == {"kernel": round(0.05 * 16 * 48), "bias": 0}
    assert moved["head"] == {"kernel": round(0.05 * 48 * 10), "bias": 0}

    fresh = TrainState.create(apply_fn=net.apply, params=variables["params"], tx=tx)
    again = serialization.from_bytes(fresh, serialization.to_bytes(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    same(train_step(again)[0], train_step(state)[0])


def test_swapped_in_an_nnx_optimizer():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(6, 40, rngs=rngs)
            self.norm = nnx.BatchNorm(40, rngs=rngs)
            self.head = nnx.Linear(40, 10, rngs=rngs)

        def __call__(self, x):
            return self.head(self.norm(nnx.relu(self.hidden(x))))

    model = Model(nnx.Rngs(0))
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    before = jax.tree.map(np.asarray, before)
    optimizer = nnx.Optimizer(model, ws.select.lift(optax.adamw(1e-2), **LIFT), wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer):
        value, grads = nnx.value_and_grad(lambda m: jnp.mean(m(draw(7, 6)) ** 2))(model)
        optimizer.update(model, grads)
        return value

    for _ in range(3):
        train_step(model, optimizer)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    moved = jax.tree.map(lambda a, b: int((a != b).sum()), before, after)
    assert moved["hidden"] == {"kernel": 12, "bias": 0}
    assert moved["head"] == {"kernel": 20, "bias": 0}


def test_bad_input_is_named():
    for options, message in (
        ({"density": 0.5, "moments": "keep"}, "moments: expected 'carry' or 'reset', got 'keep'"),
        ({}, "expected one of density="),
        ({"density": 0.5, "refresh_every": 0}, "sparse: refresh_every: expected at least 1"),
    ):
        with pytest.raises(ws.WeightSpaceError, match=message):
            sparse(optax.sgd(0.1), scores.magnitude, **options)
    transposed = lambda params, grads: jax.tree.map(lambda x: x.T, params)
    with pytest.raises(ws.WeightSpaceError, match=r"a/kernel: the score is float32\[8,6\]"):
        sparse(optax.sgd(0.1), transposed, density=0.5).init(PARAMS)
    with pytest.raises(ws.WeightSpaceError, match="the scores and the selected leaves differ"):
        sparse(optax.sgd(0.1), lambda p, g: p["b"], density=0.5).init(PARAMS)


def test_batches_added_up_inside_are_of_the_selected_weights_alone():
    inner = optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation()
    many = lift(inner, rank=2, density=0.25, refresh_every=4)
    once = lift(optax.adam(1e-2), rank=2, density=0.25, refresh_every=2)
    params = [PARAMS, PARAMS]
    states = [many.init(PARAMS), once.init(PARAMS)]
    for i in range(4):
        halves = [slope(PARAMS, i), slope(PARAMS, -i)]
        mean = jax.tree.map(lambda *x: sum(x) / 2, *halves)
        for which, tx, grads in ((0, many, halves), (1, once, [mean])):
            for g in grads:
                updates, states[which] = jax.jit(tx.update)(g, states[which], params[which])
                params[which] = optax.apply_updates(params[which], updates)
    same(*params, rtol=1e-6)
    assert all(x.size <= 12 for x in jax.tree.leaves(states[0]))
