"""Rescaling and flipping units against numpy, and the balanced form against the least norm."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from zoo import ZOO

from wslax import WeightSpaceError, symmetry, tree
from wslax.symmetry import Groups, Site, balance, infer, permute, rescale, same_function
from wslax.symmetry.proof import random_scales, random_signs, randomised

PARAMS = {"w": np.arange(24.0, dtype=np.float32).reshape(3, 8), "o": np.ones((8, 2), np.float32)}
SITES = [("w", 1, "produced"), ("o", 0, "consumed")]
GROUPS = Groups.from_sites(
    PARAMS, [SITES], scales={0: ((1, -2), (0, 1))}, signs={0: ((1, 1), (0, 1))}
)


@pytest.mark.parametrize("traced", [False, True])
def test_factors_are_raised_to_the_exponents(traced):
    factors = np.random.default_rng(0).uniform(0.5, 2, (2, 8)).astype(np.float32)
    act = lambda f: rescale(PARAMS, GROUPS, {0: f})
    moved = (jax.jit(act) if traced else act)(factors)
    np.testing.assert_allclose(moved["w"], PARAMS["w"] * factors[0], rtol=1e-6)
    np.testing.assert_allclose(
        moved["o"].T, factors[1] / factors[0] ** 2 * PARAMS["o"].T, rtol=1e-6
    )


@pytest.mark.parametrize("traced", [False, True])
def test_signs_follow_the_order(traced):
    rng = np.random.default_rng(0)
    order, signs = rng.permutation(8), rng.choice([-1, 1], (2, 8))
    act = lambda order, signs: permute(PARAMS, GROUPS, {0: order}, {0: signs})
    moved = (jax.jit(act) if traced else act)(order, signs)
    assert (moved["w"] == PARAMS["w"][:, order] * signs[0]).all()
    assert (moved["o"] == PARAMS["o"][order] * signs.prod(0)[:, None]).all()


def test_outer_units_have_factors_of_their_own():
    params = {"w": np.ones((3, 2, 8), np.float32)}
    sites = [
        [("w", 0, "produced")],
        [Site("w", 2, size=2, inner=4, role="produced")],
        [Site("w", 2, outer=2, size=4, role="produced")],
    ]
    groups = Groups.from_sites(
        params, sites, per={2: (0, 1)}, frozen_by={0: "scan"}, scales={2: ((2,),)}
    )
    factors = np.random.default_rng(0).uniform(0.5, 2, (1, 3, 2, 4)).astype(np.float32)
    moved = rescale(params, groups, {2: factors})["w"].reshape(3, 2, 2, 4)
    np.testing.assert_allclose(moved, (factors[0] ** 2)[:, None].repeat(2, 1), rtol=1e-6)
    same = rescale(params, groups, {2: factors[:, 0, 0]})["w"].reshape(3, 2, 2, 4)
    np.testing.assert_allclose(same, np.broadcast_to(factors[0, 0, 0] ** 2, same.shape), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8"])
def test_avals_stay(dtype):
    params = {"w": jnp.ones((3, 8), dtype), "o": jnp.full((8, 2), 2.0)}
    act = lambda p: rescale(permute(p, GROUPS, {}, {0: -np.ones((2, 8))}), GROUPS, {0: FACTORS})
    out = jax.eval_shape(act, params)
    for name in params:
        assert (out[name].shape, out[name].dtype) == (params[name].shape, params[name].dtype)
        assert out[name].weak_type == params[name].weak_type
    if dtype == "int8":
        assert (act(params)["w"] == 1).all()


FACTORS = np.full((2, 8), 2.0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: rescale(PARAMS, GROUPS, {0: np.ones(8)}), r"scales of shape \[2, 8\], one row"),
        (lambda: rescale(PARAMS, GROUPS, {0: -FACTORS}), "scales are positive"),
        (lambda: rescale(PARAMS, GROUPS, {0: FACTORS * np.inf}), "scales are positive"),
        (lambda: rescale(PARAMS, GROUPS, {1: FACTORS}), "no group 1"),
        (lambda: permute(PARAMS, GROUPS, {}, {0: FACTORS}), "signs are -1 or 1"),
        (
            lambda: rescale(PARAMS, Groups.from_sites(PARAMS, [SITES]), {0: FACTORS}),
            "no symmetry of scales",
        ),
    ],
)
def test_bad_factors_are_named(call, sentence):
    with pytest.raises(WeightSpaceError, match=sentence):
        call()


def test_exponents_go_through_json_and_resizing_and_stand_in_the_table():
    assert Groups.from_json(GROUPS.to_json()) == GROUPS
    assert symmetry.resize(GROUPS, {0: 5}).all[0].scales == GROUPS.all[0].scales
    assert "scales 1, -2" in GROUPS.table()
    assert "signs 0, 1" in GROUPS.table()


@pytest.mark.parametrize(
    "options",
    [
        {"scales": {0: ((1,),)}},
        {"scales": {0: ((0, 0),)}},
        {"signs": {0: ((2, 1),)}},
    ],
)
def test_exponents_that_do_not_fit_are_refused(options):
    with pytest.raises(WeightSpaceError, match="do not fit its 2 sites"):
        Groups.from_sites(PARAMS, [SITES], **options)


def test_exponents_of_a_frozen_group_and_of_one_place_are_refused():
    with pytest.raises(WeightSpaceError, match="is frozen"):
        Groups.from_sites(PARAMS, [SITES], scales={0: ((1, 1),)}, frozen_by={0: "sort"})
    tied = [("w", 1, "produced"), ("w", 1, "consumed")]
    with pytest.raises(WeightSpaceError, match="the same where sites differ in role alone"):
        Groups.from_sites(PARAMS, [tied], scales={0: ((1, -1),)})


def model(name):
    apply, params, inputs = ZOO[name]()
    with jax.numpy_rank_promotion("allow"):
        return randomised(jr.key(2), params), infer(apply, params, *inputs)


def test_balanced_is_the_least_norm():
    """Against scipy's minimiser over the logarithms of all factors."""
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 4), "a_b": (4,), "b": (4, 5), "c": (5, 2)}
    params = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    relu = jax.nn.relu
    with jax.numpy_rank_promotion("allow"):
        apply = lambda p, x: relu(relu(x @ p["a"] + p["a_b"]) @ p["b"]) ** 2 @ p["c"]
        groups = infer(apply, params, jnp.ones((1, 3)))
    assert sorted(g.scales for g in groups.free) == [((1, -2),), ((1, 1, -1),)]

    def moved(logs):
        s, t = np.exp(logs[:4]), np.exp(logs[4:])
        new = {"a": params["a"] * s, "a_b": params["a_b"] * s}
        return new | {"b": params["b"] / s[:, None] * t, "c": params["c"] / t[:, None] ** 2}

    norm = lambda logs: sum((x.astype(float) ** 2).sum() for x in moved(logs).values())
    best = moved(minimize(norm, np.zeros(9), tol=1e-14).x)
    for name, leaf in balance(params, groups).items():
        np.testing.assert_allclose(leaf, best[name], rtol=2e-4, atol=2e-5)


