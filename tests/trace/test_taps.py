"""Taps: what reaches each leaf, against Flax's own record of it and by hand."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from wslax import WeightSpaceError, nets
from wslax.trace import taps

KEY = jr.key(0)


def draw(i, *shape):
    return jr.normal(jr.fold_in(KEY, i), shape)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 2), strides=(2, 1), name="conv")(x)
        x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=3, name="grouped")(x))
        x = nn.Conv(4, (2, 2), kernel_dilation=2, padding="VALID", name="dilated")(x)
        x = nn.tanh(nn.Dense(5, name="dense")(x.reshape(len(x), -1)))
        return nn.DenseGeneral((2, 3), name="heads")(x)


@pytest.fixture(scope="module")
def flax_net():
    net, x = Net(), draw(0, 3, 7, 6, 3)
    variables = net.init(KEY, x)
    kernels = {name: layer["kernel"] for name, layer in variables["params"].items()}
    _, seen = net.apply(variables, x, capture_intermediates=True)
    outputs = {
        name: np.asarray(layer["__call__"][0]) - np.asarray(variables["params"][name]["bias"])
        for name, layer in seen["intermediates"].items()
        if name in kernels
    }
    return lambda v, x: net.apply(v, x), variables, x, kernels, outputs


def test_outputs_are_what_flax_records(flax_net):
    apply, variables, x, kernels, outputs = flax_net
    found = taps(apply, variables, x, read="outputs")
    assert found.keys() == {f"params/{name}/kernel" for name in kernels}
    for name, out in outputs.items():
        axes = out.ndim - len(found[f"params/{name}/kernel"].shape) + 1
        expected = out.reshape(-1, *out.shape[axes:])
        np.testing.assert_allclose(found[f"params/{name}/kernel"], expected, rtol=1e-4, atol=1e-5)


def test_inputs_times_kernels_are_the_outputs(flax_net):
    apply, variables, x, kernels, outputs = flax_net
    found = jax.jit(lambda v, x: taps(apply, v, x))(variables, x)
    for name, kernel in kernels.items():
        inputs, out = found[f"params/{name}/kernel"], outputs[name]
        if name == "grouped":  # each group of features has kernels of its own
            each = np.split(kernel, 3, -1)
            got = np.concatenate(
                [np.einsum("shwi,hwio->so", a, b) for a, b in zip(inputs, each, strict=True)], -1
            )
        else:
            n = inputs.ndim - 1
            got = np.tensordot(inputs, kernel, (range(1, n + 1), range(n)))
        np.testing.assert_allclose(got, out.reshape(got.shape), rtol=1e-4, atol=1e-4)


def test_norms_lie_on_the_leaf(flax_net):
    """Wanda's score by hand: |w| times the norm of the input that it meets."""
    apply, variables, x, kernels, _ = flax_net
    inputs = taps(apply, variables, x)
    norms = taps(apply, variables, x, read="norms")
    for name, kernel in kernels.items():
        got = norms[f"params/{name}/kernel"]
        samples = int(name == "grouped")  # after the groups
        expected = np.sqrt((np.asarray(inputs[f"params/{name}/kernel"]) ** 2).sum(samples))
        if name == "grouped":
            expected = np.stack([expected[i // 2] for i in range(6)], -1)
        assert got.ndim == kernel.ndim
        np.testing.assert_allclose(
            got * np.ones(kernel.shape), expected.reshape(got.shape) * np.ones(kernel.shape),
            rtol=1e-5,
        )  # fmt: skip


def test_gram_matrices(flax_net):
    apply, variables, x, _, _ = flax_net
    gram = taps(apply, variables, x, read="gram", where="*/dense/*kernel")["params/dense/kernel"]
    inputs = np.asarray(taps(apply, variables, x)["params/dense/kernel"], np.float64)
    np.testing.assert_allclose(gram, inputs.T @ inputs, rtol=1e-5, atol=1e-5)


def stacked(params, x):
    def layer(h, p):
        return jnp.tanh(h @ p["w"] + p["b"][None]), None

    return jax.lax.scan(jax.checkpoint(layer), x, params)[0]


def test_layers_of_a_scan_are_a_batch_axis():
    params, x = {"w": draw(1, 3, 4, 4), "b": draw(2, 3, 4)}, draw(3, 5, 4)
    found = taps(stacked, params, x)
    assert found.keys() == {"w"}
    h = x
    for i in range(3):
        np.testing.assert_allclose(found["w"][i], h, rtol=1e-5, atol=1e-6)
        h = jnp.tanh(h @ params["w"][i] + params["b"][i][None])
    gram = taps(stacked, params, x, read="gram")["w"]
    np.testing.assert_allclose(gram[1], found["w"][1].T @ found["w"][1], rtol=1e-4, atol=1e-5)


def recurrent(params, xs):
    def step(h, x):
        h = jnp.tanh(x @ params["in"] + h @ params["again"])
        return h, h

    return jax.lax.scan(step, jnp.zeros((xs.shape[1], 4)), xs)[1]


def test_steps_of_a_loop_are_samples():
    params, xs = {"in": draw(4, 3, 4), "again": draw(5, 4, 4)}, draw(6, 7, 2, 3)
    states = recurrent(params, xs)
    found = taps(recurrent, params, xs)
    np.testing.assert_allclose(found["in"], xs.reshape(14, 3), rtol=1e-6)
    before = jnp.concatenate([jnp.zeros((1, 2, 4)), states[:-1]])
    np.testing.assert_allclose(found["again"], before.reshape(14, 4), rtol=1e-5, atol=1e-6)
    gram = taps(recurrent, params, xs, read="gram")["again"]
    np.testing.assert_allclose(gram, found["again"].T @ found["again"], rtol=1e-4, atol=1e-5)


def test_layers_inside_steps():
    """A scan over layers inside a loop over steps: layers are a batch axis, steps are samples."""

    def apply(params, xs):
        step = lambda h, x: (stacked(params, h + x), None)
        return jax.lax.scan(step, jnp.zeros((5, 4)), xs)[0]

    params, xs = {"w": draw(1, 3, 4, 4), "b": draw(2, 3, 4)}, draw(7, 2, 5, 4)
    found = taps(apply, params, xs)["w"]
    h, seen = jnp.zeros((5, 4)), [[], [], []]
    for x in xs:
        h = h + x
        for i in range(3):
            seen[i].append(h)
            h = jnp.tanh(h @ params["w"][i] + params["b"][i][None])
    np.testing.assert_allclose(found, np.array(seen).reshape(3, 10, 4), rtol=1e-4, atol=1e-5)


def test_experts_are_a_batch_axis():
    apply = lambda p, x: jnp.einsum("ebd,edf->bef", x, p["up"])
    params, x = {"up": draw(8, 2, 3, 5)}, draw(9, 2, 6, 3)
    np.testing.assert_array_equal(taps(apply, params, x)["up"], x)
    out = taps(apply, params, x, read="outputs")["up"]
    np.testing.assert_allclose(out, np.einsum("ebd,edf->ebf", x, params["up"]), rtol=1e-5)
    norms = taps(apply, params, x, read="norms")["up"]
    assert norms.shape == (2, 3, 1)
    np.testing.assert_allclose(norms[..., 0], np.sqrt((x**2).sum(1)), rtol=1e-5)


def test_uses_of_a_shared_leaf_are_samples():
    apply = lambda p, x, y: jnp.sum(jnp.tanh(x @ p["w"]) * jnp.tanh(y @ p["w"]))
    params, x, y = {"w": draw(10, 3, 2)}, draw(11, 4, 3), draw(12, 4, 3)
    np.testing.assert_array_equal(taps(apply, params, x, y)["w"], np.concatenate([x, y]))


def test_attention_of_the_transformer():
    net = nets.transformer(11, 5, width=8, heads=2, depth=1)
    params, tokens = net.init(KEY), jnp.arange(10).reshape(2, 5)
    found = taps(net.apply, params, tokens, where="block_0/*/kernel")
    query, out = (found[f"block_0/attention/{name}/kernel"] for name in ("query", "out"))
    assert query.shape == (10, 8)
    assert out.shape == (10, 2, 4)
    np.testing.assert_allclose(query.mean(-1), 0, atol=1e-5)  # what LayerNorm gave


def test_equinox():
    model = eqx.nn.MLP(3, 2, 4, 1, key=KEY)
    x = draw(13, 5, 3)
    found = taps(lambda m, x: jax.vmap(m)(x), model, x)
    hidden = jax.nn.relu(x @ model.layers[0].weight.T + model.layers[0].bias[None])
    np.testing.assert_allclose(found["layers/1/weight"], hidden, rtol=1e-5, atol=1e-6)


def test_vmap_and_grad():
    net = nets.mlp(3, (4,), 2)
    population = jax.vmap(net.init)(jr.split(KEY, 3))
    x = draw(14, 5, 3)
    found = jax.vmap(lambda p: taps(net.apply, p, x, read="gram"))(population)
    one = taps(net.apply, jax.tree.map(lambda w: w[1], population), x, read="gram")
    for name, gram in one.items():
        np.testing.assert_allclose(found[name][1], gram, rtol=1e-5, atol=1e-6)
    energy = lambda p: taps(lambda p, x: (x @ p["a"]) @ p["b"], p, x, read="gram")["b"].trace()
    params = {"a": draw(15, 3, 4), "b": draw(16, 4, 2)}
    np.testing.assert_allclose(
        jax.grad(energy)(params)["a"], 2 * x.T @ x @ params["a"], rtol=1e-4, atol=1e-4
    )


def test_half_types_are_summed_in_float32():
    params, x = {"w": jnp.ones((1, 1), jnp.bfloat16)}, jnp.ones((1000, 1), jnp.bfloat16)
    gram = taps(lambda p, x: x @ p["w"], params, x, read="gram")["w"]
    assert (gram.dtype, float(gram[0, 0])) == (jnp.float32, 1000.0)


def test_errors_name_leaf_and_line():
    def apply(params, x):
        masked = params["w"] * 2.0
        return x @ masked + params["b"][None]

    params, x = {"w": draw(17, 3, 2), "b": draw(18, 2)}, draw(19, 4, 3)
    assert taps(apply, params, x) == {}
    with pytest.raises(WeightSpaceError, match=r"w: meets no data .*mul at test_taps.py:\d+"):
        taps(apply, params, x, where="w")
    tied = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T
    with pytest.raises(WeightSpaceError, match=r"w: .*\(0,\) and \(1,\) at different places"):
        taps(tied, params, x)
    with pytest.raises(WeightSpaceError, match="picks no leaf"):
        taps(apply, params, x, where="nothing")


def test_branches_and_loops_are_left_out():
    def apply(params, x):
        x = jax.lax.cond(x[0, 0] > 0, lambda x: x @ params["w"], lambda x: x, x)
        x = jax.lax.while_loop(lambda x: (x > 9).any(), lambda x: x @ params["w"] / 9, x)
        return x @ params["out"]

    params, x = {"w": jnp.eye(3), "out": draw(20, 3, 2)}, draw(21, 4, 3)
    found = taps(apply, params, x)
    assert found.keys() == {"out"}
    np.testing.assert_allclose(found["out"], x, rtol=1e-6)
