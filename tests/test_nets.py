"""The nets compute what their docstrings say, and read their widths from the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import nets

KEY = jax.random.key(0)


def numpy_mlp(params, x):
    h = x.reshape(len(x), -1)
    for i in range(len(params) - 1):
        layer = params[f"hidden_{i}"]
        h = np.maximum(h @ layer["kernel"] + layer["bias"], 0)
    return h @ params["out"]["kernel"] + params["out"]["bias"]


def test_mlp_is_its_formula():
    net = nets.mlp(12, (7, 5), 3)
    params = jax.tree.map(lambda x: x + 0.1, net.init(KEY))
    x = np.random.default_rng(0).normal(size=(4, 3, 4)).astype(np.float32)
    wanted = numpy_mlp(jax.device_get(params), x)
    np.testing.assert_allclose(net.apply(params, x), wanted, rtol=1e-5, atol=1e-5)


def numpy_norm(x, params, axes):
    """Normalisation over `axes` with a scale and a bias on the last one."""
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * params["scale"] + params["bias"]


def numpy_conv(params, x):
    """3x3, stride 2, same padding as XLA's: one more row after than before where odd."""
    h = x[..., None]
    for i in range(sum(name.startswith("conv_") for name in params)):
        kernel, size = params[f"conv_{i}"]["kernel"], h.shape[1]
        out = -(-size // 2)
        pad = max((out - 1) * 2 + 3 - size, 0)
        padded = np.pad(h, [(0, 0), *[(pad // 2, pad - pad // 2)] * 2, (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
        h = np.einsum("bijcuv,uvcd->bijd", windows, kernel) + params[f"conv_{i}"].get("bias", 0)
        h = np.maximum(numpy_norm(h, params[f"norm_{i}"], (1, 2, 3)), 0)
    return h.mean((1, 2)) @ params["out"]["kernel"] + params["out"]["bias"]


def test_conv_is_its_formula():
    net = nets.conv(7, (4, 6), 3)
    params = jax.tree.map(lambda x: x + 0.1, net.init(KEY))
    x = np.random.default_rng(1).normal(size=(5, 7, 7)).astype(np.float32)
    wanted = numpy_conv(jax.device_get(params), x)
    np.testing.assert_allclose(net.apply(params, x), wanted, rtol=1e-4, atol=1e-4)


def numpy_transformer(params, tokens):
    table = params["embedding"]["embedding"]
    x = table[tokens] + params["position"]["embedding"][: tokens.shape[1]]
    length = tokens.shape[1]
    for i in range(sum(name.startswith("block_") for name in params)):
        block = params[f"block_{i}"]
        norms = sorted(name for name in block if "norm" in name.lower())
        h = numpy_norm(x, block[norms[0]], -1)
        q, k, v = (
            np.einsum("btd,dhk->bthk", h, block["attention"][n]["kernel"])
            + block["attention"][n].get("bias", 0)
            for n in ("query", "key", "value")
        )
        scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(q.shape[-1])
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("bhts,bshk->bthk", weights, v)
        out = np.einsum("bthk,hkd->btd", out, block["attention"]["out"]["kernel"])
        x = x + out + block["attention"]["out"].get("bias", 0)
        h = numpy_norm(x, block[norms[1]], -1)
        h = h @ block["up"]["kernel"] + block["up"]["bias"]
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ block["down"]["kernel"] + block["down"]["bias"]
    final = next(name for name in params if "norm" in name.lower())
    return numpy_norm(x, params[final], -1) @ table.T


def test_transformer_is_its_formula():
    net = nets.transformer(11, 6, width=8, heads=2, depth=2)
    params = jax.tree.map(
        lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
        net.init(KEY),
    )
    tokens = np.random.default_rng(2).integers(0, 11, (3, 5))
    wanted = numpy_transformer(jax.tree.map(lambda x: np.asarray(x, float), params), tokens)
    np.testing.assert_allclose(net.apply(params, tokens), wanted, rtol=1e-4, atol=1e-4)


NETS = {
    "mlp": (nets.mlp(12, (7,), 3), nets.mlp(12, (9, 4), 3), jnp.ones((2, 12))),
    "conv": (nets.conv(8, (4,), 3), nets.conv(8, (5, 3), 3), jnp.ones((2, 8, 8))),
    "transformer": (
        nets.transformer(11, 6, width=8, heads=2, depth=1),
        nets.transformer(11, 6, width=8, heads=4, depth=2),
        jnp.ones((2, 6), int),
    ),
}


@pytest.mark.parametrize("kind", NETS)
def test_apply_reads_its_widths_from_the_parameters(kind):
    one, other, x = NETS[kind]
    params = other.init(KEY)
    np.testing.assert_array_equal(one.apply(params, x), other.apply(params, x))


@pytest.mark.parametrize("kind", NETS)
def test_a_population_runs_through_vmap(kind):
    net, _, x = NETS[kind]
    members = ws.population.init(net.init, KEY, 3)
    together = jax.jit(jax.vmap(net.apply, (0, None)))(members, x)
    for i, params in enumerate(ws.population.unstack(members)):
        np.testing.assert_allclose(together[i], net.apply(params, x), rtol=2e-5, atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ws.WeightSpaceError, match="heads: 3 do not divide width 8"):
        nets.transformer(11, 6, width=8, heads=3)


def test_accuracy_and_cross_entropy_are_their_formulas():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = -np.log(share[np.arange(50), labels]).mean()
    np.testing.assert_allclose(nets.cross_entropy(logits, labels), wanted, rtol=1e-5)
    assert float(nets.accuracy(logits, labels)) == pytest.approx(
        (logits.argmax(1) == labels).mean()
    )
