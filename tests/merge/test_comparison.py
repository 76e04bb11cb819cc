"""The report against the same numbers in numpy, and populations whose answer is known."""

import jax
import numpy as np
import pytest

import wslax as ws
from tests.merge.experts import draw
from wslax import merge
from wslax.report import merging, plots

SHAPES = {"b": (7,), "w": (6, 5)}


def test_report_is_its_formulas():
    population, base = draw(SHAPES)
    population["w"][:, 0] = base["w"][0]  # a row that none changes
    found = merge.report(population, base, density=0.3)
    d = {n: population[n].astype(float) - base[n] for n in SHAPES}
    flat = np.concatenate([x.reshape(3, -1) for x in d.values()], 1)
    tops = []
    for x in d.values():
        size = np.abs(x.reshape(3, -1))
        kept = np.argsort(-size, 1)[:, : int(0.3 * size.shape[1])]
        tops += [np.put_along_axis(top := np.zeros_like(size), kept, 1, 1) or top]
    top = np.concatenate(tops, 1)
    for i in range(3):
        for j in range(3):
            a, b = flat[i], flat[j]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            both = (a != 0) & (b != 0)
            agreement = (np.sign(a) == np.sign(b))[both].mean()
            np.testing.assert_allclose(found.cosine[i, j], cosine, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found.agreement[i, j], agreement, rtol=1e-5)
            overlap = (top[i] * top[j]).sum() / top[i].sum()
            np.testing.assert_allclose(found.overlap[i, j], overlap, rtol=1e-5)
            grams = [x.T @ x for x in (d["w"][i], d["w"][j])]
            alike = (grams[0] * grams[1]).sum() / np.prod([np.linalg.norm(g) for g in grams])
            np.testing.assert_allclose(found.subspace[i, j], alike, rtol=1e-4)
    s = np.linalg.svd(d["w"], compute_uv=False) ** 2
    np.testing.assert_allclose(found.rank, s.sum(1) ** 2 / (s**2).sum(1) / 5, rtol=1e-4)
    for n, x in d.items():
        share = 1 - np.abs(x.sum(0)).sum() / np.abs(x).sum()
        np.testing.assert_allclose(found.interference[n], share, rtol=1e-4)


def known(kind):
    rng = np.random.default_rng(0)
    shape = (3, 40, 40)
    if kind == "linear":
        return rng.normal(size=shape[1:])[None] + 0.2 * rng.normal(size=shape)
    if kind == "tsv_m":
        return rng.normal(size=(3, 40, 2)) @ rng.normal(size=(2, 40))
    if kind == "ties":
        return rng.choice([-1.0, 1.0], shape) * rng.exponential(size=shape[1:])[None] ** 2
    return rng.normal(size=shape)


@pytest.mark.parametrize("kind", ["linear", "tsv_m", "ties", "task_arithmetic"])
def test_advice_on_populations_made_for_it(kind):
    population = {"w": known(kind).astype(np.float32)}
    found = merge.report(population, {"w": np.zeros((40, 40), np.float32)})
    assert found.advice[0] == kind
    assert kind in str(found)
    assert "3 task vectors" in str(found)


def test_figures_draw_and_mistakes_are_named():
    population, base = draw(SHAPES)
    for figure in merging.figures(merge.report(population, base)):
        assert plots.svg(figure).startswith("<svg")
    same = jax.tree.map(lambda b: b[None].repeat(2, 0), base)
    still = merge.report(same, base)
    assert np.isfinite(still.cosine).all()
    with pytest.raises(ws.WeightSpaceError, match="density: expected a number above 0"):
        merge.report(population, base, density=0.0)
