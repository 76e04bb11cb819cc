"""What no way of training may show: segments, starts, strategies, devices, dtypes, compilation."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from wslax import nets, population
from wslax.population.strategy import Strategy

STRATEGIES = get_args(Strategy)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def mixes(member, batch, key):
    return member * np.uint32(3) + batch, member


@given(
    steps=st.integers(1, 4), segment=st.integers(1, 5), share=st.floats(0, 1),
    strategy=st.sampled_from(STRATEGIES), per_member=st.booleans(),
)  # fmt: skip
@settings(deadline=None, max_examples=25)
def test_segments_and_starts_never_show(steps, segment, share, strategy, per_member):
    """Exact in integers, against Python's."""
    start, rng = round(share * steps), np.random.default_rng(steps)
    data = rng.integers(0, 2**32, (steps, 2) if per_member else (steps,), np.uint32)
    member, seen = [5, 7], []
    for t in range(start, steps):
        seen.append(list(member))
        add = data[t].tolist() if per_member else [int(data[t])] * 2
        member = [(3 * m + a) % 2**32 for m, a in zip(member, add, strict=True)]
    got, metrics = population.train(
        mixes, jnp.array([5, 7], jnp.uint32), jnp.asarray(data), key=0, start=start,
        segment=segment, per_member=per_member, strategy=strategy,
    )  # fmt: skip
    assert got.tolist() == member
    assert metrics.tolist() == seen
    assert metrics.shape == (steps - start, 2)


def tells_its_key(member, batch, key):
    return member + batch, jax.random.key_data(key)


@every_strategy
def test_the_key_of_a_step_is_folded_from_step_and_member(strategy):
    _, got = population.train(
        tells_its_key, jnp.zeros(3), jnp.ones(5), key=8, segment=2, start=1, strategy=strategy
    )
    fold, key = jax.random.fold_in, jax.random.key(8)
    wanted = [[jax.random.key_data(fold(fold(key, t), i)) for i in range(3)] for t in range(1, 5)]
    np.testing.assert_array_equal(got, np.asarray(wanted))


def forgets_types(member, batch, key):
    """Gives the weakly typed leaf back strongly typed."""
    half = (member["half"].astype(jnp.float32) + batch.astype(jnp.float32)).astype(jnp.float16)
    weak = member["weak"] + jnp.zeros_like(batch)
    return {**member, "half": half, "weak": weak, "count": member["count"] + 1}, {}


@every_strategy
@pytest.mark.parametrize("x64", [False, True])
def test_leaves_keep_dtype_and_weak_type(strategy, x64):
    with jax.enable_x64(x64):
        members = {
            "half": jnp.ones((2, 3), jnp.float16), "weak": jnp.full((2,), 0.5),
            "count": jnp.zeros(2, jnp.int32), "key": jax.random.split(jax.random.key(0), 2),
        }  # fmt: skip
        data = jnp.ones(2, members["weak"].dtype)
        got, metrics = population.train(forgets_types, members, data, key=0, strategy=strategy)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(members), strict=True):
            assert jax.typeof(x) == jax.typeof(y)
        assert metrics == {}
        assert got["count"].tolist() == [2, 2]


@every_strategy
def test_other_numbers_compile_nothing(strategy):
    traced = []

    def step(member, batch, key):
        traced.append(1)
        return member + batch, {}

    def run(seed):
        members, data = jnp.full((2,), float(seed)), jnp.arange(6.0) + seed
        population.train(step, members, data, key=seed, segment=2, strategy=strategy)

    run(0)
    before = len(traced)
    run(1)
    assert len(traced) == before


def wanders(member, batch, key):
    noise = jax.random.normal(key, (3,)) * batch.mean()
    return {"w": jnp.tanh(member["w"] + noise), "id": member["id"]}, {"mean": noise.mean()}


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("per_member", [False, True])
def test_meshes_of_either_kind_train_alike(kind, per_member):
    mesh = jax.make_mesh((4,), ("population",), axis_types=(kind,))
    here = {"w": jnp.linspace(-1.0, 1.0, 24).reshape(8, 3), "id": jnp.arange(8)}
    data = jnp.linspace(0.0, 1.0, 5 * 8 * 2).reshape(5, 8, 2)
    options = {"key": 1, "segment": 3, "per_member": per_member}
    wanted = population.train(wanders, here, data, strategy="vmap", **options)
    got = population.train(wanders, population.shard(here, mesh), data, **options)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-6)
    assert {leaf.sharding.spec[0] for leaf in jax.tree.leaves(got[0])} == {"population"}


def test_a_rate_in_the_member_is_the_rate_of_the_optimiser(trained):
    """Adam with a member's own rate, against `optax.adam(rate)` written out."""
    apply = nets.mlp(64, (32,), 10).apply
    for i, rate in enumerate(np.asarray(trained.before.hyper["learning_rate"])):
        optimizer = optax.adam(float(rate))

        @jax.jit
        def step(params, state, x, y, optimizer=optimizer):
            found, grads = jax.value_and_grad(lambda p: nets.cross_entropy(apply(p, x), y))(params)
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state, found

        params = population.member(trained.before.params, i)
        state = optimizer.init(params)
        for t in range(20):
            params, state, found = step(params, state, *(x[t] for x in trained.batches))
            np.testing.assert_allclose(trained.metrics["loss"][t, i], found, rtol=2e-4)
