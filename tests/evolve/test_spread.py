"""Strategies over four devices: the bits of one device, and only parents and survivors travel."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from wslax import WeightSpaceError, evolve, population, trace

MESH = jax.make_mesh((4,), ("population",), axis_types=(AxisType.Auto,))
N, WIDTH = 16, 1000
MAKE = {
    # Ten children: they do not divide over four devices.
    "genome": functools.partial(evolve.genome, mutation_rate=0.2, gene_rate=0.1, chunk=2),
    "model_swarm": evolve.model_swarm,
    "genetic_algorithm": functools.partial(evolve.genetic_algorithm, children=10, chunk=2),
    "differential_evolution": functools.partial(evolve.differential_evolution, chunk=2),
    "population_based_training": functools.partial(
        evolve.population_based_training, lambda key, member: member, hyper="rate", chunk=2
    ),
    # Mutants alone: its merges are those of `genome`.
    "genome_plus": functools.partial(evolve.genome_plus, cross_rate=0.0, chunk=2),
    "map_elites": functools.partial(
        evolve.map_elites, cells=evolve.grid([-1, -1], [1, 1], [4, 4]), children=10
    ),
}
AROUND = {
    "open_es": functools.partial(evolve.open_es, n=10),
    "low_rank_es": functools.partial(evolve.low_rank_es, n=10),
}


def members(n=N):
    keys = jax.random.split(jax.random.key(1), 2)
    return {
        "kernel": jax.random.normal(keys[0], (n, 6, 5)),
        "half": jax.random.normal(keys[0], (n, 7)).astype(jnp.bfloat16),
        "key": jax.random.split(keys[1], n),
        "rate": jnp.ones(n),
    }


def score(population):
    """Exact in any order of sums, so that choices are the same on any number of devices."""
    return -jnp.round(population["kernel"] * 64).astype(jnp.int32).sum((1, 2)) / 64


def described(population):
    return evolve.Evaluation(score(population), descriptors=population["kernel"][:, 0, :2])


def words(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(words(x), words(y)), a, b)


def near(a, b):
    def one(x, y):
        x, y = words(x), words(y)
        if x.dtype == np.float32:
            return np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
        return np.testing.assert_array_equal(x, y)

    jax.tree.map(one, a, b)


@pytest.mark.parametrize("name", MAKE)
def test_a_run_over_devices_ends_in_the_same_bits(name):
    judge = described if name == "map_elites" else score
    run = functools.partial(
        evolve.run, MAKE[name](), evaluate=judge, key=3, generations=4, direction="maximize"
    )
    one, four = run(members()), run(population.shard(members(), MESH))
    # XLA may join a product and a sum of its variation in one of the programs.
    check = near if name == "map_elites" else same
    check(four.members, one.members)
    same(four.history, one.history)
    assert four.members.params["kernel"].sharding.spec == PartitionSpec("population")


def collectives(strategy, placed):
    """What `ask` and `tell` send of leaves `[..., 8, WIDTH]`: kind and shape of each message."""

    def told(n):
        return evolve.Evaluation(jnp.arange(float(n)), descriptors=jnp.zeros((n, 2)))

    with jax.set_mesh(MESH):
        key = jax.random.key(0)
        state = strategy.init(key, placed, told(population.size(placed)))
        ask = jax.jit(strategy.ask).lower(key, state).compile()
        children, state = ask(key, state)
        found = told(population.size(children))
        tell = jax.jit(strategy.tell).lower(key, state, children, found).compile()
    own = {x.sharding.spec for x in jax.tree.leaves(children) if x.shape[:1] == found.fitness.shape}
    assert own == {PartitionSpec("population")}
    kinds = "all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast"
    for text in (ask.as_text(), tell.as_text()):
        for shapes, kind in re.findall(rf" = (.+?) ({kinds})(?:-start)?\(", text):
            for shape in re.findall(r"\w\[([\d,]*)\]", shapes):
                if str(WIDTH) in shape.split(","):
                    yield kind, shape


@pytest.mark.parametrize("name", MAKE)
def test_no_population_is_gathered(name):
    """Only vectors with a number a member are brought together; members leave by `ppermute`."""
    leaves = {"w": jnp.ones((N, 8, WIDTH)), "rate": jnp.ones(N)}
    sent = set(collectives(MAKE[name](), population.shard(leaves, MESH)))
    # A row or two a message: each device wants 4 of 16 members, or 6 parents, or 16 as partners.
    assert sent <= {("collective-permute", f"{rows},8,{WIDTH}") for rows in (1, 2)}
    assert sent or name == "model_swarm"


@pytest.mark.parametrize("name", AROUND)
def test_one_sum_of_a_members_size_moves_a_centre(name):
    leaves = {"w": jnp.ones((1, 8, WIDTH)), "rate": jnp.ones(1), "steps": jnp.arange(1)}
    assert list(collectives(AROUND[name](), leaves)) == [("all-reduce", f"8,{WIDTH}")]


@pytest.mark.parametrize("name", AROUND)
def test_a_centre_over_devices_has_the_same_children_and_climbs_alike(name):
    """Ten children on four devices: the same bits; the step is a sum in another order."""
    strategy, key = AROUND[name](), jax.random.key(3)
    first, fitness = members(1), jnp.arange(12.0) % 7
    state = strategy.init(key, first, jnp.zeros(1))
    children, asked = strategy.ask(key, state)
    one, info = strategy.tell(key, asked, children, fitness[:10])
    with jax.set_mesh(MESH):
        spread, asked = strategy.ask(key, state)
        four, told = strategy.tell(key, asked, spread, fitness.at[10:].set(jnp.inf))
    axes = trace.over_members(children, dense=0)
    shared = lambda x: x is None
    cut = lambda axis, x: x if axis is None else x[:10]
    same(jax.tree.map(cut, axes, spread, is_leaf=shared), children)
    same((told, four.top), (info, one.top))
    assert four.members.params["kernel"].sharding.is_fully_replicated
    for leaf in ("kernel", "half"):
        got, expected = (np.asarray(x.members.params[leaf], "f4") for x in (four, one))
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
        assert (got != np.asarray(first[leaf], "f4")).any()


def test_a_run_around_a_centre_uses_the_mesh_in_use():
    run = functools.partial(
        evolve.run, evolve.open_es(n=8), {"w": jnp.zeros((1, 3))}, key=0, generations=3,
        evaluate=lambda children: jnp.square(children["w"] - 1).sum(1), direction="minimize",
    )  # fmt: skip
    one = run()
    with jax.set_mesh(MESH):
        four = run()
    np.testing.assert_allclose(four.best["w"], one.best["w"], rtol=1e-5)
    np.testing.assert_allclose(four.history.mean, one.history.mean, rtol=1e-5)


def test_cells_that_do_not_divide_are_refused():
    strategy = evolve.map_elites(cells=evolve.grid([-1], [1], [6]))
    with jax.set_mesh(MESH), pytest.raises(WeightSpaceError, match="cells: 6 do not divide over 4"):
        strategy.init(0, population.shard(members(), MESH), described(members()))
