"""LIFT against a dense transformation that is masked by hand, step for step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax.select import lift, principal_mask

RANK, DENSITY, EVERY = 2, 0.1, 3
SITES = [
    (name, axis + offset, role)
    for name, offset in (("a/kernel", 0), ("stack", 1))
    for axis, role in enumerate(("consumed", "produced"))
]


def tree(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    return {"a": {"kernel": leaf(10, 8), "bias": leaf(8)}, "stack": leaf(2, 6, 5)}


GROUPS = ws.symmetry.Groups.from_sites(tree(), [[site] for site in SITES])


def gradient(params, i):
    """Some gradient that depends on the parameters and the step."""
    return jax.tree.map(lambda x: jnp.sin(3 * x + jnp.asarray(i, x.dtype)), params)


def masked_adam(params, steps, b1=0.9, b2=0.95, eps=1e-6, rate=0.1, decay=0.0):
    """The published algorithm in numpy: dense moments, cut to the mask at each selection."""
    x = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    m, v = (jax.tree.map(np.zeros_like, x) for _ in range(2))
    selections = []
    for i in range(steps):
        if i % EVERY == 0:
            now = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x)
            mask = jax.device_get(principal_mask(now, rank=RANK, density=DENSITY, groups=GROUPS))
            m, v = (jax.tree.map(np.multiply, moment, mask) for moment in (m, v))
            selections.append(mask)
        now = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), x)
        g = jax.tree.map(lambda g, k: np.asarray(g, float) * k, gradient(now, i), mask)
        m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
        v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
        c1, c2 = 1 - b1 ** (i + 1), 1 - b2 ** (i + 1)
        x = jax.tree.map(
            lambda x, m, v, k, c1=c1, c2=c2: (
                x - rate * k * ((m / c1) / (np.sqrt(v / c2) + eps) + decay * x)
            ),
            x, m, v, mask,
        )  # fmt: skip
    return x, selections


def optimizer(decay=0.0, **change):
    inner = optax.chain(
        optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-6), optax.add_decayed_weights(decay)
    )
    options = {"rank": RANK, "density": DENSITY, "refresh_every": EVERY, "groups": GROUPS, **change}
    chosen = lift(inner, **options)
    return optax.chain(chosen, optax.scale_by_learning_rate(0.1))


def train(optimizer, params, steps):
    @jax.jit
    def step(params, state, i):
        updates, state = optimizer.update(gradient(params, i), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for i in range(steps):
        params, state = step(params, state, jnp.float32(i))
    assert step._cache_size() == 1
    return params, state


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_trajectory_is_that_of_masked_adam(decay):
    params = tree()
    got, state = train(optimizer(decay), params, 8)
    wanted, selections = masked_adam(params, 8, decay=decay)
    # The moments matter: selections differ, and some weights stay.
    first, second = (np.asarray(s["a"]["kernel"]) for s in selections[:2])
    assert (first & second).any()
    assert (first != second).any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, wanted)
    assert int(state[0].count) == 8


def test_only_selected_weights_move():
    params = tree()
    got, state = train(optimizer(), params, 2)
    mask = principal_mask(params, rank=RANK, density=DENSITY, groups=GROUPS)
    for new, old, chosen in zip(*map(jax.tree.leaves, (got, params, mask)), strict=True):
        np.testing.assert_array_equal(new != old, chosen)
    assert state[0].indices["a"]["kernel"].shape == (8,)
    assert state[0].indices["stack"].shape == (6,)
    assert state[0].indices["a"]["bias"] is None


def test_everything_selected_is_the_inner_transformation():
    params = {"w": tree()["a"]["kernel"]}
    got, _ = train(optimizer(density=1.0, groups=None), params, 5)
    plain = optax.chain(
        optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-6), optax.add_decayed_weights(0.0),
        optax.scale_by_learning_rate(0.1),
    )  # fmt: skip
    wanted, _ = train(plain, params, 5)
    np.testing.assert_allclose(got["w"], wanted["w"], rtol=1e-6)


def test_the_state_is_small():
    """Two moments and an index a weight: (8 + 4) / 8 of the density."""
    params = {"w": jnp.zeros((200, 300))}
    state = lift(optax.scale_by_adam(), rank=2, density=0.05, refresh_every=10).init(params)
    share = ws.tree.nbytes(state) / ws.tree.nbytes(optax.scale_by_adam().init(params))
    assert share == pytest.approx(0.075, abs=1e-3)


def outside_branches(jaxpr):
    """Names of the primitives that run in any case."""
    found = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        if eqn.primitive.name != "cond":
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                found |= outside_branches(inner) if hasattr(inner, "eqns") else set()
    return found


def test_members_are_as_if_alone_and_selection_stays_a_branch():
    members = ws.population.stack([tree(i) for i in range(3)])
    alone = [train(optimizer(), member, 5)[0] for member in ws.population.unstack(members)]
    chosen = optimizer()

    def step(carry, i):
        params, state = carry

        def one(params, state):
            updates, state = chosen.update(gradient(params, i), state, params)
            return optax.apply_updates(params, updates), state

        return jax.vmap(one)(params, state), None

    def run(members):
        state = jax.vmap(chosen.init)(members)
        return jax.lax.scan(step, (members, state), jnp.arange(5, dtype=jnp.float32))[0][0]

    assert "scan" in outside_branches(jax.make_jaxpr(run)(members).jaxpr)
    assert "eigh" not in outside_branches(jax.make_jaxpr(run)(members).jaxpr)
    got = jax.jit(run)(members)
    for i, wanted in enumerate(alone):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5), got, wanted
        )


def test_selection_stays_a_branch_for_populations_of_populations():
    chosen, params = optimizer(groups=None), {"w": tree()["a"]["kernel"]}
    members = jax.tree.map(lambda x: jnp.stack([jnp.stack([x, -x])] * 2), params)
    states = jax.vmap(jax.vmap(chosen.init))(members)
    update = jax.jit(jax.vmap(jax.vmap(chosen.update)))
    program = jax.make_jaxpr(update)(members, states, members)
    assert "eigh" not in outside_branches(program.jaxpr)
    got, _ = update(members, states, members)
    alone, _ = jax.jit(chosen.update)(params, chosen.init(params), params)
    np.testing.assert_allclose(got["w"][1, 0], alone["w"], atol=1e-6)


def test_members_out_of_step_are_selected_each_at_its_own_time():
    chosen, params = optimizer(), tree()
    _, ahead = train(chosen, params, 1)
    behind = chosen.init(params)
    states = jax.tree.map(lambda a, b: jnp.stack([a, b]), ahead, behind)
    members = ws.population.stack([params, params])
    grads = gradient(members, 0)
    for _ in range(3):
        updates, states = jax.vmap(chosen.update)(grads, states, members)
    # The first is at its fourth update and has selected twice, from the same parameters.
    assert states[0].count.tolist() == [4, 3]
    first, second = jax.tree.map(lambda x: x[0], states), jax.tree.map(lambda x: x[1], states)
    for i, j in zip(
        jax.tree.leaves(first[0].indices), jax.tree.leaves(second[0].indices), strict=True
    ):
        np.testing.assert_array_equal(i, j)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


def test_hyper_parameters_may_be_injected():
    def make(learning_rate):
        chosen = lift(optax.scale_by_adam(), rank=2, density=0.1, refresh_every=2, where="*kernel")
        return optax.chain(chosen, optax.scale_by_learning_rate(learning_rate))

    chosen, params = optax.inject_hyperparams(make)(learning_rate=0.5), tree()
    state = chosen.init(params)
    small = state._replace(hyperparams={"learning_rate": jnp.float32(0.25)})
    large, _ = chosen.update(gradient(params, 0), state, params)
    half, _ = chosen.update(gradient(params, 0), small, params)
    np.testing.assert_allclose(2 * half["a"]["kernel"], large["a"]["kernel"], rtol=1e-6)
    assert not large["stack"].any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_types_keep_moments_in_float32_and_their_own_dtype(dtype):
    params = tree(dtype=dtype)
    state = optimizer().init(params)
    updates, state = optimizer().update(gradient(params, 0), state, params)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    inner = state[0].inner[0]
    assert {x.dtype for x in jax.tree.leaves((inner.mu, inner.nu))} == {jnp.dtype("float32")}


REFUSED = {
    "factored": optax.scale_by_factored_rms(min_dim_size_to_factor=1),
    "by row": optax.GradientTransformation(
        lambda params: {"rows": jnp.zeros(3)}, lambda u, s, p=None: (u, s)
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_states_that_cannot_follow_are_refused(kind):
    with pytest.raises(
        ws.WeightSpaceError, match="neither a scalar nor a vector over the selected"
    ):
        lift(REFUSED[kind], rank=1, density=0.5).init(tree()["a"])


@pytest.mark.parametrize(
    "inner", [optax.sgd(0.1, momentum=0.9), optax.lion(1e-3), optax.adamw(1e-3)]
)
def test_other_inners_follow(inner):
    params = tree()
    got, _ = train(lift(inner, rank=2, density=0.1, refresh_every=2, groups=GROUPS), params, 5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(got))
    assert (got["stack"] != params["stack"]).any()


def test_bad_input_is_named():
    adam, params = optax.scale_by_adam(), tree()
    for every in (0, -1, True):
        with pytest.raises(ws.WeightSpaceError, match="lift: refresh_every: expected"):
            lift(adam, rank=1, density=0.5, refresh_every=every)
    with pytest.raises(ws.WeightSpaceError, match="density: expected above 0"):
        lift(adam, rank=1, density=0.0).init(params)
    chosen = lift(adam, rank=1, density=0.5, groups=GROUPS)
    state = chosen.init(params)
    with pytest.raises(ws.WeightSpaceError, match="update needs the parameters"):
        chosen.update(params, state)
    with pytest.raises(ws.WeightSpaceError, match="updates and params differ"):
        chosen.update({"a": params["a"]}, state, params)
    with pytest.raises(
        ws.WeightSpaceError, match=r"stack: the update is float32\[6,5\], the param"
    ):
        chosen.update({**params, "stack": params["stack"][0]}, state, params)
    denser = lift(adam, rank=1, density=0.8, groups=GROUPS)
    with pytest.raises(ws.WeightSpaceError, match="a/kernel: the state is of 40 selected weights"):
        denser.update(params, state, params)
    fewer = lift(adam, rank=1, density=0.5, groups=GROUPS, where="stack")
    with pytest.raises(ws.WeightSpaceError, match="has extra 'a/kernel'"):
        fewer.update(params, state, params)


def test_refreshes_may_be_rarer_than_an_int32_counts():
    params = tree()
    chosen = lift(optax.scale_by_adam(), rank=1, density=0.5, refresh_every=10**12, groups=GROUPS)
    updates, _ = jax.eval_shape(chosen.update, params, chosen.init(params), params)
    ws.tree.check_like(updates, params)
