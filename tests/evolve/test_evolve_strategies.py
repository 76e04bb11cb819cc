"""What every strategy promises, driven by the registry."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wslax import WeightSpaceError, evolve


def drift(key, member):
    """A step of training, of a member whose setting is `half`."""
    kernel = member["kernel"]
    noise = jax.random.normal(key, kernel.shape, kernel.dtype)
    return member | {"kernel": 0.9 * kernel + 0.01 * noise}


OPTIONS = {
    "genome": {"mutation_rate": 0.5, "gene_rate": 0.1},
    "population_based_training": {"train": drift, "hyper": "half"},
}
# Not a slot a member: these begin with one member, or need descriptors and leave cells empty. Their
# own promises are in test_es and test_map_elites.
OTHERS = {"low_rank_es", "map_elites", "open_es"}
NAMES = sorted(set(evolve.STRATEGIES) - OTHERS)
strategies = pytest.mark.parametrize("name", NAMES)


def having(option):
    """The strategies that have an option."""
    signature = lambda name: inspect.signature(evolve.STRATEGIES[name])
    names = [name for name in NAMES if option in signature(name).parameters]
    return pytest.mark.parametrize("name", names)


N = 9


def make(name, **options):
    return evolve.STRATEGIES[name](**OPTIONS.get(name, {}), **options)


def population(n=N):
    return {
        "kernel": jax.random.normal(jax.random.key(1), (n, 6, 5)),
        "half": jax.random.normal(jax.random.key(2), (n, 7)).astype(jnp.bfloat16),
        "steps": 20_000_001 + jnp.arange(n, dtype=jnp.int32),
        "mask": jnp.arange(n * 3).reshape(n, 3) % 2 == 0,
        "key": jax.random.split(jax.random.key(3), n),
    }


def score(population):
    return -jnp.square(population["kernel"]).sum((1, 2))


def raw(tree):
    """Leaves as numpy, keys as their words."""

    def host(x):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(x)

    return jax.tree.map(host, tree)


def member(population, i):
    return jax.tree.map(lambda x: x[i], population)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, raw(a), raw(b))


def avals(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, getattr(x, "weak_type", False)), tree)


def started(strategy, n=N):
    members = population(n)
    return strategy.init(jax.random.key(0), members, score(members))


def generation(strategy, key, state, fitness=score):
    children, state = strategy.ask(key, state)
    return strategy.tell(key, state, children, fitness(children))


@functools.cache
def stepper(strategy):
    return jax.jit(functools.partial(generation, strategy))


def evolved(strategy, state, count, key=0):
    for g in range(count):
        state, info = stepper(strategy)(jax.random.fold_in(jax.random.key(key), g), state)
    return state, info


@strategies
def test_avals_out_are_avals_in(name):
    state = started(make(name))
    children, asked = make(name).ask(jax.random.key(0), state)
    assert avals(asked) == avals(state)
    told, _ = make(name).tell(jax.random.key(0), asked, children, score(children))
    assert avals(told) == avals(state)
    spec = jax.tree.map(lambda x: (x.shape[1:], x.dtype), children)
    assert spec == jax.tree.map(lambda x: (x.shape[1:], x.dtype), population())


@strategies
def test_a_scan_over_generations_types_in_x64_and_strictly(name):
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        strategy, members = make(name), population()
        for dtype in ("float16", "float64"):
            members[dtype] = members["kernel"].astype(dtype)
        state = strategy.init(jax.random.key(0), members, score(members))
        keys = jax.random.split(jax.random.key(0), 3)
        end, info = jax.lax.scan(lambda s, k: generation(strategy, k, s), state, keys)
        assert avals(end) == avals(state)
        assert info.best.shape == (3,)


@having("chunk")
def test_same_key_same_bits_whatever_the_chunk(name):
    states = [evolved(make(name, chunk=c), started(make(name)), 3)[0] for c in (2, 64)]
    same(*states)


@strategies
def test_another_key_another_child(name):
    state = started(make(name))
    a, b = (make(name).ask(jax.random.key(k), state)[0]["kernel"] for k in (0, 1))
    assert not np.array_equal(a, b)


@strategies
def test_the_order_of_members_does_not_matter(name):
    """Members permuted with their data: the same children, the same survivors."""
    strategy, state = make(name), started(make(name))
    order = jnp.array([3, 0, 8, 1, 7, 2, 6, 5, 4])
    moved = state._replace(members=jax.tree.map(lambda x: x[order], state.members))
    key = jax.random.key(5)
    children = [strategy.ask(key, s)[0] for s in (state, moved)]
    in_order = [member(c, jnp.argsort(c["kernel"][:, 0, 0])) for c in children]
    same(*in_order)
    ends = [evolved(strategy, s, 3)[0].members for s in (state, moved)]
    by_id = [jax.tree.map(lambda x, e=e: x[jnp.argsort(e.ids)], e) for e in ends]
    same(*by_id)


@strategies
def test_survivors_keep_their_slot_and_every_datum_travels_with_its_member(name):
    strategy, state = make(name), started(make(name))
    for g in range(4):
        before = state.members
        key = jax.random.key(g)
        children, state = strategy.ask(key, state)
        state, info = strategy.tell(key, state, children, score(children))
        now = state.members
        np.testing.assert_array_equal(now.fitness, score(now.params))
        for slot in range(N):
            born = np.flatnonzero(np.asarray(info.slots) == slot)
            assert len(born) <= 1
            source, i = (children, born[0]) if len(born) else (before.params, slot)
            ids = info.ids[born[0]] if len(born) else before.ids[slot]
            same(member(now.params, slot), member(source, i))
            assert now.ids[slot] == ids
        assert len(set(now.ids.tolist())) == N


@strategies
def test_ids_are_never_reused_and_parents_are_known(name):
    strategy, state = make(name), started(make(name))
    seen = set(range(N))
    for g in range(3):
        state, info = evolved(strategy, state, 1, key=g)
        known = set(info.ids.tolist())
        assert not seen & known
        seen |= known
        assert set(info.parents.ravel().tolist()) <= seen


@strategies
def test_nan_fitness_never_wins(name):
    strategy, state = make(name), started(make(name))

    def failing(children):
        return score(children).at[::2].set(jnp.nan)

    for g in range(5):
        state, info = generation(strategy, jax.random.key(g), state, failing)
        assert not np.isnan(state.members.fitness).any()
        assert int(info.failed) == len(range(0, len(info.fitness), 2))


@strategies
def test_a_population_without_any_fitness_goes_on(name):
    strategy = make(name)
    state = strategy.init(0, population(), jnp.full(N, jnp.nan))
    state, info = generation(strategy, jax.random.key(0), state)
    assert not np.isnan(info.best)
    assert np.isfinite(np.asarray(state.members.params["kernel"])).all()


@pytest.mark.parametrize("name", ["differential_evolution", "genetic_algorithm", "genome"])
def test_the_best_is_never_lost(name):
    state, best = started(make(name)), []
    for g in range(8):
        state, info = evolved(make(name), state, 1, key=g)
        best.append(float(info.best))
    assert best == sorted(best)


@strategies
def test_integer_bool_and_key_leaves_come_whole_from_one_parent(name):
    """Each member of the last generation has the three of one first member, bit for bit."""
    first = raw(population())
    last = raw(evolved(make(name), started(make(name)), 5)[0].members.params)
    rows = {int(first["steps"][i]): i for i in range(N)}
    for j in range(N):
        i = rows[int(last["steps"][j])]
        np.testing.assert_array_equal(last["mask"][j], first["mask"][i])
        np.testing.assert_array_equal(last["key"][j], first["key"][i])


@having("where")  # a trainer may change any leaf
def test_leaves_outside_where_keep_their_bits(name):
    first = raw(population())["half"].view(np.uint16)
    state, _ = evolved(make(name, where=["kernel"]), started(make(name)), 5)
    last = raw(state.members.params["half"]).view(np.uint16)
    assert {row.tobytes() for row in last} <= {row.tobytes() for row in first}


@strategies
def test_runs_vmap_over_seeds(name):
    strategy = make(name)
    starts = [population(), jax.tree.map(lambda x: x[::-1], population())]
    states = [strategy.init(0, p, score(p)) for p in starts]
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    step = stepper(strategy)
    many, _ = jax.jit(jax.vmap(functools.partial(generation, strategy)))(keys, stacked)
    for i in range(2):
        alone, _ = step(keys[i], states[i])
        one = jax.tree.map(lambda x, i=i: x[i], many)
        same(one.members.ids, alone.members.ids)
        np.testing.assert_allclose(
            one.members.params["kernel"], alone.members.params["kernel"], rtol=1e-6, atol=1e-6
        )


@strategies
def test_a_sharded_population_gives_the_same_members(name):
    mesh = jax.make_mesh((4,), ("population",), axis_types=(AxisType.Auto,))
    strategy, state = make(name), started(make(name), n=8)
    spread = NamedSharding(mesh, PartitionSpec("population"))
    members = jax.tree.map(lambda x: jax.device_put(x, spread), state.members)
    one, _ = stepper(strategy)(jax.random.key(0), state)
    four, _ = stepper(strategy)(jax.random.key(0), state._replace(members=members))
    same(one.members.ids, four.members.ids)
    np.testing.assert_allclose(
        one.members.params["kernel"], four.members.params["kernel"], rtol=1e-6
    )


@strategies
def test_wrong_shapes_are_named(name):
    strategy = make(name)
    with pytest.raises(WeightSpaceError, match=r"one number a member, \[9\], got float32\[3\]"):
        strategy.init(0, population(), jnp.zeros(3))
    with pytest.raises(WeightSpaceError, match="w: expected a leading member axis"):
        strategy.init(0, {"w": jnp.zeros(())}, jnp.zeros(1))
    state = started(strategy)
    children, state = strategy.ask(jax.random.key(0), state)
    few = jnp.zeros(2)
    with pytest.raises(WeightSpaceError, match="one number a member"):
        strategy.tell(jax.random.key(0), state, children, few)
    with pytest.raises(WeightSpaceError, match="children lacks 'half'"):
        strategy.tell(jax.random.key(0), state, {"kernel": children["kernel"]}, score(children))
