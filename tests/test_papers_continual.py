"""Experiments on continual learning: their parts, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.papers import aligned_heads, forgetting, key_value
from benchmarks.papers.forgetting import words
from benchmarks.papers.key_value import encoders

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


def kinds(of, x):
    """n, a, c, m or u for a token."""
    names = np.array(["n"] * of.kind + ["a"] * of.kind + ["c", "m"] + ["u"] * of.unseen)
    return names[x]


def by_rules(tokens, noun, adjective):
    """The answer to a sentence if these two words are what they are."""
    query = tokens[3]
    return [query] * 3 if query == adjective else [adjective, query, query]


@pytest.mark.parametrize("given", ["head", "tail", "unseen"])
def test_sentences_follow_the_rules(given):
    of = forgetting.WORDS
    run = jax.jit(lambda key: [words.batch(key, of, 400, given, swap) for swap in (False, True)])
    copula, mask = 2 * of.kind, 2 * of.kind + 1
    for swap, found in zip((False, True), run(KEY), strict=True):
        tokens, context, heart = map(np.asarray, found)
        assert (tokens[:, 4:] == mask).all()
        for row, by_context, by_heart in zip(tokens, context, heart, strict=True):
            assert (row[:2] == copula).sum() == 1
            adjective, noun = (row[1], row[2]) if row[0] == copula else (row[2], row[0])
            assert row[3] in (adjective, noun)
            assert by_context.tolist() == by_rules(row, noun, adjective)
            other = by_rules(row, adjective, noun) if swap else by_rules(row, noun, adjective)
            assert by_heart.tolist() == other
            if given != "unseen":
                assert kinds(of, adjective) == ("n" if swap else "a")
                rank = np.array([adjective, noun]) % of.kind
                assert ((rank + 1) % of.ambiguous != 0).all()
                assert (rank < 20).all() if given == "head" else (rank >= of.kind - 20).all()


def test_a_tenth_of_words_is_of_the_other_kind_half_of_the_time():
    of = forgetting.WORDS
    run = jax.jit(lambda exponent: words.pair(KEY, of._replace(exponent=exponent), 20_000))
    adjective, noun = (np.asarray(x) for x in run(0.0))
    for found, own in ((adjective, "a"), (noun, "n")):
        wrong = kinds(of, found) != own
        assert wrong.mean() == pytest.approx(0.05, abs=0.01)
        assert ((found[wrong] % of.kind + 1) % of.ambiguous == 0).all()
    zipf = np.asarray(run(1.5)[1])
    expected = np.arange(1, 201) ** -1.5
    assert (zipf == 0).mean() == pytest.approx(1 / expected.sum(), abs=0.01)


def test_forgetting_that_keeps_both_is_a_positive_figure():
    shape = (1, 3, len(forgetting.PLACES))
    one = {"vanilla": np.zeros(shape), "active": np.ones(shape), "temporary": np.ones(shape)}
    one["vanilla"][:, 1] = 0.5
    one["active"][:, -1, 3] = 0
    told = [round(c.values[0], 6) for c in forgetting.claims(one)]
    assert told == [0.5, 1, 1, 0, 1, 1]


def test_features_are_scaled_by_the_other_data():
    x = np.array([[1.0, 2.0], [3.0, 6.0]])
    found = encoders.scaled((x, 0), (x + 1, 0), x)
    np.testing.assert_allclose(found.other.mean(0), 0, atol=1e-6)
    assert np.mean(found.other**2) == pytest.approx(1)
    gap = found.test[0] - found.train[0]
    np.testing.assert_allclose(gap, gap[0, 0])


def test_patches_answer_by_quarters():
    """An image that is even in three quarters says nothing of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 32, 32, 3)).astype(np.float32)
    still = np.zeros((1, 32, 32, 3), np.float32)
    lively = still.copy()
    lively[:, :12, :12] = 2 * np.kron(rng.normal(size=(1, 6, 6, 3)), np.ones((1, 2, 2, 1)))
    y = np.zeros(60, np.int32)
    found = encoders.patched((x, y), (np.concatenate([still, lively]), y[:2]), count=8)
    assert found.train[0].shape == (48, 8 * 2 * 4)
    moved = np.abs(found.test[0][1] - found.test[0][0]).reshape(4, -1).max(1)
    assert moved[0] > 0.01
    np.testing.assert_allclose(moved[1:], 0, atol=1e-5)


def test_keys_keep_far_classes_apart():
    """What was learnt in increments stays, whatever the rate."""
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(10, 6)) * 5
    y = np.repeat(np.arange(10), 20)
    x = (middle[y] + rng.normal(size=(200, 6)) / 10).astype(np.float32)
    task = key_value.dealt(encoders.Features((x, y), (x[::2], y[::2]), x), 2)
    order = np.random.default_rng(1).permutation(10)
    np.testing.assert_array_equal(order[task.label[1]], y[::2])
    np.testing.assert_array_equal(task.x[1, 4], x[y == order[4]])
    means = key_value.means(task.x[1], task.test)
    assert (means.argmax(-1) == task.label[1]).all()
    sizes = {"codebooks": 8, "pairs": 64, "width": 4, "steps": 50}
    rows, test = key_value.keyed(jnp.stack([KEY, KEY]), task, task.other, **sizes)
    votes = key_value.voting(64)
    params = key_value.learnt(votes, KEY, rows[1], 100.0, 100, True)
    assert (votes.apply(params, test[1]).argmax(-1) == task.label[1]).mean() > 0.9


def test_shares_kept_are_of_the_iid_accuracy():
    names = (key_value.OURS, key_value.SAME, "linear probe", "hidden layer")
    found = {name: [0.4] for name in names} | {f"{name}, i.i.d.": [0.8] for name in names}
    found |= {"EWC": [0.1], "class means": [0.5]}
    told = [round(c.values[0], 6) for c in key_value.claims("digits", found)]
    assert told == [0.5, 0.5, 0.4, 0, 0, 0.3, 0, 0, -0.1]
