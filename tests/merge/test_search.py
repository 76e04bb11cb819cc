"""Searches whose best is known, the search's books, and every mistake named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from tests.merge.experts import draw
from wslax import merge
from wslax.numerics.proposals import Proposer

POPULATION, BASE = draw({"b": (6,), "w": (5, 4)})
TRUE = np.array([0.7, 0.1, 0.4], np.float32)
TARGET = BASE["w"] + np.tensordot(TRUE, POPULATION["w"] - BASE["w"], 1)


def distance(params):
    return ((params["w"] - TARGET) ** 2).sum()


def nearness(params):
    return -distance(params)


def find(fitness=distance, method="task_arithmetic", **options):
    given = {"space": {"coef": (0, 1)}, "budget": 640, "direction": "minimize"}
    return merge.search(method, POPULATION, BASE, fitness, **{**given, **options})


@pytest.mark.parametrize("strategy", ["cma_es", "gradient"])
def test_the_coefficients_of_a_known_merge_are_found(strategy):
    found = find(strategy=strategy, budget=1600)
    np.testing.assert_allclose(found.settings["coef"], TRUE, atol=0.02)
    np.testing.assert_allclose(found.params["w"], TARGET, atol=0.02)


def test_the_books_are_true():
    """Scores are those of the candidates, merged one by one; the best of them is returned."""
    found = find(strategy="random", budget=70, batch=16)
    assert found.scores.shape == (64,)
    assert found.candidates["coef"].shape == (64, 3)
    assert found.direction == "minimize"
    d = POPULATION["w"] - BASE["w"]
    merged = BASE["w"] + np.tensordot(found.candidates["coef"], d, 1)
    np.testing.assert_allclose(found.scores, ((merged - TARGET) ** 2).sum((1, 2)), rtol=1e-3)
    best = found.scores.argmin()
    assert found.fitness == found.scores[best]
    assert (found.settings["coef"] == found.candidates["coef"][best]).all()
    again = merge.task_arithmetic(POPULATION, BASE, **found.settings)
    np.testing.assert_array_equal(found.params["w"], again["w"])


def test_directions_mirror():
    a, b = find(budget=64), find(nearness, budget=64, direction="maximize")
    np.testing.assert_allclose(a.candidates["coef"], b.candidates["coef"])
    assert a.fitness == -b.fitness


def test_leaves_by_glob_and_shared_numbers():
    """Each glob has its own numbers; a parameter without members has one."""
    space = {"coef": ws.by_leaf({"b": (0.5, 1), "*": (0, 1)}), "density": (0.2, 1), "lam": (0, 2)}
    found = find(method="ties", space=space, budget=32, given={"normalize": False})
    rules = dict(found.settings["coef"].rules)
    assert set(rules) == {"b", "*"}
    assert rules["b"].min() >= 0.5
    assert found.settings["density"].shape == (3,)
    assert np.shape(found.settings["lam"]) == ()
    again = merge.ties(POPULATION, BASE, normalize=False, **found.settings)
    np.testing.assert_array_equal(found.params["b"], again["b"])


def test_nan_never_wins():
    def broken(params):
        return jnp.where(params["w"][0, 0] > TARGET[0, 0], jnp.nan, nearness(params))

    found = find(broken, strategy="random", budget=64, direction="maximize")
    assert 0 < np.isnan(found.scores).sum() < 64
    assert found.fitness == np.nanmax(found.scores)


def test_a_proposer_of_ones_own():
    """Asked and told in turn, of points and worth as they were."""
    told = []

    def tell(state, points, fitness, slopes):
        told.append((points, fitness))
        return state + 1

    corners = np.array([[0.0, 0, 0], [1, 1, 1]])
    proposer = Proposer(lambda seed, size: 0, lambda state: (corners, state), tell)
    found = find(strategy=proposer, batch=2, budget=5)
    assert len(told) == 2
    np.testing.assert_array_equal(told[0][0], corners)
    np.testing.assert_allclose(told[0][1], -found.scores[:2])
    assert found.settings["coef"].tolist() in corners.tolist()


class Bisection:
    """An algorithm with the surface of evosax 0.3: it minimises, and goes half way to the best."""

    default_params = None

    def __init__(self, population_size, solution):
        self.shape = (population_size, *solution.shape)

    def init(self, key, mean, params):
        return mean

    def ask(self, key, state, params):
        spread = jnp.linspace(-0.5, 0.5, self.shape[0])[:, None]
        return state[None] + spread * jnp.ones(self.shape), state

    def tell(self, key, population, fitness, state, params):
        return (state + population[fitness.argmin()]) / 2, {}


def test_an_algorithm_with_the_surface_of_evosax():
    found = find(strategy=Bisection, batch=11, budget=11)
    rows = 0.5 + np.linspace(-0.5, 0.5, 11)[:, None].repeat(3, 1)
    np.testing.assert_allclose(found.candidates["coef"], rows, atol=1e-6)


def test_evosax_finds_them_too():
    algorithms = pytest.importorskip("evosax.algorithms")
    with jax.numpy_rank_promotion("allow"):
        found = find(strategy=algorithms.CMA_ES, budget=1600)
    np.testing.assert_allclose(found.settings["coef"], TRUE, atol=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "tie"}, "no merging method is called 'tie'"),
        ({"space": {"coeff": (0, 1)}}, "task_arithmetic has no number 'coeff'"),
        ({"space": {"coef": (1, 0)}}, r"coef: expected \(low, high\)"),
        ({"space": {}}, "expected a range of at least one"),
        ({"method": "ties", "space": {"density": (0, 2)}}, "density: expected 0 to 1"),
        ({"direction": "up"}, "direction: expected maximize or minimize"),
        ({"strategy": "grid"}, "strategy: expected one of random, cma_es, gradient"),
        ({"budget": 3}, "budget: expected at least a batch"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ws.WeightSpaceError, match=message):
        find(**options)
