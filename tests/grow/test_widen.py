"""Net2WiderNet keeps the function, whatever carries the group, and says where it could not."""

import forwards
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax import WeightSpaceError, grow, symmetry
from wslax.symmetry import Groups, Site


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


MODELS = {
    "mlp": (forwards.mlp_params, forwards.mlp, (2, 3), {0: 8, 1: 5}),
    "conv": (forwards.conv_variables, forwards.conv, (2, 6, 6, 2), {0: 7, 1: 5}),
    "normed": (forwards.residual_params, forwards.residual, (2, 3), {0: 8, 1: 7, 2: 9}),
}


def close(a, b, dtype=np.float64):
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    scale = np.abs(b).max()
    np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MODELS)
def test_the_function_stays(name, dtype):
    make, apply, shape, sizes = MODELS[name]
    params, groups = make(dtype=dtype)
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    edit = grow.widen(groups, sizes, key=3)
    wide = edit.apply(params)
    assert symmetry.sizes(wide, edit.groups) == sizes
    assert jax.tree.map(np.shape, edit.spec(params)) == jax.tree.map(np.shape, wide)
    close(apply(wide, x), apply(params, x), dtype)
    if dtype == np.float32:
        jitted = jax.jit(edit.apply)(params)
        jax.tree.map(np.testing.assert_array_equal, jitted, wide)


def test_a_flax_net_with_norms_over_its_channels():
    net = ws.nets.conv(8, [4, 6], 3)
    params, apply = jax.jit(net.init)(jax.random.key(0)), jax.jit(net.apply)
    layers, norms = ["conv_0", "norm_0", "conv_1", "norm_1", "out"], ("mean", "variance")
    groups = symmetry.feed_forward(params, layers, reductions={0: norms, 1: norms})
    wide = grow.widen(groups, {0: 8, 1: 18}, key=jax.random.key(1)).apply(params)
    x = jax.random.normal(jax.random.key(2), (5, 8, 8), "float32")
    close(apply(wide, x), apply(params, x), np.float32)


def test_heads_inside_a_fused_kernel():
    params, groups = forwards.attention_params()
    heads = Groups.from_sites(params, [groups.all[0].sites])
    edit = grow.widen(heads, {0: 5}, key=0)
    x = np.random.default_rng(1).normal(size=(2, 3, 4))
    close(forwards.attention(edit.apply(params), x, heads=5), forwards.attention(params, x))
    rng = np.random.default_rng(0)
    each = np.stack([rng.permutation(3) for _ in range(2)])
    moved = symmetry.permute(params, groups, {0: np.array([1, 0]), 1: each})
    assert not np.allclose(moved["qkv"], params["qkv"])
    close(forwards.attention(moved, x), forwards.attention(params, x))
    with pytest.raises(WeightSpaceError, match=r"qkv.*cannot get another size"):
        grow.widen(groups, {0: 5}, key=0)


def test_the_width_inside_heads():
    """`[features, heads * width]` values, averaged over positions: both factors of an axis."""
    params = forwards.draw(0, {"v": (4, 6), "out": (6, 4)})
    inner = [Site("v", 1, outer=2, size=3, role="produced")]
    inner += [Site("out", 0, outer=2, size=3, role="consumed")]
    heads = [Site("v", 1, size=2, inner=3, role="produced")]
    heads += [Site("out", 0, size=2, inner=3, role="consumed")]
    groups = Groups.from_sites(params, [heads, inner], per={1: (0,)})
    wide = grow.widen(groups, {1: 5, 0: 3}, key=1).apply(params)
    assert wide["v"].shape == (4, 15)
    x = np.random.default_rng(1).normal(size=(2, 4))
    apply = lambda p: np.tanh(x @ p["v"]) @ p["out"]
    close(apply(wide), apply(params))


@given(st.integers(5, 9), st.integers(4, 9), st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=40)
def test_any_size_any_map_on_the_host(first, second, key):
    params, groups = forwards.mlp_params(seed=key % 7)
    x = np.random.default_rng(0).normal(size=(2, 3))

    def apply(p):
        h = np.tanh(x @ p["a"]["kernel"] + p["a"]["bias"])
        return np.tanh(h @ p["b"]["kernel"] + p["b"]["bias"]) @ p["out"]["kernel"]

    wide = grow.widen(groups, {0: first, 1: second}, key=key).apply(params)
    assert isinstance(wide["a"]["kernel"], np.ndarray)
    close(apply(wide), apply(params))


