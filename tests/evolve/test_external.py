"""Algorithms of evosax under the contract, and one of their surface without the package."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from wslax import WeightSpaceError, evolve

KEY = jax.random.key(2)
TARGET = 0.3


def members(n):
    rng = np.random.default_rng(0)
    return {
        "coef": jnp.asarray(rng.normal(size=(n, 3)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(n, 2)), jnp.bfloat16),
        "steps": jnp.full(n, 20_000_001, jnp.int32),
        "key": jax.random.split(jax.random.key(3), n),
    }


def score(population):
    wide = jnp.concatenate([population["coef"], population["half"].astype("float32")], 1)
    return -jnp.square(wide - TARGET).sum(1)


@struct.dataclass
class Mean:
    """Its numbers are weakly typed at first and not later, as in evosax."""

    mean: jax.Array
    step: jax.Array


@struct.dataclass
class Numbers:
    decay: float


class Halves:
    """The surface of a distribution of evosax: goes half way to the best, with shrinking noise."""

    default_params = Numbers(decay=0.9)

    def __init__(self, population_size, solution):
        self.n = population_size
        flat, self.back = jax.flatten_util.ravel_pytree(solution)
        assert flat.dtype == jnp.float32

    def get_mean(self, state):
        return self.back(state.mean)

    def init(self, key, mean, params):
        return Mean(jax.flatten_util.ravel_pytree(mean)[0], jnp.asarray(1.0))

    def ask(self, key, state, params):
        noise = jax.random.normal(key, (self.n, *state.mean.shape))
        return jax.vmap(self.back)(state.mean + state.step * noise), state

    def tell(self, key, population, cost, state, params):
        best = jax.tree.map(lambda x: x[cost.argmin()], population)
        moved = (state.mean + jax.flatten_util.ravel_pytree(best)[0]) / 2
        return Mean(moved, state.step * jnp.float32(params.decay)), {}


class Elites(Halves):
    """The surface of a population of evosax: the better half, twice, with noise."""

    get_mean = property()  # it has none

    def init(self, key, population, cost, params):
        return self.tell(key, population, cost, None, params)[0]

    def ask(self, key, state, params):
        noise = 0.1 * jax.random.normal(key, state.mean.shape)
        return jax.vmap(self.back)(state.mean + noise), state

    def tell(self, key, population, cost, state, params):
        flat = jax.vmap(lambda x: jax.flatten_util.ravel_pytree(x)[0])(population)
        half = flat[jnp.argsort(cost)][: self.n // 2]
        return Mean(jnp.concatenate([half, half]), cost.min()), {}


@functools.cache
def made(algorithm):
    return evolve.external(algorithm, n=12)


def started(algorithm):
    first = members(1 if algorithm is Halves else 12)
    return made(algorithm).init(KEY, first, score(first))


def generation(strategy, state, key, fitness=score):
    children, state = strategy.ask(key, state)
    return strategy.tell(key, state, children, fitness(children))


@pytest.mark.parametrize("algorithm", [Halves, Elites])
def test_a_scan_types_strictly_and_finds_the_target(algorithm):
    with jax.numpy_dtype_promotion("strict"):
        state = started(algorithm)
        step = functools.partial(generation, made(algorithm))
        end, info = jax.lax.scan(step, state, jax.random.split(KEY, 60))
    avals = lambda t: [jax.typeof(x) for x in jax.tree.leaves(t)]
    assert avals(end) == avals(state)
    assert float(end.top[1]) > -0.05
    np.testing.assert_allclose(end.top[1], info.fitness.max(), rtol=1e-6)
    np.testing.assert_allclose(score(jax.tree.map(lambda x: x[None], end.top[0])), end.top[1:])
    first = members(1)
    for leaf in ("steps", "key"):
        kept = end.members.params[leaf]
        assert kept.dtype == first[leaf].dtype
    assert (end.members.params["steps"] == 20_000_001).all()
    assert len(set(info.ids.ravel().tolist()) | set(range(12))) == 61 * 12
    np.testing.assert_array_equal(end.members.fitness, score(end.members.params))


@pytest.mark.parametrize("algorithm", [Halves, Elites])
def test_members_that_failed_never_win(algorithm):
    state = started(algorithm)
    failing = lambda population: score(population).at[::2].set(jnp.nan)
    for g in range(4):
        key = jax.random.fold_in(KEY, g)
        state, info = generation(made(algorithm), state, key, failing)
        assert int(info.failed) == 6
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.inner))
        assert not np.isnan(state.top[1])


def test_hyper_parameters_are_in_the_state():
    state = started(Halves)
    state = state._replace(params=state.params.replace(decay=0.5))
    after, _ = generation(made(Halves), state, KEY)
    assert float(after.inner.step) == 0.5


def test_bad_input_is_named():
    with pytest.raises(WeightSpaceError, match=r"Halves begins with 1 member\(s\), got 12"):
        made(Halves).init(KEY, members(12), jnp.zeros(12))
    with pytest.raises(WeightSpaceError, match=r"Elites begins with 12 member\(s\), got 1"):
        made(Elites).init(KEY, members(1), jnp.zeros(1))
    with pytest.raises(WeightSpaceError, match="no leaf of floats"):
        made(Halves).init(KEY, {"n": jnp.arange(1)}, jnp.zeros(1))
    with pytest.raises(WeightSpaceError, match="n: expected at least 2"):
        evolve.external(Halves, n=1)
    children, state = made(Halves).ask(KEY, started(Halves))
    with pytest.raises(WeightSpaceError, match="children lacks 'half'"):
        made(Halves).tell(KEY, state, {"coef": children["coef"]}, jnp.zeros(12))


@pytest.mark.parametrize("name", ["CMA_ES", "Open_ES", "PSO"])
def test_a_run_is_the_one_that_evosax_makes(name):
    algorithm = getattr(pytest.importorskip("evosax.algorithms"), name)
    first = {"coef": members(1)["coef"]}
    if name == "PSO":
        first = {"coef": members(12)["coef"]}
    score = lambda population: -jnp.square(population["coef"] - TARGET).sum(1)
    end = evolve.run(
        evolve.external(algorithm, n=12), first, score,
        key=KEY, generations=5, direction="maximize",
    )  # fmt: skip
    with jax.numpy_rank_promotion("allow"):
        direct = algorithm(population_size=12, solution=jax.tree.map(lambda x: x[0], first))
        params = direct.default_params
        if name == "PSO":
            state = direct.init(KEY, first, -score(first), params)
        else:
            state = direct.init(KEY, jax.tree.map(lambda x: x[0], first), params)
        for g in range(5):
            key = jax.random.fold_in(KEY, g)
            children, state = direct.ask(key, state, params)
            state, _ = direct.tell(key, children, -score(children), state, params)
    np.testing.assert_allclose(end.members.params["coef"], children["coef"], rtol=1e-5, atol=1e-6)
    start = float(score(first).max())
    np.testing.assert_allclose(end.state.top[1], max(-state.best_fitness, start), rtol=1e-5)
