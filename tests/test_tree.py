"""Leaf names, selection, maps and checks, on every kind of tree that people bring."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from wslax import WeightSpaceError, globs, tree


class Dense(NamedTuple):
    kernel: object
    bias: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    kernel: object
    bias: object


class Net(eqx.Module):
    dense: eqx.nn.Linear
    act: object = eqx.field(static=True)


def linen():
    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=True)(nn.Dense(2, name="dense")(x))

    return Module().init(jax.random.key(0), jnp.zeros((1, 3)))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 2, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(2, rngs=rngs)])


W, B = np.ones((3, 2), np.float32), np.zeros(2, np.float32)
TREES = {
    "dict": ({"dense": {"kernel": W, "bias": B}}, ("dense/bias", "dense/kernel")),
    "list": ([{"w": W}, (B, W)], ("0/w", "1/0", "1/1")),
    "NamedTuple": ({"dense": Dense(W, B)}, ("dense/kernel", "dense/bias")),
    "dataclass": ({"dense": Layer(W, B)}, ("dense/kernel", "dense/bias")),
    "linen": (
        linen,
        (
            "batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var",
            "params/BatchNorm_0/bias", "params/BatchNorm_0/scale",
            "params/dense/bias", "params/dense/kernel",
        ),
    ),
    "nnx state": (
        lambda: nnx.state(Nnx(nnx.Rngs(0)), nnx.Param),
        ("dense/bias", "dense/kernel", "norms/0/bias", "norms/0/scale"),
    ),
    "equinox": (
        lambda: Net(eqx.nn.Linear(3, 2, key=jax.random.key(0)), jax.nn.relu),
        ("dense/weight", "dense/bias"),
    ),
    "one leaf": (W, ("",)),
    "nothing": ({"a": {}, "b": None}, ()),
}  # fmt: skip


@pytest.mark.parametrize("kind", TREES)
def test_names_of_any_tree(kind):
    made, wanted = TREES[kind]
    made = made() if callable(made) else made
    assert tree.leaf_names(made) == wanted
    assert list(tree.named_leaves(made)) == list(wanted)
    shapes = [np.shape(x) for x in tree.named_leaves(made).values()]
    assert shapes == [x.shape for x in jax.tree.leaves(made)]


def test_a_flat_checkpoint_has_the_names_of_the_nested_tree():
    nested = {"a": {"b": [W, B]}, "c": W}
    assert tree.leaf_names(tree.named_leaves(nested)) == tree.leaf_names(nested)


def test_names_survive_jit_and_shapes():
    params = {"a": {"b": W}, "c": B}
    seen = []
    jax.jit(lambda p: seen.append(tree.leaf_names(p)))(params)
    jax.eval_shape(lambda p: seen.append(tree.leaf_names(p)), params)
    assert seen == [("a/b", "c")] * 2


def test_two_leaves_of_one_name():
    with pytest.raises(WeightSpaceError, match="both called 'a/b'"):
        tree.leaf_names({"a": {"b": W}, "a/b": B})


PARAMS = {"enc": {"kernel": W, "bias": B}, "dec": {"kernel": W, "bias": B}}


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        (None, {"dec/bias", "dec/kernel", "enc/bias", "enc/kernel"}),
        ("*/kernel", {"dec/kernel", "enc/kernel"}),
        ("enc.*", {"enc/bias", "enc/kernel"}),
        (["enc/*", "*bias"], {"dec/bias", "enc/bias", "enc/kernel"}),
        ("dec/kernel", {"dec/kernel"}),
    ],
)
def test_where_picks(where, wanted):
    found = tree.named_leaves(tree.picked(PARAMS, where))
    assert {name for name, yes in found.items() if yes} == wanted
    assert tree.named_leaves(tree.picked(PARAMS, mask=tree.picked(PARAMS, where))) == found


@given(st.lists(st.text("ab./", min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_name_without_wildcards_picks_itself_with_either_separator(names):
    for name in names:
        hits = globs.pick(names, name)
        same = name.replace(".", "/")
        assert hits == tuple(other.replace(".", "/") == same for other in names)
        assert all(globs.pick(names, "*"))


def test_by_leaf_takes_the_first_rule_that_matches():
    value = tree.by_leaf({"enc/kernel": 1, "*/kernel": 2, "*": 3})
    assert tree.resolve(value, tree.leaf_names(PARAMS)) == (3, 2, 3, 1)
    assert tree.resolve(0.5, ["a", "b"]) == (0.5, 0.5)


def test_map_named_gives_names_and_every_tree():
    twice = jax.tree.map(lambda x: 2 * x, PARAMS)
    found = tree.map_named(lambda name, a, b: (name, float(b.sum() - a.sum())), PARAMS, twice)
    assert found["enc"]["kernel"] == ("enc/kernel", 6.0)
    assert found["dec"]["bias"] == ("dec/bias", 0.0)


def test_map_like_finds_the_moments_of_an_optimizer_and_nothing_else():
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3), optax.ema(0.9))
    state = optimizer.init(params)
    grads = jax.tree.map(lambda x: 0.5 * x, params)
    state = optimizer.update(grads, state, params)[1]
    mapped = tree.map_like(lambda p: {"w": p["w"][:2], "b": p["b"]}, state, params)
    shapes = [x.shape for x in jax.tree.leaves(mapped)]
    assert shapes.count((2, 2)) == shapes.count((2,)) == 3  # mu, nu, ema
    assert (3, 2) not in shapes
    # clip has no state, Adam and the average count
    assert sum(s == () for s in shapes) == sum(x.shape == () for x in jax.tree.leaves(state)) > 0


def test_map_like_sees_structs():
    spec = jax.eval_shape(lambda: {"w": jnp.zeros(3)})
    assert tree.map_like(lambda p: "hit", (1, {"w": np.zeros(3)}, {"v": 2}), spec) == (
        1, "hit", {"v": 2},
    )  # fmt: skip


@pytest.mark.parametrize("weak", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cast_like_gives_dtype_and_weak_type(dtype, weak):
    leaf = jnp.asarray(2.0) if weak else jnp.zeros(3, dtype)
    x = jnp.arange(3, dtype=jnp.float32) if not weak else jnp.float32(1.5)
    for cast in (tree.cast_like, jax.jit(tree.cast_like)):
        got = cast(x, leaf)
        assert (got.dtype, got.weak_type) == (leaf.dtype, leaf.weak_type)
        np.testing.assert_array_equal(np.asarray(got, np.float32), np.asarray(x))


def test_sizes():
    spec = jax.eval_shape(lambda: {"w": jnp.zeros((3, 4), jnp.bfloat16), "i": jnp.int32(0)})
    assert tree.size(spec) == 13
    assert tree.nbytes(spec) == 28
    assert [tree.is_float(x) for x in (*jax.tree.leaves(spec), np.float16(1), True, 1.0)] == [
        False, True, True, False, False,
    ]  # fmt: skip


BAD = [
    (lambda: tree.picked(PARAMS, "enc/kernle"), "picks no leaf. Did you mean 'enc/kernel'"),
    (lambda: tree.picked(PARAMS, ["enc/*", "x*"]), r"where='x\*' picks no leaf"),
    (lambda: tree.picked(PARAMS, "*", True), "not both"),
    (lambda: tree.picked(PARAMS, mask={"enc": True}), "mask and params differ"),
    (
        lambda: tree.resolve(tree.by_leaf({"a": 1}), ["a", "b"], "density"),
        "b: density has no rule for it",
    ),
    (lambda: tree.resolve(tree.by_leaf({"c": 1, "*": 2}), ["a"]), "where='c' picks no leaf"),
    (lambda: tree.map_named(max, {"w": 1}, {"w": 1}, {"v": 1}), "tree 2 and tree 0 differ"),
    (
        lambda: tree.check_structure({"w": 1, "v": 1}, {"w": 1, "b": 1}),
        "tree lacks 'b', has extra 'v'",
    ),
    (lambda: tree.check_structure([W], (W,)), "tree and like differ"),
    (
        lambda: tree.check_like({"a": {"w": W}}, {"a": {"w": W.T}}, "mine", "yours"),
        r"a/w: mine is float32\[3,2\], yours is float32\[2,3\]",
    ),
    (lambda: tree.check_like({"w": B}, {"w": B.astype(np.float64)}), r"float32\[2\].*float64\[2\]"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(WeightSpaceError, match=message):
        call()
