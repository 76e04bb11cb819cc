"""Differential evolution against Storn and Price's loop in numpy, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve, random

SHAPES = {"a": (2, 3), "b": (4,)}
KEY = jax.random.key(3)


def u(words):
    return (words >> 8).astype(np.float64) / 2**24


def trials(key, x, fitness, ids, base, scale, rate):
    """One generation of trials; x: name to `[N, ...]`."""
    n = len(ids)
    out = {name: leaf.copy() for name, leaf in x.items()}
    for i in range(n):
        bits = lambda name, size, i=i: np.asarray(random.bits(key, name, size, member=int(ids[i])))
        left = [j for j in np.argsort(ids) if j != i]
        words = bits("evolve/differential/partners", 3)
        a, b, c = (left.pop(int(word) % len(left)) for word in words)
        if base == "best":
            a = min(range(n), key=lambda j: (-fitness[j], ids[j]))
        draw = bits("evolve/differential/one", 2)
        of = "a" if u(draw[:1])[0] < 6 / 10 else "b"
        for name, leaf in x.items():
            size = leaf[i].size
            taken = u(bits(f"evolve/differential/{name}", size)) < np.float32(rate)
            if name == of:
                taken[draw[1] % size] = True
            donor = leaf[a] + scale * (leaf[b] - leaf[c])
            out[name][i] = np.where(taken.reshape(leaf[i].shape), donor, leaf[i])
    return out


def score(x):
    return -sum(np.square(leaf - 0.2).reshape(len(leaf), -1).sum(1) for leaf in x.values())


@pytest.mark.parametrize(("base", "rate"), [("random", 0.9), ("best", 0.3), ("random", 0.0)])
def test_generations_are_the_published_ones(base, rate):
    rng = np.random.default_rng(0)
    n = 6
    x = {name: rng.normal(size=(n, *shape)) for name, shape in SHAPES.items()}
    strategy = evolve.differential_evolution(base=base, rate=rate)
    with jax.enable_x64(True):
        steps = {"steps": jnp.arange(n)}
        fitness, ids = score(x), np.arange(n)
        state = strategy.init(0, jax.tree.map(jnp.asarray, x) | steps, jnp.asarray(fitness))
        for g in range(5):
            key = jax.random.fold_in(KEY, g)
            expected = trials(key, x, fitness, ids, base, np.float64(np.float32(0.8)), rate)
            children, state = strategy.ask(key, state)
            assert (children.pop("steps") == jnp.arange(n)).all()
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), children, expected
            )
            if rate == 0:  # one weight all the same
                changed = [(children[k] != x[k]).reshape(n, -1).sum(1) for k in x]
                assert (sum(changed) == 1).all()
            told = score(expected)
            state, info = strategy.tell(key, state, children | steps, jnp.asarray(told))
            wins = told >= fitness
            new_ids = (g + 1) * n + np.argsort(np.argsort(ids))
            assert info.slots.tolist() == np.where(wins, np.arange(n), -1).tolist()
            rows = lambda w, leaf: w.reshape(-1, *(1,) * (leaf.ndim - 1))
            x = {k: np.where(rows(wins, x[k]), expected[k], x[k]) for k in x}
            fitness, ids = np.where(wins, told, fitness), np.where(wins, new_ids, ids)
            assert state.members.ids.tolist() == ids.tolist()
            np.testing.assert_allclose(state.members.fitness, fitness)


def test_the_forced_weight_is_any_weight_alike():
    """With a rate of 0 the one weight of the donor falls on all alike, whatever the leaf."""
    x = {"a": jnp.arange(8.0)[:, None, None] * jnp.ones((1, 2, 3)), "b": jnp.ones((8, 1))}
    x["b"] = x["b"] * jnp.arange(8.0)[:, None]
    strategy = evolve.differential_evolution(rate=0.0)
    state = strategy.init(0, x, jnp.zeros(8))
    ask = jax.jit(jax.vmap(lambda key: strategy.ask(key, state)[0]))
    children = ask(jax.random.split(KEY, 1000))
    hits = [np.asarray(children[k] != x[k][None]).reshape(8000, -1).sum(0) for k in ("a", "b")]
    share = np.concatenate(hits) / 8000
    # A step of F * 0 does not exist: partners differ, so every hit shows unless it lands on x_i.
    assert abs(share / share.mean() - 1).max() < 5 * np.sqrt(7 / 8000)


def test_a_failed_trial_never_wins_and_a_tie_does():
    strategy = evolve.differential_evolution()
    x = {"w": jax.random.normal(KEY, (5, 4))}
    state = strategy.init(0, x, jnp.array([1.0, 1, 1, np.nan, np.nan]))
    children, state = strategy.ask(KEY, state)
    state, info = strategy.tell(KEY, state, children, jnp.array([np.nan, 1, 0, -9, np.nan]))
    assert info.slots.tolist() == [-1, 1, -1, 3, -1]
    np.testing.assert_array_equal(state.members.fitness, [1, 1, 1, -9, np.nan])


def test_a_generation_holds_the_population_twice():
    strategy = evolve.differential_evolution()
    x = {"w": jnp.zeros((64, 100, 100))}
    state = strategy.init(0, x, jnp.ones(64))
    # The state first: a donated population shall go on as the population, not as the children.
    ask = jax.jit(lambda key, state: strategy.ask(key, state)[::-1], donate_argnums=1)
    tell = jax.jit(strategy.tell, donate_argnums=1)
    for compiled in (
        ask.lower(KEY, state).compile(),
        tell.lower(KEY, state, x, jnp.zeros(64)).compile(),
    ):
        m = compiled.memory_analysis()
        held = m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes
        assert held - m.alias_size_in_bytes < 2.1 * x["w"].nbytes


def test_what_cannot_evolve_is_refused():
    with pytest.raises(WeightSpaceError, match="at least 4 members, got 3"):
        evolve.differential_evolution().init(0, {"w": jnp.ones((3, 2))}, jnp.ones(3))
    with pytest.raises(WeightSpaceError, match="no leaf that takes part holds floats"):
        evolve.differential_evolution().init(0, {"n": jnp.arange(4)}, jnp.ones(4))
    with pytest.raises(WeightSpaceError, match="scale: expected a number of at least 0"):
        evolve.differential_evolution(scale=-1.0)
    with pytest.raises(WeightSpaceError, match="rate: expected a number in"):
        evolve.differential_evolution(rate=1.5)