@pytest.mark.parametrize("old", [1, 4])
def test_the_map_is_net2wider(old):
    """Section 2.2: identity, then random old units; every old unit's shares add up to one."""
    group = symmetry.Group(0, old, (Site("w", 0, size=old, role="consumed"),))
    width_map = grow.METHODS["net2wider"].width_map(group, 400, 5, np)
    index, out_scale = width_map.index, width_map.out_scale
    assert (index[:old] == np.arange(old)).all()
    assert width_map.in_scale is None
    np.testing.assert_allclose(np.bincount(index, out_scale), 1)
    counts = np.bincount(index[old:], minlength=old)
    assert np.abs(counts - 400 / old).max() < 6 * np.sqrt(400)
    traced = jax.jit(lambda k: grow.METHODS["net2wider"].width_map(group, 400, k, jnp))
    assert (traced(jax.random.key(5)).index == index).all()


def test_a_second_edit_composes():
    params, groups = forwards.mlp_params()
    first = grow.widen(groups, {0: 8}, key=0)
    second = grow.widen(first.groups, {0: 11, 1: 6}, key=1)
    both = ws.chain(first, second)
    wide = both.apply(params)
    x = np.random.default_rng(0).normal(size=(2, 3))
    close(forwards.mlp(wide, x), forwards.mlp(params, x))
    assert both.groups == grow.widen(groups, {0: 11, 1: 6}, key=2).groups
    with pytest.raises(WeightSpaceError, match=r"a/bias: .* shape \[5\], got \[8\]"):
        first.apply(first.apply(params))


def test_populations_share_a_map_or_have_their_own():
    params, groups = forwards.mlp_params()
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), params)
    x = np.random.default_rng(0).normal(size=(2, 3))
    outputs = jax.vmap(forwards.mlp, (0, None))(members, x)
    edit = grow.widen(groups, {0: 9}, key=0)
    shared = jax.vmap(edit.apply)(members)
    close(jax.vmap(forwards.mlp, (0, None))(shared, x), outputs)
    own = jax.jit(jax.vmap(lambda p, k: grow.widen(groups, {0: 9}, key=k).apply(p)))
    wide = own(members, jax.random.split(jax.random.key(1), 2))
    close(jax.vmap(forwards.mlp, (0, None))(wide, x), outputs)
    bias = np.asarray(wide["a"]["bias"])
    assert not np.allclose(bias[0] + 1, bias[1])


def test_copies_of_the_parameters_and_collections_follow():
    variables, groups = forwards.conv_variables()
    edit = grow.widen(groups, {0: 6}, key=0)
    wide = edit.apply(variables)
    both = edit.apply({"model": variables, "ema": variables, "step": np.int32(3)})
    jax.tree.map(np.testing.assert_array_equal, both["ema"], wide)
    for part in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, edit.apply(variables[part]), wide[part])
    assert both["step"] == 3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_avals_stay_and_half_types_divide_in_float32(dtype):
    params = {
        "in": jnp.ones((2, 3), dtype),
        "out": jnp.asarray(np.linspace(1, 2, 6).reshape(3, 2), dtype),
        "weak": jnp.full(3, 2.0),
        "id": jnp.arange(3),
    }
    sites = [("in", 1, "produced"), ("out", 0, "consumed"), ("weak", 0, "consumed")]
    groups = Groups.from_sites(params, [[*sites, ("id", 0, "elementwise")]])
    edit = grow.widen(groups, {0: 7}, key=0, noise=0.1)
    with jax.numpy_dtype_promotion("strict"):
        wide = edit.apply(params)
    for name, leaf in params.items():
        assert wide[name].dtype == leaf.dtype
        assert wide[name].weak_type == leaf.weak_type
    index = np.asarray(wide["id"])
    exact = np.asarray(params["out"]).astype(np.float64)[index]
    exact /= np.bincount(index)[index][:, None]
    error = np.asarray(wide["out"]).astype(np.float64) / exact - 1
    assert np.abs(error).max() <= jnp.finfo(dtype).eps


