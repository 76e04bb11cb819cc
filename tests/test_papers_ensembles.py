"""Experiments on bandits, mixtures and fusions at the size of a toy: what they compare."""

import gzip

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from benchmarks.papers import bandits, bayes_mixture, gated_fusion, inverse_variance
from benchmarks.papers.gated_fusion import views

RNG = np.random.default_rng(0)


def test_regret_is_in_points_of_the_best():
    chance = np.linspace(0.2, 0.9, bandits.MEMBERS)[:, None]
    right = jnp.asarray(RNG.random((bandits.MEMBERS, 200)) < chance)
    regret, spent = bandits.regrets(right, 0, 0.25)
    truth = np.asarray(right.mean(1))
    assert max(spent.values()) <= 0.25
    assert regret["halving"] < regret["random"]
    assert regret["random"] == pytest.approx(100 * (truth.max() - truth.mean()), rel=0.5)


def test_members_are_right_as_often_as_they_are_able():
    right = np.asarray(bandits.simulated(0, 0.3)).mean(1)
    assert 0.02 < right.std() < 0.06
    assert np.asarray(bandits.simulated(0, 1e-6)).mean(1).std() < 0.02


def test_mixtures_are_compared_with_the_best_member():
    losses = np.array([[0.1, 0.2], [1.0, 2.0]], np.float32)
    found = bayes_mixture.figures(jnp.asarray(losses))
    p = np.exp(-losses)
    assert found["equal weights"] == pytest.approx(-np.log(p.mean(0)).sum() - 0.3, abs=1e-5)
    bayes = -np.log(np.exp(-losses.sum(1)).mean()) - 0.3
    assert found["mixture, T = 1"] == pytest.approx(bayes, abs=1e-5)
    more = 2 + bayes_mixture.IGNORANT
    whole = np.exp(-losses.sum(1)).sum() + bayes_mixture.IGNORANT * 0.01
    assert found["with the ignorant"] == pytest.approx(-np.log(whole / more) - 0.3, abs=1e-4)
    told = bayes_mixture.claims("toy", {k: [v] for k, v in found.items()})
    assert told[2].values == pytest.approx([(found["equal weights"] - bayes) / 2000], abs=1e-7)


def test_quarters_are_views():
    data = views.quadrants(0)
    image = np.zeros((8, 8))
    image[:4, 4:] = 1
    assert (np.asarray(data.columns) @ image.reshape(-1)).tolist() == [0, 16, 0, 0]


@pytest.mark.parametrize("fusion", gated_fusion.FUSIONS)
def test_no_net_reads_a_view_that_is_lost(fusion):
    columns = jnp.asarray([[True, True, False], [False, False, True]])
    params = gated_fusion.init(jr.key(0), fusion, 2, 3, 1)
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    other = x + np.array([[0, 0, 5]], np.float32)
    say = lambda x, present: np.asarray(
        gated_fusion.said(fusion, columns, params, x, jnp.asarray(present))
    )
    lost = np.array([[True, False]] * 4)
    np.testing.assert_array_equal(say(x, lost), say(other, lost))
    assert np.abs(say(x, ~lost) - say(other, ~lost)).max() > 0


def test_maize_has_its_views(tmp_path, monkeypatch):
    monkeypatch.setenv("WSLAX_DATA", str(tmp_path))
    assert views.plots(0) is None
    head = ["env", "loc", "year", *(n for of in views.PLOTS.values() for n in of), "yield"]
    lines = [",".join(head)]
    for trial in range(10):
        for plot in range(3):
            cells = [f"e{trial}", f"p{trial % 2}", "2000", *[str(plot + i) for i in range(7)], "5"]
            cells[head.index("moisture")] = cells[head.index("testweight")] = ""
            lines.append(",".join(cells))
    with gzip.open(tmp_path / "barrero_maize.csv.gz", "wt") as out:
        out.write("\n".join(lines))
    with pytest.warns(RuntimeWarning):  # a column without any number
        (train, validation, test), columns = views.plots(0)
    assert [len(part.x) for part in (train, validation, test)] == [18, 6, 6]
    assert train.present.tolist() == [[True, True, False, True]] * 18
    assert columns.sum(1).tolist() == [3, 2, 2, 3]
    assert float(np.abs(test.y).max()) == 0


def test_a_gap_is_covered_or_not():
    means, variances = np.array([[1.0, 3.0], [1.0, 5.0]]), np.ones((2, 2))
    error, covered = inverse_variance.scored(means, variances, np.array([1.0, 2.0]))
    assert error == pytest.approx(np.sqrt(2))
    assert covered == 0.5


def test_samples_of_trials_are_covered_and_best_at_once():
    trials = [RNG.normal(5, 1, 150) for _ in range(4)]
    found = inverse_variance.independent(trials, 0)
    assert 0.8 < found["covered"] <= 1
    assert found["all plots at once"] < found["plain mean"]


def test_claims_on_fusion_are_differences():
    found = {"gated": 1.0, "mean": 3.0, "concatenation": 2.0, "one view": 5.0}
    each = {
        (fusion, learnt, "views lost"): [value]
        for fusion, value in found.items()
        for learnt in gated_fusion.SETTINGS
    }
    told = [claim.values for claim in gated_fusion.claims("toy", each)]
    assert told == [[1.0], [2.0], [4.0], [1.0]]
