"""Stacking, taking apart, choosing and evaluating, on every kind of tree and leaf."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from wslax import WeightSpaceError, nets, population, trace

DTYPES = ["float32", "float16", "bfloat16", "int8", "uint32", "bool"]


class Pair(NamedTuple):
    w: object
    b: object


def one(i, seed=0):
    """A member with a leaf of every kind."""
    rng = np.random.default_rng([seed, i])
    leaves = {d: jnp.asarray(rng.integers(0, 2, (2, 3)), d) for d in DTYPES}
    return {**leaves, "key": jax.random.key(i), "scalar": jnp.float32(i), "none": None, "empty": {}}


def same(a, b):
    """Equal structure, dtype, weak type and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert jax.typeof(x).str_short() == jax.typeof(y).str_short()
        assert jax.typeof(x).weak_type == jax.typeof(y).weak_type
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@given(n=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=10)
def test_unstack_inverts_stack(n, seed):
    members = [one(i, seed) for i in range(n)]
    stacked = population.stack(members)
    assert population.size(stacked) == n
    for i, (got, wanted) in enumerate(zip(population.unstack(stacked), members, strict=True)):
        same(got, wanted)
        same(population.member(stacked, i), wanted)


POPULATION = population.stack([one(i) for i in range(4)])
INDICES = st.lists(st.integers(-4, 3), min_size=1, max_size=4)


@given(first=INDICES, second=INDICES)
@settings(deadline=None, max_examples=15)
def test_take_composes_and_concat_joins(first, second):
    taken = population.take(POPULATION, first)
    again = [i % len(first) for i in second]
    same(population.take(taken, again), population.take(POPULATION, np.asarray(first)[again]))
    both = population.concat([taken, population.take(POPULATION, second)])
    same(both, population.take(POPULATION, first + second))


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint32"])
def test_take_and_member_follow_numpy_under_jit(dtype):
    x = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    indices = np.array([2, 0, 3] if dtype == "uint32" else [-1, 0, -4], dtype)
    taken = jax.jit(population.take)({"w": x}, indices)
    np.testing.assert_array_equal(taken["w"], x[indices])
    np.testing.assert_array_equal(
        jax.jit(population.member)({"w": x}, indices[0])["w"], x[indices[0]]
    )


def test_weak_types_stay():
    weak = jnp.broadcast_to(jnp.asarray(2.0), (3,))
    for got in (
        population.take({"w": weak}, [1]),
        population.member({"w": weak}, 1),
        population.concat([{"w": weak}, {"w": weak}]),
        population.stack(population.unstack({"w": weak})),
    ):
        assert got["w"].weak_type


@pytest.mark.parametrize(
    "make",
    [
        lambda i: Pair(jnp.full((2,), float(i)), (jnp.int32(i),)),
        lambda i: eqx.nn.Linear(3, 2, key=jax.random.key(i)),
        lambda i: nnx.state(nnx.Linear(3, 2, rngs=nnx.Rngs(i))),
        lambda i: nets.mlp(4, [3], 2).init(jax.random.key(i)),
    ],
    ids=["NamedTuple", "equinox", "nnx", "linen"],
)
def test_any_kind_of_tree_is_a_member(make):
    members = [make(i) for i in range(3)]
    stacked = population.stack(members)
    assert population.size(stacked) == 3
    same(population.unstack(stacked)[2], members[2])
    same(population.take(stacked, [1, 1]), population.stack([members[1]] * 2))


def test_an_equinox_population_is_called_by_vmap():
    models = [eqx.nn.Linear(3, 2, key=jax.random.key(i)) for i in range(3)]
    x = jnp.arange(3.0)
    got = population.evaluate(lambda model, x: model(x), population.stack(models), x)
    np.testing.assert_allclose(got, np.stack([m(x) for m in models]), rtol=1e-6)


