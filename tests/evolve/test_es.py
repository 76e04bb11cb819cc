"""Evolution strategies: children and steps against numpy, on every kind of leaf."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import WeightSpaceError, evolve, population, random, trace

N, SIGMA, RATE = 6, 0.1, 0.5
MAKE = {"open_es": evolve.open_es, "low_rank_es": functools.partial(evolve.low_rank_es, rank=2)}
both = pytest.mark.parametrize("name", sorted(MAKE))
SGD = optax.sgd(RATE)
KEY = jax.random.key(4)


def centre():
    params = {
        "kernel": jax.random.normal(jax.random.key(1), (4, 3)),
        "half": jnp.arange(5).astype(jnp.bfloat16),
        "stack": jax.random.normal(jax.random.key(2), (2, 3, 2)),
        "steps": jnp.int32(20_000_001),
        "mask": jnp.array([True, False]),
        "key": jax.random.key(3),
    }
    return population.stack([params])


@functools.cache
def made(name, **options):
    return MAKE[name](**{"n": N, "sigma": SIGMA, "optimizer": SGD, **options})


def started(strategy):
    return strategy.init(0, centre(), jnp.zeros(1))


def dense(children):
    """Children written out, by numpy."""

    def one(x):
        if isinstance(x, trace.LowRank):
            down, up = (np.asarray(y, np.float64) for y in (x.down, x.up))
            return np.asarray(x.base, np.float64) + float(x.scale) * down @ up
        return x

    return jax.tree.map(one, children, is_leaf=lambda x: isinstance(x, trace.LowRank))


def draw(name, shape, id_):
    """Normal numbers of the stream, of one child."""
    words = random.bits(KEY, name, int(np.prod(shape)), member=id_, xp=np)
    return np.asarray(random.normal(words), np.float64).reshape(shape)


def noise(strategy, leaf, shape, id_):
    """The noise of a child, from the formula."""
    if strategy == "open_es":
        return draw(f"evolve/noise/{leaf}", shape, id_)
    if len(shape) != 2:
        return draw(f"evolve/variation/{leaf}", shape, id_)
    a = draw(f"evolve/variation/{leaf}/rows", (shape[0], 2), id_)
    b = draw(f"evolve/variation/{leaf}/columns", (shape[1], 2), id_)
    return a @ b.T / np.sqrt(2)


@both
@pytest.mark.parametrize("antithetic", [True, False])
def test_children_and_the_step_are_those_of_the_formula(name, antithetic):
    strategy = made(name, antithetic=antithetic, shaping=evolve.z_scores)
    state = started(strategy)
    before = state.members.params
    children, state = strategy.ask(KEY, state)
    assert population.size(children) == N
    fitness = np.float32([3, -1, 4, 1, -5, 9])
    now, info = strategy.tell(KEY, state, children, jnp.asarray(fitness))
    weights = (fitness - fitness.mean()) / fitness.std()
    found = dense(children)
    for leaf, places in {"kernel": 1e-6, "stack": 1e-6, "half": 1e-2}.items():
        base = np.asarray(before[leaf][0], np.float64)
        # Ids start at 1; a pair has the noise of its first.
        ids = [1 + i - (i % 2 if antithetic else 0) for i in range(N)]
        signs = [-1 if antithetic and i % 2 else 1 for i in range(N)]
        drawn = np.stack(
            [s * noise(name, leaf, base.shape, i) for s, i in zip(signs, ids, strict=True)]
        )
        expected = base[None] + SIGMA * drawn
        np.testing.assert_allclose(np.asarray(found[leaf], float), expected, rtol=places, atol=1e-5)
        step = RATE * np.einsum("n,n...->...", weights, drawn) / (N * SIGMA)
        moved = np.asarray(now.members.params[leaf][0], float)
        np.testing.assert_allclose(moved, base + step, rtol=places, atol=1e-5)
    assert info.ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert float(info.best) == 9
    assert np.isnan(now.members.fitness).all()


@both
def test_leaves_without_floats_and_outside_where_never_change(name):
    strategy = made(name, where="kernel")
    state = started(strategy)
    children, state = strategy.ask(KEY, state)
    state, _ = strategy.tell(KEY, state, children, jnp.arange(6.0))
    first = centre()
    now, many = state.members.params, children
    for tree in (now, many, first):
        tree["key"] = jax.random.key_data(tree["key"])
    for leaf in ("half", "stack", "steps", "mask", "key"):
        np.testing.assert_array_equal(now[leaf], first[leaf])
        np.testing.assert_array_equal(many[leaf], np.repeat(first[leaf], N, 0))
    assert (state.members.params["kernel"] != first["kernel"]).any()


@both
def test_the_best_child_is_kept_written_out(name):
    strategy = made(name)
    state = started(strategy)
    children, asked = strategy.ask(KEY, state)
    fitness = jnp.array([-3.0, jnp.nan, -1.0, 7.0, jnp.nan, 2.0])
    state, info = strategy.tell(KEY, asked, children, fitness)
    assert float(state.top[1]) == 7
    assert int(info.failed) == 2
    np.testing.assert_allclose(state.top[0]["kernel"], dense(children)["kernel"][3], atol=1e-6)
    kept, _ = strategy.tell(KEY, state, children, fitness - 1)
    assert float(kept.top[1]) == 7
    np.testing.assert_array_equal(kept.top[0]["kernel"], state.top[0]["kernel"])


@both
def test_a_child_that_failed_counts_as_the_worst(name):
    strategy = made(name)
    children, state = strategy.ask(KEY, started(strategy))
    tell = lambda *fitness: strategy.tell(KEY, state, children, jnp.array(fitness))[0].members
    failed, worst = (tell(3.0, bad, 4.0, 1.0, bad, 9.0) for bad in (jnp.nan, 1.0))
    np.testing.assert_array_equal(failed.params["kernel"], worst.params["kernel"])
    none = tell(*[jnp.nan] * 6)
    np.testing.assert_array_equal(none.params["kernel"], state.members.params["kernel"])


@both
def test_a_scan_types_in_x64_and_strictly_and_vmaps(name):
    strategy = MAKE[name](n=N)  # with Adam, whose state counts

    def generation(state, key):
        children, state = strategy.ask(key, state)
        return strategy.tell(key, state, children, jnp.arange(6.0))

    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        first = centre()
        first["float64"] = first["kernel"].astype("float64")
        state = strategy.init(0, first, jnp.zeros(1))
        keys = jax.random.split(KEY, 2)
        end, info = jax.lax.scan(generation, state, keys)
        assert info.best.shape == (2,)
        avals = lambda t: [jax.typeof(x) for x in jax.tree.leaves(t)]
        assert avals(end) == avals(state)
        many, _ = jax.vmap(generation, in_axes=(None, 0))(state, keys)
        one, _ = generation(state, keys[1])
        got, expected = many.members.params["float64"][1], one.members.params["float64"]
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_no_noise_of_the_size_of_the_population_is_drawn():
    strategy = evolve.open_es(n=512, optimizer=SGD)
    state = strategy.init(0, {"w": jnp.zeros((1, 4096))}, jnp.zeros(1))
    children, state = jax.eval_shape(strategy.ask, KEY, state)
    fitness = jax.ShapeDtypeStruct((512,), jnp.float32)
    used = strategy.tell.lower(KEY, state, children, fitness).compile().memory_analysis()
    assert used.temp_size_in_bytes < 512 * 4096 * 4 / 8


def test_members_of_low_rank_are_never_written_out():
    strategy = made("low_rank_es", n=64)
    wide = {"kernel": jnp.zeros((1, 256, 256)), "bias": jnp.zeros((1, 256))}
    state = strategy.init(0, wide, jnp.zeros(1))
    children, state = jax.eval_shape(strategy.ask, KEY, state)
    held = sum(x.size for x in jax.tree.leaves(children))
    assert held == 256 * 256 + 64 * (2 * 2 * 256 + 256) + 1
    fitness = jax.ShapeDtypeStruct((64,), jnp.float32)
    used = strategy.tell.lower(KEY, state, children, fitness).compile().memory_analysis()
    assert used.temp_size_in_bytes < 64 * 256 * 256 * 4 / 8


def test_low_rank_children_run_factored_as_they_do_written_out():
    strategy = made("low_rank_es", where=("kernel", "bias"))
    first = {"kernel": jnp.ones((1, 4, 3)), "bias": jnp.zeros((1, 3))}
    model = lambda p, x: jnp.tanh(x @ p["kernel"] + p["bias"][None])
    x = jax.random.normal(KEY, (7, 4))

    def outputs(children):
        axes = trace.over_members(children, dense=0)
        return jax.vmap(trace.factored(model, on_dense="error"), in_axes=(axes, None))(children, x)

    children, _ = strategy.ask(KEY, strategy.init(0, first, jnp.zeros(1)))
    members = jax.tree.map(lambda y: jnp.asarray(y, jnp.float32), dense(children))
    np.testing.assert_allclose(
        outputs(children), jax.vmap(model, in_axes=(0, None))(members, x), rtol=1e-5, atol=1e-6
    )
    assert outputs(first).shape == (1, 7, 3)


def test_plus_children_are_those_of_the_mutations():
    """One stream: a plus child is the mutant with the same id."""
    for name, mutate in {
        "open_es": functools.partial(evolve.gaussian, rate=1.0),
        "low_rank_es": functools.partial(evolve.low_rank, rank=2),
    }.items():
        children, state = made(name).ask(KEY, started(made(name)))
        params = {"kernel": state.members.params["kernel"][0]}
        mutant = mutate(KEY, params, sigma=SIGMA, member=3)["kernel"]
        np.testing.assert_allclose(dense(children)["kernel"][2], mutant, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [evolve.centred_ranks, evolve.z_scores])
def test_shaping_knows_no_scale_and_sums_to_zero(shape):
    fitness = np.random.default_rng(0).normal(size=33).astype("float32")
    weights = shape(jnp.asarray(fitness))
    np.testing.assert_allclose(shape(jnp.asarray(7 * fitness + 3)), weights, atol=1e-5)
    assert abs(float(weights.sum())) < 1e-4
    assert (np.argsort(weights) == np.argsort(fitness)).all()
    assert (shape(jnp.full(4, 2.5)) == 0).all()


def test_ranks_are_those_of_the_released_code():
    fitness = np.random.default_rng(1).permutation(np.arange(9.0)).astype("float32")
    ranks = np.empty(9)
    ranks[fitness.argsort()] = np.arange(9)
    found = evolve.centred_ranks(jnp.asarray(fitness))
    np.testing.assert_allclose(found, ranks / 8 - 0.5, atol=1e-7)


@both
def test_a_resumed_run_is_the_run(name, tmp_path):
    """With the default optimizer, through `run`, to the same bits."""
    target = jnp.arange(3.0)

    def model(params, x):
        return x @ params["w"]

    def evaluate(children):
        axes = trace.over_members(children, dense=0)
        outputs = jax.vmap(trace.factored(model), in_axes=(axes, None))(children, jnp.eye(3))
        return jnp.square(outputs[..., 0] - target[None]).sum(1)

    strategy, first = MAKE[name](n=8), {"w": jnp.zeros((1, 3, 1))}
    options = {"key": 1, "direction": "minimize"}
    run = functools.partial(evolve.run, strategy, **options)
    whole = run(first, evaluate, generations=4)
    run(first, evaluate, generations=2, folder=tmp_path)
    rest = run(first, evaluate, generations=4, folder=tmp_path, resume=True)
    np.testing.assert_array_equal(whole.members.params["w"], rest.members.params["w"])
    assert whole.evaluations == 1 + 4 * 8
    assert (np.diff(whole.history.mean) < 0).all()


@both
def test_bad_input_is_named(name):
    with pytest.raises(WeightSpaceError, match="n: expected an even number of children, got 5"):
        made(name, n=5)
    with pytest.raises(WeightSpaceError, match="begins with one member, the centre"):
        made(name).init(0, population.stack([{"w": jnp.ones(2)}] * 2), jnp.zeros(2))
    state = started(made(name))
    children, _ = made(name).ask(KEY, state)
    with pytest.raises(WeightSpaceError, match="children lacks 'half'"):
        made(name).tell(KEY, state, {k: children[k] for k in children if k != "half"}, jnp.zeros(N))
    with pytest.raises(WeightSpaceError, match=r"one number a member, \[6\]"):
        made(name).tell(KEY, state, children, jnp.zeros(2))
    with pytest.raises(WeightSpaceError, match="rank: expected at least 1"):
        evolve.low_rank_es(rank=0)
