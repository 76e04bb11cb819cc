"""Scores by data against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax import WeightSpaceError, nets, select, symmetry, tree
from wslax.select import masks, scores
from wslax.trace import taps

RNG = np.random.default_rng(0)


def apply(params, x):
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def net(seed=0, hidden=6, outputs=3):
    rng = np.random.default_rng(seed)
    params = {"in": rng.normal(size=(4, hidden)), "out": rng.normal(size=(hidden, outputs))}
    x = rng.normal(size=(30, 4))
    params, x = jax.tree.map(np.float32, params), np.float32(x)
    return params, x, symmetry.infer(apply, params, x)


def test_wanda_ranks_within_each_output():
    params, x, groups = net()
    score = scores.wanda(params, taps(apply, params, x, read="norms"))
    hidden = np.maximum(x @ params["in"], 0)
    expected = np.abs(params["out"]) * np.linalg.norm(hidden, axis=0)[:, None]
    np.testing.assert_allclose(score["out"], expected, rtol=1e-5)
    axes = select.inputs(params, groups)
    mask = masks.top(score, density=0.5, axis=axes, rest=True)
    for column in range(3):
        kept = np.argsort(-expected[:, column])[:3]
        assert set(np.flatnonzero(mask["out"][:, column])) == set(kept)
    with pytest.raises(WeightSpaceError, match="out: norms are"):
        scores.wanda(params, {"out": jnp.ones((5, 1))})
    with pytest.raises(WeightSpaceError, match="needs norms"):
        scores.wanda(params, {})


def test_wanda_of_a_transformer_keeps_what_meets_no_data():
    model = nets.transformer(11, 5, width=8, heads=2, depth=1)
    params, tokens = model.init(jax.random.key(0)), jnp.arange(10).reshape(2, 5)
    norms = taps(model.apply, params, tokens, read="norms", where="block_0/*/kernel")
    score = scores.wanda(params, norms)
    groups = symmetry.infer(model.apply, params, tokens)
    mask = masks.top(score, density=0.25, axis=select.inputs(params, groups), rest=True)
    kept = tree.named_leaves(mask)
    for name, leaf in kept.items():
        assert bool(leaf.all()) != (name in norms)
    assert (kept["block_0/attention/out/kernel"].sum((0, 1)) == 2).all()  # of 2 heads x 4
    assert (kept["block_0/attention/query/kernel"].sum(0) == 2).all()


def test_wagle_by_hand_and_where_weights_have_no_say():
    w, f, r = ({"w": RNG.normal(size=50).astype(np.float32)} for _ in range(3))
    got = scores.wagle(w, f, r, mu=0.5)["w"]
    np.testing.assert_allclose(got, np.abs((w["w"] - r["w"] / 0.5) * f["w"]), rtol=1e-5)
    tiny = np.asarray(scores.wagle(w, f, r, mu=1e-6)["w"])
    by_gradients = np.abs(f["w"] * r["w"])
    assert np.corrcoef(tiny.argsort().argsort(), by_gradients.argsort().argsort())[0, 1] > 0.999
    with pytest.raises(WeightSpaceError, match="differ"):
        scores.wagle(w, {"v": f["w"]}, r)


def parts(params, x, unit):
    hidden = np.maximum(np.float64(x) @ params["in"], 0)
    return hidden[:, unit, None] * np.float64(params["out"])[unit]


@given(st.integers(0, 1000))
@settings(deadline=None, max_examples=5)
def test_fidelity_is_one_less_the_best_error(seed):
    params, x, groups = net(seed)
    (group,) = groups.free
    found = scores.fidelity(params, taps(apply, params, x, read="gram"), groups)[group.id]
    whole = sum(parts(params, x, u) for u in range(6))
    for u in range(6):
        y = parts(params, x, u)
        delta = (whole * y).sum() / max((y * y).sum(), 1e-30)
        error = ((whole - delta * y) ** 2).sum() / (whole**2).sum()
        np.testing.assert_allclose(found[u], 1 - error, rtol=1e-3, atol=1e-5)


def test_refit_is_least_squares_and_prunes_with_it():
    params, x, groups = net(3)
    (group,) = groups.free
    grams = taps(apply, params, x, read="gram")
    kept = select.units(groups, scores.fidelity(params, grams, groups), density=0.5)
    gates = select.refit(params, grams, groups, kept)
    columns = np.stack([parts(params, x, u).ravel() for u in kept[group.id]], -1)
    whole = sum(parts(params, x, u) for u in range(6)).ravel()
    delta, *_ = np.linalg.lstsq(columns, whole, rcond=None)
    np.testing.assert_allclose(gates[group.id][kept[group.id]], delta, rtol=1e-3)
    assert np.count_nonzero(gates[group.id]) == 3
    edit = select.prune(groups, gates, sizes={group.id: 3})
    small = edit.apply(select.gate(params, groups, gates))
    np.testing.assert_allclose(apply(small, x).ravel(), columns @ delta, rtol=1e-3, atol=1e-4)


def test_units_of_heads():
    """The width of each head is a component of the attention's output, as each row of `out` is."""
    model = nets.transformer(11, 5, width=8, heads=2, depth=1)
    params, tokens = model.init(jax.random.key(0)), jnp.arange(10).reshape(2, 5)
    groups = symmetry.infer(model.apply, params, tokens)
    name = "block_0/attention/out/kernel"
    grams = taps(model.apply, params, tokens, read="gram", where=name)
    (width,) = [g for g in groups.free if g.per and any(s.name == name for s in g.sites)]
    found = scores.fidelity(params, grams, groups)[width.id]
    x = np.asarray(taps(model.apply, params, tokens, where=name)[name], np.float64)
    kernel = np.asarray(params["block_0"]["attention"]["out"]["kernel"], np.float64)
    y = x[..., None] * kernel[None]  # [samples, heads, width, outputs]
    whole = y.sum((1, 2))
    inner = np.einsum("so,shwo->hw", whole, y)
    expected = inner**2 / (np.square(y).sum((0, 3)) * np.square(whole).sum())
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_a_class_is_forgotten_by_its_units():
    """Half of the units serve one half of the inputs: zeroing those leaves the other half alone."""
    params = {"in": np.eye(4, dtype=np.float32), "out": np.ones((4, 2), np.float32)}
    forget = np.float32(RNG.random((20, 4)) * [1, 1, 0, 0])
    retain = np.float32(RNG.random((20, 4)) * [0, 0, 1, 1])
    groups = symmetry.infer(apply, params, forget)
    (group,) = groups.free
    each = [
        scores.fidelity(params, taps(apply, params, x, read="gram"), groups)[group.id]
        for x in (forget, retain)
    ]
    gates = {group.id: (each[0] <= each[1]).astype(jnp.float32)}
    forgot = select.gate(params, groups, gates)
    np.testing.assert_array_equal(apply(forgot, retain), apply(params, retain))
    np.testing.assert_array_equal(apply(forgot, forget), 0)
