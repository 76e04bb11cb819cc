"""Scores against their formulas in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax.select import scores

RNG = np.random.default_rng(0)
PARAMS = {
    "w": RNG.normal(size=(6, 5)).astype(np.float32),
    "b": RNG.normal(size=5),
    "n": np.arange(2),
}
GRADS = {
    "w": RNG.normal(size=(6, 5)).astype(np.float32),
    "b": RNG.normal(size=5),
    "n": np.arange(2),
}

FORMULAS = {
    "magnitude": lambda w, g: abs(w),
    "gradient": lambda w, g: abs(g),
    "saliency": lambda w, g: abs(w * g),
    "fisher": lambda w, g: w**2 * g / 2,
    "movement": lambda w, g: -w * g,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    got = getattr(scores, name)(PARAMS, GRADS, key=1)
    for leaf in ("w", "b"):
        wanted = FORMULAS[name](PARAMS[leaf], GRADS[leaf])
        np.testing.assert_allclose(got[leaf], wanted, rtol=1e-6)
    np.testing.assert_array_equal(got["n"], PARAMS["n"])
    half = jax.tree.map(lambda x: jnp.asarray(x, "bfloat16"), {"w": PARAMS["w"]})
    assert getattr(scores, name)(half, half)["w"].dtype == np.float32


def test_saliency_and_fisher_foretell_the_loss():
    """Of half a diagonal form with its minimum at w, by removing weights for real."""
    curvature, w = jnp.array([1.0, 3.0, 0.5]), jnp.array([2.0, -1.0, 0.5])
    loss = lambda p: jnp.sum(curvature * (p["w"] - w) ** 2) / 2
    removed = [float(loss({"w": w.at[i].set(0)})) for i in range(3)]
    np.testing.assert_allclose(scores.fisher({"w": w}, {"w": curvature})["w"], removed, rtol=1e-6)
    small = 1e-3 * w
    grads = jax.grad(loss)({"w": small})
    gone = [float(loss({"w": small.at[i].set(0)}) - loss({"w": small})) for i in range(3)]
    got = scores.saliency({"w": small}, grads)["w"]
    np.testing.assert_allclose(got, np.abs(gone), rtol=2e-2, atol=1e-6)


def test_movement_adds_up():
    total, wanted = None, 0.0
    for i in range(3):
        params = {"w": PARAMS["w"] + i}
        total = scores.movement(params, {"w": GRADS["w"] * i}, total=total)
        wanted = wanted - params["w"] * GRADS["w"] * i
    np.testing.assert_allclose(total["w"], wanted, rtol=1e-5, atol=1e-6)


def test_principal_is_the_decomposition():
    u, s, vt = np.linalg.svd(PARAMS["w"].astype(float), full_matrices=False)
    got = scores.principal(PARAMS, rank=2)
    np.testing.assert_allclose(got["w"], abs((u[:, :2] * s[:2]) @ vt[:2]), atol=1e-5)
    whole = scores.principal(PARAMS, rank=ws.by_leaf({"w": 5, "*": 1}))
    np.testing.assert_array_equal(whole["w"], abs(PARAMS["w"]))
    np.testing.assert_allclose(whole["b"], abs(PARAMS["b"]), rtol=1e-6)


def test_random_depends_on_key_name_and_nothing_else():
    make = functools.partial(scores.random, PARAMS)
    a, b, traced = make(key=1), make(key=2), jax.jit(scores.random)(PARAMS, key=jax.random.key(1))
    assert not np.array_equal(a["w"], b["w"])
    np.testing.assert_array_equal(a["w"], traced["w"])
    np.testing.assert_array_equal(a["w"], scores.random({"w": 0 * PARAMS["w"]}, key=1)["w"])
    assert ((a["w"] >= 0) & (a["w"] < 1)).all()


def test_bad_input_is_named():
    with pytest.raises(ws.WeightSpaceError, match="saliency needs gradients"):
        scores.saliency(PARAMS)
    with pytest.raises(ws.WeightSpaceError, match="tree 1 lacks 'b', 'n'"):
        scores.gradient(PARAMS, {"w": PARAMS["w"]})
    with pytest.raises(ws.WeightSpaceError, match=r"w: float32\[5\] beside float32\[6,5\]"):
        scores.gradient(PARAMS, {**PARAMS, "w": PARAMS["w"][0]})
    with pytest.raises(ws.WeightSpaceError, match="w: rank: expected at least 1, got 0"):
        scores.principal({"w": PARAMS["w"]}, rank=0)
