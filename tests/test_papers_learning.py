"""Experiments on meta-learning, weights of data and binary weights: their parts, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, stats

import wslax as ws
from benchmarks.papers import binary_continual, meta_learning, reweighting, scalebio
from benchmarks.papers.binary_continual import replica


def test_sites_are_at_the_lowest_energy():
    """Also where the pull is so far below 0 that there are two minima."""
    b = np.array([-2.0, -0.1, 0.3, 4.0])
    grid = np.linspace(-8, 8, 160_001)
    for pull in (0.7, -3.0):
        energy = lambda t, b, pull=pull: (
            np.tanh(t) * (t - b) - np.logaddexp(t, -t) + pull / 2 * np.tanh(t) ** 2
        )
        lowest = [grid[energy(grid, one).argmin()] for one in b]
        np.testing.assert_allclose(replica.minimum(b, pull), lowest, atol=2e-4)


def test_answers_are_at_the_lowest_energy():
    chi, v = 0.8, 0.3
    energy = lambda z, omega, v: -stats.norm.logcdf(z / np.sqrt(v)) + (z - omega) ** 2 / (2 * chi)
    best = lambda omega, v: optimize.minimize_scalar(
        energy, args=(omega, v), options={"xtol": 1e-12}
    )
    omega, step = np.array([-3.0, 0.2, 2.0]), 1e-4
    g, slope, of_v = replica.answer(omega, chi, v)
    push = lambda omega: (best(omega, v).x - omega) / chi
    for i, at in enumerate(omega):
        assert g[i] == pytest.approx(push(at), abs=1e-6)
        turn = (push(at + step) - push(at - step)) / (2 * step)
        assert slope[i] == pytest.approx(turn, rel=1e-3, abs=1e-6)
        turn = (best(at, v + step).fun - best(at, v - step).fun) / (2 * step)
        assert of_v[i] == pytest.approx(turn, rel=1e-3, abs=1e-6)


def test_errors_are_angles_and_labels_are_the_teachers():
    teachers = np.array([[1.0, 1.0], [1.0, -1.0]])
    of = replica.Sites(np.array([9.0, 9.0]), teachers, np.array([0.75, 0.25]))
    assert replica.error(of, 0) == pytest.approx(0, abs=1e-6)
    assert replica.error(of, 1) == pytest.approx(1 / 3, abs=1e-6)  # overlap 1/2
    teacher = jnp.array([1.0, 1.0, 1.0, -1.0])
    assert float(binary_continual.error(9 * jnp.ones(4), teacher)) == pytest.approx(1 / 3, abs=1e-4)
    x, y = binary_continual.examples(jax.random.key(0), teacher, 2.5)
    assert x.shape == (10, 4)
    assert set(np.unique(x)) == {-1.0, 1.0}
    assert y.tolist() == np.where(np.asarray(x @ teacher) >= 0, 1.0, -1.0).tolist()


def test_a_smaller_error_is_a_positive_figure():
    single, theory = np.array([[0.3, 0.1]]), (np.array([0.2, 0.2]), np.full((2, 2, 2), 0.25))
    both = np.array([[[[0.2, 0.3], [0.4, 0.2], [0.5, 0.1]]] * 2])  # [1, loads, arms, tasks]
    told = [np.round(claim.values, 6).tolist() for claim in binary_continual.claims(
        single, both, theory)]  # fmt: skip
    assert told == [[0.1], [0.05], [0.05], [0.2], [0.3], [0.1], [0.2], [0.05]]


def test_sources_have_their_noise_and_validation_none():
    y = jnp.tile(jnp.arange(10), 400)
    x = jnp.repeat(y[:, None], 2, 1)  # the label can be read from the input
    (rows, labels), source, held = scalebio.dealt(jax.random.key(0), x, y)
    wrong = np.asarray(rows[:, 0] != labels)
    share = [wrong[np.asarray(source) == s].mean() for s in range(4)]
    assert share[:2] == [0, 0]
    assert share[2] == pytest.approx(0.45, abs=0.09)  # one in ten guesses is right
    assert share[3] == pytest.approx(0.9, abs=0.06)
    assert (held[0][:, 0] == held[1]).all()
    found = {"ScaleBiO": [0.9], "uniform": [0.7], "right sources alone": [0.95]}
    found |= {"validation alone": [0.6], "trained again": [0.8]}
    told = scalebio.claims(found, np.array([[0.5, 0.3, 0.15, 0.05]]))
    figures = [np.round(claim.values, 6).tolist() for claim in told]
    assert figures == [[0.2], [0.2], [0.3], [-0.05], [0.1]]


def test_speed_is_steps_until_the_lowest_loss_of_uniform_weights():
    uniform = np.array([5.0, 4.0, 3.0, 2.0, 3.0, 4.0])
    assert reweighting.speed_up(np.array([5.0, 2.0, 1.0, 1.0, 1.0, 1.0]), uniform) == 4 / 2
    assert reweighting.speed_up(np.array([5.0, 3.0, 3.0, 3.0, 3.0, 3.0]), uniform) == 4 / 6
    assert reweighting.speed_up(uniform, uniform) == 1


def test_training_rows_are_noisy_or_copies():
    y = jnp.tile(jnp.arange(10), 200)
    x = jnp.arange(2000.0)[:, None]
    key = jax.random.key(0)
    assert reweighting.spoilt("clean", key, x, y)[1] is y
    noisy = np.asarray(reweighting.spoilt("noisy", key, x, y)[1])
    assert (noisy != y).mean() == pytest.approx(0.3, abs=0.05)
    rows, labels = reweighting.spoilt("redundant", key, x, y)
    assert (rows[:, 0] < 20).mean() == pytest.approx(0.9, abs=0.03)
    assert (labels == rows[:, 0].astype(int) % 10).all()


def test_tasks_are_of_distinct_characters_and_drawers():
    strokes = jnp.arange(7 * 20.0).reshape(7, 20, 1)  # a number says who drew what
    (x, y), (new, truth) = meta_learning.tasks(jax.random.key(0), strokes, 2, 3)
    assert x.shape == (3, 10, 1)
    assert new.shape == (3, 25, 1)
    for task in range(3):
        drawn = np.concatenate([x[task], new[task]])[:, 0].astype(int)
        assert len(set(drawn.tolist())) == 35
        labels = np.concatenate([y[task], truth[task]])
        characters = [set((drawn[labels == way] // 20).tolist()) for way in range(5)]
        assert [len(one) for one in characters] == [1] * 5
        assert len(set.union(*characters)) == 5
    apart = jnp.repeat(jnp.eye(7)[:, None], 20, 1)
    assert float(meta_learning.nearest(jax.random.key(1), apart, 1)) == 1


def test_alphabets_for_testing_are_not_trained_on(monkeypatch, tmp_path):
    alphabets = {f"a{i}": np.full((60, 20, 28, 28), i, np.float32) for i in range(8)}
    parts = [set(np.unique(part)) for part in meta_learning.split(alphabets, 0)]
    assert [len(part) for part in parts[1:]] == [1, 2]
    assert len(set.union(*parts)) == sum(map(len, parts))
    monkeypatch.setenv("WSLAX_DATA", str(tmp_path))
    assert "Omniglot" in meta_learning.measure(1).skipped[0]
    names = (*meta_learning.ORDERS, "joint pre-training", "joint, then FOMAML")
    names += ("random weights", "nearest drawing")
    found = {name: [0.1 * i] for i, name in enumerate(names)}
    told = [round(claim.values[0], 6) for claim in meta_learning.claims("one", found)]
    assert told == [-0.5, -0.3, -0.4, -0.2, 0.1, 0.1, 0.2, -0.6]


def test_joint_pre_training_leaves_a_head_for_tasks():
    train = lambda key: meta_learning.jointly_trained(key, jnp.zeros((6, 20, 4)), 1, 1)
    key = jax.random.key(0)
    like = jax.eval_shape(meta_learning.net(4).init, key)
    assert jax.tree.map(ws.tree.aval, jax.eval_shape(train, key)) == jax.tree.map(
        ws.tree.aval, like
    )
