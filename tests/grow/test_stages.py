"""Learngene: stages that are applied again and again, and copies of them in any number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax import WeightSpaceError
from wslax.grow import stages

WHERE = "blocks/*"


def block(w, h):
    mean = h.mean(-1, keepdims=True)
    n = (h - mean) / jnp.sqrt(((h - mean) ** 2).mean(-1, keepdims=True) + 1e-3)
    return h + jnp.tanh(n @ w["up"]) @ w["down"]


def net(params, x):
    """Any number of layers, by a scan."""
    h = x @ params["embed"]
    h, _ = jax.lax.scan(lambda h, w: (block(w, h), None), h, params["blocks"])
    return h @ params["head"]


def params(count=3):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(np.float32))
    blocks = {"up": draw(count, 4, 6), "down": draw(count, 6, 4)}
    return {"embed": draw(3, 4), "blocks": blocks, "head": draw(4, 2)}


def shared(aux, lengths, x):
    """The auxiliary net written down: a loop over stages, in it one over its repeats."""
    h = x @ aux["embed"]
    for stage, length in enumerate(lengths):
        w = {name: leaf[stage] for name, leaf in aux["blocks"].items()}
        for _ in range(length):
            h = block(w, h)
    return h @ aux["head"]


def test_expansion_to_its_own_lengths_is_the_auxiliary_net():
    aux, x = params(), jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)), jnp.float32)
    expected = shared(aux, (2, 3, 1), x)
    whole = stages.materialise(aux, (2, 3, 1), where=WHERE)
    np.testing.assert_allclose(net(whole, x), expected, rtol=1e-5, atol=1e-6)
    grown = stages.expand(aux, [0, 0, 1, 1, 1, 2], where=WHERE)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), grown, whole)))


def test_gradients_of_a_stage_are_those_of_the_net_with_shared_weights():
    aux, x = params(), jnp.ones((2, 3))
    through = jax.grad(lambda p: net(stages.materialise(p, (2, 1, 2), where=WHERE), x).sum())
    written = jax.grad(lambda p: shared(p, (2, 1, 2), x).sum())
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, jax.jit(through)(aux), jax.jit(written)(aux))


def test_copies_are_untied_and_the_rest_is_passed_on():
    aux = params()
    grown = stages.expand(aux, [2, 0, 0], where=WHERE)
    assert grown["embed"] is aux["embed"]
    for name, leaf in grown["blocks"].items():
        np.testing.assert_array_equal(leaf, np.asarray(aux["blocks"][name])[[2, 0, 0]])
    grads = jax.jit(jax.grad(lambda p: net(p, jnp.ones((1, 3))).sum()))(grown)
    assert not np.allclose(grads["blocks"]["up"][1], grads["blocks"]["up"][2])
    members = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), aux)
    both = jax.vmap(lambda p: stages.expand(p, [2, 0, 0], where=WHERE))(members)
    np.testing.assert_array_equal(both["blocks"]["up"][1], 2 * grown["blocks"]["up"])


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 8), st.integers(0, 20))
def test_stages_are_spread_evenly(count, more):
    order = stages.spread(count + more, count)
    lengths = np.bincount(order)
    assert len(order) == count + more
    assert len(lengths) == count
    assert lengths.min() >= lengths.max() - 1
    assert sorted(order) == list(order)
    assert sorted(lengths, reverse=True) == list(lengths)


def test_distillation_by_hand():
    rng = np.random.default_rng(0)
    z, t, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)), rng.integers(4, size=6)
    soft = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    p, q = soft(t / 3), soft(z / 3)
    hard = -np.log(soft(z)[np.arange(6), y]).mean()
    expected = 0.75 * hard + 0.25 * 9 * (p * np.log(p / q)).sum(-1).mean()
    arrays = [jnp.asarray(a) for a in (z, t, y)]
    told = lambda z, t: ws.nets.distillation(z, t, arrays[2], weight=0.25, temperature=3.0)
    assert float(told(*arrays[:2])) == pytest.approx(expected, rel=1e-5)
    by_student, by_teacher = jax.grad(told, (0, 1))(*arrays[:2])
    assert (by_teacher == 0).all()
    slope = 0.75 * (soft(z) - np.eye(4)[y]) + 0.25 * 3 * (q - p)
    np.testing.assert_allclose(by_student, slope / 6, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: stages.spread(2, 3), "at least one layer for each of 3 stages, got 2"),
        (lambda p: stages.expand(p, [0, 3], where=WHERE), "from 0 to 2, one a layer, got"),
        (lambda p: stages.expand(p, [], where=WHERE), "order: expected stages"),
        (lambda p: stages.expand(p, [0], where="block/*"), "block"),
        (lambda p: stages.expand(p, [0], where=["blocks/*", "head"]), "head: expected 3 stages"),
        (lambda p: stages.materialise(p, [2, 1], where=WHERE), "down: expected 2 stages, one for"),
        (lambda p: stages.materialise(p, [2, 0, 1], where=WHERE), "at least 1 for each stage"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(WeightSpaceError, match=words):
        call(params())
