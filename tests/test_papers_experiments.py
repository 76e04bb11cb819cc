"""Experiments on merging at the size of a toy: what they train, choose and compare."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from benchmarks.papers import atlas, merging, minilm
from benchmarks.papers.merging import methods, training
from benchmarks.papers.merging.families import Family, halved, images
from benchmarks.papers.minilm import bert, tasks
from wslax.merge.files.config import read_recipe


def family(net, parts, **how):
    return Family("toy", net, *parts, **{"before": 1, "steps": 1, "batch": 8} | how)


def test_images_at_half_the_side_are_means():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    assert halved(x)[0, :, :, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_an_expert_learns_its_own_task_and_the_base_none():
    x = np.random.default_rng(0).normal(size=(3, 40, 4)).astype(np.float32)
    y = np.tile(np.arange(3, dtype=np.int32)[:, None], (1, 40))  # task t: always t
    toy = family(
        ws.nets.mlp(4, (16,), 3), ((x[0], y[0]), (x, y), (x, y), (x, y)), before=150, steps=400
    )
    nets = training.trained(toy, 0)
    of = methods.measures(toy)
    assert of.own(nets.experts, toy.test).tolist() == [1, 1, 1]
    assert of.tasks(nets.base, toy.test).tolist() == [1, 0, 0]
    assert of.ensemble(ws.population.stack([nets.base]), toy.test).tolist() == [1, 0, 0]


def test_the_factor_is_the_best_on_the_part_it_is_given():
    said = lambda p, x: jnp.stack([-jnp.square(p["w"] - x[:, 0]), jnp.full(len(x), -0.01)], 1)
    net = ws.nets.Net(lambda key: {"w": jnp.zeros(())}, said)  # right where w is within 0.1 of x
    x, y = np.full((1, 4, 1), 0.5, np.float32), np.zeros((1, 4), np.int32)
    toy = family(net, ((x[0], y[0]), (x, y), (x, y), (x, y)))
    chosen = methods.measures(toy).chosen
    found = chosen({"w": jnp.ones(())}, {"w": jnp.zeros(())}, (x, y))
    assert float(found["w"]) == 0.5
    assert float(chosen({"w": jnp.ones(())}, {"w": jnp.zeros(())}, (4 * x, y))["w"]) == 2.0


def test_claims_compare_later_with_earlier():
    names = {name for pair in merging.ORDER for name in pair}
    found = {name: [0.0, 0.0] for name in names} | {"TIES": [0.5, 0.25]}
    told = {claim.says: claim.values for claim in merging.claims("toy", found)}
    assert told["TIES is better than task arithmetic"] == [0.5, 0.25]
    assert told["RegMean is better than TIES"] == [-0.5, -0.25]
    assert len(told) == 8


def test_shots_are_of_each_class():
    labels = np.repeat(np.arange(3), [5, 2, 9])
    rows = atlas.few(np.random.default_rng(0), labels, 2)
    assert np.bincount(labels[rows]).tolist() == [2, 2, 2]
    assert len(set(rows.tolist())) == 6


def test_a_layer_of_bert_is_its_formula(monkeypatch):
    monkeypatch.setattr(bert, "HEADS", 2)
    rng, at = np.random.default_rng(0), "encoder.layer.0"
    shapes = {f"attention.self.{n}": (6, 6) for n in ("query", "key", "value")}
    shapes |= {"attention.output.dense": (6, 6), "attention.output.LayerNorm": (6,)}
    shapes |= {
        "intermediate.dense": (8, 6), "output.dense": (6, 8), "output.LayerNorm": (6,),
    }  # fmt: skip
    params = {}
    for name, shape in shapes.items():
        params[f"{at}.{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        params[f"{at}.{name}.bias"] = rng.normal(size=shape[0]).astype(np.float32)
    x, mask = rng.normal(size=(1, 3, 6)).astype(np.float32), np.array([[True, True, False]])

    dense = lambda name, h: h @ params[f"{at}.{name}.weight"].T + params[f"{at}.{name}.bias"]

    def norm(name, h):
        unit = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-12)
        return unit * params[f"{at}.{name}.weight"] + params[f"{at}.{name}.bias"]

    h = x[0].astype(np.float64)
    query, key, value = (dense(f"attention.self.{n}", h) for n in ("query", "key", "value"))
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        weight = np.exp(query[:, head] @ key[:2, head].T / math.sqrt(3))
        heads.append(weight / weight.sum(1, keepdims=True) @ value[:2, head])
    h = norm("attention.output.LayerNorm", h + dense("attention.output.dense", np.hstack(heads)))
    up = dense("intermediate.dense", h)
    up = up * (1 + np.vectorize(math.erf)(up / math.sqrt(2))) / 2
    expected = norm("output.LayerNorm", h + dense("output.dense", up))
    np.testing.assert_allclose(bert.layer(params, 0, x, mask)[0], expected, rtol=2e-4, atol=2e-5)
    assert bert.pooled(x, mask)[0].tolist() == pytest.approx(x[0, :2].mean(0).tolist())


def test_recipes_go_through_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(minilm, "checkpoint", lambda: tmp_path / "base")
    base = {"encoder.layer.4.w": np.zeros((2, 2), np.float32), "below": np.ones(3, np.float32)}
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(minilm.shutil, "copy", lambda _, folder: None)
    paths = []
    for name, value in (("base", 0.0), ("a", 1.0), ("b", 3.0)):
        model = {**base, "encoder.layer.4.w": np.full((2, 2), value, np.float32)}
        minilm.save(tmp_path / name, model)
        paths.append(str(tmp_path / name))
    for method, given in minilm.METHODS.items():
        (tmp_path / "recipe.yaml").write_text(minilm.recipe(method, paths[1:], given))
        assert read_recipe(str(tmp_path / "recipe.yaml")).merge_method == method
    lines = minilm.recipe("task_arithmetic", paths[1:], {"weight": 1.0, "lambda": 0.5})
    assert minilm.merged(tmp_path, lines, 0)["encoder.layer.4.w"].tolist() == [[2, 2], [2, 2]]


def test_what_is_missing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("WSLAX_DATA", str(tmp_path))
    assert images() is None
    with pytest.raises(ws.WeightSpaceError, match="SST-2"):
        minilm.measure(1)
    assert tasks.SST2 in tasks.missing()


def test_upper_layers_of_experts_alone_are_trained():
    assert minilm.is_upper("encoder.layer.5.output.dense.weight")
    assert not minilm.is_upper("encoder.layer.3.output.dense.weight")
