"""Supernets: identical experts, collapse, and masks against slices."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import wslax as ws
from wslax.grow import supernet

NET = ws.nets.mlp(5, (6, 7), 3)
NAMES = ("hidden_0", "hidden_1", "out")
CHOICES = {0: (2, 4, 6), 1: (3, 7)}
X = jr.normal(jr.key(9), (4, 5))


@functools.partial(jax.jit, static_argnums=(1, 2))
def collapse(net, space, sizes):
    return supernet.collapse(net, space, dict(enumerate(sizes)))


@functools.cache
def made(experts=2, routing="neuron", same=False, dtype=jnp.float32):
    population = ws.population.init(NET.init, jr.key(0), experts)
    # Biases begin at zero; here each expert has its own.
    population = jax.tree.map(lambda x: x + 0.1 * jr.normal(jr.key(1), x.shape), population)
    if same:
        population = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), population)
    population = jax.tree.map(lambda x: x.astype(dtype), population)
    first = ws.population.member(population, 0)
    space = supernet.space(ws.symmetry.feed_forward(first, NAMES), CHOICES)
    init = jax.jit(lambda experts: supernet.init(2, experts, space, routing=routing, hidden=8))
    return first, init(population), space


def sliced(params, a, b):
    """The subnet by hand."""
    h0, h1, out = (params[name] for name in NAMES)
    return {
        "hidden_0": {"kernel": h0["kernel"][:, :a], "bias": h0["bias"][:a]},
        "hidden_1": {"kernel": h1["kernel"][:a, :b], "bias": h1["bias"][:b]},
        "out": {"kernel": out["kernel"][:b], "bias": out["bias"]},
    }


def close(a, b, **how):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **how), a, b)


@pytest.mark.parametrize(
    ("experts", "routing"), [(1, "neuron"), (2, "neuron"), (3, "neuron"), (2, "layer")]
)
def test_identical_experts_are_the_plain_supernet(experts, routing):
    first, net, space = made(experts, routing, same=True)
    assert bool(net.routers) == (experts > 1)
    for a, b in ((4, 3), (6, 7)):
        close(collapse(net, space, (a, b)), sliced(first, a, b), rtol=1e-6)


@pytest.mark.parametrize("routing", supernet.ROUTINGS)
def test_collapsed_is_masked_for_all_architectures_in_one_program(routing):
    _, net, space = made(routing=routing)
    sizes = [(2, 3), (5, 1), (6, 7)]
    many = dict(enumerate(jnp.asarray(sizes).T))
    run = jax.jit(jax.vmap(lambda at: NET.apply(supernet.materialise(net, space, at), X)))
    for logits, (a, b) in zip(run(many), sizes, strict=True):
        small = collapse(net, space, (a, b))
        assert small["hidden_1"]["kernel"].shape == (a, b)
        np.testing.assert_allclose(NET.apply(small, X), logits, rtol=1e-5, atol=1e-6)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("routing", supernet.ROUTINGS)
def test_mixing_is_its_formula(routing):
    _, net, space = made(3, routing)
    assert set(net.routers) == {f"{name}/bias" for name in NAMES}
    code = np.array([(4 - 2) / (6 - 2), 0.0])
    got = jax.jit(lambda net: supernet.materialise(net, space, {0: 4, 1: 3}))(net)
    for name, rows in zip(NAMES, (4, 3, 3), strict=True):
        router = jax.tree.map(np.float64, net.routers[f"{name}/bias"])
        scores = np.einsum("h,h...->...", np.maximum(code @ router.inner, 0), router.outer)
        r = softmax(scores)  # [experts] or [units, experts]
        r = np.broadcast_to(r, (len(got[name]["bias"]), 3))
        experts = jax.tree.map(np.float64, net.params[name])
        kernel = np.einsum("jm,mij->ij", r, experts["kernel"])
        bias = np.einsum("jm,mj->j", r, experts["bias"])
        inputs = {"hidden_0": 5, "hidden_1": 4, "out": 3}[name]
        np.testing.assert_allclose(
            got[name]["kernel"][:inputs, :rows], kernel[:inputs, :rows], rtol=2e-5, atol=1e-6
        )
        np.testing.assert_allclose(got[name]["bias"][:rows], bias[:rows], rtol=2e-5, atol=1e-6)
        if name != "out":
            assert not np.asarray(got[name]["kernel"][:, rows:]).any()


def test_half_types_and_gradients():
    _, net, space = made(dtype=jnp.bfloat16)
    loss = lambda net: jnp.square(
        NET.apply(supernet.materialise(net, space, {0: 4, 1: 3}), X).astype(jnp.float32)
    ).mean()
    grads = jax.jit(jax.grad(loss))(net)
    assert grads.params["hidden_0"]["kernel"].dtype == jnp.bfloat16
    assert float(abs(grads.params["hidden_0"]["kernel"][:, :, 4:]).max()) == 0
    assert all(float(abs(leaf).max()) > 0 for leaf in jax.tree.leaves(grads))


def test_composite_axes_and_heads():
    """Channels in a flatten, and the units of two heads of attention."""
    rng = np.random.default_rng(0)
    w = {"a": rng.normal(size=(3, 2, 4)), "b": rng.normal(size=(2 * 4, 5))}
    w = jax.tree.map(jnp.float32, w)
    apply = lambda p, x: jnp.tanh(jnp.einsum("ni,ihd->nhd", x, p["a"])).reshape(-1, 8) @ p["b"]
    groups = ws.symmetry.infer(apply, w, X[:, :3])
    width = next(g.id for g in groups.free if g.size == 4)
    space = supernet.space(groups, {width: (1, 3, 4)})
    net = supernet.init(0, jax.tree.map(lambda x: jnp.stack([x, -2 * x]), w), space)
    assert net.routers["a"].outer.shape == (128, 2, 4, 2)
    masked = supernet.materialise(net, space, {width: 3})
    small = supernet.collapse(net, space, {width: 3})
    x = X[:, :3]
    out = jnp.tanh(jnp.einsum("ni,ihd->nhd", x, small["a"])).reshape(-1, 6) @ small["b"]
    np.testing.assert_allclose(out, apply(masked, x), rtol=1e-5, atol=1e-6)


def test_sandwich_is_biggest_smallest_and_random():
    *_, space = made()
    drawn = jax.jit(supernet.sandwich, static_argnums=(1, 2))(jr.key(0), space, 200)
    for id, sizes in CHOICES.items():
        assert drawn[id][:2].tolist() == [sizes[-1], sizes[0]]
        assert set(drawn[id][2:].tolist()) == set(sizes)
    other = supernet.sandwich(jr.key(1), space, 200)
    assert any((other[id] != drawn[id]).any() for id in CHOICES)
    pairs = {(int(a), int(b)) for a, b in zip(drawn[0][2:], drawn[1][2:], strict=True)}
    assert len(pairs) == 6  # sizes of two groups are drawn apart


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ({}, "at least one group"),
        ({0: (0, 2)}, "sizes are 1 to 6"),
        ({0: (2, 9)}, "sizes are 1 to 6"),
        ({5: (2,)}, "no group 5"),
    ],
)
def test_bad_spaces(choices, match):
    first, *_ = made(1)
    with pytest.raises(ws.WeightSpaceError, match=match):
        supernet.space(ws.symmetry.feed_forward(first, NAMES), choices)


def test_bad_input():
    first, net, space = made()
    groups = ws.symmetry.feed_forward(first, NAMES, reductions={0: ("variance",)})
    with pytest.raises(ws.WeightSpaceError, match="masked net is not"):
        supernet.space(groups, {0: (2,)})
    with pytest.raises(ws.WeightSpaceError, match=r"groups \[0, 1\], got \[0\]"):
        supernet.materialise(net, space, {0: 2})
    with pytest.raises(ws.WeightSpaceError, match="routing 'row'"):
        supernet.init(0, ws.population.stack([first]), space, routing="row")
    with pytest.raises(ws.WeightSpaceError, match="other names"):
        supernet.init(0, ws.population.stack([{"ema": first}]), space)
