"""The experiment on principal weights: masks, lines and what is compared, by hand."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import wslax as ws
from benchmarks.papers import lift
from benchmarks.papers.lift import characters, comparing, sentences, tuning


def toy(**given):
    """A matrix and a bias; the loss is their sum, weighed by each example, so Adam walks evenly."""

    def loss(params, fixed, batch):
        return jnp.mean(batch) * (params["w"].sum() + params["b"].sum())

    def judge(params, fixed, held):
        w = params["w"]
        return jnp.stack([w[0, 0], w[0, 1], params["b"][0], fixed])

    case = tuning.Case(
        "toy", loss, judge, ("w",), rank=2, lora_rank=1, batch=2, checks=(1, 3),
        rates=tuning.Rates((0.1, 0.2), (0.1, 0.2), (0.1, 0.2)), pulls=(1.0,),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    base = {"w": jnp.asarray(rng.normal(size=(8, 10)), jnp.float32), "b": jnp.zeros(10)}
    data = tuning.Given(base, jnp.float32(3), jnp.ones((2, 5)), ())
    return case._replace(**given), data


def test_masks_are_a_share_of_each_matrix_by_their_score():
    steep = jnp.asarray(np.random.default_rng(1).normal(size=(8, 10)), jnp.float32)
    case, given = toy(loss=lambda params, fixed, batch: jnp.sum(params["w"] * steep))
    found = tuning.selected(case, given)
    for mask in found.values():
        assert np.asarray(mask["w"]).sum((1, 2)).tolist() == [4, 4]
        assert not mask["b"].any()
    w = np.asarray(given.base["w"])
    u, s, v = np.linalg.svd(w)
    expected = {
        "LIFT": abs((u[:, :2] * s[:2]) @ v[:2]), "magnitude": abs(w), "gradient": abs(steep),
        "saliency": abs(w * steep),
    }  # fmt: skip
    for name, score in expected.items():
        assert set(np.flatnonzero(found[name]["w"][1])) == set(np.argsort(-score.ravel())[:4])
    assert (found["random"]["w"][0] != found["random"]["w"][1]).any()


def test_lines_are_judged_after_their_steps_and_move_masked_weights_alone():
    case, given = toy()
    mask = {"w": jnp.zeros((2, 8, 10), bool).at[:, 0, 0].set(True), "b": jnp.ones((2, 10), bool)}
    lines = tuning.masked(case, given, mask, jnp.array([0.1, 0.2]), 0.0)
    assert lines.shape == (2, 2, 2, 4)
    w = given.base["w"]
    for rate, of in zip((0.1, 0.2), lines, strict=True):
        np.testing.assert_allclose(of[:, :, 0], w[0, 0] - rate * np.array([[1, 3]] * 2), rtol=1e-5)
        np.testing.assert_allclose(of[:, :, 2], -rate * np.array([[1, 3]] * 2), rtol=1e-5)
        np.testing.assert_array_equal(of[:, :, 1], np.full((2, 2), w[0, 1]))
        np.testing.assert_array_equal(of[:, :, 3], np.full((2, 2), 3))


def test_arms_begin_at_the_start_and_a_pull_holds_them_there():
    case, given = toy()
    arms = tuning.found(case, given)
    start = arms["full"].lines[0, :, 0]
    for of in arms.values():
        assert of.lines.shape == (2, 2, 3, 4)
        assert (of.lines[:, :, 0] == start).all()
    assert [of.count for of in arms.values()] == [90, 90, 18, 4, 4, 4, 4, 4]
    assert arms["full, L2 to start"].settings == ["0.1, 1", "0.2, 1"]
    moved = lambda name: abs(arms[name].lines[:, :, -1, 2])
    assert (moved("full, L2 to start") < moved("full")).all()
    assert (moved("LoRA") == 0).all()  # the bias
    best = comparing.compared(arms)
    assert len(lift.claims("toy", best)) == 14
    first, second = lift.tables(case, arms, best).values()
    assert [row["way"] for row in first] == list(arms)
    assert second[0]["source"] == [3, 3]


def test_arms_are_compared_at_an_equal_gain():
    # One setting a row; of each step validation target and source, test target and source.
    line = lambda *steps: [[[v, s, t, k] for v, s, t, k in steps]]
    start = (0.2, 1.0, 0.3, 1.0)
    slow = line(start, (0.4, 0.9, 0.4, 0.8), (0.6, 0.5, 0.8, 0.4))
    fast = line(start, (0.7, 0.2, 0.9, 0.1), (0.5, 0.1, 0.5, 0.0))
    other = line(start, (0.6, 0.8, 0.7, 0.6), (0.6, 0.7, 0.7, 0.5))
    found = {
        "LIFT": tuning.Found(["slow", "fast"], np.array([slow, fast]), 1),
        "random": tuning.Found(["only"], np.array([other]), 1),
    }
    assert comparing.level({"a": np.array(slow)[0, :, :2]}) == pytest.approx(0.56)
    best = comparing.compared(found)
    assert (best["LIFT"].target_setting, best["LIFT"].kept_setting) == ("fast", "slow")
    assert best["LIFT"].target == [0.9]
    assert best["random"].target == [0.7]
    # 0.66 of target, 90% of the way from 0.3 to 0.7.
    assert best["LIFT"].kept == pytest.approx([0.8 - 0.4 * 0.26 / 0.4])
    assert best["random"].kept == pytest.approx([0.64])
    gaps = [claim.values[0] for claim in lift.claims("toy", best)]
    assert gaps == pytest.approx([0.2, -0.1])


def test_lora_has_about_as_many_numbers_as_the_masks():
    squares = [(384, 384)] * 4 + [(384, 1536), (1536, 384)]
    of = [shape for name, shape in characters.shapes(65).items() if name.startswith("block")]
    for case, shapes in ((characters.case(), of), (sentences.case(), squares)):
        numbers = sum(case.lora_rank * (m + n) for m, n in shapes)
        masked = sum(tuning.DENSITY * m * n for m, n in shapes)
        assert numbers == pytest.approx(masked, rel=0.05)


def test_a_character_is_told_from_those_before_it(monkeypatch):
    assert sum(m * n for m, n in characters.shapes(65).values()) > 1e6
    for name, value in {"WIDTH": 12, "DEPTH": 1, "HEADS": 2, "LENGTH": 5}.items():
        monkeypatch.setattr(characters, name, value)
    params = characters.init(7, jr.key(0))
    x = jnp.array([[1, 2, 3, 4, 5], [1, 2, 3, 6, 6]])
    found = characters.logits(params, x)
    assert found.shape == (2, 5, 7)
    np.testing.assert_array_equal(found[0, :3], found[1, :3])
    assert (found[0, 3:] != found[1, 3:]).all()


def test_windows_have_the_characters_that_are_known(monkeypatch):
    monkeypatch.setattr(characters, "LENGTH", 2)
    for name in ("EXAMPLES", "VALIDATION", "TEST"):
        monkeypatch.setattr(characters, name, 2)
    texts = {"train": ["ab?c"] * 3, "dev": ["c9c", "ab", "a"], "test": ["aaaaaaa"]}
    monkeypatch.setattr(characters, "sst2", lambda part: (texts[part], None))
    train, dev, test = characters.reviews("\nabc", 2)
    assert train.tolist() == [[[1, 2, 3], [0, 1, 2]]] * 2
    assert dev.tolist() == [[3, 3, 0], [1, 2, 0]]
    assert test.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_sentences_are_judged_by_labels_and_by_the_ranks_of_pairs(monkeypatch):
    monkeypatch.setattr(sentences, "features", lambda params, x, mask: x @ params["w"].T)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(12, 4)), jnp.float32)
    y, labels = (x[:, 0] > 0).astype(jnp.int32), jnp.array([[-1.0, 0, 0, 0], [1, 0, 0, 0]])
    unit = {"w": jnp.eye(4)}
    before = sentences.ranks(sentences.embeddings(unit, x, None))
    held = [((x, None, y), (x, None, before))] * 2
    run = jax.jit(functools.partial(sentences.judge, fixed=labels, held=held))
    assert run(unit)[1] == pytest.approx(1)
    assert run(unit)[0] == 1
    assert run({"w": -unit["w"]})[2] == 0
    bent = {"w": jnp.diag(jnp.array([1.0, 3.0, 1.0, 0.1]))}
    pairs = np.triu_indices(12, 1)
    embedded = [np.asarray(sentences.embeddings(params, x, None)) for params in (unit, bent)]
    expected = stats.spearmanr(*((e @ e.T)[pairs] for e in embedded))[0]
    assert run(bent)[3] == pytest.approx(expected, abs=1e-4)


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("WSLAX_DATA", str(tmp_path))
    with pytest.raises(ws.WeightSpaceError, match="SST-2"):
        lift.measure(1)
