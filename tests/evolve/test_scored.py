"""Selection by items, ranks and behaviour, against enumeration and numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from wslax import evolve

NAN = np.nan


def chances(scores, epsilon=0.0):
    """The exact chance of each member in lexicase selection, over all orders of items."""
    n, items = scores.shape
    chance = np.zeros(n)
    orders = list(itertools.permutations(range(items)))
    for order in orders:
        still = np.ones(n, bool)
        for item in order:
            column = np.where(still, scores[:, item], -np.inf)
            still &= column >= column.max() - epsilon
        chance += still / still.sum() / len(orders)
    return chance


def test_lexicase_has_the_chances_of_all_orders():
    scores = np.array([[3, 0, 1], [3, 1, 0], [2, 2, 0], [0, 0, 5], [3, 0, 1.0]])
    draws = 20_000
    for epsilon in (0.0, 1.0):
        won = np.asarray(evolve.lexicase(0, jnp.asarray(scores, "f4"), draws, epsilon=epsilon))
        p = chances(scores, epsilon)
        share = np.bincount(won, minlength=5) / draws
        assert (abs(share - p) <= 5 * np.sqrt(p * (1 - p) / draws)).all()
    holed = jnp.array([[NAN, NAN], [0.0, NAN]])
    assert set(evolve.lexicase(1, holed, 20).tolist()) == {1}


def test_items_are_shared_among_those_who_solve_them():
    scores = np.random.default_rng(0).random((6, 9)) < 0.4
    scores[:, 0] = False
    total = scores.sum(0)
    for alpha in (0.0, 1.0):
        expected = [sum(1 / total[j] ** alpha for j in range(9) if row[j]) for row in scores]
        found = evolve.niche_fitness(jnp.asarray(scores), alpha=alpha)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_mates_are_strong_where_the_first_is_weak():
    scores = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], float)
    shared = scores / scores.sum(0)
    pull = np.maximum(shared - shared[0], 0).sum(1)
    draws = 20_000
    drawn = np.asarray(evolve.attraction(0, jnp.asarray(scores), jnp.zeros(draws, int)))
    share, p = np.bincount(drawn, minlength=4) / draws, pull / pull.sum()
    assert (abs(share - p) <= 5 * np.sqrt(p * (1 - p) / draws)).all()
    # Nobody is stronger than the last anywhere: any of the others, never itself.
    drawn = np.asarray(evolve.attraction(0, jnp.asarray(scores), jnp.full(300, 3)))
    assert set(drawn) == {0, 1, 2}


def test_novelty_is_the_mean_distance_to_the_nearest():
    rng = np.random.default_rng(1)
    own, old = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    every = np.concatenate([own, old])
    gaps = np.linalg.norm(own[:, None] - every[None], axis=-1)
    expected = np.sort(np.where(np.eye(7, 12, dtype=bool), np.inf, gaps), 1)[:, :4].mean(1)
    found = jax.jit(lambda a, b: evolve.novelty(a, b, nearest=4))(own, old)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_ranks_give_linear_shares():
    shares = evolve.rank_shares(jnp.array([1.0, NAN, 1e9, -5.0]), pressure=1.5)
    np.testing.assert_allclose(shares, [1 + 1 / 6, 0.5, 1.5, 1 - 1 / 6], rtol=1e-6)
