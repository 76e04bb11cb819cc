"""LoRA's kin against their formulas in float64 numpy, and what they cost a population."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import WeightSpaceError, adapt, adapter, chain, edit, symmetry
from wslax.trace import factored, jaxpr

RNG = np.random.default_rng(0)
W = RNG.normal(size=(6, 4)).astype(np.float32)
DOWN, UP = RNG.normal(size=(6, 2)), RNG.normal(size=(2, 4))
NONE = {"w": {}}


def fused(made, train, fixed=None, w=W):
    parts = {name: jnp.asarray(x, jnp.float32) for name, x in train.items()}
    return np.asarray(made.fuse({"w": jnp.asarray(w)}, {"w": parts}, fixed or NONE)["w"])


@pytest.mark.parametrize(("options", "scale"), [
    ({}, 1), ({"alpha": 4}, 2), ({"alpha": 4, "rslora": True}, 4 / 2**0.5),
])  # fmt: skip
def test_lora(options, scale):
    found = fused(adapt.lora(2, **options), {"down": DOWN, "up": UP})
    assert np.allclose(found, W + scale * DOWN @ UP, atol=1e-5)


def dora(down, up, magnitude, norm=None):
    adapted = W + 2 * down @ up
    return adapted * magnitude / (np.linalg.norm(adapted, axis=0) if norm is None else norm)


def test_dora_and_that_its_norm_is_a_constant_to_the_gradient():
    train = {"down": DOWN, "up": UP, "magnitude": RNG.uniform(1, 2, 4)}
    made = adapt.dora(2, alpha=4)
    assert np.allclose(fused(made, train), dora(**train), atol=1e-5)
    weights = RNG.normal(size=W.shape)
    norm = np.linalg.norm(W + 2 * DOWN @ UP, axis=0)
    loss = lambda parts: (made.fuse({"w": jnp.asarray(W)}, {"w": parts}, NONE)["w"] * weights).sum()
    found = jax.grad(loss)({name: jnp.asarray(x, jnp.float32) for name, x in train.items()})
    for name, x in train.items():
        slope = np.zeros_like(x)
        for i in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[i] = 1e-5
            ends = [dora(**train | {name: x + s * step}, norm=norm) for s in (1, -1)]
            slope[i] = ((ends[0] - ends[1]) * weights).sum() / 2e-5
        assert np.allclose(found[name], slope, atol=1e-4)


def test_dora_of_a_column_of_zeros():
    params = {"w": jnp.asarray(W).at[:, 1].set(0)}
    made = adapt.dora(2)
    train, fixed = made.init(0, params)
    assert np.allclose(made.fuse(params, train, fixed)["w"], params["w"], atol=1e-6)
    slopes = jax.grad(lambda t: (made.fuse(params, t, fixed)["w"] ** 2).sum())(train)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))


def test_pissa():
    train, fixed = adapt.pissa(2).init(0, {"w": jnp.asarray(W)})
    left, singular, right = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    principal = (left[:, :2] * singular[:2]) @ right[:2]
    parts = {name: np.asarray(x, np.float64) for name, x in train["w"].items()}
    assert np.allclose(parts["down"] @ parts["up"], principal, atol=1e-5)
    assert np.allclose(np.linalg.norm(parts["down"], axis=0) ** 2, singular[:2], atol=1e-4)
    found = fused(adapt.pissa(2), {"down": DOWN, "up": UP}, fixed)
    assert np.allclose(found, W - principal + DOWN @ UP, atol=1e-5)


def test_vera():
    made = adapt.vera(3, key=5)
    of = lambda d, b, w=W: fused(made, {"d": d, "b": b}, w=w) - w
    units = np.eye(3), np.eye(4)
    # Linear in each vector, of rank one for a unit of d, and one column for a unit of b.
    whole = sum(of(d, np.ones(4)) for d in units[0])
    assert np.allclose(whole, sum(of(np.ones(3), b) for b in units[1]), atol=1e-5)
    d, b = RNG.normal(size=3), RNG.normal(size=4)
    first = [of(u, np.ones(4)) for u in units[0]]
    assert np.allclose(of(d, b), sum(x * c for x, c in zip(first, d, strict=True)) * b, atol=1e-4)
    assert [np.linalg.matrix_rank(x, 1e-4) for x in first] == [1, 1, 1]
    # One pair of projections for all leaves of a shape, another for another key.
    assert np.allclose(of(d, b), of(d, b, 0 * W), atol=1e-5)
    assert not np.allclose(of(d, b), fused(adapt.vera(3), {"d": d, "b": b}) - W, atol=0.1)


def test_veras_projections_are_kaimings():
    params = {"w": jnp.zeros((64, 400))}
    leaf = adapt.vera(256).apply(params, *adapt.vera(256).init(0, params))["w"]
    for projection, inputs in ((leaf.down, 64), (leaf.up.base.base, 256)):
        bound = (6 / inputs) ** 0.5
        assert 0.99 * bound < np.abs(projection).max() <= bound
        assert abs(np.mean(projection)) < 4 * bound / projection.size**0.5
        assert np.isclose(np.var(projection), bound**2 / 3, rtol=0.05)


def test_ia3():
    l, m = RNG.normal(size=4), RNG.normal(size=6)
    assert np.allclose(fused(adapt.ia3(), {"outputs": l}), W * l, atol=1e-6)
    assert np.allclose(fused(adapt.ia3(inputs=True), {"inputs": m}), W * m[:, None], atol=1e-6)


def test_factors_lie_by_what_the_model_does_with_the_axes():
    torch = lambda p, x: jnp.tanh(x @ p["w"].T) @ p["v"].T
    params = {"w": jnp.asarray(W.T), "v": jnp.ones((3, 4))}
    groups = symmetry.infer(torch, params, jnp.zeros((2, 6)))
    made = adapt.lora(2, groups=groups)
    train, fixed = made.init(0, params)
    assert jax.tree.map(jnp.shape, train["w"]) == {"down": (6, 2), "up": (2, 4)}
    assert not train["w"]["up"].any()
    assert train["w"]["down"].any()
    train["w"] = {"down": jnp.asarray(DOWN, jnp.float32), "up": jnp.asarray(UP, jnp.float32)}
    found = made.fuse(params, train, fixed)["w"]
    assert np.allclose(found, (W + DOWN @ UP).T, atol=1e-5)


def test_layers_of_a_stack_begin_apart():
    apply = lambda p, x: jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, p["w"])[0]
    params = {"w": jnp.zeros((3, 4, 4))}
    made = adapt.lora(2, groups=symmetry.infer(apply, params, jnp.zeros((2, 4))))
    down = made.init(0, params)[0]["w"]["down"]
    assert down.shape == (3, 4, 2)
    assert len({float(layer[0, 0]) for layer in down}) == 3


def test_half_types_are_rounded_once():
    w = jnp.asarray(W, jnp.bfloat16)
    found = fused(adapt.lora(2), {"down": DOWN, "up": UP}, w=w)
    exact = jnp.asarray(np.asarray(w, np.float64) + DOWN @ UP, jnp.bfloat16)
    assert np.array_equal(found, exact)


def test_a_population_holds_its_base_once():
    params, x = {"w": jnp.ones((6, 4))}, jnp.ones((5, 6))
    model = factored(lambda p, x: x @ p["w"], on_dense="error")
    for made in (adapt.lora(1), adapt.dora(1), adapt.vera(3), adapt.ia3()):
        begin = jax.vmap(lambda key, made=made: made.init(key, params)[0])
        train = begin(jax.random.split(jax.random.key(0), 7))
        fixed = made.init(0, params)[1]
        loss = lambda t, made=made, fixed=fixed: model(made.apply(params, t, fixed), x).sum()
        program, _ = jaxpr.trace(jax.vmap(jax.grad(loss)), train)
        shapes = {v.aval.shape for e in program.jaxpr.eqns for v in e.outvars}
        assert (7, 6, 4) not in shapes


def test_edits_go_on_from_a_trained_adapter():
    params = {"w": jnp.asarray(W)}
    made = adapt.lora(2)
    train = {"w": {"down": jnp.asarray(DOWN), "up": jnp.asarray(UP)}}
    halved = edit.from_map(lambda p: jax.tree.map(lambda x: x / 2, p))
    both = chain(adapter.fused(made, train, NONE), halved)
    assert np.allclose(both.apply(params)["w"], (W + DOWN @ UP) / 2, atol=1e-5)
    assert both.spec(params)["w"].shape == W.shape


def test_lora_plus():
    params = {"w": jnp.asarray(W)}
    train, _ = adapt.lora(2).init(0, params)
    rate = optax.linear_schedule(1.0, 0.0, 4)
    plus = adapt.lora_plus(rate, 4, optax.sgd)
    state = plus.init(train)
    ones = jax.tree.map(jnp.ones_like, train)
    for step in range(3):
        updates, state = plus.update(ones, state, train)
        assert np.allclose(updates["w"]["down"], -(1 - step / 4))
        assert np.allclose(updates["w"]["up"], -4 * (1 - step / 4))


def test_norms_and_biases():
    import equinox as eqx

    from wslax import nets

    vit = nets.transformer(11, 6, width=8, heads=2, depth=1).init(jax.random.key(0))
    found = adapt.norms(vit)
    assert sorted(name.split("/")[-2] for name in found if name.endswith("scale")) == sorted(
        {name.split("/")[-2] for name in found}
    )
    assert all(name.endswith("bias") for name in adapt.biases(vit))
    assert {n for n in found if n.endswith("bias")} < set(adapt.biases(vit))
    assert adapt.norms(eqx.nn.LayerNorm(4)) == ["weight", "bias"]
    stored = {"ln_1.weight": W[0], "ln_1.bias": W[0], "fc.weight": W, "fc.bias": W[0]}
    assert adapt.norms(stored) == ["ln_1.bias", "ln_1.weight"]


def test_ranks_and_leaves_that_do_not_fit():
    with pytest.raises(WeightSpaceError, match=r"w: rank 5 does not fit float32\[6,4\]; give 1 to"):
        adapt.lora(5).init(0, {"w": W})
    with pytest.raises(WeightSpaceError, match=r"b: expected a matrix of floats \[in, out\]"):
        adapt.lora(1, where="b").init(0, {"w": W, "b": W[0]})
    with pytest.raises(WeightSpaceError, match="at least one"):
        adapt.chain()


@pytest.mark.parametrize(
    "kind", ["lora", "dora", "pissa", "vera", "loha", "lokr", "miss", "splora"]
)
def test_no_rank_is_an_error_at_once(kind):
    with pytest.raises(WeightSpaceError, match="rank: expected an integer of at least 1, got 0"):
        getattr(adapt, kind)(0)


def test_kernels_that_nobody_named_are_warned_of():
    params = {"conv": np.zeros((3, 3, 2, 2), np.float32), "w": W}
    with pytest.warns(UserWarning, match="nothing is adapted in conv: which of their axes"):
        train, _ = adapt.lora(1).init(0, params)
    assert list(train) == ["w"]
    adapt.lora(1, where="w").init(0, params)  # without a warning
