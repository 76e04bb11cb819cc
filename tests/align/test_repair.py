"""REPAIR: numpy's layer-by-layer transcription, Flax's own running statistics, and exact cases."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from wslax import WeightSpaceError, align, data, merge, nets, population, symmetry
from wslax.trace import taps

KEY = jr.key(0)


def noisy(params, key, scale=0.5):
    """The same tree with every leaf moved, so that biases and statistics are not zero or one."""
    leaves, structure = jax.tree.flatten(params)
    keys = jr.split(key, len(leaves))
    moved = [x + scale * jr.uniform(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(structure, moved)


def by_numpy(models, merged, x, coef, layers):
    """Each layer's statistics in turn, in float64; the last layer is left alone."""
    f64 = lambda tree: jax.tree.map(lambda w: np.asarray(w, np.float64), tree)
    models, merged = [f64(m) for m in models], f64(merged)
    hidden = [np.asarray(x, np.float64)] * len(models)
    own = np.asarray(x, np.float64)
    for name in layers:
        made = [
            h @ m[name]["kernel"] + m[name]["bias"] for h, m in zip(hidden, models, strict=True)
        ]
        goal_mean = sum(c * z.mean(0) for c, z in zip(coef, made, strict=True))
        goal = sum(c * z.std(0) for c, z in zip(coef, made, strict=True))
        z = own @ merged[name]["kernel"] + merged[name]["bias"]
        scale = goal / z.std(0)
        merged[name]["bias"] = scale * (merged[name]["bias"] - z.mean(0)) + goal_mean
        merged[name]["kernel"] = merged[name]["kernel"] * scale
        own = np.maximum((z - z.mean(0)) * scale + goal_mean, 0)
        hidden = [np.maximum(z, 0) for z in made]
    return merged


@pytest.mark.parametrize("coef", [None, (0.8, 0.2)])
def test_equal_to_layer_by_layer_numpy(coef):
    net, x = nets.mlp(5, (8, 6), 3), jr.normal(KEY, (40, 5))
    models = [noisy(net.init(k), k) for k in jr.split(KEY, 2)]
    pair = population.stack(models)
    merged = merge.linear(pair)
    groups = symmetry.infer(net.apply, merged, x)
    weights = None if coef is None else jnp.array(coef)
    fix = jax.jit(lambda m, p, x: align.repair(net.apply, m, p, groups, x, coef=weights))
    found = fix(merged, pair, x)
    expected = by_numpy(models, merged, x, coef or (0.5, 0.5), ["hidden_0", "hidden_1"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), found, expected
    )


