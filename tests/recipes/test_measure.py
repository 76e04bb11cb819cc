"""Accuracies, their intervals and what is said of them."""

import numpy as np
import pytest

from wslax.recipes.result import Estimate
from wslax.recipes.tour import adapting, measure, merging
from wslax.recipes.tour.task import Condition, Part, Task, members_of, samples


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)

    def part(n):
        y = rng.integers(0, 10, n).astype(np.int32)
        return Part(rng.integers(0, 256, (3, n, 28, 28), dtype=np.uint8), y)

    conditions = (
        Condition("low", 0, (0, 1, 2, 3, 4)),
        Condition("high", 0, (5, 6, 7, 8, 9)),
        Condition("other", 1, tuple(range(10))),
    )
    return Task(part(200), part(100), part(400), conditions, ("a", "b", "c"))


def test_hits_count_only_images_of_the_condition(task):
    right = np.broadcast_to(task.test.y, (3, 400))
    found = measure.hits(task, right)
    np.testing.assert_array_equal(found, members_of(task, task.test))
    np.testing.assert_allclose(measure.by_condition(task, found), 1)
    assert measure.accuracy(task, found) == Estimate(1.0, 0.0)


def test_accuracy_is_the_mean_over_conditions(task):
    classes = np.random.default_rng(1).integers(0, 10, (3, 400))
    found = measure.hits(task, classes)
    right = classes == task.test.y
    low = task.test.y < 5
    expected = [right[0][low].mean(), right[0][~low].mean(), right[1].mean()]
    np.testing.assert_allclose(measure.by_condition(task, found), expected)
    np.testing.assert_allclose(measure.accuracy(task, found).value, np.mean(expected))


def test_intervals_agree_with_the_bootstrap(task):
    rng = np.random.default_rng(2)
    truth = np.broadcast_to(task.test.y, (3, 400))
    # Rows of one image fail together, as a hard image does in every view.
    ours = np.where(rng.random((1, 400)) < 0.7, truth, truth + 1)
    theirs = np.where(rng.random((3, 400)) < 0.5, truth, truth + 1)
    a, b = measure.hits(task, ours), measure.hits(task, theirs)
    inside = members_of(task, task.test)
    values = []
    for _ in range(3000):
        rows = rng.integers(0, 400, 400)
        n = inside[:, rows].sum(1)
        values.append(((a[:, rows].sum(1) - b[:, rows].sum(1)) / n).mean())
    gap = measure.difference(task, a, b)
    np.testing.assert_allclose(gap.margin, 1.96 * np.std(values), rtol=0.06)
    np.testing.assert_allclose(gap.value, np.mean(values), atol=0.005)


def test_student_intervals():
    scipy = pytest.importorskip("scipy.stats")
    for n in (2, 3, 5, 10):
        values = np.random.default_rng(n).normal(size=n)
        low, high = scipy.t.interval(0.95, n - 1, values.mean(), scipy.sem(values))
        np.testing.assert_allclose(measure.over_seeds(values).margin, (high - low) / 2, rtol=1e-3)


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (Estimate(0.05, 0.02), "5.0 ± 2.0 points above it"),
        (Estimate(-0.05, 0.02), "5.0 ± 2.0 points below it"),
        (Estimate(-0.01, 0.02), "not distinguishable from it (−1.0 ± 2.0 points)"),
        (Estimate(0.0, 0.0), "not distinguishable from it (+0.0 ± 0.0 points)"),
    ],
)
def test_nothing_is_said_that_the_interval_does_not_show(gap, said):
    assert measure.phrase(gap, "it") == said


def test_samples_are_balanced_and_distinct(task):
    x, y = samples(task, task.validation, 60)
    assert len(x) == len(y) == 60
    assert (y[:20] < 5).all()
    assert (y[20:40] >= 5).all()
    assert len(np.unique(x.reshape(60, -1), axis=0)) == 60


def test_majority_vote():
    outputs = np.array([[[0.6, 0.4, 0.0]], [[0.6, 0.4, 0.0]], [[0.0, 0.0, 1.0]]])
    assert merging.vote(outputs).tolist() == [0]
    assert merging.vote(outputs[1:]).tolist() == [2]  # one vote each: the surer one


def test_kept_at_a_level():
    points = np.array([[0.3, 0.9], [0.5, 0.8], [0.8, 0.4]])
    assert adapting.kept_at(points, 0.8) == 0.4
    assert adapting.kept_at(points, 0.65) == pytest.approx(0.6)
    assert adapting.kept_at(points, 0.1) == 0.9
    assert adapting.kept_at(points[::-1], 0.65) == pytest.approx(0.6)


def test_random_masks_have_the_density_and_spare_the_rest():
    params = {
        "hidden_0": {"kernel": np.zeros((20, 10)), "bias": np.zeros(10)},
        "out": {"kernel": np.zeros((10, 3))},
    }
    one, other = (adapting.random_mask(seed, params, 0.1) for seed in (0, 1))
    assert one["hidden_0"]["kernel"].sum() == 20
    assert not one["hidden_0"]["bias"].any()
    assert not one["out"]["kernel"].any()
    assert (one["hidden_0"]["kernel"] != other["hidden_0"]["kernel"]).any()
