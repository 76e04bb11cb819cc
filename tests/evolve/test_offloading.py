"""Offloaded populations: the bits of the device, a few chunks of rows there, who is refused."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve, population
from wslax.evolve import breeding
from wslax.population.offloading import Offloaded

N, WIDTH = 23, 37  # of no other test: the programs compiled here are these alone
GENOME = evolve.genome(chunk=3, mutation_rate=0.4, gene_rate=0.1)


def members(width=WIDTH):
    keys = jax.random.split(jax.random.key(1), 2)
    return {
        "kernel": jax.random.normal(keys[0], (N, width)),
        "half": jax.random.normal(keys[1], (N, 3, 2)).astype(jnp.bfloat16),
        "steps": jnp.arange(N),
    }


def score(member):
    """Exact in any order of sums, so that choices are the same for any chunking."""
    return -jnp.round(member["kernel"] * 64).astype(jnp.int32).sum() / 64


def judge(members):
    return population.evaluate(score, members, chunk=4)


def go(start, strategy=GENOME, **options):
    settings = {"key": 3, "generations": 4, "direction": "minimize"} | options
    return evolve.run(strategy, start, judge, **settings)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def check(plain, streamed):
    same(plain[:3], streamed[:3])
    same(plain.best, streamed.best)
    for leaf in jax.tree.leaves(streamed.members.params):
        assert isinstance(leaf, Offloaded)


@pytest.mark.parametrize(
    "strategy", [GENOME, evolve.genetic_algorithm(chunk=4, survive=evolve.crowding)]
)
def test_a_run_ends_in_the_bits_of_the_device(strategy):
    check(go(members(), strategy), go(population.offload(members()), strategy))


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_in_the_memory_it_is_given(tmp_path):
    def kill(generation, state, info):
        if generation == 2:
            raise Killed

    with pytest.raises(Killed):
        go(population.offload(members()), folder=tmp_path, on_segment=kill)
    start = population.offload(members())
    rest = go(start, folder=tmp_path, resume=True)
    check(go(members()), rest)
    assert np.shares_memory(rest.members.params["kernel"], start["kernel"])
    assert rest.evaluations == 2 * rest.history.ids.shape[1]


def test_the_device_holds_chunks_alone(monkeypatch, caplog):
    width = 1009
    start = population.offload(members(width))
    chunk = 3 * sum(leaf.nbytes for leaf in start.values()) // N
    here = lambda: sum(x.nbytes for x in jax.live_arrays())
    gc.collect()
    gc.freeze()  # what is old need not be looked at again
    write, before, held = breeding.write, here(), []

    def spied(*args):
        gc.collect()  # a compilation's frames may bear arrays in cycles
        held.append(here() - before)
        write(*args)

    monkeypatch.setattr(breeding, "write", spied)
    with jax.log_compiles():
        end = go(start, generations=2)
    gc.unfreeze()
    assert len(held) > 8
    assert chunk <= max(held) < 2.5 * chunk
    assert here() - before < chunk
    # Of what compiled programs get and give, a row of the wide leaf comes in chunks only.
    shapes = [words for words in caplog.messages if f"{width}]" in words]
    assert any(f"[3,2,{width}]" in words for words in shapes)
    for n in (N, end.history.ids.shape[1]):
        assert not any(f"[{n},{width}]" in words for words in shapes)


@pytest.mark.parametrize("chunk", [1, 4, N, 99])
def test_evaluation_by_chunks_is_that_of_all(chunk):
    def fn(member, scale):
        return {"top": member["half"].max() * scale, "all": member["kernel"] + member["steps"]}

    expected = population.evaluate(fn, members(), 2.0)
    same(population.evaluate(fn, population.offload(members()), 2.0, chunk=chunk), expected)


def test_first_populations_are_bred_on_the_host():
    made = evolve.genome_init(5, population.offload(members()), 9)
    same(evolve.genome_init(5, members(), 9), made)
    assert isinstance(made["half"], Offloaded)


def test_numpy_arrays_are_taken_as_they_are_and_others_copied():
    own, double = np.zeros((2, 3), np.float32), np.zeros((2, 3))
    fixed = jnp.zeros((2, 3))
    made = population.offload({"own": own, "double": double, "fixed": fixed})
    for leaf in made.values():
        leaf += 1
    assert own.sum() == 6
    assert double.sum() == fixed.sum() == 0
    assert made["double"].dtype == np.float32


def test_a_numpy_population_that_is_not_offloaded_stays_as_it_is():
    start = jax.tree.map(np.array, members())
    end = go(start, generations=1)
    same(start, members())
    assert isinstance(end.members.params["kernel"], jax.Array)


def test_who_does_not_serve_them_says_so_before_any_work():
    start, calls = population.offload(members()), []
    mesh = jax.make_mesh((2,), ("population",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(strategy, **options):
        settings = {"key": 0, "generations": 1, "direction": "minimize"} | options
        evolve.run(strategy, start, calls.append, **settings)

    for strategy in (evolve.model_swarm(), evolve.islands(GENOME, 1), evolve.genome_plus()):
        with pytest.raises(WeightSpaceError, match="population: offloaded, which this strategy"):
            run(strategy)
    with pytest.raises(WeightSpaceError, match="of an offloaded population only 1, got 2"):
        run(GENOME, segment=2)
    with jax.set_mesh(mesh), pytest.raises(WeightSpaceError, match="streams through one device"):
        run(GENOME)
    with pytest.raises(WeightSpaceError, match="offloaded, which this strategy"):
        evolve.differential_evolution().init(0, start, np.zeros(N))
    with pytest.raises(WeightSpaceError, match="chunk: an offloaded population needs it"):
        population.evaluate(score, start)
    with pytest.raises(WeightSpaceError, match="rng: JAX keys cannot be offloaded"):
        population.offload({"rng": jax.random.split(jax.random.key(0), 2)})
    assert calls == []
