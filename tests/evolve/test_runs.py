"""Running: what is evaluated, in which direction, resuming, segments, failures, descent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve, io
from wslax.evolve import judging

N = 10
X = {
    "w": jax.random.normal(jax.random.key(7), (N, 40)),
    "key": jax.random.split(jax.random.key(1), N),
}


def distance(population):
    return jnp.square(population["w"]).sum(1)


def go(evaluate=distance, population=X, strategy=None, **options):
    settings = {"key": 3, "generations": 6, "direction": "minimize"} | options
    return evolve.run(strategy or evolve.genome(), population, evaluate, **settings)


def same(a, b):
    def check(x, y):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)

    jax.tree.map(check, a, b)


class Killed(Exception):
    pass


def kill_at(generation):
    def on_segment(now, state, info):
        if now >= generation:
            raise Killed

    return on_segment


@pytest.mark.parametrize("name", ["genome", "model_swarm"])
@pytest.mark.parametrize("segment", [1, 2])
def test_a_killed_run_goes_on_and_ends_in_the_same_bits(tmp_path, name, segment):
    strategy = evolve.STRATEGIES[name]()
    whole = go(strategy=strategy, segment=segment)
    with pytest.raises(Killed):
        go(strategy=strategy, segment=segment, folder=tmp_path, on_segment=kill_at(4))
    rest = go(strategy=strategy, segment=segment, folder=tmp_path, resume=True)
    same(whole[:3], rest[:3])
    same(whole.state, rest.state)
    assert rest.generation == 6
    assert rest.evaluations == 2 * rest.history.ids.shape[1]
    again = go(strategy=strategy, segment=segment, folder=tmp_path, resume=True)
    same(whole[:3], again[:3])
    assert again.evaluations == 0


def test_a_fitness_that_raises_costs_its_generation_alone(tmp_path):
    calls = []

    def evaluate(population):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("the judge is away")
        return distance(population)

    with pytest.raises(RuntimeError, match="away"):
        go(evaluate, folder=tmp_path)
    rest = go(evaluate, folder=tmp_path, resume=True)
    same(go()[:3], rest[:3])
    assert len(calls) == 1 + 2 + 1 + 4


def test_resume_in_a_new_folder_begins(tmp_path):
    same(go(folder=tmp_path / "new", resume=True)[:3], go()[:3])


def test_segments_agree_with_steps():
    def level(run):
        return np.asarray(run.members.fitness)

    steps, segments = go(generations=7), go(generations=7, segment=3)
    same(steps.members.ids, segments.members.ids)
    np.testing.assert_allclose(level(steps), level(segments), rtol=1e-5)
    assert segments.history.best.shape == (7,)


def test_the_population_stays_usable():
    go()
    np.testing.assert_array_equal(X["w"], jax.random.normal(jax.random.key(7), (N, 40)))


def test_a_run_evaluates_only_what_is_new():
    sizes = []

    def evaluate(population):
        sizes.append(len(population["w"]))
        return np.asarray(distance(population))

    end = go(evaluate, generations=3)
    assert sizes == [10, 7, 7, 7]
    assert end.evaluations == 31
    known = go(evaluate, generations=3, fitness=distance(X))
    assert known.evaluations == 21
    np.testing.assert_array_equal(known.members.ids, end.members.ids)


def test_the_direction_is_kept_in_what_the_run_returns():
    low = go(generations=4)
    high = go(lambda p: -distance(p), generations=4, direction="maximize")
    np.testing.assert_array_equal(low.members.fitness, -high.members.fitness)
    np.testing.assert_array_equal(low.founders.fitness, distance(X))
    np.testing.assert_array_equal(low.history.best, -high.history.best)
    assert (np.diff(low.history.best) <= 0).all()
    assert low.direction == "minimize"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_failed(bad):
    told = []
    end = go(
        lambda p: distance(p).at[0].set(bad), on_segment=lambda g, s, info: told.append(info.failed)
    )
    assert np.isfinite(end.members.fitness).all()
    assert np.concatenate(told).tolist() == [1] * 6


def test_a_judge_of_one_member():
    """Which fail, which are shown, and the others go on."""

    def judge(params):
        if params["w"][0] > 0.5:
            raise ValueError("no answer")
        return float(jnp.square(params["w"]).sum())

    bad = np.asarray(X["w"][:, 0] > 0.5)
    assert 0 < bad.sum() < N
    with pytest.warns(UserWarning, match="failed: ValueError"):
        fitness = evolve.each(judge)(X)
    np.testing.assert_array_equal(np.isnan(fitness), bad)
    np.testing.assert_allclose(fitness[~bad], np.asarray(distance(X))[~bad], rtol=1e-6)
    with pytest.warns(UserWarning, match="float"):
        assert np.isnan(evolve.each(lambda params: None)(X)).all()
    with pytest.raises(WeightSpaceError, match="segment=1"):
        go(evolve.each(judge), segment=2, fitness=distance(X))


def test_a_first_population_that_fails_stops_the_run():
    with pytest.raises(WeightSpaceError, match="no member of the first population"):
        go(lambda p: distance(p) * jnp.nan)


def test_children_that_all_fail_stop_nothing(tmp_path):
    end = go(lambda p: distance(p) * jnp.nan, fitness=distance(X), folder=tmp_path)
    np.testing.assert_array_equal(end.members.ids, np.arange(N))
    assert (end.history.failed == end.history.ids.shape[1]).all()


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_is_never_one_that_failed(direction):
    end = go(lambda p: distance(p).at[3].set(jnp.nan), direction=direction, generations=0)
    known = np.asarray(distance(X)).copy()
    known[3] = np.nan
    pick = np.nanargmin if direction == "minimize" else np.nanargmax
    np.testing.assert_array_equal(end.best["w"], X["w"][pick(known)])
    swarm = go(strategy=evolve.model_swarm(), direction=direction)
    ever = np.append(swarm.history.best, swarm.founders.fitness)
    wanted = ever.min() if direction == "minimize" else ever.max()
    np.testing.assert_allclose(jnp.square(swarm.best["w"]).sum(), wanted, rtol=1e-6)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32, np.float16])
def test_scores_of_any_kind_turn_round(kind):
    scores = np.array([[0, 1], [1, 0]], kind)
    found = judging.inward("minimize", evolve.Evaluation(np.zeros(2), scores=scores), 2).scores
    np.testing.assert_array_equal(found, -scores.astype(np.float32))


def test_an_evaluation_travels():
    scores = lambda p: evolve.Evaluation(distance(p), scores=jnp.abs(p["w"]))
    told, plain = go(scores), go()
    same(told.members[:3], plain.members[:3])
    same(told[1:3], plain[1:3])
    np.testing.assert_array_equal(told.members.scores, jnp.abs(told.members.params["w"]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"evaluate": lambda p: p["w"]}, r"one number a member, \[10\], got float32\[10,40\]"),
        ({"fitness": jnp.zeros(3)}, "one number a member"),
        ({"direction": "up"}, "maximize"),
        ({"segment": 0}, "at least 1 generation"),
        ({"generations": -1}, "at least 0"),
        ({"strategy": evolve.genome}, "strategy"),
        ({"resume": True}, "name the folder"),
    ],
)
def test_what_run_cannot_use_is_named(options, says):
    with pytest.raises((WeightSpaceError, TypeError), match=says):
        go(**options)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    go(folder=tmp_path / "run", generations=1)
    with pytest.raises(WeightSpaceError, match="resume=True"):
        go(folder=tmp_path / "run")
    other = tmp_path / "run"
    for options, says in [
        ({"key": 4}, "was begun with key"),
        ({"direction": "maximize"}, "was begun with direction"),
        ({"population": {"w": X["w"]}}, "key"),
        ({"strategy": evolve.model_swarm()}, "evolution.safetensors"),
    ]:
        with pytest.raises(WeightSpaceError, match=says):
            go(folder=other, resume=True, **options)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(WeightSpaceError, match="not empty"):
        go(folder=tmp_path / "notes")
    with pytest.raises(WeightSpaceError, match="exists already"):
        go(folder=tmp_path / "notes" / "a.txt")
    (tmp_path / "junk").mkdir()
    io.save({"w": np.ones(2)}, tmp_path / "junk" / "evolution.safetensors")
    with pytest.raises(WeightSpaceError, match="not the checkpoint of a run"):
        go(folder=tmp_path / "junk", resume=True)


def test_ancestry_reaches_the_first_population():
    end = go(generations=8)
    births = evolve.births(end)
    assert sorted(births) == list(range(N + 8 * end.history.ids.shape[1]))
    family = evolve.ancestry(end)
    assert family[-1].fitness == end.members.fitness.min()
    ids = {birth.id for birth in family}
    for birth in family:
        assert set(birth.parents) <= ids
        assert all(births[p].generation <= birth.generation for p in birth.parents)
        assert (birth.parents == ()) == (birth.generation == 0) == (birth.id < N)
    # An own walk: everyone from whom a parent link leads to the best.
    reach = {family[-1].id}
    while True:
        more = reach | {p for i in reach for p in births[i].parents}
        if more == reach:
            break
        reach = more
    assert ids == reach
    living = set(np.asarray(end.members.ids).tolist())
    assert all(births[i].survived for i in living)
    with pytest.raises(WeightSpaceError, match="no individual 999"):
        evolve.ancestry(end, 999)
