"""GENOME: one generation in plain numpy, the released code's defects, runs, improvement."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve, random

N = 10


def u(words):
    return (words >> 8).astype(np.float64) / 2**24


def order_of(fitness, ids):
    return sorted(range(len(fitness)), key=lambda i: (-fitness[i], ids[i]))


def one_generation(key, x, fitness, ids, next_id, judge, *, sigma=0.01):
    """The documented generation at the default rates, in numpy; x `[N, D]`, all fitness > 0."""
    n, d = x.shape
    ranks = order_of(fitness, ids)
    merges, of_members = round(0.8 * (n // 2)), int(0.15 * n + 0.5)
    of_children = int(0.15 * merges + 0.5)
    children = []
    for c in range(merges):
        cell = (random.bits(key, "evolve/roulette", n, member=c) >> 9) + 0.5
        noise = -np.log(-np.log(cell / 2**23))
        scores = np.log(np.asarray(fitness)[ranks]) + noise
        a, b = (ranks[i] for i in np.argsort(-scores)[:2])
        share = fitness[a] / (fitness[a] + fitness[b])
        children.append(share * x[a] + (1 - share) * x[b])
    lone = np.argsort(random.bits(key, "evolve/mutated members", n))[:of_members]
    again = np.argsort(random.bits(key, "evolve/mutated children", merges))[:of_children]
    sources = [x[ranks[i]] for i in lone] + [children[i] for i in again]
    for source in sources:
        id_ = next_id + len(children)
        blocks = -(-d // 100)
        place = random.bits(key, "evolve/place/w", blocks, member=id_) % 100
        words = jnp.asarray(random.bits(key, "evolve/noise/w", blocks, member=id_))
        mutant = source.copy()
        for block in range(blocks):
            at = block * 100 + int(place[block])
            if at < d:
                mutant[at] += sigma * float(random.normal(words)[block])
        children.append(mutant)
    total = len(children)
    every = np.concatenate([x, np.stack(children)])
    every_fitness = [*fitness, *judge(every[n:])]
    every_ids = [*ids, *range(next_id, next_id + total)]
    ranks = order_of(every_fitness, every_ids)
    survivors, pool = [ranks[0]], list(range(len(ranks)))[1:]
    draws = u(random.bits(key, "evolve/tournament", (n - 1) * 3)).reshape(-1, 3)
    for row in draws:
        end = len(pool) - 1
        for k, draw in enumerate(row):
            i = int(draw * (end - k + 1))
            pool[i], pool[end - k] = pool[end - k], pool[i]
        best = min(range(end - 2, end + 1), key=lambda i: pool[i])
        pool[best], pool[end] = pool[end], pool[best]
        survivors.append(ranks[pool.pop()])
    return {every_ids[i]: every[i] for i in survivors}


def test_a_generation_is_the_one_in_numpy():
    x = np.random.default_rng(0).normal(size=(N, 250)).astype(np.float32)

    def judge(x):
        return 1 / (1 + np.square(x).sum(1))

    strategy = evolve.genome()
    fitness = judge(x)
    state = strategy.init(0, {"w": jnp.asarray(x)}, jnp.asarray(fitness))
    ids, next_id = np.arange(N), N
    for g in range(4):
        key = jax.random.fold_in(jax.random.key(0), g)
        children, state = strategy.ask(key, state)
        state, _ = strategy.tell(key, state, children, jnp.asarray(judge(children["w"])))
        seed = int.from_bytes(np.asarray(jax.random.key_data(key)).astype(">u4").tobytes(), "big")
        expected = one_generation(seed, x, fitness, ids, next_id, judge)
        now = state.members
        assert set(now.ids.tolist()) == set(expected)
        for id_, row in zip(now.ids.tolist(), np.asarray(now.params["w"]), strict=True):
            np.testing.assert_allclose(row, expected[id_], rtol=2e-6, atol=2e-6)
        x, fitness = np.array(now.params["w"]), np.array(now.fitness)
        ids, next_id = np.asarray(now.ids), next_id + len(children["w"])


def test_the_default_elite_fraction_still_keeps_one():
    """int(0.02 * 10) = 0 elites in the released code."""
    strategy = evolve.genome()
    for seed in range(30):
        key = jax.random.key(seed)
        state = strategy.init(0, {"w": jnp.zeros((N, 4))}, jnp.arange(float(N)))
        children, state = strategy.ask(key, state)
        state, info = strategy.tell(key, state, children, jnp.zeros(len(children["w"])))
        assert float(info.best) == N - 1


def test_zero_fitness_does_not_break_the_roulette():
    strategy = evolve.genome(mutation_rate=0.0)
    x = jnp.arange(float(N))
    children, state = strategy.ask(jax.random.key(0), strategy.init(0, {"w": x}, jnp.zeros(N)))
    mothers, fathers = np.asarray(state.parents).T
    assert (mothers != fathers).all()
    np.testing.assert_allclose(children["w"], (mothers + fathers) / 2)


def test_fitness_is_always_the_members_own():
    """The released code kept the score of a member that had moved."""
    evaluate = jax.jit(lambda p: jnp.sin(p["w"] * 9).sum(1))
    x = {"w": jax.random.normal(jax.random.key(0), (N, 30))}
    end = evolve.run(evolve.genome(), x, evaluate, key=1, generations=6, direction="minimize")
    np.testing.assert_array_equal(end.members.fitness, evaluate(end.members.params))


def test_any_merge_of_a_pair_is_a_crossover():
    def other(key, pair, coef):
        assert jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
        return {"w": pair["w"].max(0), "n": pair["n"][1]}

    strategy = evolve.genome(crossover=other, mutation_rate=0.0)
    x = {"w": jax.random.normal(jax.random.key(0), (N, 5)), "n": jnp.arange(N)}
    children, state = strategy.ask(jax.random.key(0), strategy.init(0, x, jnp.ones(N)))
    mothers, fathers = np.asarray(state.parents).T
    np.testing.assert_array_equal(children["w"], np.maximum(x["w"][mothers], x["w"][fathers]))
    # An integer leaf is not the crossover's: it meets the first parent's twice.
    np.testing.assert_array_equal(children["n"], mothers)
    wrong = evolve.genome(crossover=lambda key, pair, coef: {"w": pair["w"], "n": pair["n"][0]})
    with pytest.raises(WeightSpaceError, match=r"w: the crossover's child is float32\[2,5\]"):
        wrong.ask(jax.random.key(0), strategy.init(0, x, jnp.ones(N)))


def test_init_merges_every_pair_of_experts():
    experts = {"w": jnp.eye(4), "steps": jnp.arange(4)}
    first = evolve.genome_init(jax.random.key(0), experts, 6)
    w = np.asarray(first["w"])
    assert {tuple(np.flatnonzero(row)) for row in w} == {
        (i, j) for i in range(4) for j in range(i + 1, 4)
    }
    np.testing.assert_allclose(w.sum(1), 1, rtol=1e-6)
    assert all(row[s] > 0 for row, s in zip(w, first["steps"], strict=True))
    many = evolve.genome_init(jax.random.key(0), experts, 14, chunk=3)
    np.testing.assert_array_equal(many["w"][:6] > 0, w > 0)
    np.testing.assert_array_equal(many["w"][6:12] > 0, w > 0)
    assert (np.asarray(many["w"][6:12]) != np.asarray(many["w"][:6])).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"cross_rate": 1.5}, "cross_rate: expected a number in"),
        ({"gene_rate": float("nan")}, "gene_rate: expected a number in"),
        ({"elite": -0.1}, "elite: expected a number in"),
        ({"tournament": 0}, "tournament: expected at least 1"),
        ({"chunk": 0}, "chunk: expected at least 1"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(WeightSpaceError, match=says):
        evolve.genome(**options)


def test_too_few_members_or_experts_are_named():
    x = {"w": jnp.zeros((1, 3))}
    with pytest.raises(WeightSpaceError, match=r"no child of 1 member"):
        evolve.genome().init(0, x, jnp.zeros(1))
    with pytest.raises(WeightSpaceError, match="at least 2 members, got 1"):
        evolve.genome_init(0, x, 4)
    with pytest.raises(WeightSpaceError, match="picks no leaf"):
        evolve.genome(where="kernel").init(0, {"w": jnp.zeros((9, 3))}, jnp.zeros(9))


def test_a_population_of_one_can_mutate():
    strategy = evolve.genome(mutation_rate=1.0, gene_rate=1.0)
    end = evolve.run(
        strategy,
        {"w": jnp.ones((1, 3))},
        lambda p: jnp.square(p["w"]).sum(1),
        key=0,
        generations=5,
        direction="minimize",
    )
    assert end.members.fitness[0] < 3


X = jax.random.normal(jax.random.key(7), (N, 40))


def distance(population):
    return jnp.square(population["w"]).sum(1)


def test_a_sweep_of_sigma_compiles_once():
    traces = []

    def crossover(key, pair, coef):
        traces.append(1)
        return evolve.linear(key, pair, coef)

    ends = [
        evolve.run(
            evolve.genome(sigma=s, crossover=crossover),
            {"w": X},
            distance,
            key=0,
            generations=2,
            direction="minimize",
        ).members.params["w"]
        for s in (0.01, 0.5)
    ]
    assert len(traces) == 1
    assert not np.array_equal(*ends)


def test_a_generation_holds_the_population_about_twice():
    strategy = evolve.genome()
    x = {"w": jnp.zeros((64, 100, 100))}
    state = strategy.init(0, x, jnp.ones(64))
    ask = jax.jit(strategy.ask, donate_argnums=1)
    tell = jax.jit(strategy.tell, donate_argnums=1)
    children = jax.eval_shape(strategy.ask, jax.random.key(0), state)[0]
    fitness = jnp.zeros(children["w"].shape[0])
    for compiled in (
        ask.lower(jax.random.key(0), state).compile(),
        tell.lower(jax.random.key(0), state, children, fitness).compile(),
    ):
        m = compiled.memory_analysis()
        held = m.argument_size_in_bytes + m.temp_size_in_bytes + m.output_size_in_bytes
        assert held - m.alias_size_in_bytes < 2.1 * x["w"].nbytes


def test_merged_experts_of_different_digits_become_one_that_knows_them_all():
    """Linear classifiers, each trained on five digits; GENOME on 300 samples beats the best."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x = jnp.asarray(x / 16, jnp.float32)
    y = jnp.asarray(y)
    train, held, test = slice(0, 1000), slice(1000, 1300), slice(1300, None)

    def logits(w, x):
        return x @ w["kernel"] + w["bias"][None]

    def fit(digits):
        weight = jnp.isin(y[train], digits).astype(jnp.float32)

        def loss(w):
            score = jax.nn.log_softmax(logits(w, x[train]))
            return -(jnp.take_along_axis(score, y[train][:, None], 1)[:, 0] * weight).mean()

        def step(w, _):
            return jax.tree.map(lambda p, g: p - g, w, jax.grad(loss)(w)), None

        start = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
        return jax.lax.scan(step, start, length=60)[0]

    sets = jnp.stack([(jnp.arange(5) * s + s) % 10 for s in (1, 3, 7, 9)])
    experts = jax.jit(jax.vmap(fit))(jnp.concatenate([sets, (sets + 5) % 10]))

    def accuracy(part):
        def one(w):
            return (logits(w, x[part]).argmax(1) == y[part]).mean()

        return jax.jit(jax.vmap(one))

    first = evolve.genome_init(jax.random.key(0), experts, 12)
    strategy = evolve.genome(mutation_rate=0.3, gene_rate=0.1, sigma=0.1)
    end = evolve.run(strategy, first, accuracy(held), key=0, generations=30, direction="maximize")
    best = jax.tree.map(lambda p: p[end.members.fitness.argmax()][None], end.members.params)
    assert float(accuracy(test)(best)[0]) > float(accuracy(test)(experts).max()) + 0.1
    assert end.history.best[-1] > accuracy(held)(first).max()
