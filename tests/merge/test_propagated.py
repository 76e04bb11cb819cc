"""RegMean++ against its layers merged one after another in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import merge

N, E, D = 3, 40, 5
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, E, D)) * [3, 1, 1, 0.5, 2]).astype(np.float32)
POPULATION = {
    "a": {"b": RNG.normal(size=(N, D)), "w": RNG.normal(size=(N, D, D))},
    "c": {"b": RNG.normal(size=(N, D)), "w": RNG.normal(size=(N, D, D))},
    "out": RNG.normal(size=(N, D, 2)),
}
POPULATION = jax.tree.map(lambda x: x.astype(np.float32), POPULATION)


def apply(params, x):
    for layer in (params["a"], params["c"]):
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return x @ params["out"]


def layer(x, w, alpha):
    gram = np.einsum("nsi,nsj->nij", x, x)
    gram = gram * (alpha + (1 - alpha) * np.eye(gram.shape[-1]))
    return np.linalg.solve(gram.sum(0), np.einsum("nij,njk->ik", gram, w))


def by_hand(alpha):
    x, found = X.astype(float), {}
    for name in ("a", "c"):
        w = layer(x, POPULATION[name]["w"].astype(float), alpha)
        b = POPULATION[name]["b"].astype(float).mean(0)
        x, found[name] = np.tanh(x @ w + b), {"b": b, "w": w}
    return found | {"out": layer(x, POPULATION["out"].astype(float), alpha)}


@pytest.mark.parametrize("alpha", [0.9, 0.3])
def test_regmean_plus_plus_is_its_recurrence(alpha):
    found = merge.regmean_plus_plus(POPULATION, None, apply, X, alpha=alpha)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, by_hand(alpha)
    )


def test_the_first_layer_is_regmean():
    found = merge.regmean_plus_plus(POPULATION, None, apply, X)
    gram = {"a/w": np.einsum("nsi,nsj->nij", X, X)}
    np.testing.assert_allclose(
        found["a"]["w"], merge.regmean(POPULATION, gram)["a"]["w"], rtol=1e-3, atol=1e-4
    )


def scanned(params, x):
    def step(x, layer):
        return jnp.tanh(x @ layer["w"] + layer["b"][None]), None

    return jax.lax.scan(step, x, params["layers"])[0] @ params["out"]


def test_layers_of_a_scan_are_layers():
    layers = {n: np.stack([POPULATION["a"][n], POPULATION["c"][n]], 1) for n in ("b", "w")}
    stacked = {"layers": layers, "out": POPULATION["out"]}
    found = merge.regmean_plus_plus(stacked, None, scanned, X)
    expected = by_hand(0.9)
    for i, name in enumerate(("a", "c")):
        np.testing.assert_allclose(
            found["layers"]["w"][i], expected[name]["w"], rtol=1e-3, atol=1e-4
        )
    np.testing.assert_allclose(found["out"], expected["out"], rtol=1e-3, atol=1e-4)


def test_equal_members_stay_and_where_keeps_the_base():
    same = jax.tree.map(lambda x: x[:1].repeat(N, 0), POPULATION)
    base = jax.tree.map(lambda x: x[1], POPULATION)
    found = merge.regmean_plus_plus(same, None, apply, X)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b[0], rtol=1e-4, atol=1e-5), found, same
    )
    part = merge.regmean_plus_plus(POPULATION, base, apply, X, where="out")
    assert (part["a"]["w"] == base["a"]["w"]).all()
    x = X.astype(float)
    for name in ("a", "c"):
        x = np.tanh(x @ base[name]["w"] + base[name]["b"])
    np.testing.assert_allclose(part["out"], layer(x, POPULATION["out"], 0.9), rtol=1e-3, atol=1e-4)


def looped(params, x):
    return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(x @ params["w"]), x)


def test_mistakes():
    with pytest.raises(ws.WeightSpaceError, match="one row for each of 3 members"):
        merge.regmean_plus_plus(POPULATION, None, apply, X[:2])
    with pytest.raises(ws.WeightSpaceError, match="w: a loop multiplies by it at every step"):
        merge.regmean_plus_plus({"w": POPULATION["a"]["w"]}, None, looped, X)
