"""Population-based training: who copies whom, what changes, and rates that adapt on digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import WeightSpaceError, evolve

N = 10
FITNESS = jnp.array([3.0, 9, 1, 8, 7, np.nan, 4, 5, 6, 2])  # best 1 and 3, worst 5 and 2


def still(key, member):
    return member


def population(size=1):
    rows = jnp.arange(1.0, N + 1)
    return {
        "w": rows[:, None] * jnp.ones((N, 3)),
        "moment": {"w": -rows[:, None] * jnp.ones((N, 3))},
        "count": jnp.arange(N),
        "rate": rows[:, None] * jnp.ones((N, size)),
    }


def asked(key, strategy, start):
    return strategy.ask(key, strategy.init(0, start, FITNESS))


def test_the_worst_go_on_as_one_of_the_best_with_all_that_is_theirs():
    strategy = evolve.population_based_training(still, hyper="rate", factors=(1.0, 1.0))
    ask = jax.jit(jax.vmap(lambda key: asked(key, strategy, population())))
    children, state = ask(jax.random.split(jax.random.key(0), 500))
    source = np.asarray(children["count"])
    others = [i for i in range(N) if i not in (2, 5)]
    assert (source[:, others] == others).all()
    assert set(source[:, [2, 5]].ravel()) == {1, 3}
    # Uniformly and each for itself.
    first = source[:, [2, 5]] == 1
    assert (abs(first.mean(0) - 0.5) < 5 * np.sqrt(0.25 / 500)).all()
    assert abs((first[:, 0] == first[:, 1]).mean() - 0.5) < 5 * np.sqrt(0.25 / 500)
    for leaf, sign in ((children["w"], 1), (children["moment"]["w"], -1), (children["rate"], 1)):
        assert (leaf == sign * (source[..., None] + 1)).all()
    assert (state.parents == source[..., None]).all()


@pytest.mark.parametrize("resample", [None, lambda key, m: m | {"rate": m["rate"] * 0 - 1}])
def test_copies_alone_explore(resample):
    size = 3000
    strategy = evolve.population_based_training(still, hyper="rate", resample=resample)
    children, _ = asked(jax.random.key(1), strategy, population(size))
    rate, source = np.asarray(children["rate"]), np.asarray(children["count"])
    others = [i for i in range(N) if i not in (2, 5)]
    np.testing.assert_array_equal(rate[others], population(size)["rate"][np.array(others)])
    np.testing.assert_array_equal(children["w"], population()["w"][source])
    chance = 0.25 if resample else 0.0
    for i in (2, 5):
        new = rate[i] == -1
        assert abs(new.mean() - chance) <= 5 * np.sqrt(0.25 / size)
        factor = (rate[i] / (source[i] + 1))[~new]
        low = abs(factor - 0.8) < 1e-6
        assert (low | (abs(factor - 1.2) < 1e-6)).all()
        assert abs(low.mean() - 0.5) < 5 * np.sqrt(0.25 / low.size)


def test_every_child_takes_its_place_and_a_failed_one_does_not():
    strategy = evolve.population_based_training(still, hyper="rate", share=0.0)
    key = jax.random.key(0)
    children, state = asked(key, strategy, population())
    told = -jnp.arange(1.0, N + 1).at[4].set(jnp.nan)
    state, info = strategy.tell(key, state, children, told)
    expected = np.where(np.isnan(told), FITNESS, told)
    np.testing.assert_array_equal(state.members.fitness, expected)
    assert info.slots.tolist() == [i if i != 4 else -1 for i in range(N)]
    assert state.members.ids.tolist() == [10 + i if i != 4 else 4 for i in range(N)]


def test_what_cannot_be_trained_is_named():
    make = lambda hyper="rate", train=still, **o: evolve.population_based_training(
        train, hyper=hyper, **o
    )
    with pytest.raises(WeightSpaceError, match=r"count: a hyper-parameter must be floating"):
        make("count").init(0, population(), FITNESS)
    with pytest.raises(WeightSpaceError, match="picks no leaf"):
        make("rates").init(0, population(), FITNESS)
    with pytest.raises(WeightSpaceError, match="2 members or more, got 1"):
        make().init(0, {"rate": jnp.ones(1)}, jnp.ones(1))
    with pytest.raises(WeightSpaceError, match="share"):
        make(share=0.6)
    with pytest.raises(WeightSpaceError, match="chunk: expected at least 1"):
        make(chunk=0)
    with pytest.raises(WeightSpaceError, match="what train gives and the member differ"):
        asked(jax.random.key(0), make(train=lambda key, m: {"w": m["w"]}), population())
    wrong = make(resample=lambda key, m: m | {"w": m["w"][:1]})
    with pytest.raises(WeightSpaceError, match=r"w: what resample gives is float32\[1\]"):
        asked(jax.random.key(0), wrong, population())


def test_rates_climb_to_where_a_sweep_says_that_training_is_better():
    """Softmax regression on digits from rates that are all too small.

    A sweep over fixed rates, which knows nothing of the strategy, says that in this range more is
    better: so rates must climb past all they began with, whatever the key, and a population whose
    rates do must end better than one whose rates stay; where fitness says nothing of training, they
    must not climb.
    """
    (x, y), (held, labels) = (
        (jnp.asarray(part[0].reshape(len(part[0]), -1)), jnp.asarray(part[1]))
        for part in ws.data.digits()[:2]
    )
    rates = jnp.geomspace(1e-3, 1e-1, 10)

    def loss(w, x, y):
        return -jnp.take_along_axis(jax.nn.log_softmax(x @ w), y[:, None], 1).mean()

    def train(key, member):
        rows = jax.random.randint(key, (5, 64), 0, len(x))
        down = lambda w, r: (w - member["rate"] * jax.grad(loss)(w, x[r], y[r]), None)
        return member | {"w": jax.lax.scan(down, member["w"], rows)[0]}

    def informed(members, key):
        return -jax.vmap(lambda w: loss(w, held, labels))(members["w"])

    def blind(members, key):
        return jax.random.normal(key, members["rate"].shape)

    def ends(share, fitness):
        strategy = evolve.population_based_training(train, hyper="rate", share=share, chunk=10)
        start = {"w": jnp.zeros((10, 64, 10)), "rate": rates}

        def run(key):
            def step(state, k):
                children, state = strategy.ask(k, state)
                return strategy.tell(k, state, children, fitness(children, k))[0], None

            first = strategy.init(key, start, jnp.zeros(10))
            end = jax.lax.scan(step, first, jax.random.split(key, 25))[0].members.params
            return end["rate"], informed(end, key)

        return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 4))

    _, fixed = ends(0.0, informed)
    assert (jnp.diff(fixed) > 0).all()  # the sweep
    adapted, reached = ends(0.2, informed)
    assert (adapted.min(1) > rates.max()).all()
    assert (jnp.median(reached, 1) > jnp.median(fixed, 1)).all()
    drifted, _ = ends(0.2, blind)
    assert jnp.median(drifted) < rates.max()
