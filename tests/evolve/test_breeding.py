"""The general genetic algorithm: its parts in numpy, niches, scores that move, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve
from wslax.evolve.strategy import Members

NAN = np.nan


def members(params, fitness, first=0):
    ids = jnp.arange(first, first + len(fitness), dtype=jnp.uint32)
    return Members({"w": jnp.asarray(params, "f4")}, jnp.asarray(fitness, "f4"), ids)


def generation(strategy, key, state, judge):
    children, state = strategy.ask(key, state)
    return *strategy.tell(key, state, children, judge(children)), children


def test_winners_with_replacement_have_their_chances():
    fitness = jnp.array([3.0, NAN, 5.0, 1.0, 4.0])
    draws, size = 20_000, 3
    won = np.asarray(evolve.tournament(0, fitness, draws, size=size, replace=True))
    share = np.bincount(won, minlength=5) / draws
    at_least = (np.arange(4, -1, -1) / 4) ** size  # nobody of a better rank was drawn
    p = np.zeros(5)
    p[[2, 4, 0, 3]] = at_least[:-1] - at_least[1:]
    assert (abs(share - p) <= 5 * np.sqrt(p * (1 - p) / draws)).all()
    nobody = evolve.tournament(0, jnp.full(3, NAN), 200, replace=True)
    assert set(nobody.tolist()) == {0, 1, 2}
    with pytest.raises(WeightSpaceError, match="1 winners of a pool of 0"):
        evolve.tournament(0, jnp.ones(2), 1, spare=2, replace=True)


def test_children_are_merges_of_the_couples_that_select_named():
    x = np.random.default_rng(0).normal(size=(5, 300)).astype("f4")
    couples, fitness = np.array([[4, 0], [1, 3], [2, 2]]), np.array([1.0, 2, 3, 4, 5])
    options = {"select": lambda key, members, count: jnp.asarray(couples), "children": 3}
    merged = evolve.genetic_algorithm(mutate=None, **options)
    mutated = evolve.genetic_algorithm(
        mutate=functools.partial(evolve.gaussian, sigma=1.0, rate=0.1), **options
    )
    state = merged.init(0, {"w": jnp.asarray(x)}, jnp.asarray(fitness))
    plain, asked = merged.ask(jax.random.key(0), state)
    f = fitness[couples]
    expected = (f[:, :1] * x[couples[:, 0]] + f[:, 1:] * x[couples[:, 1]]) / f.sum(1)[:, None]
    np.testing.assert_allclose(plain["w"], expected, rtol=1e-5, atol=1e-6)
    assert (asked.parents == couples).all()
    moved = np.asarray(mutated.ask(jax.random.key(0), state)[0]["w"] - plain["w"])
    assert ((moved != 0).sum(1) == 30).all()
    assert 0.7 < moved[moved != 0].std() < 1.3
    copies = evolve.genetic_algorithm(crossover=None, mutate=None, **options)
    np.testing.assert_array_equal(copies.ask(jax.random.key(0), state)[0]["w"], x[couples[:, 0]])


def test_plus_and_comma_in_numpy():
    old, new = members(np.zeros((4, 1)), [5, 1, 7, NAN]), members(np.zeros((3, 1)), [6, NAN, 2], 4)
    parents = jnp.zeros((3, 2), jnp.uint32)
    assert evolve.plus(0, old, new, parents).tolist() == [2, 4, 0, 6]
    # Children first, but for the one that failed.
    assert evolve.comma(0, old, new, parents).tolist() == [4, 6, 2, 0]


def test_crowding_in_numpy():
    rng = np.random.default_rng(1)
    n, c = 7, 12
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(c, 3))
    f, g = rng.normal(size=n).astype("f4"), rng.normal(size=c).astype("f4")
    f[2], g[5] = NAN, NAN
    couples = rng.integers(0, n, (c, 2))
    old, new = members(x, f, 10), members(y, g, 40)
    stay = evolve.crowding(0, old, new, old.ids[couples])
    expected = np.arange(n)
    for p in range(n):
        rivals = [
            j
            for j, couple in enumerate(couples)
            if p == couple[np.argmin(((y[j] - x[couple]) ** 2).sum(1))] and not np.isnan(g[j])
        ]
        best = max(rivals, key=lambda j: g[j], default=None)
        if best is not None and (np.isnan(f[p]) or g[best] > f[p]):
            expected[p] = n + best
    assert stay.tolist() == expected.tolist()


def test_crowding_keeps_both_peaks_where_plus_keeps_the_higher():
    def judge(population):
        x = population["w"][:, 0]
        return jnp.maximum(jnp.exp(-jnp.square(x - 2)), 0.8 * jnp.exp(-jnp.square(x + 2)))

    start = {"w": jnp.linspace(-3, 3, 20)[:, None]}
    mutate = functools.partial(evolve.gaussian, sigma=0.1, rate=1.0)
    found = {}
    for survive in (evolve.crowding, evolve.plus):
        strategy = evolve.genetic_algorithm(crossover=None, mutate=mutate, survive=survive)
        end = evolve.run(strategy, start, judge, key=0, generations=40, direction="maximize")
        found[survive] = np.asarray(end.members.params["w"]) > 0
    assert 5 <= found[evolve.crowding].sum() <= 15
    assert found[evolve.plus].all()


def natural_niches():
    """M2N2 (arXiv:2508.16204): competition for items, attraction, one child a step."""

    def select(key, members, count):
        niche = evolve.niche_fitness(members.scores)
        first = evolve.roulette(key, niche, count, ids=members.ids)[:, 0]
        return jnp.stack([first, evolve.attraction(key, members.scores, first)], 1)

    def survive(key, old, new, parents):
        niche = evolve.niche_fitness(jnp.concatenate([old.scores, new.scores]))
        return evolve.elite(niche, len(old.ids))

    return evolve.genetic_algorithm(select=select, survive=survive, elite=0, children=1)


def judge(population):
    scores = population["w"] > 0.5
    return evolve.Evaluation(scores.sum(1).astype("f4"), scores, population["w"][:, :2])


def test_natural_niches_replace_the_worst_of_archive_and_child():
    strategy = natural_niches()
    population = {"w": jax.random.normal(jax.random.key(1), (6, 9))}
    state = strategy.init(0, population, judge(population))
    for g in range(12):
        before, key = state.members, jax.random.fold_in(jax.random.key(0), g)
        state, info, child = generation(strategy, key, state, judge)
        every = np.concatenate([before.scores, np.asarray(child["w"]) > 0.5]).astype(float)
        solved = every.sum(0)
        niche = (every / np.where(solved > 0, solved, 1)).sum(1)
        lost = np.lexsort((np.arange(7), -niche))[-1]
        ids = [*before.ids.tolist(), info.ids[0].item()]
        assert set(state.members.ids.tolist()) == set(ids) - {ids[lost]}
        # All that belongs to a member is in its slot.
        again = judge(state.members.params)
        np.testing.assert_array_equal(state.members.fitness, again.fitness)
        np.testing.assert_array_equal(state.members.scores, again.scores)
        np.testing.assert_array_equal(state.members.descriptors, again.descriptors)


def test_a_member_that_failed_has_no_share_of_items():
    scores = jnp.array([[1.0, NAN], [1.0, 1.0]])
    assert evolve.niche_fitness(scores).tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    "select",
    [
        lambda key, m, count: evolve.roulette(key, evolve.rank_shares(m.fitness), count, 2),
        lambda key, m, count: evolve.tournament(
            key, m.fitness, 2 * count, replace=True, ids=m.ids
        ).reshape(count, 2),
        lambda key, m, count: evolve.lexicase(key, m.scores, 2 * count).reshape(count, 2),
    ],
)
@pytest.mark.parametrize(
    "mutate",
    [
        functools.partial(evolve.low_rank, sigma=0.1),
        functools.partial(evolve.spectral, sigma=0.1),
        lambda key, params, member: evolve.reset(
            key, params, lambda key: {"w": jnp.zeros(9)}, rate=0.5, member=member
        ),
    ],
)
def test_any_selection_and_mutation_fit(select, mutate):
    strategy = evolve.genetic_algorithm(select=select, mutate=mutate, children=5)
    population = {"w": jax.random.normal(jax.random.key(2), (7, 9))}
    state = strategy.init(0, population, judge(population))
    state, info, _ = generation(strategy, jax.random.key(0), state, judge)
    assert len(info.ids) == 5
    assert float(info.best) >= float(judge(population).fitness.max())


def test_survivors_named_twice_count_once_and_the_best_fill_up():
    strategy = evolve.genetic_algorithm(
        survive=lambda key, old, new, parents: jnp.array([0, 0, 0]), elite=1, mutate=None
    )
    state = strategy.init(0, {"w": jnp.zeros((4, 2))}, jnp.array([1.0, 2, 3, 4]))
    children, state = strategy.ask(jax.random.key(0), state)
    state, _ = strategy.tell(jax.random.key(0), state, children, jnp.array([NAN, 9.0, 0, 3.5]))
    assert sorted(state.members.fitness.tolist()) == [1, 3.5, 4, 9]


@pytest.mark.parametrize(
    "fitness",
    [
        [0, 0, 0, 0, 0],
        [2, 2, 2, 2, 2],
        [-3, -1, -2, -9, -4],
        [NAN, NAN, NAN, NAN, NAN],
        [np.inf, 1, NAN, -np.inf, 0],
    ],
)
def test_any_fitness_breeds_finite_children(fitness):
    strategy = evolve.genetic_algorithm()
    population = {"w": jax.random.normal(jax.random.key(2), (5, 30))}
    state = strategy.init(0, population, jnp.array(fitness, jnp.float32))
    state, _, children = generation(strategy, jax.random.key(0), state, lambda p: p["w"][:, 0])
    assert np.isfinite(children["w"]).all()
    assert len(set(state.members.ids.tolist())) == 5


def test_a_population_of_one_evolves_by_mutation():
    mutate = functools.partial(evolve.gaussian, sigma=0.3, rate=1.0)
    end = evolve.run(
        evolve.genetic_algorithm(mutate=mutate, children=4),
        {"w": jnp.ones((1, 3))},
        lambda p: jnp.square(p["w"]).sum(1),
        key=0,
        generations=5,
        direction="minimize",
    )
    assert end.members.fitness[0] < 3


def test_wrong_parts_are_named():
    x, key = {"w": jnp.zeros((4, 3))}, jax.random.key(0)
    for options, says in (
        ({"children": 0}, "children: expected at least 1, got 0"),
        ({"elite": -1}, "elite: expected at least 0, got -1"),
        ({"chunk": 0}, "chunk: expected at least 1"),
    ):
        with pytest.raises(WeightSpaceError, match=says):
            evolve.genetic_algorithm(**options)
    for options, says in (
        ({"select": lambda key, m, count: jnp.arange(count)}, r"int\[4,2\], got int32\[4\]"),
        ({"mutate": lambda key, params, member: {}}, "the mutant and the child differ"),
        (
            {"mutate": lambda key, params, member: {"w": params["w"][:2]}},
            r"w: the mutant is float32\[2\], the child is float32\[3\]",
        ),
    ):
        strategy = evolve.genetic_algorithm(**options)
        with pytest.raises(WeightSpaceError, match=says):
            strategy.ask(key, strategy.init(0, x, jnp.ones(4)))
    strategy = evolve.genetic_algorithm()
    full = evolve.Evaluation(jnp.ones(4), scores=jnp.ones((4, 6)))
    known, plain = (strategy.ask(key, strategy.init(0, x, e)) for e in (full, jnp.ones(4)))
    with pytest.raises(WeightSpaceError, match="scores: known of the population, not of the ch"):
        strategy.tell(key, known[1], known[0], jnp.ones(4))
    with pytest.raises(WeightSpaceError, match="scores: known of the children, not of the pop"):
        strategy.tell(key, plain[1], plain[0], full)
    other = evolve.Evaluation(jnp.ones(4), scores=jnp.ones((4, 5)))
    with pytest.raises(WeightSpaceError, match=r"scores: the population has float32\[4,6\]"):
        strategy.tell(key, known[1], known[0], other)
