"""Particle swarms against the published update in numpy, in weights and in coordinates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve, random

PHI = np.array([0.4, 0.3, 0.3, 0.3])


def score(x):
    return -np.square(x - 0.3).sum(-1)


def published(key, x, steps):
    """Positions after each step; the defects of the released code are left out."""
    n = len(x)
    words = np.asarray(random.bits(key, "evolve/swarm/start", n, xp=np))
    v = x[(np.arange(n) + 1 + words % (n - 1)) % n] - x
    f = score(x)
    best, record, waited = x.copy(), f.copy(), np.zeros(n, int)
    top, bottom, step = (x[f.argmax()], f.max()), (x[f.argmin()], f.min()), 1.0
    ids, own = np.arange(n), np.arange(n)
    for g in range(steps):
        at = jax.random.fold_in(key, g)
        draw = lambda i, at=at: np.asarray(
            random.uniform(random.bits(at, "evolve/swarm", 4, member=int(i), xp=jnp))
        )
        for i in range(n):
            r = draw(ids[i]) * PHI
            pulls = (v[i], best[i] - x[i], top[0] - x[i], bottom[0] - x[i])
            v[i] = sum(s * w * p for s, w, p in zip((1, 1, 1, -1), r, pulls, strict=True)) / r.sum()
        x = x + step * v
        f = score(x)
        ids = n * (g + 1) + ids.argsort().argsort()
        better = f > record
        best, record = np.where(better[:, None], x, best), np.where(better, f, record)
        own = np.where(better, ids, own)
        waited = np.where(better, 0, waited + 1)
        if f.max() > top[1]:
            top = (x[f.argmax()], f.max())
        if f.min() < bottom[1]:
            bottom = (x[f.argmin()], f.min())
        home = waited >= 5
        x, v = np.where(home[:, None], best, x), np.where(home[:, None], 0, v)
        waited[home] = 0
        step, ids = max(0.95 * step, 0.1), np.where(home, own, ids)
        yield x.copy(), top


def test_moves_are_the_published_ones():
    key = jax.random.key(5)
    x = np.random.default_rng(0).normal(size=(6, 4)) + 2
    strategy = evolve.model_swarm()
    with jax.enable_x64(True):
        population = {"w": jnp.asarray(x), "steps": jnp.arange(6)}
        state = strategy.init(key, population, jnp.asarray(score(x)))
        returned = 0
        for g, (expected, top) in enumerate(published(key, x, 25)):
            at = jax.random.fold_in(key, g)
            children, state = strategy.ask(at, state)
            fitness = jnp.asarray(score(np.asarray(children["w"])))
            state, info = strategy.tell(at, state, children, fitness)
            returned += int((info.slots < 0).sum())
            np.testing.assert_allclose(state.members.params["w"], expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(state.top[1], top[1], rtol=1e-5)
            known = score(np.asarray(state.members.params["w"]))
            np.testing.assert_allclose(state.members.fitness, known, rtol=1e-5, atol=1e-9)
            assert (state.members.params["steps"] == jnp.arange(6)).all()
    assert returned > 0


@pytest.mark.parametrize("name", ["model_swarm", "genome"])
def test_a_run_on_coordinates_is_the_run_on_weights(name):
    rng = np.random.default_rng(1)
    models = {"a": jnp.asarray(rng.normal(size=(5, 3, 7)), jnp.float32), "n": jnp.full(5, 4)}
    target = jnp.asarray(rng.normal(size=(3, 7)), jnp.float32)
    fitness = lambda members: -jnp.square(members["a"] - target[None]).sum((1, 2))
    options = {"mutation_rate": 0.0} if name == "genome" else {}
    strategy = evolve.STRATEGIES[name](**options)
    run = lambda population, evaluate: evolve.run(
        strategy, population, evaluate, key=3, generations=6, direction="maximize"
    )
    space = evolve.span(models)
    weights = run(models, fitness)
    coordinates = run(space.coordinates, lambda c: fitness(space.materialise(c)))
    made = space.materialise(coordinates.members.params)
    np.testing.assert_allclose(made["a"], weights.members.params["a"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        coordinates.members.fitness, weights.members.fitness, rtol=1e-4, atol=1e-5
    )
    assert coordinates.members.ids.tolist() == weights.members.ids.tolist()
    assert made["n"].tolist() == [4] * 5


def test_members_that_fail_are_never_the_best_or_the_worst():
    population = {"w": jnp.arange(4.0)[:, None]}
    strategy = evolve.model_swarm(restart=1)
    state = strategy.init(0, population, jnp.array([jnp.nan, 1.0, 2.0, jnp.nan]))
    assert (float(state.top[1]), float(state.bottom[1])) == (2, 1)
    key = jax.random.key(0)
    children, state = strategy.ask(key, state)
    state, info = strategy.tell(key, state, children, jnp.full(4, jnp.nan))
    assert (float(state.top[1]), float(state.bottom[1])) == (2, 1)
    assert int(info.failed) == 4
    # All return to their bests, those that never had a fitness to where they began.
    assert state.members.params["w"][:, 0].tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(state.members.fitness, [np.nan, 1, 2, np.nan])


def test_what_cannot_move_is_refused():
    with pytest.raises(WeightSpaceError, match="at least 2 members"):
        evolve.model_swarm().init(0, {"w": jnp.ones((1, 2))}, jnp.ones(1))
    with pytest.raises(WeightSpaceError, match="repel: expected a number of at least 0"):
        evolve.model_swarm(repel=-1.0)
    with pytest.raises(WeightSpaceError, match="n: is int32 and differs"):
        evolve.span({"w": jnp.ones((2, 3)), "n": jnp.arange(2)})