class Normed(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate((4, 6)):
            norm = nn.BatchNorm(use_running_average=not self.train, momentum=0.0, name=f"norm_{i}")
            x = nn.relu(norm(nn.Conv(width, (3, 3), use_bias=False, name=f"conv_{i}")(x)))
        return nn.Dense(3)(x.mean((1, 2)))


def test_running_statistics_are_those_of_flax_in_training():
    """With momentum 0 Flax's training mode stores exactly what RESET asks for."""
    x = jr.normal(KEY, (6, 5, 5, 2))
    models = [noisy(Normed().init(k, x), k) for k in jr.split(KEY, 2)]
    pair = population.stack(models)
    merged = merge.linear(pair)
    apply = Normed().apply
    groups = symmetry.infer(apply, merged, x)
    found = align.repair(apply, merged, pair, groups, x)
    _, trained = Normed(train=True).apply(merged, x, mutable=["batch_stats"])
    for a, b in zip(
        jax.tree.leaves(found["batch_stats"]), jax.tree.leaves(trained["batch_stats"]), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, found["params"], merged["params"])


def stacked(params, x):
    def layer(h, p):
        return jnp.tanh(jnp.einsum("bi,io->bo", h, p["w"]) + p["b"][None]), None

    h = jax.lax.scan(layer, x @ params["in"], params["layers"])[0]
    return h @ params["out"]


def test_layers_of_a_scan():
    """Each layer of the repaired model has the mean statistics of the two models."""
    shapes = {"in": (3, 5), "layers": {"w": (4, 5, 5), "b": (4, 5)}, "out": (5, 2)}
    make = lambda k: noisy(jax.tree.map(jnp.zeros, shapes, is_leaf=lambda s: type(s) is tuple), k)
    models, x = [make(k) for k in jr.split(KEY, 2)], jr.normal(KEY, (30, 3))
    pair = population.stack(models)
    merged = merge.linear(pair)
    found = align.repair(stacked, merged, pair, symmetry.infer(stacked, merged, x), x)

    def deviations(params):
        made = taps(stacked, params, x, read="outputs")["layers/w"]
        return np.std(made, 1)

    goal = (deviations(models[0]) + deviations(models[1])) / 2
    np.testing.assert_allclose(deviations(found), goal, rtol=1e-3)
    assert np.abs(deviations(merged) / goal - 1).max() > 0.05


def test_equal_models_stay_and_half_types_keep_their_type():
    net, x = nets.mlp(5, (8,), 3), jr.normal(KEY, (40, 5))
    one = jax.tree.map(lambda w: w.astype(jnp.bfloat16), noisy(net.init(KEY), KEY))
    groups = symmetry.infer(net.apply, one, x)
    found = align.repair(net.apply, one, population.stack([one, one]), groups, x)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), rtol=0.01, atol=0.01
        )


def test_errors():
    x = jnp.ones((4, 3))
    bare = lambda p, x: jax.nn.relu(x @ p["w"]) @ p["out"]
    params = {"w": jnp.ones((3, 5)), "out": jnp.ones((5, 2))}
    pair = population.stack([params, params])
    groups = symmetry.infer(bare, params, x)
    with pytest.raises(WeightSpaceError, match="nothing to repair"):
        align.repair(bare, params, pair, groups, x)
    with pytest.raises(WeightSpaceError, match=r"coef: expected one a model, \[2\]"):
        align.repair(bare, params, pair, groups, x, coef=jnp.ones(3))

    def shared(p, x):
        h = jax.nn.relu(x @ p["w"] + p["b"][None])
        return h + jax.nn.relu(2 * x @ p["w"] + p["b"][None])

    params = {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}
    whole = symmetry.Groups.from_sites(params, [[("w", 1, "produced"), ("b", 0, "elementwise")]])
    with pytest.raises(WeightSpaceError, match="used at several places"):
        align.repair(shared, params, population.stack([params, params]), whole, x)


def test_digits_lose_less_between_aligned_nets():
    """The paper's claim at the smallest size: matching helps, and repair helps further."""
    net = nets.mlp(64, (64, 64, 64), 10)
    (x, y), (test_x, test_y) = data.digits().train, data.digits().test
    loss = lambda p: nets.cross_entropy(net.apply(p, x), y)

    @jax.jit
    @jax.vmap
    def train(key):
        step = lambda p, _: (jax.tree.map(lambda w, g: w - 0.3 * g, p, jax.grad(loss)(p)), None)
        return jax.lax.scan(step, net.init(key), length=150)[0]

    models = population.unstack(train(jr.split(KEY, 4)))
    groups = symmetry.infer(net.apply, models[0], x)
    match = jax.jit(lambda a, b: symmetry.permute(b, groups, align.weight_matching(a, b, groups)))
    fix = jax.jit(lambda m, p: align.repair(net.apply, m, p, groups, x))
    losses = []
    for a, b in (models[:2], models[2:]):
        pair = population.stack([a, match(a, b)])
        merged = merge.linear(pair)
        test = lambda p: float(nets.cross_entropy(net.apply(p, test_x), test_y))
        losses.append(
            (test(merge.linear(population.stack([a, b]))), test(merged), test(fix(merged, pair)))
        )
    plain, aligned, repaired = np.mean(losses, 0)
    assert repaired < aligned < plain
