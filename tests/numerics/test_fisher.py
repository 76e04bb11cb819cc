"""The diagonal of the Fisher information against its closed form in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax.numerics.fisher import fisher_information

RNG = np.random.default_rng(0)
PARAMS = {
    "b": RNG.normal(size=3).astype(np.float32),
    "step": np.int32(4),
    "w": RNG.normal(size=(4, 3)).astype(np.float32),
}
X = RNG.normal(size=(7, 4)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def log_prob(params, x):
    return jax.nn.log_softmax(x.astype(params["w"].dtype) @ params["w"] + params["b"])


def closed_form(params, x):
    """Of logistic regression: d log p_y / d logits = e_y - p."""
    logits = x.astype(float) @ params["w"].astype(float) + params["b"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    slope = np.eye(3)[None] - p[:, None]  # [x, y, logit]
    power = np.einsum("xy,xyl->xl", p, slope**2)
    return {"b": power.mean(0), "w": np.einsum("xi,xl->il", x.astype(float) ** 2, power) / len(x)}


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_fisher_information_is_its_closed_form(chunk):
    """On logistic regression; a chunk of 3 leaves one example over."""
    found = fisher_information(log_prob, PARAMS, X, chunk=chunk)
    for name, expected in closed_form(PARAMS, X).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)
    assert float(found["step"]) == 0


def test_fisher_information_vectorises_and_is_wide():
    population = {"b": PARAMS["b"][None].repeat(2, 0), "w": np.stack([PARAMS["w"], -PARAMS["w"]])}
    found = jax.vmap(lambda p: fisher_information(log_prob, p, X, chunk=3))(population)
    expected = closed_form({"b": PARAMS["b"], "w": -PARAMS["w"]}, X)
    np.testing.assert_allclose(found["w"][1], expected["w"], rtol=1e-4, atol=1e-6)
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), {n: PARAMS[n] for n in "bw"})
    narrow = fisher_information(log_prob, half, X, chunk=3)
    assert narrow["w"].dtype == jnp.float32


def test_bad_input_is_said():
    with pytest.raises(ws.WeightSpaceError, match="inputs: expected arrays"):
        fisher_information(log_prob, PARAMS, {"a": X, "b": X[:2]})
    with pytest.raises(ws.WeightSpaceError, match="chunk: expected at least 1"):
        fisher_information(log_prob, PARAMS, X, chunk=0)
