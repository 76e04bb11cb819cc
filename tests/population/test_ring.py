"""Rows that travel over a mesh: the bits of a gather, and only what is chosen moves."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wslax import WeightSpaceError
from wslax.population import devices, fetch
from wslax.population.ring import moved, row, stride

MESH = jax.make_mesh((4,), ("population",), axis_types=(AxisType.Auto,))
N, M = 8, 12
jitted = jax.jit(fetch)


def rows(n, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "float": jax.random.normal(keys[0], (n, 4, 6)),
        "half": jax.random.normal(keys[1], (n, 2)).astype(jnp.bfloat16),
        "count": jnp.arange(n, dtype=jnp.int32) + 2**30,
        "mask": jax.random.bernoulli(keys[2], 0.5, (n, 4)),
        "key": jax.random.split(keys[3], n),
    }


def words(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(words(x), words(y)), a, b)


def spread(population, mesh=MESH, model=None):
    def put(x):
        axes = ("population", model) if x.ndim == 3 else ("population",)
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

    return jax.tree.map(put, population)


def expected(into, population, index):
    def one(y, x):
        y, x = words(y).copy(), words(x)
        for i, k in enumerate(index):
            if k >= 0:
                y[i] = x[k]
        return y

    return jax.tree.map(one, into, population)


INDICES = {
    "mixed": [3, 3, 3, -1, 7, 0, -1, 2, 6, 6, 1, 5],
    "one for all": [5] * M,
    "none": [-1] * M,
    "own": [0, 1, 0, 2, 3, 2, 4, 5, 4, 6, 7, 6],
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_rows_are_those_of_a_gather(index):
    into, population = rows(M, 1), rows(N)
    wanted = expected(into, population, index)
    same(jitted(into, population, jnp.array(index)), wanted)
    with jax.set_mesh(MESH):
        got = jitted(spread(into), spread(population), jnp.array(index))
    same(got, wanted)
    assert all(x.sharding.spec[0] == "population" for x in jax.tree.leaves(got))


def test_other_axes_stay_spread_over_the_model():
    mesh = jax.make_mesh((2, 2), ("population", "model"), axis_types=(AxisType.Auto,) * 2)
    into, population, index = rows(M, 1), rows(N), INDICES["mixed"]
    with jax.set_mesh(mesh):
        got = fetch(
            spread(into, mesh, "model"), spread(population, mesh, "model"), jnp.array(index)
        )
    same(got, expected(into, population, index))
    assert got["float"].sharding.spec == PartitionSpec("population", "model")


def test_one_row_on_every_device():
    population = rows(N)
    with jax.set_mesh(MESH):
        got = row(spread(population), jnp.array(6))
    same(got, jax.tree.map(lambda x: x[6], population))
    assert got["float"].sharding.is_fully_replicated


def test_messages_hold_chosen_rows_only():
    """In the compiled program rows leave by `ppermute`, `stride` at a time; nothing is gathered."""
    into, population = {"w": jnp.zeros((M, 16))}, {"w": jnp.ones((N, 16))}
    with jax.set_mesh(MESH):
        lowered = jax.jit(fetch).lower(spread(into), spread(population), jnp.zeros(M, jnp.int32))
    text = lowered.compile().as_text()
    sent = re.findall(r"(\S+) = (\S+?)\[([\d,]*)\]\S* collective-permute", text)
    assert {shape for _, _, shape in sent} == {f"{stride(M // 4, 4)},16"}
    assert not re.search(r"all-gather|all-to-all|all-reduce", text)


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_count_of_rows_moved(index):
    """For each distance as many as the device that wants most: a transcription by hand."""
    total = 0
    for distance in range(1, 4):
        wants = [
            sum(k >= 0 and k // 2 == (d + distance) % 4 for k in index[3 * d : 3 * d + 3])
            for d in range(4)
        ]
        total += max(wants)
    assert stride(3, 4) == 1
    assert moved(index, N, 4) == total


def test_a_mesh_in_use_is_read():
    assert devices() == 1
    with jax.set_mesh(MESH):
        assert devices() == 4
    with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))):
        assert devices() == 1


def test_what_cannot_be_spread_is_named():
    with jax.set_mesh(MESH):
        with pytest.raises(WeightSpaceError, match="population: 6 rows do not divide over the 4"):
            fetch(jnp.zeros(8), jnp.zeros(6), jnp.zeros(8, jnp.int32))
        with pytest.raises(WeightSpaceError, match="index: 7 rows do not divide over the 4"):
            fetch(jnp.zeros(7), jnp.zeros(8), jnp.zeros(7, jnp.int32))
    explicit = jax.make_mesh((4,), ("population",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(explicit), pytest.raises(WeightSpaceError, match="'population' is explicit"):
        devices()
