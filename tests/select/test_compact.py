"""The adapter of selected weights: equal to the dense computation at its places, and small."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax.select import compact, lift, masks, principal_mask, refresh, scores, values_at


def draw(*shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


PARAMS = {"a": {"kernel": draw(6, 8), "bias": draw(8)}, "b": draw(8, 3, seed=1)}
X = draw(5, 6, seed=2)
MASK = masks.top(scores.magnitude(PARAMS), density=0.2)


def model(params, x):
    return jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None]) @ params["b"]


def loss(params, x=X):
    return jnp.sum(model(params, x) ** 2)


def at_mask(tree):
    """By plain boolean indexing."""
    named, kept = ws.tree.named_leaves(tree), ws.tree.named_leaves(MASK)
    return {name: np.asarray(named[name])[np.asarray(kept[name])] for name in ("a/kernel", "b")}


def test_gradients_are_the_dense_ones_at_the_places_by_every_way():
    adapter = compact(MASK)
    train, fixed = adapter.init(None, PARAMS)
    dense = jax.grad(loss)(PARAMS)
    whole = jax.grad(lambda t: loss(adapter.fuse(PARAMS, t, fixed)))(train)
    factored = ws.trace.factored(model)
    thin = jax.grad(lambda t: jnp.sum(factored(adapter.apply(PARAMS, t, fixed), X) ** 2))(train)
    gathered = values_at(dense, fixed)
    assert set(train) == {"a/kernel", "b"}
    for name, values in at_mask(PARAMS).items():
        np.testing.assert_array_equal(train[name]["values"], values)
        for found in (whole, thin, gathered):
            wanted = at_mask(dense)[name]
            np.testing.assert_allclose(found[name]["values"], wanted, rtol=1e-4, atol=1e-4)


def test_changed_values_are_where_the_mask_is_true():
    adapter = compact(MASK)
    train, fixed = adapter.init(None, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, adapter.fuse(PARAMS, train, fixed), PARAMS)
    moved = jax.tree.map(lambda x: x + 1, train)
    fused = adapter.fuse(PARAMS, moved, fixed)
    wanted = jax.tree.map(lambda x, m: np.where(m, x + 1, x), PARAMS, MASK)
    jax.tree.map(np.testing.assert_array_equal, fused, wanted)
    out = ws.trace.factored(model)(adapter.apply(PARAMS, moved, fixed), X)
    np.testing.assert_allclose(out, model(wanted, X), rtol=1e-4, atol=1e-4)
    edit = ws.adapt.fused(adapter, moved, fixed)
    jax.tree.map(np.testing.assert_array_equal, edit.apply(PARAMS), wanted)


def test_members_share_the_base():
    adapter = compact(MASK)
    train, fixed = adapter.init(None, PARAMS)
    members = jax.tree.map(lambda x: jnp.stack([x, 2 * x, -x]), train)
    fused = jax.vmap(lambda t: adapter.fuse(PARAMS, t, fixed))(members)
    for i, factor in enumerate((1, 2, -1)):
        wanted = np.where(MASK["b"], factor * PARAMS["b"], PARAMS["b"])
        np.testing.assert_array_equal(fused["b"][i], wanted)


def test_training_with_refreshes_is_that_of_lift():
    """Two forms of one method: refreshed inside the optimizer, and by hand outside of the step."""
    choose = functools.partial(principal_mask, rank=2, density=0.2)
    adam = optax.adamw(0.3, b2=0.95)
    inside = lift(adam, 2, density=0.2, refresh_every=3)
    one, state = PARAMS, inside.init(PARAMS)
    update = jax.jit(inside.update)
    for _ in range(7):
        updates, state = update(jax.grad(loss)(one), state, one)
        one = optax.apply_updates(one, updates)

    adapter = compact(choose(PARAMS))
    two, (train, fixed) = PARAMS, adapter.init(None, PARAMS)
    held = adam.init(train)

    @jax.jit
    def step(params, train, fixed, held):
        grads = values_at(jax.grad(loss)(params), fixed)
        updates, held = adam.update(grads, held, train)
        return optax.apply_updates(train, updates), held

    write = jax.jit(adapter.fuse)
    again = jax.jit(functools.partial(refresh, adam))
    for i in range(7):
        if i in (3, 6):
            before = fixed
            train, fixed, held = again(two, train, fixed, held, choose(two))
            at = lambda f: set(np.asarray(f["a/kernel"]["index"]).tolist())
            assert at(before) & at(fixed)
        train, held = step(two, train, fixed, held)
        two = write(two, train, fixed)
    assert at(compact(choose(PARAMS)).init(None, PARAMS)[1]) != at(fixed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), one, two)


def test_bfloat16_weights_keep_small_steps():
    params = {"w": jnp.ones((4, 4), "bfloat16")}
    adapter = compact({"w": np.eye(4, dtype=bool)})
    train, fixed = adapter.init(None, params)
    optimizer = optax.sgd(1e-4)
    state = optimizer.init(train)
    for _ in range(100):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, train), state, train)
        train = optax.apply_updates(train, updates)
        params = adapter.fuse(params, train, fixed)
    np.testing.assert_allclose(train["w"]["values"], 0.99, rtol=1e-4)
    assert params["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(params["w"][0, 0], jnp.bfloat16(0.99))
    assert params["w"][0, 1] == 1


def test_no_dense_gradient_outlives_its_backward_step():
    """Temporary memory of the step: a few leaves, where the dense gradients are twelve."""
    layers, width, x = 12, 256, jnp.ones((8, 256))
    params = {str(i): draw(width, width, seed=i) for i in range(layers)}
    deep = lambda p, x: jnp.sum(
        functools.reduce(lambda x, i: jnp.tanh(x @ p[str(i)]), range(layers), x)
    )
    adapter = compact(masks.top(scores.magnitude(params), density=0.05))
    train, fixed = adapter.init(None, params)

    def grads(params, fixed, x):
        return values_at(jax.grad(deep)(params, x), fixed)

    def memory(fn, *args, donate=()):
        return jax.jit(fn, donate_argnums=donate).lower(*args).compile().memory_analysis()

    leaf = width * width * 4
    dense = memory(jax.value_and_grad(deep), params, x)
    assert dense.output_size_in_bytes > layers * leaf
    small = memory(grads, params, fixed, x)
    assert small.temp_size_in_bytes + small.output_size_in_bytes < 4 * leaf
    write = memory(adapter.fuse, params, train, fixed, donate=0)
    assert write.temp_size_in_bytes < leaf
    assert write.alias_size_in_bytes == layers * leaf
    # By the adapter as a function of `train` one fused copy of the weights is held besides.
    through = memory(
        lambda t, p, f, x: jax.grad(lambda t: deep(adapter.fuse(p, t, f), x))(t),
        train, params, fixed, x,
    )  # fmt: skip
    assert through.temp_size_in_bytes < (layers + 4) * leaf


def test_bad_input_is_named():
    with pytest.raises(ws.WeightSpaceError, match="the mask and the parameters differ"):
        compact({"a": MASK["a"]}).init(None, PARAMS)
    with pytest.raises(ws.WeightSpaceError, match=r"b: the mask is bool\[3\], the leaf float32"):
        compact({**MASK, "b": MASK["b"][0]}).init(None, PARAMS)
    with pytest.raises(ws.WeightSpaceError, match="the mask selects nothing"):
        compact(jax.tree.map(jnp.zeros_like, MASK)).init(None, PARAMS)
    with pytest.raises(ws.WeightSpaceError, match="n: expected floats to select from, got int"):
        compact({"n": np.ones(2, bool)}).init(None, {"n": np.arange(2)})
    with pytest.raises(ws.WeightSpaceError, match="a/bias: the number of selected weights fixes"):
        jax.jit(lambda m: compact(m).init(None, PARAMS))(MASK)
    adapter, sgd = compact(MASK), optax.sgd(0.1)
    train, fixed = adapter.init(None, PARAMS)
    with pytest.raises(ws.WeightSpaceError, match="'b' are selected, which the model lacks"):
        adapter.fuse({"a": PARAMS["a"]}, train, fixed)
    wider = {**PARAMS, "b": draw(8, 4)}
    for change in (adapter.fuse, adapter.apply):
        with pytest.raises(ws.WeightSpaceError, match=r"b: places are of a leaf \[8, 3\], the mod"):
            change(wider, train, fixed)
    with pytest.raises(ws.WeightSpaceError, match=r"a/kernel: expected values .*, got none"):
        adapter.fuse(PARAMS, {"b": train["b"]}, fixed)
    with pytest.raises(ws.WeightSpaceError, match=r"b: places are of a leaf \[3, 8\]"):
        refresh(sgd, PARAMS, train, fixed, sgd.init(train), {**MASK, "b": MASK["b"].T})
    more = masks.top(scores.magnitude(PARAMS), density=0.5)
    with pytest.raises(ws.WeightSpaceError, match="a/kernel: the new mask selects 24 weights"):
        refresh(sgd, PARAMS, train, fixed, sgd.init(train), more)
