"""Masks against plain sorting in numpy, and their exact counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax.numerics.threshold import largest
from wslax.select import masks, scores


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def first_k(values, k):
    """The oracle: a stable sort by value, NaN last."""
    flat = np.where(np.isnan(values), -np.inf, np.asarray(values, float)).ravel()
    mask = np.zeros(flat.size, bool)
    mask[np.argsort(-flat, kind="stable")[:k]] = True
    return mask.reshape(np.shape(values))


FEW = [-np.inf, -3.0, -1.0, -0.0, 0.0, 1e-3, 1.0, 2.0, np.inf]
jit_largest = jax.jit(largest)


@given(
    values=st.lists(st.sampled_from(FEW), min_size=12, max_size=12),
    k=st.integers(0, 12),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)
@settings(deadline=None, max_examples=60)
def test_largest_is_by_signed_value_over_arrays_in_order(values, k, dtype):
    x = jnp.asarray(values, dtype)
    got = jit_largest([x[:5], x[5:].reshape(1, 7)], k)
    got = np.concatenate([np.ravel(part) for part in got])
    np.testing.assert_array_equal(got, first_k(np.asarray(x, np.float32), k))


def test_nan_is_lowest():
    (mask,) = largest([jnp.array([jnp.nan, -jnp.inf, 1.0, -jnp.nan])], 2)
    assert mask.tolist() == [False, True, True, False]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_exactly_k_where_nan_is_among_them(dtype):
    x = jnp.array([jnp.nan, 1.0, jnp.nan, -jnp.inf, jnp.nan], dtype)
    got = [largest([x[:3], x[3:]], k) for k in range(6)]
    order = [1, 3, 0, 2, 4]
    for k, parts in enumerate(got):
        assert np.flatnonzero(np.concatenate(parts)).tolist() == sorted(order[:k])


TREE = {"a": draw(6, 8), "b": draw(3, 4, 5, seed=1), "bias": draw(7, seed=2), "n": np.arange(3)}


BY_LEAF = {"a": 0, "b": (0, 2)}


@pytest.mark.parametrize("axis", [None, -1, (-2, -1), ws.by_leaf(BY_LEAF | {"*": None})])
def test_each_set_along_axes_is_sorted_by_itself(axis):
    got = masks.top(TREE, density=0.3, axis=axis)
    for name in ("a", "b"):
        leaf = TREE[name]
        along = BY_LEAF[name] if isinstance(axis, ws.tree.ByLeaf) else axis
        axes = range(leaf.ndim) if along is None else np.atleast_1d(along) % leaf.ndim
        order = [i for i in range(leaf.ndim) if i not in axes] + [int(i) for i in axes]
        size = int(np.prod([leaf.shape[i] for i in axes]))
        sets = leaf.transpose(order).reshape(-1, size)
        mine = np.asarray(got[name]).transpose(order).reshape(-1, size)
        for row, mask in zip(sets, mine, strict=True):
            np.testing.assert_array_equal(mask, first_k(row, max(1, round(0.3 * size))))
    assert not got["bias"].any()
    assert not got["n"].any()


def test_the_model_in_one_ranking():
    got = masks.top(TREE, density=0.3, scope="model", where=["a", "b", "bias"], rest=True)
    flat = np.concatenate([TREE[name].ravel() for name in ("a", "b", "bias")])
    wanted = first_k(flat, round(0.3 * flat.size))
    mine = np.concatenate([np.ravel(got[name]) for name in ("a", "b", "bias")])
    np.testing.assert_array_equal(mine, wanted)
    assert got["n"].all()
    globs = masks.top(TREE, count=9, scope=["b*", "*"], where=["a", "b", "bias"])
    together = np.concatenate([TREE["b"].ravel(), TREE["bias"]])
    mine = np.concatenate([np.ravel(globs[name]) for name in ("b", "bias")])
    np.testing.assert_array_equal(mine, first_k(together, 9))
    np.testing.assert_array_equal(globs["a"], first_k(TREE["a"], 9))
    ones = {"a": np.ones((2, 2), np.float32), "b": np.ones((2, 2), np.float32)}
    tied = masks.top(ones, count=5, scope="model")
    assert [int(m.sum()) for m in jax.tree.leaves(tied)] == [4, 1]
    assert tied["b"][0, 0]


def test_loras_budget_is_that_of_its_factors():
    scores = {"w": draw(3, 9, 8), "small": draw(2, 2)}
    sites = [("w", 1, "consumed"), ("w", 2, "produced"), ("small", 0, "consumed")]
    sites = [[site] for site in (*sites, ("small", 1, "produced"))]
    budget = {"lora_rank": 2, "groups": ws.symmetry.Groups.from_sites(scores, sites)}
    got = masks.top(scores, **budget)
    assert got["w"].sum((1, 2)).tolist() == [34] * 3  # (9 + 8) * 2 a matrix
    assert got["small"].all()
    joint = masks.top(scores, **budget, scope="model")
    assert sum(int(m.sum()) for m in jax.tree.leaves(joint)) == 3 * 34 + 4


def test_masks_of_members_are_those_of_each_alone():
    population = {"a": draw(4, 6, 8), "b": draw(4, 5, 3, seed=1)}
    for options in ({"axis": 0}, {"scope": "model"}):
        make = lambda p, options=options: masks.top(p, density=0.25, **options)
        together = jax.jit(jax.vmap(make))(population)
        for i, member in enumerate(ws.population.unstack(population)):
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), together, make(member)
            )


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, 0), (1, 3, 1), (4, 4, -2)])
def test_n_of_m(n, m, axis):
    x = np.round(draw(8, 12), 0)  # with ties
    got = np.asarray(masks.n_of_m({"w": x}, n, m, axis=axis)["w"])
    runs, mine = np.moveaxis(x, axis, -1).reshape(-1, m), np.moveaxis(got, axis, -1).reshape(-1, m)
    for row, mask in zip(runs, mine, strict=True):
        np.testing.assert_array_equal(mask, first_k(row, n))


def test_blocks_are_whole_and_of_the_highest_sums():
    x = draw(2, 6, 8)
    got = np.asarray(masks.blocks({"w": x, "b": draw(3)}, (3, 2), density=0.25)["w"])
    sums = np.array([[[x[i, 3 * r : 3 * r + 3, 2 * c : 2 * c + 2].sum() for c in range(4)]
                      for r in range(2)] for i in range(2)])  # fmt: skip
    for i in range(2):
        np.testing.assert_array_equal(got[i], np.kron(first_k(sums[i], 2), np.ones((3, 2), bool)))


def test_erdos_renyi_keeps_the_density_of_the_whole():
    shapes = {"conv": (3, 3, 4, 8), "small": (4, 4), "large": (64, 80)}
    params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    shares = dict(masks.erdos_renyi(params, 0.2).rules)
    kept = sum(shares[name] * x.size for name, x in params.items())
    assert kept == pytest.approx(0.2 * ws.tree.size(params), abs=0.5)
    assert shares["small"] == 1.0
    ratio = (sum(shapes["conv"]) / 288) / (sum(shapes["large"]) / 5120)
    # Of two leaves that are not whole.
    thin = dict(masks.erdos_renyi(params, 0.02).rules)
    assert thin["conv"] / thin["large"] == pytest.approx(ratio)


BAD = [
    ({}, "expected one of density=, count= and lora_rank=, got none"),
    ({"density": 0.1, "count": 2}, "got density and count"),
    ({"count": 49}, "a: count: expected at most 48, got 49"),
    ({"density": 0.5, "axis": 2}, r"a: axis 2 of float32\[6,8\]"),
    ({"density": 0.5, "axis": 0, "scope": "model"}, "axis= is for scope='leaf'"),
    ({"count": ws.by_leaf({"a": 1, "*": 2}), "scope": "model"}, "ranked together have one count="),
    ({"density": 0.5, "scope": "matrix"}, "scope 'matrix' is unknown"),
    ({"density": 0.5, "scope": ["b"]}, "a: scope has no glob for it"),
    ({"density": 0.5, "where": "n"}, "n: expected floats to select from, got int64"),
    ({"lora_rank": 1, "where": "bias"}, r"bias: lora_rank is a budget of matrices"),
    ({"lora_rank": 1}, r"b: which axes of float32\[3,4,5\] make a matrix is open; give groups="),
    ({"lora_rank": 0, "where": "a"}, "a: lora_rank: expected at least 1, got 0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_input_is_named(options, message):
    with pytest.raises(ws.WeightSpaceError, match=message):
        masks.top(TREE, **options)


def test_more_bad_input():
    with pytest.raises(
        ws.WeightSpaceError, match=r"a: axis -2 of float32\[6,8\] is no multiple of 4"
    ):
        masks.n_of_m(TREE, 2, 4)
    with pytest.raises(ws.WeightSpaceError, match="n: expected at most m = 2, got 3"):
        masks.n_of_m(TREE, 3, 2)
    with pytest.raises(ws.WeightSpaceError, match="is not made of blocks 4 x 4"):
        masks.blocks(TREE, (4, 4), density=0.5)


def test_scores_make_masks_under_jit():
    make = jax.jit(lambda p: masks.top(scores.magnitude(p), density=0.25))
    np.testing.assert_array_equal(make(TREE)["a"], first_k(abs(TREE["a"]), 12))