def test_noise_is_relative_and_on_new_incoming_weights_only():
    params, groups = forwards.mlp_params(widths=(200, 5, 4, 2))
    plain = grow.widen(groups, {0: 8}, key=0).apply(params)
    noisy = grow.widen(groups, {0: 8}, key=0, noise=0.01).apply(params)
    ratio = noisy["a"]["kernel"] / plain["a"]["kernel"] - 1
    assert (ratio[:, :5] == 0).all()
    assert abs(ratio[:, 5:].std() - 0.01) < 0.001
    for rest in ("b", "out"):
        jax.tree.map(np.testing.assert_array_equal, plain[rest], noisy[rest])
    np.testing.assert_array_equal(plain["a"]["bias"], noisy["a"]["bias"])


PARAMS, GROUPS = forwards.mlp_params()
LEAVES = [("a/kernel", 1, "produced"), ("a/bias", 0, "elementwise"), ("b/kernel", 0, "consumed")]


def with_traits(**traits):
    return Groups.from_sites(PARAMS, [LEAVES], **{k: {0: v} for k, v in traits.items()})


@pytest.mark.parametrize(
    ("groups", "sizes", "options", "sentence"),
    [
        (GROUPS, {0: 4}, {}, "group 0: has 5 units, .* got 4; `symmetry.take`"),
        (GROUPS, {2: 7}, {}, "no group 2; there are ids 0 to 1"),
        (GROUPS, {0: 7}, {"method": "net2wide"}, "Did you mean 'net2wider'"),
        (GROUPS, {0: 7}, {"noise": -1.0}, "noise: expected"),
        (with_traits(frozen_by="sort, model.py:3"), {0: 7}, {}, "is frozen by sort, model.py:3"),
        (with_traits(reductions=("softmax",)), {0: 10}, {}, "takes a softmax over the units"),
        (with_traits(reductions=("sum",)), {0: 10}, {}, "sums over the units"),
        (with_traits(reductions=("product",)), {0: 10}, {}, "one share cannot be right for both"),
        (with_traits(reductions=("variance",)), {0: 7}, {}, "uneven copies .* such as 10"),
        (Groups.from_sites(PARAMS, [LEAVES[:2]]), {0: 7}, {}, "no leaf consumes the group"),
        (
            Groups.from_sites(PARAMS, [[("a/kernel", 1, "consumed"), ("a/kernel", 1, "produced")]]),
            {0: 7},
            {},
            "a/kernel: .* along the same axis too",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(groups, sizes, options, sentence):
    with pytest.raises(WeightSpaceError, match=sentence):
        grow.widen(groups, sizes, key=0, **options)


def test_integers_that_would_be_divided_are_refused():
    params = {"w": np.ones((2, 3)), "o": np.ones((3, 2), np.int8)}
    groups = Groups.from_sites(params, [[("w", 1, "produced"), ("o", 0, "consumed")]])
    with pytest.raises(WeightSpaceError, match="o: is int8"):
        grow.widen(groups, {0: 5}, key=0).apply(params)


@pytest.mark.parametrize("xp", [np, jnp])
def test_weights_that_are_not_finite_are_named(xp):
    params = {"w": xp.ones((2, 3)), "o": xp.asarray([[1.0], [np.nan], [2]]), "far": xp.ones(1)}
    groups = Groups.from_sites(params, [[("w", 1, "produced"), ("o", 0, "consumed")]])
    edit = grow.widen(groups, {0: 5}, key=0)
    with pytest.raises(WeightSpaceError, match="ema/o: group 0: holds numbers that are not finite"):
        edit.apply({"ema": params})
    # Leaves that stay as they are may hold anything, and under jit nobody can look.
    assert np.isnan(edit.apply({**params, "o": xp.ones((3, 1)), "far": params["o"][1]})["far"])
    assert np.isnan(jax.jit(edit.apply)(params)["o"]).any()


def test_independent_maps_along_a_stream_would_break_it():
    """The control: what one map a group is for."""
    params, groups = forwards.residual_params(normed=False)
    wide = grow.widen(groups, {0: 8}, key=0).apply(params)
    other = grow.widen(groups, {0: 8}, key=1).apply(params)
    x = np.random.default_rng(1).normal(size=(2, 3))
    mixed = forwards.residual(other | {"embed": wide["embed"]}, x)
    expected = forwards.residual(params, x)
    assert np.abs(mixed - expected).max() > 0.1 * np.abs(expected).max()
