"""Permuting and taking units against numpy on reshaped axes, and the function of real models."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax import WeightSpaceError, nets, symmetry, tree
from wslax.symmetry import Groups, Site


def reference(leaf, site, index):
    """The definition of a site, transcribed: tiles, then units of `inner` elements."""
    moved = np.moveaxis(leaf, site.axis, 0)
    tiles = moved.reshape(site.outer, -1, *moved.shape[1:])
    first, last = site.start * site.inner, (site.start + site.size) * site.inner
    body = tiles[:, first:last].reshape(site.outer, site.size, site.inner, *moved.shape[1:])
    body = np.take(body, index, axis=1).reshape(site.outer, -1, *moved.shape[1:])
    new = np.concatenate([tiles[:, :first], body, tiles[:, last:]], 1)
    return np.moveaxis(new.reshape(-1, *moved.shape[1:]), 0, site.axis)


@st.composite
def composite_axes(draw):
    outer, start, size, inner, rest = (draw(st.integers(low, 3)) for low in (1, 0, 1, 1, 0))
    axis = draw(st.integers(0, 1))
    site = Site("w", axis, outer, start, size=size, inner=inner, role="produced")
    length = outer * ((start + size) * inner + rest)
    index = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))
    return site, (length, 2) if axis == 0 else (2, length), np.array(index)


@given(composite_axes())
@settings(deadline=None, max_examples=60)
def test_take_is_the_definition_of_a_site(case):
    site, shape, index = case
    params = {"w": np.arange(np.prod(shape), dtype=np.float32).reshape(shape)}
    groups = Groups.from_sites(params, [[site]])
    taken = symmetry.take(params, groups, {0: index})["w"]
    assert isinstance(taken, np.ndarray)
    assert (taken == reference(params["w"], site, index)).all()
    after = symmetry.resize(groups, {0: len(index)})
    assert symmetry.sizes({"w": taken}, after) == {0: len(index)}
    assert Groups.from_json(after.to_json()) == after


def test_a_hidden_permutation_keeps_the_function_under_jit_and_vmap():
    net = nets.mlp(3, [6, 5], 2)
    params = net.init(jax.random.key(0))
    groups = symmetry.feed_forward(params, ["hidden_0", "hidden_1", "out"])
    x = jax.random.normal(jax.random.key(1), (4, 3))
    rng = np.random.default_rng(0)
    perms = {i: np.stack([rng.permutation(n) for _ in range(3)]) for i, n in ((0, 6), (1, 5))}

    def permuted(perms):
        return symmetry.permute(params, groups, perms)

    members = jax.jit(jax.vmap(permuted))(perms)
    for m in range(3):
        eager = permuted({i: p[m] for i, p in perms.items()})
        assert not (eager["hidden_0"]["kernel"] == params["hidden_0"]["kernel"]).all()
        np.testing.assert_allclose(net.apply(eager, x), net.apply(params, x), atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, tree_member(members, m), eager)


def tree_member(population, m):
    return jax.tree.map(lambda leaf: leaf[m], population)


def test_convolution_flatten_and_statistics():
    from importlib.util import module_from_spec, spec_from_file_location
    from pathlib import Path

    path = Path(__file__).parent.parent / "grow" / "forwards.py"
    spec = spec_from_file_location("forwards_of_growth", path)
    forwards = module_from_spec(spec)
    spec.loader.exec_module(forwards)
    with jax.enable_x64(True):
        for make, apply, shape in (
            (forwards.conv_variables, forwards.conv, (2, 6, 6, 2)),
            (forwards.residual_params, forwards.residual, (2, 3)),
        ):
            params, groups = make()
            x = np.random.default_rng(1).normal(size=shape)
            rng = np.random.default_rng(2)
            perms = {g.id: rng.permutation(g.size) for g in groups.free}
            moved = symmetry.permute(params, groups, perms)
            np.testing.assert_allclose(apply(moved, x), apply(params, x), rtol=1e-12, atol=1e-12)


@pytest.fixture
def stacked():
    """Three layers of a scan, `[layer, in, heads * width]`; widths permute per layer and head."""
    params = {"w": np.arange(3 * 2 * 8.0).reshape(3, 2, 8), "b": np.arange(24.0).reshape(3, 8)}
    sites = [
        [("w", 0, "produced"), ("b", 0, "produced")],
        [Site(n, a, size=2, inner=4, role="produced") for n, a in (("w", 2), ("b", 1))],
        [Site(n, a, outer=2, size=4, role="produced") for n, a in (("w", 2), ("b", 1))],
    ]
    frozen = {0: "lax.scan over the layers"}
    return params, Groups.from_sites(params, sites, per={2: (0, 1), 1: (0,)}, frozen_by=frozen)


@pytest.mark.parametrize("traced", [False, True])
def test_outer_units_have_permutations_of_their_own(stacked, traced):
    params, groups = stacked
    assert [g.id for g in groups.at("w", 2)] == [1, 2]
    rng = np.random.default_rng(0)
    perm = np.array([[rng.permutation(4) for _ in range(2)] for _ in range(3)])
    permute = lambda p: symmetry.permute(params, groups, {2: p})
    moved = jax.jit(permute)(perm) if traced else permute(perm)
    for layer in range(3):
        for head in range(2):
            for name in ("w", "b"):
                old = params[name].reshape(3, -1, 2, 4)[layer, :, head]
                new = np.asarray(moved[name]).reshape(3, -1, 2, 4)[layer, :, head]
                assert (new == old[:, perm[layer, head]]).all()
    one = symmetry.permute(params, groups, {2: perm[0, 0]})
    same = symmetry.permute(params, groups, {2: np.broadcast_to(perm[0, 0], (3, 2, 4))})
    jax.tree.map(np.testing.assert_array_equal, one, same)


def test_taking_different_units_at_each_outer_unit(stacked):
    params, groups = stacked
    index = np.array([[1, 0], [3, 3], [2, 0]])
    index = np.stack([index, 3 - index], 1)
    taken = symmetry.take(params, groups, {2: index})["b"].reshape(3, 2, 2)
    old = params["b"].reshape(3, 2, 4)
    assert (taken == np.take_along_axis(old, index, 2)).all()
    heads = symmetry.permute(params, groups, {1: np.array([[1, 0], [0, 1], [1, 0]])})["b"]
    assert (heads[0] == np.roll(params["b"][0], 4)).all()
    assert (heads[1] == params["b"][1]).all()


def test_nested_and_neighbouring_pieces_move_along():
    params = {"w": np.zeros((2, 10)), "heads": np.zeros(12)}
    groups = Groups.from_sites(
        params,
        [
            [Site("w", 1, size=4, role="produced")],
            [Site("w", 1, start=4, size=6, role="produced")],
            [Site("heads", 0, size=3, inner=4, role="produced")],
            [Site("heads", 0, outer=3, size=4, role="produced")],
        ],
    )
    after = symmetry.resize(groups, {0: 5, 2: 6, 3: 8})
    assert after.all[1].sites[0] == Site("w", 1, start=5, size=6, role="produced")
    assert after.all[2].sites[0] == Site("heads", 0, size=6, inner=8, role="produced")
    assert after.all[3].sites[0] == Site("heads", 0, outer=6, size=8, role="produced")
    assert after.shape == {"w": (2, 11), "heads": (48,)}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8"])
def test_avals_stay(dtype):
    with jax.enable_x64(True):
        params = {"w": jnp.zeros((2, 3), dtype), "weak": jnp.full(3, 2.0), "key": jax.random.key(0)}
        groups = Groups.from_sites(params, [[("w", 1, "produced"), ("weak", 0, "elementwise")]])
        perm = np.array([2, 0, 1])
        out = jax.eval_shape(lambda p: symmetry.permute(p, groups, {0: perm}), params)
        for name in params:
            assert out[name].dtype == params[name].dtype
            assert out[name].shape == params[name].shape
            weak = getattr(params[name], "weak_type", False)
            assert out[name].weak_type == weak


def test_the_same_permutation_of_an_optimizer_state():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.arange(3.0)}
    groups = Groups.from_sites(params, [[("w", 1, "produced"), ("b", 0, "elementwise")]])
    optimizer = optax.adam(0.1)
    permute = lambda p: symmetry.permute(p, groups, {0: np.array([2, 0, 1])})
    _, state = optimizer.update(params, optimizer.init(params))
    _, expected = optimizer.update(permute(params), optimizer.init(permute(params)))
    moved = tree.map_like(permute, state, params)
    jax.tree.map(np.testing.assert_array_equal, moved, expected)


def test_where_the_leaves_are_found():
    params = {"params": {"l": {"w": np.zeros(3)}}, "batch_stats": {"l": {"m": np.zeros(3)}}}
    sites = [("params/l/w", 0, "elementwise"), ("batch_stats/l/m", 0, "elementwise")]
    groups = Groups.from_sites(params, [sites])
    assert symmetry.sizes(params, groups) == {0: 3}
    assert symmetry.locate(params["params"], groups) == {"l/w": "params/l/w"}
    both = symmetry.locate({"now": params, "ema": params, "step": 1}, groups)
    assert sorted(both)[0] == "ema/batch_stats/l/m"
    assert len(both) == 4


GROUPS = Groups.from_sites({"a": {"w": np.zeros((2, 3))}}, [[("a/w", 1, "produced")]])
GOOD = {"a": {"w": np.zeros((2, 3))}}


@pytest.mark.parametrize(
    ("params", "perms", "sentence"),
    [
        (GOOD, {1: np.arange(3)}, "no group 1; there are ids 0 to 0"),
        (GOOD, {0: np.arange(4)}, "integers of shape .3., got int64.4."),
        (GOOD, {0: np.zeros(3)}, "expected integers"),
        (GOOD, {0: np.zeros((2, 3), int)}, "expected integers"),
        (GOOD, {0: np.array([0, 1, 1])}, r"not a permutation, \[0, 1, 1\]"),
        (GOOD, {0: np.array([0, 1, 3])}, "units are 0 to 2"),
        ({"a": {"v": np.zeros((2, 3))}}, {0: np.arange(3)}, "a/w: .* none of that name"),
        (
            {"a": {"w": np.zeros((2, 4))}},
            {0: np.arange(3)},
            r"a/w: .* shape \[2, 3\], got \[2, 4\]",
        ),
        ({"a": {"w": np.zeros((5, 2, 3))}}, {0: np.arange(3)}, r"a/w: .*`jax\.vmap"),
    ],
)
def test_bad_input_is_named(params, perms, sentence):
    with pytest.raises(WeightSpaceError, match=sentence):
        symmetry.permute(params, GROUPS, perms)


def test_an_outer_unit_that_cannot_be_told_is_refused():
    params = {"w": np.zeros((2, 2, 3))}
    sites = [[("w", 0, "produced"), ("w", 1, "consumed")], [("w", 2, "produced")]]
    groups = Groups.from_sites(params, sites, per={1: (0,)})
    with pytest.raises(WeightSpaceError, match=r"w: group 0 runs through axes \[0, 1\]"):
        symmetry.permute(params, groups, {1: np.tile(np.arange(3), (2, 1))})
