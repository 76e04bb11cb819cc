"""Selection, crossover and mutation: distributions, guards, bits."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax import WeightSpaceError, evolve

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("fitness", "expected"),
    [
        ([1, 3, 0], [1 / 3, 1, 0]),
        ([0, 0, 0], [1, 1, 1]),
        ([NAN, 2, 1], [0, 1, 0.5]),
        ([NAN, NAN, NAN], [1, 1, 1]),
        ([-INF, 2, 2], [0, 1, 1]),
        ([INF, 2, NAN], [1, 0, 0]),
        ([-1, -3, -2], [1, 1 / 4, 5 / 8]),
        ([-1e37, 1e37, 0], [1 / 4, 1, 5 / 8]),
        ([-2, -2, NAN], [1, 1, 0]),
    ],
)
def test_shares_stand_every_fitness(fitness, expected):
    np.testing.assert_allclose(evolve.shares(jnp.array(fitness, jnp.float32)), expected, rtol=1e-5)


def expected_pairs(share):
    """Probability of drawing i, then j, in proportion and without replacement."""
    share = np.asarray(share, float) / np.sum(share)
    p = {}
    for i, j in itertools.permutations(range(len(share)), 2):
        p[i, j] = share[i] * share[j] / (1 - share[i])
    return p


roulette = jax.jit(evolve.roulette, static_argnums=(2, 3))


def test_roulette_draws_distinct_parents_in_proportion():
    fitness, draws = jnp.array([4.0, 1.0, 2.0, jnp.nan, 0.0]), 20_000
    drawn = np.asarray(roulette(jax.random.key(3), fitness, draws, 2))
    for (i, j), p in expected_pairs([4, 1, 2]).items():
        hits = ((drawn == (i, j)).all(1)).mean()
        assert abs(hits - p) < 5 * np.sqrt(p * (1 - p) / draws)
    assert set(drawn.ravel()) == {0, 1, 2}


@pytest.mark.parametrize("fitness", [[0.0, 0.0, 0.0], [NAN] * 3, [0.0, 5.0, 0.0], [NAN, 1.0, NAN]])
def test_roulette_is_distinct_when_shares_run_out(fitness):
    drawn = np.asarray(roulette(jax.random.key(0), jnp.array(fitness), 300, 3))
    assert (np.sort(drawn, 1) == [0, 1, 2]).all()


def test_roulette_without_any_fitness_is_uniform():
    drawn = np.asarray(roulette(jax.random.key(1), jnp.zeros(4), 8000, 1))[:, 0]
    np.testing.assert_allclose(np.bincount(drawn) / 8000, 0.25, atol=0.025)


def test_tournament_chances_are_those_of_three_of_five():
    """P(rank r wins one round of three among five) = C(5 - r - 1, 2) / C(5, 3)."""
    fitness = jnp.array([0.0, 4.0, 1.0, 3.0, 2.0])
    wins = jax.jit(jax.vmap(lambda k: evolve.tournament(k, fitness, 1)))(
        jax.random.split(jax.random.key(0), 8000)
    )
    shares = np.bincount(4 - np.asarray(fitness)[np.asarray(wins[:, 0])].astype(int), minlength=5)
    np.testing.assert_allclose(shares / 8000, [0.6, 0.3, 0.1, 0, 0], atol=0.025)


def test_the_second_winner_comes_from_who_is_left():
    """Oracle: play the two rounds in Python over all triples."""
    exact = np.zeros((5, 5))
    for first in itertools.combinations(range(5), 3):
        left = [r for r in range(5) if r != min(first)]
        for second in itertools.combinations(left, 3):
            exact[min(first), min(second)] += 1 / 10 / 4
    wins = jax.jit(jax.vmap(lambda k: evolve.tournament(k, -jnp.arange(5.0), 2)))(
        jax.random.split(jax.random.key(1), 10_000)
    )
    counts = np.zeros((5, 5))
    np.add.at(counts, tuple(np.asarray(wins).T), 1 / 10_000)
    np.testing.assert_allclose(counts, exact, atol=0.025)


@pytest.mark.parametrize(("n", "count", "size"), [(1, 1, 3), (6, 4, 3), (6, 6, 2), (2, 2, 3)])
def test_winners_are_distinct_and_the_unevaluated_come_last(n, count, size):
    play = jax.jit(lambda key, fitness: evolve.tournament(key, fitness, count, size=size))

    @given(fitness=st.lists(st.sampled_from([NAN, -INF, 0.0, 1.0, INF]), min_size=n, max_size=n))
    @settings(deadline=None, max_examples=25)
    def check(fitness):
        fitness = np.array(fitness, np.float32)
        winners = np.asarray(play(jax.random.key(0), fitness))
        assert len(set(winners.tolist())) == count
        assert np.isnan(fitness[winners]).sum() == max(0, count - (~np.isnan(fitness)).sum())

    check()


def test_a_tournament_of_all_is_the_order_of_rank():
    """The released code's `rank` rule favoured the worst; here the best of all always wins."""
    fitness = jnp.array([3.0, 9.0, 1.0, 7.0])
    assert evolve.tournament(0, fitness, 4, size=4).tolist() == [1, 3, 0, 2]
    assert evolve.elite(fitness, 2).tolist() == [1, 3]


