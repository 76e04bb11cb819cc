"""Fitness on a budget: plans by hand, a replay in plain numpy, and what is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax.contrib import bandit

RNG = np.random.default_rng(0)


def table(k, items, spread=0.3):
    """A population whose scores are known: bool `[K, items]`, better members first."""
    chance = np.linspace(0.5 + spread, 0.5 - spread, k)[:, None]
    return {"right": jnp.asarray(RNG.random((k, items)) < chance)}


def score(population, chosen):
    return population["right"][:, chosen]


def prefix_means(right, counts, key, items):
    order = np.argsort(ws.random.bits(key, "contrib/bandit", items), kind="stable")
    pairs = zip(np.asarray(right), counts, strict=True)
    return np.array([row[order[:n]].mean() for row, n in pairs])


def test_rounds_by_hand():
    assert bandit._rounds(8, 100, 0.25) == [(8, 8), (4, 16), (2, 32)]
    assert bandit._rounds(8, 100, 1.0) == [(8, 100)]
    assert bandit._rounds(5, 10, 0.5) == [(5, 1), (3, 2), (2, 4)]
    assert bandit._rounds(4, 10, 0.9) == [(4, 8), (2, 2)]
    assert bandit._rounds(1, 10, 0.35) == [(1, 3)]


@given(k=st.integers(1, 70), items=st.integers(20, 500), budget=st.floats(0.3, 1))
@settings(max_examples=50, deadline=None)
def test_rounds_spend_what_they_may_and_no_more(k, items, budget):
    rounds = bandit._rounds(k, items, budget)
    assert sum(left * new for left, new in rounds) <= budget * k * items
    assert sum(new for _, new in rounds) <= items
    lefts = [left for left, _ in rounds]
    assert lefts == [-(-k // 2**r) for r in range(len(rounds))]


def test_halving_replayed_in_numpy():
    population, k, items = table(11, 60), 11, 60
    right = np.asarray(population["right"], np.float64)
    judged = jax.jit(bandit.halving(score, items=items, budget=0.4, key=3).judge)(population)
    order = np.argsort(ws.random.bits(3, "contrib/bandit", items), kind="stable")
    alive, seen, counts = list(range(k)), 0, np.zeros(k, int)
    for left, new in bandit._rounds(k, items, 0.4):
        alive = sorted(alive, key=lambda i: -right[i, order[:seen]].sum())[:left]
        seen += new
        counts[alive] = seen
    assert judged.counts.tolist() == counts.tolist()
    means = prefix_means(right, counts, 3, items)
    np.testing.assert_allclose(judged.means, means, rtol=1e-6)
    for i in range(k):
        further = [means[j] for j in range(k) if counts[j] > counts[i]]
        assert float(judged.fitness[i]) == pytest.approx(min([means[i], *further]))


def test_luck_on_few_items_puts_nobody_first():
    """Member 0 is right on what the first round shows and on nothing else."""
    items, k = 64, 8
    order = np.argsort(ws.random.bits(0, "contrib/bandit", items), kind="stable")
    right = np.full((k, items), 0.6)
    right[:4, order[:5]] = 0.7
    right[0, order[:5]], right[0, order[5:]] = 0.9, 0.0
    population = {"right": jnp.asarray(right, jnp.float32)}
    judged = jax.jit(bandit.halving(score, items=items, budget=0.25, key=0).judge)(population)
    assert int(judged.means.argmax()) != int(judged.fitness.argmax())
    last = judged.counts == judged.counts.max()
    assert float(judged.fitness[last].min()) >= float(judged.fitness[~last].max())


def test_all_items_are_the_full_evaluation():
    population = table(6, 40)
    full = np.asarray(population["right"]).mean(1)
    judged = jax.jit(bandit.halving(score, items=40, budget=1.0, key=0).judge)(population)
    np.testing.assert_allclose(judged.fitness, full, rtol=1e-6)
    # More than there are, one step shows all.
    for batch in (8, 100):
        judged = bandit.thompson(score, items=40, budget=1.0, key=0, batch=batch).judge(population)
        assert judged.counts.tolist() == [40] * 6
        np.testing.assert_allclose(judged.means, full, rtol=1e-6)
    half = bandit.thompson(score, items=40, budget=0.5, key=0, batch=100).judge(population)
    assert sorted(half.counts.tolist()) == [0] * 3 + [40] * 3


def test_thompson_keeps_its_books():
    population, k, items = table(12, 150), 12, 150
    judge = bandit.thompson(
        score, items=items, budget=0.3, key=1, batch=7, slots=2, prior=0.75
    ).judge
    judged = judge(population)
    counts = np.asarray(judged.counts)
    assert counts.sum() <= 0.3 * k * items
    assert counts[0] == counts.max()
    shown = counts > 0
    means = prefix_means(np.asarray(population["right"])[shown], counts[shown], 1, items)
    np.testing.assert_allclose(np.asarray(judged.means)[shown], means, rtol=1e-5)
    assert np.isnan(np.asarray(judged.means)[~shown]).all()
    right = np.nan_to_num(np.asarray(judged.means)) * counts
    a, b = 15 + right, 5 + counts - right  # 0.75 / 0.25 * 5
    bound = a / (a + b) - np.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))
    np.testing.assert_allclose(judged.fitness, bound, rtol=1e-4)


@pytest.mark.parametrize(("prior", "a"), [(1.0, 30.0), (0.0, 1.1), (0.5, 5.0)])
def test_the_prior_has_its_limits(prior, a):
    population = {"right": jnp.zeros((3, 30), bool)}
    judge = bandit.thompson(score, items=30, budget=0.1, key=0, batch=9, prior=prior).judge
    judged = judge(population)
    unseen = np.asarray(judged.counts) == 0
    mean = a / (a + 5)
    expected = mean - np.sqrt(mean * (1 - mean) / (a + 6))
    assert unseen.sum() == 2
    np.testing.assert_allclose(np.asarray(judged.fitness)[unseen], expected, rtol=1e-5)


@pytest.mark.parametrize("make", [bandit.halving, bandit.thompson])
def test_members_that_fail_are_nan_and_never_best(make):
    right = jnp.asarray(RNG.random((6, 80)) < 0.5, jnp.float32).at[2].set(jnp.nan)
    population = {"right": right}
    judged = jax.jit(make(score, items=80, budget=0.9, key=0).judge)(population)
    assert np.isnan(judged.fitness).tolist() == [False, False, True, False, False, False]
    assert int(judged.counts[2]) < 80


def test_an_evaluate_like_any_other():
    """Items are points; a member scores where it is near: evolution finds the middle of them."""
    points = jnp.asarray(RNG.normal(2.0, 0.3, 200), jnp.float32)

    def near(population, chosen):
        return jnp.exp(-jnp.square(population["w"][:, None] - points[chosen][None]))

    evaluate = bandit.halving(near, items=200, budget=0.3, key=0)
    population = {"w": jnp.linspace(-3, 3, 8)}
    end = ws.evolve.run(
        ws.evolve.genome(sigma=0.3, mutation_rate=0.5, gene_rate=1.0),
        population,
        jax.jit(evaluate),
        key=0,
        generations=3,
        direction="maximize",
    )
    best = end.members.params["w"][jnp.argmax(end.members.fitness)]
    assert float(best) == pytest.approx(2.0, abs=0.4)


def test_a_score_in_plain_python():
    def slow(population, chosen):
        rows = [[float(i % 7 < w) for i in chosen.tolist()] for w in population["w"].tolist()]
        return np.array(rows)

    evaluate = bandit.halving(slow, items=70, budget=0.5, key=0)
    assert int(evaluate({"w": np.arange(3)}).argmax()) == 2


def test_bad_input_is_told():
    population = table(8, 20)
    cases = [
        (lambda: bandit.halving(score, items=20, budget=0.0, key=0), "a budget in"),
        (lambda: bandit.thompson(score, items=0, budget=0.5, key=0), "expected items >= 1"),
        (
            lambda: bandit.halving(score, items=20, budget=0.1, key=0)(population),
            "halving: the budget allows 16 evaluations, .* takes 24; raise the budget",
        ),
        (
            lambda: bandit.thompson(score, items=20, budget=0.1, key=0)(population),
            "thompson: 0.1 of 8 x 20 evaluations are less than one step of 1 x 20",
        ),
        (
            lambda: bandit.halving(lambda p, i: i, items=20, budget=1.0, key=0)(population),
            r"score: expected one number a member and item, \[8, 20\], got int32\[20\]",
        ),
    ]
    for call, words in cases:
        with pytest.raises(ws.WeightSpaceError, match=words):
            call()