def test_units_that_share_a_square_weight_are_balanced_too():
    params = {n: jr.normal(jr.key(i), s) for i, (n, s) in enumerate(RECURRENT.items())}

    def apply(p, x):
        step = lambda h, x: (jax.nn.relu(x @ p["a"] + h @ p["w"]), None)
        return jax.lax.scan(step, jnp.zeros((x.shape[1], 6)), x)[0] @ p["out"]

    groups = infer(apply, params, jnp.ones((4, 2, 3)))
    a, w, out = (np.asarray(balance(params, groups)[n]) ** 2 for n in RECURRENT)
    np.testing.assert_allclose(a.sum(0) + w.sum(0), w.sum(1) + out.sum(1), rtol=1e-4)


RECURRENT = {"a": (3, 6), "w": (6, 6), "out": (6, 2)}


def test_a_unit_with_zeros_alone_on_one_side_keeps_its_scale():
    params = {"w": jnp.ones((3, 8)).at[:, 0].set(0), "o": jnp.full((8, 2), 3.0)}
    groups = Groups.from_sites(params, [SITES], scales={0: ((1, -1),)})
    balanced = balance(params, groups)
    assert (balanced["o"][0] == 3).all()
    np.testing.assert_allclose(
        (balanced["w"] ** 2).sum(0)[1:], (balanced["o"] ** 2).sum(1)[1:], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["mlp", "lstm_separate", "grouped"])
def test_copies_in_other_scales_and_signs_are_one_model(name):
    params, groups = model(name)
    order = symmetry.random_permutation(jr.key(3), groups)
    moved = permute(params, groups, order, random_signs(jr.key(4), groups))
    moved = rescale(moved, groups, random_scales(jr.key(5), groups))
    assert same_function(params, moved, groups)
    first = next(iter(tree.named_leaves(moved)))
    other = tree.map_named(lambda n, x: x.at[..., 0].add(1e-2) if n == first else x, moved)
    assert not same_function(params, other, groups)


def test_members_and_optimizer_states_are_balanced_alike():
    params, groups = model("mlp")
    scales = [random_scales(jr.key(i), groups) for i in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *scales)
    members = jax.vmap(lambda s: rescale(params, groups, s))(stacked)
    balanced = jax.vmap(lambda m: balance(m, groups))(members)
    alone = balance(params, groups)
    for name in params:
        np.testing.assert_allclose(balanced[name], [alone[name]] * 3, rtol=1e-4, atol=1e-6)
    state = optax.trace(0.9).init(params)
    moved = tree.map_like(lambda p: rescale(p, groups, scales[0]), state, params)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
