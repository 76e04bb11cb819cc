"""GradMax against the layer's formula, against random weights, and where it could not learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, grow, symmetry

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 6)), RNG.normal(size=(64, 4))
PARAMS = {
    "a": RNG.normal(size=(6, 5)) / 2,
    "bias": RNG.normal(size=5),
    "b": RNG.normal(size=(5, 4)),
}


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def net(activation):
    def apply(p, x):
        return activation(x @ p["a"] + p["bias"][None]) @ p["b"]

    def loss(p):
        return jnp.mean((apply(p, X) - Y) ** 2)

    groups = symmetry.infer(apply, PARAMS, X)
    return apply, loss, groups, groups.free[0].id


def test_outgoing_weights_are_the_singular_vectors_of_the_paper():
    """M = E[dL/dz h'] with h the layer's inputs: here slope 1/2 of GELU at 0 times g.T @ x."""
    apply, loss, groups, id = net(jax.nn.gelu)
    wide = grow.gradmax(groups, {id: 8}, loss, PARAMS).apply(PARAMS)
    slope = 2 * (np.asarray(apply(PARAMS, X)) - Y) / Y.size
    left, strength, _ = np.linalg.svd(slope.T @ X / 2)
    length = 0.5 * np.linalg.norm(PARAMS["b"], axis=1).mean()
    new = np.asarray(wide["b"][5:]) / length
    np.testing.assert_allclose(np.abs(new @ left[:, :3]), np.eye(3), atol=1e-8)
    assert not wide["a"][:, 5:].any()
    assert not wide["bias"][5:].any()
    np.testing.assert_allclose(loss(wide), loss(PARAMS), rtol=1e-12)
    gradient = jax.grad(loss)(wide)["a"][:, 5:]
    np.testing.assert_allclose(np.linalg.norm(gradient, axis=0), length * strength[:3], rtol=1e-8)
    for seed in range(20):
        drawn = length * np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 3)))[0].T
        other = wide | {"b": np.concatenate([PARAMS["b"], drawn])}
        assert np.linalg.norm(jax.grad(loss)(other)["a"][:, 5:]) < np.linalg.norm(gradient)


def test_a_convolution_with_two_readers():
    rng = np.random.default_rng(1)
    shapes = {"k": (3, 3, 2, 4), "left": (3, 3, 4, 2), "right": (1, 1, 4, 2)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    x = rng.normal(size=(2, 5, 5, 2))

    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)

    def apply(p, x):
        h = jnp.tanh(convolve(x, p["k"]))
        return convolve(h, p["left"]) * jnp.tanh(convolve(h, p["right"]))

    loss = lambda p: jnp.mean((apply(p, x) - 1) ** 2)
    groups = symmetry.infer(apply, params, x)
    wide = grow.gradmax(groups, {groups.free[0].id: 5}, loss, params).apply(params)
    np.testing.assert_allclose(apply(wide, x), apply(params, x), rtol=1e-10)
    gradient = np.linalg.norm(jax.grad(loss)(wide)["k"][..., 4:])
    length = np.linalg.norm([np.linalg.norm(wide[n][:, :, 4]) for n in ("left", "right")])
    for seed in range(10):
        draw = np.random.default_rng(seed)
        parts = {n: draw.normal(size=(*wide[n].shape[:2], 1, 2)) for n in ("left", "right")}
        factor = length / np.linalg.norm([np.linalg.norm(p) for p in parts.values()])
        other = wide | {n: np.concatenate([params[n], factor * p], 2) for n, p in parts.items()}
        assert np.linalg.norm(jax.grad(loss)(other)["k"][..., 4:]) < gradient


@pytest.mark.parametrize(
    ("activation", "size", "sentence"),
    [
        (jax.nn.relu, 6, "never learn: .*slope 0 at 0"),
        (jax.nn.sigmoid, 6, "put out more than zero"),
        (jnp.tanh, 10, "at most 4 new units here"),
    ],
)
def test_units_that_could_not_learn_are_refused(activation, size, sentence):
    _, loss, groups, id = net(activation)
    with pytest.raises(WeightSpaceError, match=sentence):
        grow.gradmax(groups, {id: size}, loss, PARAMS)
