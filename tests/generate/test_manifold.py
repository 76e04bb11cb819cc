"""Generated weights: coordinates and networks by hand, any width, gradients, averages."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import wslax as ws
from wslax import generate

NET = ws.nets.mlp(3, (6,), 2)
PARAMS = NET.init(jr.key(0))
GROUPS = ws.symmetry.feed_forward(PARAMS, ["hidden_0", "out"])
CONV = ws.nets.conv(8, (4, 6), 3)
X = jr.normal(jr.key(9), (16, 8, 8))


@functools.cache
def networks():
    made = jax.jit(lambda: generate.init(1, PARAMS, GROUPS, width=8, depth=3, frequencies=2))()
    return jax.tree.map(lambda x: x + 0.1, made)  # biases begin at zero


@functools.partial(jax.jit, static_argnums=1)
def at_size(networks, size):
    return generate.materialise(networks, PARAMS, GROUPS, {0: size})


@functools.cache
def conv():
    params = jax.eval_shape(CONV.init, jr.key(0))
    groups = ws.symmetry.infer(CONV.apply, params, X)
    made = jax.jit(lambda: generate.init(0, params, groups, width=8, depth=2, frequencies=2))()
    return params, groups, made


def test_coordinates_are_counted():
    found = generate.coordinates(PARAMS, GROUPS, {0: 5})
    names = ["hidden_0/bias", "hidden_0/kernel", "out/bias", "out/kernel"]
    assert list(found) == names
    for layer, (inputs, outputs) in enumerate([(1, 5), (3, 5), (1, 2), (5, 2)]):
        for j in range(inputs):
            for i in range(outputs):
                expected = [layer, i, j, 4, outputs, inputs]
                assert found[names[layer]][j, i].tolist() == expected
        assert found[names[layer]].shape == (inputs, outputs, 6)


def test_a_window_shares_its_coordinates():
    params, groups, made = conv()
    assert generate.coordinates(params, groups)["conv_1/kernel"].shape == (4, 6, 6)
    assert made["conv_1/kernel"].last["kernel"].shape == (8, 9)


def by_hand(network, places, norm):
    """One weight, in float64."""
    n = jax.tree.map(np.float64, network)
    l, i, j, layers, outputs, inputs = places
    x = np.array(
        [l / layers, i / outputs, j / inputs, layers / norm, outputs / norm, inputs / norm]
    )
    angles = np.concatenate([[x_ * np.pi, x_ * 2 * np.pi] for x_ in x])
    h = np.concatenate([x, np.sin(angles), np.cos(angles)])
    h = np.maximum(h @ n.first["kernel"] + n.first["bias"], 0)
    for kernel, bias, scale in zip(
        *(n.blocks[k] for k in ("kernel", "bias", "scale")), strict=True
    ):
        h = h + scale * np.maximum(h @ kernel + bias, 0)
    return (h @ n.last["kernel"] + n.last["bias"]) / inputs


@pytest.mark.parametrize("size", [6, 3, 9])
def test_weights_are_the_formula_at_any_width(size):
    made = at_size(networks(), size)
    assert NET.apply(made, jnp.ones((2, 3))).shape == (2, 2)
    bias, kernel = made["hidden_0"]["bias"], made["out"]["kernel"]
    assert bias.shape == (size,)
    assert kernel.shape == (size, 2)
    for at in (0, size - 1):
        expected = by_hand(networks()["hidden_0/bias"], (0, at, 0, 4, size, 1), 6)
        np.testing.assert_allclose(bias[at], expected[0], rtol=1e-4)
        expected = by_hand(networks()["out/kernel"], (3, 1, at, 4, 2, size), 6)
        np.testing.assert_allclose(kernel[at, 1], expected[0], rtol=1e-4)


def test_nets_begin_alive_and_about_as_nets_do():
    net = ws.nets.mlp(64, (32, 32), 10)
    params = jax.eval_shape(net.init, jr.key(0))
    groups = ws.symmetry.feed_forward(params, ["hidden_0", "hidden_1", "out"])

    def begun(key):
        made = generate.init(key, params, groups, width=64, depth=3, frequencies=6)
        return [generate.materialise(made, params, groups, {0: n, 1: n}) for n in (32, 16)]

    full, half = jax.jit(jax.vmap(begun))(jr.split(jr.key(0), 8))
    for kernel in (full[name]["kernel"] for name in full):
        mean, std = kernel.mean((1, 2)), kernel.std((1, 2))
        assert float((abs(mean) / std).mean()) < 0.6
        assert 0.3 < float(std.mean()) * np.sqrt(kernel.shape[1]) < 1.5
    assert all(0 < float(abs(full[name]["bias"]).max()) < 0.5 for name in full)
    x, alive = np.random.default_rng(0).uniform(size=(100, 64)), []
    for k in range(8):
        h = x
        for name in ("hidden_0", "hidden_1"):
            h = np.maximum(h @ full[name]["kernel"][k] + full[name]["bias"][k][None], 0)
            alive.append((h.std(0) > 0).mean())
    assert min(alive) > 0
    assert np.mean(alive) > 0.4
    stretched = full["hidden_1"]["kernel"][:, ::2, ::2] * 2  # 32 inputs to 16
    np.testing.assert_allclose(half["hidden_1"]["kernel"], stretched, rtol=1e-3, atol=1e-4)


def test_gradients_through_generated_weights_are_differences():
    params, groups, made = conv()

    @functools.partial(jax.jit, static_argnums=1)
    def graded(made, size):
        def loss(made):
            at = generate.materialise(made, params, groups, {groups.free[1].id: size}, key=0)
            return ws.nets.cross_entropy(CONV.apply(at, X), jnp.arange(16) % 3)

        return jax.value_and_grad(loss)(made)

    _, grads = graded(made, 3)
    assert all(any(abs(g).max() > 0 for g in jax.tree.leaves(grads[name])) for name in grads)
    norm = optax.tree.norm(grads)
    moved = lambda step: jax.tree.map(lambda x, g: x + step * g / norm, made, grads)
    rise = (graded(moved(1e-3), 3)[0] - graded(moved(-1e-3), 3)[0]) / 2e-3
    assert float(rise) == pytest.approx(float(norm), rel=0.02)


def test_average_begins_without_noise():
    of = networks(), PARAMS, GROUPS, {0: 4}
    made = jax.jit(lambda key=None: generate.materialise(*of, key=key))
    mean = lambda **how: jax.jit(lambda: generate.average(*of, key=7, **how))()
    same = lambda a, b: jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b
    )
    keys = jr.split(jr.key(7), 2)
    parts = [made(), made(keys[0]), made(keys[1])]
    same(mean(count=3), jax.tree.map(lambda *x: sum(x) / 3, *parts))
    same(mean(count=2, noise=0.0), made())
    kernels = [np.asarray(part["hidden_0"]["kernel"]) for part in parts]
    assert min(abs(kernels[0] - kernels[1]).max(), abs(kernels[1] - kernels[2]).max()) > 1e-4


def test_some_leaves_are_generated_and_the_others_sliced():
    some = generate.init(1, PARAMS, GROUPS, where="out/*", width=8, depth=2, frequencies=2)
    assert list(some) == ["out/bias", "out/kernel"]
    made = generate.materialise(some, PARAMS, GROUPS, {0: 4})
    assert (made["hidden_0"]["kernel"] == PARAMS["hidden_0"]["kernel"][:, :4]).all()
    assert made["out"]["kernel"].shape == (4, 2)


def test_half_types_keep_their_dtype():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    made = jax.eval_shape(lambda p: generate.average(networks(), p, GROUPS, key=0, count=2), half)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype(jnp.bfloat16)}


def test_losses():
    rng = np.random.default_rng(0)
    a, b = ({"w": rng.normal(size=(3, 2)).astype(np.float32), "z": np.zeros(2, np.float32)}
            for _ in range(2))  # fmt: skip
    a["z"] += 1
    part = (abs(b["w"]) / abs(b["w"]).max() * (a["w"] - b["w"]) ** 2).mean()
    assert float(generate.reconstruction(a, b)) == pytest.approx(part / 2, rel=1e-5)
    norms = np.linalg.norm(a["w"]) + np.sqrt(2)
    assert float(generate.penalty(a)) == pytest.approx(norms, rel=1e-5)
    zero = jax.grad(generate.penalty)({"w": jnp.zeros(3)})["w"]
    assert zero.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: generate.materialise(networks(), PARAMS, GROUPS, {3: 2}), "no group 3"),
        (lambda: generate.materialise(networks(), PARAMS, GROUPS, {0: 0}), "at least 1 unit"),
        (lambda: at_size({"w": networks()["out/bias"]}, 3), "w: there is a network"),
        (lambda: generate.init(0, PARAMS, GROUPS, where="in/*"), "in/"),
        (lambda: generate.init(0, {"ema": PARAMS}, GROUPS), "other names"),
        (lambda: generate.average(networks(), PARAMS, GROUPS, key=0, count=0), "count"),
    ],
)  # fmt: skip
def test_bad_input(call, match):
    with pytest.raises(ws.WeightSpaceError, match=match):
        call()