def test_init_gives_member_i_whatever_n():
    net = nets.mlp(4, [3], 2)
    few, many = (population.init(net.init, jax.random.key(5), n) for n in (2, 4))
    same(few, population.take(many, [0, 1]))
    same(population.init(net.init, 5, 2), few)
    alone = net.init(jax.random.fold_in(jax.random.key(5), 1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), population.member(few, 1), alone
    )


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 100])
def test_chunks_give_what_a_loop_gives(trained, chunk):
    x, y = trained.split.validation

    def score(params, x, y):
        logits = nets.mlp(64, (32,), 10).apply(params, x)
        return {"loss": nets.cross_entropy(logits, y), "logits": logits}

    params = trained.after.params
    got = population.evaluate(score, params, x, y, chunk=chunk)
    for i, member in enumerate(population.unstack(params)):
        wanted = score(member, x, y)
        np.testing.assert_allclose(got["loss"][i], wanted["loss"], rtol=1e-5)
        np.testing.assert_allclose(got["logits"][i], wanted["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_elementwise_results_are_the_same_bits_in_chunks(chunk):
    members = {"w": jax.random.normal(jax.random.key(0), (5, 7)), "id": jnp.arange(5)}

    def fn(member, x):
        return member["w"] * x + 1, member["id"]

    whole, parts = (population.evaluate(fn, members, 3.0, chunk=c) for c in (None, chunk))
    same(parts, whole)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_members_spread_over_devices_stay_there(kind):
    mesh = jax.make_mesh((4,), ("population",), axis_types=(kind,))
    here = {
        "w": jax.random.normal(jax.random.key(0), (8, 3)),
        "k": jax.random.split(jax.random.key(1), 8),
    }
    there = population.shard(here, mesh)

    def fn(member, x):
        return jnp.tanh(member["w"] @ x) + jax.random.uniform(member["k"])

    x = jnp.ones((3, 2))
    for chunk in (None, 1, 3):
        got = population.evaluate(fn, there, x, chunk=chunk)
        assert got.sharding.spec[0] == "population"
        wanted = population.evaluate(fn, here, x)
        np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=1e-6)
    assert {s.data.shape for s in there["w"].addressable_shards} == {(2, 3)}


X = {"w": jnp.zeros((3, 2))}
MESH = jax.make_mesh((2,), ("population",), axis_types=(AxisType.Auto,))
BAD = [
    (lambda: population.stack([]), "at least one member"),
    (
        lambda: population.stack([{"a": {"w": jnp.zeros(2)}}, {"a": {"w": jnp.zeros(3)}}]),
        r"a/w: member 1 is float32\[3\], member 0 is float32\[2\]",
    ),
    (
        lambda: population.stack([{"w": jnp.zeros(2)}, {"w": jnp.zeros(2, jnp.int32)}]),
        r"w: member 1 is int32\[2\], member 0 is float32\[2\]",
    ),
    (lambda: population.stack([{"w": 1.0}, {"b": 1.0}]), "member 1 lacks 'w', has extra 'b'"),
    (lambda: population.stack([{"w": jnp.zeros(2), "f": jnp.tanh}]), r"f: expected an array.*eqx"),
    (lambda: population.size({}), "at least one leaf"),
    (lambda: population.size({"w": jnp.zeros((0, 2))}), "at least one leaf and one member"),
    (
        lambda: population.size({"w": jnp.zeros(3), "b": jnp.zeros(())}),
        r"w: expected 1|b: expected",
    ),
    (
        lambda: population.size({"b": jnp.zeros((3, 2)), "w": jnp.zeros((2, 2))}),
        r"w: expected 3 members, got float32\[2,2\]",
    ),
    (lambda: population.unstack({"w": jnp.zeros(())}), "w: expected a leading member axis"),
    (lambda: population.member(X, 3), "member 3: the population has 3, 0 to 2"),
    (lambda: population.take(X, [0, -4]), "member -4: the population has 3"),
    (lambda: population.take(X, np.zeros(0, int)), "at least one integer"),
    (lambda: population.take(X, np.array([True, False, True])), "at least one integer, got bool"),
    (lambda: population.take(X, jnp.zeros((1, 1), int)), "a vector of at least one integer"),
    (lambda: population.member(X, 1.0), "one integer, got float64"),
    (lambda: population.concat([]), "at least one population"),
    (
        lambda: population.concat([X, {"w": jnp.zeros((3, 1))}]),
        r"w: population 1 is float32\[1\], population 0 is float32\[2\]",
    ),
    (lambda: population.init(lambda key: {"w": key}, jax.random.key(0), 0), "n >= 1, got 0"),
    (lambda: population.evaluate(lambda p: p, X, chunk=0), "chunk: expected at least 1, got 0"),
    (lambda: population.shard(X, MESH), "3 members do not divide over the 2 devices"),
    (lambda: population.shard(X, MESH, "model"), r"axes \['population'\], not 'model'"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(WeightSpaceError, match=message):
        call()


def test_of_leaves_that_share_a_base_the_changes_are_counted():
    zeros = jnp.zeros
    leaf = trace.LowRank(zeros((4, 3)), zeros((8, 4, 2)), zeros((8, 2, 3)))
    assert population.size({"kernel": leaf, "bias": zeros((8, 3))}) == 8
    with pytest.raises(WeightSpaceError, match="kernel/down: expected 5 members, got float32"):
        population.size({"bias": zeros((5, 3)), "kernel": leaf})