def test_pairs_are_all_pairs_then_again():
    drawn = [tuple(p) for p in evolve.pairs(4, 4, 9).tolist()]
    assert sorted(drawn[:6]) == list(itertools.combinations(range(4), 2))
    assert drawn[6:] == drawn[:3]
    with pytest.raises(WeightSpaceError, match="at least 2"):
        evolve.pairs(0, 1, 3)


@pytest.mark.parametrize("rate", [0.01, 0.07, 0.125, 0.3, 1.0])
def test_mutation_hits_each_weight_at_the_rate_with_normal_noise(rate):
    """Over members: each position's hits; over all hits: the moments and the place in the block."""
    n, members = 997, 2000
    mutate = jax.jit(
        jax.vmap(
            lambda m: evolve.gaussian(5, {"w": jnp.ones(n)}, sigma=0.5, rate=rate, member=m)["w"]
        )
    )
    moved = np.asarray(mutate(jnp.arange(members, dtype=jnp.uint32)), np.float64) - 1
    hit = moved != 0
    by_place = hit.mean(0)
    assert abs(hit.mean() - rate) < 1e-3
    assert np.abs(by_place - rate).max() < 5 * np.sqrt(rate * (1 - rate) / members) + 1e-9
    z = moved[hit] / 0.5
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / z.size)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_noise_differs_between_leaves_members_and_keys(rate):
    @functools.partial(jax.jit, static_argnums=1)
    def noise(key, name, member):
        leaf = evolve.gaussian(key, {name: jnp.zeros(4000)}, sigma=1.0, rate=rate, member=member)[
            name
        ]
        return leaf

    zero, one = jax.random.key(0), jax.random.key(1)
    base = noise(zero, "a", 0)
    for other in (noise(one, "a", 0), noise(zero, "b", 0), noise(zero, "a", 1)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.1
    np.testing.assert_array_equal(base, noise(zero, "a", 0))


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 1.0])
def test_mutation_leaves_what_it_does_not_own_and_what_it_does_not_hit(rate):
    params = {
        "w": jnp.full((300, 2), -0.0, jnp.bfloat16),
        "steps": jnp.int32(20_000_001),
        "mask": jnp.array([True, False]),
        "key": jax.random.key(2),
        "empty": jnp.zeros((0, 3)),
    }
    out = jax.jit(lambda p, s: evolve.gaussian(0, p, sigma=s, rate=rate))(params, 0.1)
    assert jax.tree.map(lambda x: x.dtype, out) == jax.tree.map(lambda x: x.dtype, params)
    assert out["steps"] == 20_000_001
    assert out["mask"].tolist() == [True, False]
    assert (jax.random.key_data(out["key"]) == jax.random.key_data(params["key"])).all()
    bits = np.asarray(out["w"]).view(np.uint16)
    assert abs((bits != 0x8000).mean() - rate) < 0.07


def test_a_rate_is_a_share():
    with pytest.raises(WeightSpaceError, match=r"rate: expected a number in \[0, 1\], got -1.0"):
        evolve.gaussian(0, {"w": jnp.zeros(3)}, sigma=1.0, rate=-1.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_linear_crossover_is_the_weighted_mean(dtype):
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(2, 50)).astype(jnp.dtype(dtype))
        out = evolve.linear(0, {"w": jnp.asarray(x), "n": jnp.array([3, 4])}, jnp.array([0.3, 0.7]))
        assert out["w"].dtype == dtype
        assert int(out["n"]) == 3
        exact = 0.3 * x[0].astype(np.float64) + 0.7 * x[1].astype(np.float64)
        step = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(np.asarray(out["w"], np.float64), exact, rtol=step, atol=step)
