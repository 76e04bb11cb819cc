"""Experiments on continual learning: their parts, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import aligned_heads

KEY = jax.random.key(0)


def test_increments_see_their_own_classes_and_a_few_images_of_the_old():
    x = jnp.arange(1000.0).reshape(10, 100, 1)  # a number says class and image
    draws = jax.vmap(lambda key: aligned_heads.drawn(key, x, 4, 2))(jax.random.split(KEY, 200))
    rows, label = (np.asarray(part).reshape(-1).astype(int) for part in draws)
    assert (rows // 100 == label).all()
    assert set(label.tolist()) == set(range(6))
    assert set((rows[label < 4] % 100).tolist()) == set(range(aligned_heads.KEPT))
    assert len(set((rows[label >= 4] % 100).tolist())) == 100
    assert (label < 4).mean() == pytest.approx(80 / 280, abs=0.02)
    shares = np.exp(aligned_heads.shares(4, 100))
    np.testing.assert_allclose(shares[:4], 20 / 280, rtol=1e-5)
    np.testing.assert_allclose(shares[:6].sum(), 1, rtol=1e-5)


def test_only_classes_so_far_are_scaled():
    kernel = jnp.array([[3.0, 4.0, 1.0, 1.0, 7.0], [4.0, 3.0, 0.0, 0.0, 7.0]])
    params, gamma = aligned_heads.scaled({"out": {"kernel": kernel}}, 2, None)
    found = params["out"]["kernel"]
    assert float(gamma) == pytest.approx(5)
    np.testing.assert_allclose(found[:, 2:4], kernel[:, 2:4] * 5, rtol=1e-6)
    np.testing.assert_array_equal(found[:, [0, 1, 4]], kernel[:, [0, 1, 4]])
    params, _ = aligned_heads.scaled({"out": {"kernel": kernel}}, 2, 0.5)
    np.testing.assert_array_equal(params["out"]["kernel"][0], [3, 4, 0.5, 0.5, 7])


def test_accuracies_are_of_the_classes_so_far():
    head = {"kernel": jnp.eye(10)[None], "bias": jnp.zeros((1, 10))}
    quiet = {"kernel": jnp.eye(10)[None], "bias": jnp.zeros((1, 10))}
    params = {"hidden_0": quiet, "out": head}
    seen = jnp.eye(10)[jnp.array([0, 1, 1, 9, 3, 2])]  # what each image looks like
    y = jnp.array([[0, 1, 0, 1, 3, 7]])
    found = aligned_heads.told(params, seen, y, 2, np.zeros(10, np.float32))[0]
    # 9 is not to be had yet, so the fourth becomes 0; the sixth is of a class to come.
    np.testing.assert_allclose(found, [3 / 5, 2 / 4, 1], rtol=1e-6)


def test_heads_stay_above_zero_and_teachers_count_by_old_classes():
    x = jax.random.normal(KEY, (1, 10, 30, 4))
    keys = jnp.stack([KEY])
    begin = jax.vmap(aligned_heads.net(4).init)(keys)
    run = lambda old, distil: aligned_heads.increment(keys, begin, x, old, 2, distil, 3)
    assert (run(4, 1.0)["out"]["kernel"] >= 0).all()
    same = lambda old: jax.tree.map(jnp.array_equal, run(old, 0.0), run(old, 1.0))
    assert jax.tree.all(same(0))
    assert not jax.tree.all(same(4))


def test_gains_of_aligning_are_positive_figures():
    part = lambda *values: np.broadcast_to(np.array(values), (5, 1, 3))
    found = {name: part(0.4, 0.2, 0.8) for name in aligned_heads.ARMS}
    found |= {"distilled, aligned": part(0.6, 0.5, 0.7), "distilled, adjusted": part(0.7, 0, 0)}
    told = aligned_heads.claims("digits", found, np.full((4, 1), 0.6))
    assert [round(c.values[0], 6) for c in told] == [0.6, 0.2, 0.2, 0, 0.2, -0.1, -0.4]
