"""Evolution of quantized populations: the children of float32 parents, in int8 again."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve, population
from wslax.population.int8 import Int8

N = 12
STRATEGIES = {
    "genome": evolve.genome(mutation_rate=0.5, gene_rate=0.3, sigma=0.1, where="w*"),
    "genetic": evolve.genetic_algorithm(
        mutate=functools.partial(evolve.gaussian, sigma=0.1, rate=1.0), children=7, where="w*"
    ),
}


def members():
    keys = jax.random.split(jax.random.key(1), 3)
    return {
        "w": jax.random.normal(keys[0], (N, 5, 3)),
        "w2": jax.random.normal(keys[1], (N, 4)),
        "fixed": jax.random.normal(keys[2], (N, 4)),
        "steps": jnp.arange(N),
    }


def same(a, b):
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", STRATEGIES)
def test_children_are_those_of_the_parents_in_float32(name):
    init, ask, _ = STRATEGIES[name]
    small, fitness, key = population.quantize(members()), jnp.arange(N * 1.0), jax.random.key(2)
    wide = population.dequantize(small)
    got, _ = ask(key, init(key, small, fitness))
    expected, _ = ask(key, init(key, wide, fitness))
    assert isinstance(got["w"], Int8)
    same(got["steps"], expected["steps"])
    ids = np.asarray(expected["steps"])  # of the first parent, of whom `fixed` comes too
    same(got["fixed"].values, np.asarray(small["fixed"].values)[ids])
    # A mutant of a merge begins as a merge in int8, so half a step is lost twice.
    loss = 1 if name == "genetic" else 2
    for leaf in ("w", "w2"):
        off = np.abs(np.asarray(population.dequantize(got)[leaf] - expected[leaf]))
        assert (off <= loss * 0.51 * np.asarray(got[leaf].scale)).all()


def error(member):
    return jnp.square(member["w"] - 1).sum() + jnp.square(member["w2"]).sum()


def judge(members):
    return population.evaluate(error, members)


def go(start, **options):
    settings = {"key": 0, "generations": 8, "direction": "minimize"} | options
    return evolve.run(STRATEGIES["genome"], start, judge, **settings)


def test_a_run_in_int8_gains_as_it_does_in_float32_and_resumes(tmp_path):
    small = population.quantize(members())
    end = go(small)
    assert end.members.params["w"].values.dtype == jnp.int8
    plain, first = go(members()), float(judge(members()).min())
    gained, wanted = (first - float(x.members.fitness.min()) for x in (end, plain))
    assert gained > 0.7 * wanted > 0
    assert end.best["w"].dtype == jnp.float32
    assert float(error(end.best)) == pytest.approx(float(end.members.fitness.min()), rel=1e-6)
    go(small, generations=3, folder=tmp_path)
    same(go(small, folder=tmp_path, resume=True).members, end.members)


def test_offloaded_and_in_int8_it_is_the_same():
    small = population.quantize(members())
    judged = lambda members: population.evaluate(error, members, chunk=N)
    run = functools.partial(
        evolve.run, STRATEGIES["genome"], evaluate=judged, key=0, generations=3,
        direction="minimize",
    )  # fmt: skip
    same(run(population=population.offload(small)).members[:3], run(population=small).members[:3])


def test_other_strategies_refuse():
    small = population.quantize(members())
    swarm = evolve.model_swarm()
    with pytest.raises(WeightSpaceError, match="quantized, which this strategy does not serve"):
        swarm.init(jax.random.key(0), small, jnp.zeros(N))
    with pytest.raises(WeightSpaceError, match="quantized"):
        evolve.run(swarm, small, judge, key=0, generations=1, direction="minimize")


def test_where_is_checked_by_the_names_of_leaves():
    start = evolve.genome(where="nothing").init
    with pytest.raises(WeightSpaceError, match="nothing"):
        start(jax.random.key(0), population.quantize(members()), jnp.zeros(N))


def test_over_devices_it_is_the_same_to_rounding():
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((4,), ("population",), axis_types=auto)
    small = population.quantize(members())
    plain = go(small, generations=2).members
    spread = go(population.shard(small, mesh), generations=2).members
    assert len(spread.params["w"].values.sharding.device_set) == 4
    same(spread.ids, plain.ids)
    for leaf in ("w", "w2", "fixed"):
        x, y = spread.params[leaf], plain.params[leaf]
        np.testing.assert_allclose(x.scale, y.scale, rtol=1e-6)
        # Who lies half way between two steps goes to either.
        assert np.abs(np.asarray(x.values, int) - np.asarray(y.values, int)).max() <= 1
