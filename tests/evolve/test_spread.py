"""Strategies over four devices: the bits of one device, and only parents and survivors travel."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from wslax import evolve, population

MESH = jax.make_mesh((4,), ("population",), axis_types=(AxisType.Auto,))
N = 16
MAKE = {
    # Ten children: they do not divide over four devices.
    "genome": functools.partial(evolve.genome, mutation_rate=0.2, gene_rate=0.1, chunk=2),
    "model_swarm": evolve.model_swarm,
    "genetic_algorithm": functools.partial(evolve.genetic_algorithm, children=10, chunk=2),
    "differential_evolution": functools.partial(evolve.differential_evolution, chunk=2),
    "population_based_training": functools.partial(
        evolve.population_based_training, lambda key, member: member, hyper="rate", chunk=2
    ),
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


def words(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(words(x), words(y)), a, b)


@pytest.mark.parametrize("name", MAKE)
def test_a_run_over_devices_ends_in_the_same_bits(name):
    run = functools.partial(
        evolve.run, MAKE[name](), evaluate=score, key=3, generations=4, direction="maximize"
    )
    one, four = run(members()), run(population.shard(members(), MESH))
    same(four.members, one.members)
    same(four.history, one.history)
    assert four.members.params["kernel"].sharding.spec == PartitionSpec("population")


@pytest.mark.parametrize("name", MAKE)
def test_no_population_is_gathered(name):
    """Only vectors with a number a member are brought together; members leave by `ppermute`."""
    strategy, width = MAKE[name](), 1000
    with jax.set_mesh(MESH):
        placed = population.shard({"w": jnp.ones((N, width)), "rate": jnp.ones(N)}, MESH)
        key, fitness = jax.random.key(0), jnp.arange(float(N))
        state = strategy.init(key, placed, fitness)
        ask = jax.jit(strategy.ask).lower(key, state).compile()
        children, state = ask(key, state)
        told = fitness[: population.size(children)]
        tell = jax.jit(strategy.tell).lower(key, state, children, told).compile()
    sent = []
    for program in (ask, tell):
        text = program.as_text()
        for shape, kind in re.findall(r"= \w+\[([\d,]*)\]\S* ([a-z-]+)\(", text):
            if kind in ("all-gather", "all-reduce", "all-to-all"):
                assert str(width) not in shape.split(",")
            if kind == "collective-permute":
                sent.append(shape)
    # A row or two a message: each device wants 4 of 16 members, or 6 parents, or 16 as partners.
    wide = {shape for shape in sent if str(width) in shape.split(",")}
    assert wide <= {f"1,{width}", f"2,{width}"}
    assert wide or name == "model_swarm"
