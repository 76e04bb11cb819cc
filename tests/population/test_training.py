"""Training against a plain loop, stopped and taken up, spread, with all that a member has."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from wslax import WeightSpaceError, nets, population

RATES = (0.0, 0.003, 0.01, 0.03)  # of the members that conftest.py trains
NET = nets.mlp(64, (32,), 10)
STRATEGIES = ["vmap", "map", "step"]


def close(a, b, rtol=1e-4, atol=1e-5):
    def each(x, y):
        assert x.dtype == y.dtype
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(np.asarray(x, float), np.asarray(y, float), rtol=rtol, atol=atol)

    jax.tree.map(each, a, b)


def same(a, b):
    close(a, b, 0, 0)


def by_hand(step, members, batches, key, per_member=False):
    """A Python loop over members and steps, with the documented keys."""
    run, ends, rows = jax.jit(step), [], []
    steps = jax.tree.leaves(batches)[0].shape[0]
    for i, member in enumerate(population.unstack(members)):
        row = []
        for t in range(steps):
            batch = jax.tree.map(lambda x, t=t, i=i: x[t, i] if per_member else x[t], batches)
            now = jax.random.fold_in(jax.random.fold_in(key, t), i)
            member, metrics = run(member, batch, now)
            row.append(metrics)
        ends.append(member)
        rows.append(jax.tree.map(lambda *x: jnp.stack(x), *row))
    return population.stack(ends), jax.tree.map(lambda *x: jnp.stack(x, 1), *rows)


def noisy_step(member, batch, key):
    """A small step that uses all it gets."""
    w = member["w"] + member["rate"] * (batch - member["w"]) + 0.1 * jax.random.normal(key, (3,))
    now = {"w": w, "rate": member["rate"], "steps": member["steps"] + 1}
    return now, {"w": member["w"].sum(), "batch": batch}


def noisy(n=4):
    return {
        "w": jnp.arange(3.0 * n).reshape(n, 3), "rate": jnp.linspace(0, 1, n),
        "steps": jnp.zeros(n, jnp.int32),
    }  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("per_member", [False, True])
def test_training_is_the_loop_it_stands_for(strategy, per_member):
    shape = (7, 4, 3) if per_member else (7, 3)
    batches = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    key = jax.random.key(3)
    got, metrics = population.train(
        noisy_step, noisy(), batches, key=key, strategy=strategy, per_member=per_member, segment=3
    )
    wanted, rows = by_hand(noisy_step, noisy(), batches, key, per_member)
    close(got, wanted)
    close(metrics, rows)
    assert metrics["w"].shape == (7, 4)
    assert metrics["batch"].shape == (7, 4, 3)
    assert got["steps"].tolist() == [7] * 4


def test_nets_learn_by_their_own_rates(trained):
    losses = np.asarray(trained.metrics["loss"])
    assert losses.shape == (150, len(RATES))
    same(
        population.member(trained.after.params, 0), population.member(trained.before.params, 0)
    )  # rate 0
    last = losses[-30:].mean(0)
    assert last[0] > 2
    assert (last[1:] < 0.6).all()
    x, y = trained.split.test
    score = population.evaluate(
        lambda params, x, y: nets.accuracy(NET.apply(params, x), y), trained.after.params, x, y
    )
    assert score[2] > 0.9


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_run_taken_up_again_ends_with_the_same_bits(trained, strategy):
    held = []

    def keep(done, members, metrics):
        if done in (60, 120):
            held.append((done, jax.tree.map(np.array, members)))

    batches = jax.tree.map(lambda x: x[:130], trained.batches)
    options = {"key": trained.key, "segment": 60, "strategy": strategy}
    step = trained.trainer.step
    whole, rows = population.train(step, trained.before, batches, on_segment=keep, **options)
    assert [done for done, _ in held] == [60, 120]
    for done, members in held:
        again, later = population.train(step, members, batches, start=done, **options)
        same(again, whole)
        same(later, jax.tree.map(lambda x, d=done: x[d:], rows))
    finished, none = population.train(step, whole, batches, start=130, **options)
    same(finished, whole)
    assert none["loss"].shape == (0, len(RATES))


class Normed(nn.Module):
    """A net with running statistics and dropout."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5)(nn.Dense(6)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


def normed_loss(params, batch, key, member):
    x, y = batch
    logits, moved = Normed().apply(
        {"params": params, "batch_stats": member.stats}, x, train=True, mutable="batch_stats",
        rngs={"dropout": key},
    )  # fmt: skip
    decay = member.hyper["decay"] * optax.tree.norm(params)
    return nets.cross_entropy(logits, y) + decay, {"stats": moved["batch_stats"], "decay": decay}


def test_statistics_dropout_and_hyper_parameters_belong_to_the_member():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(2.0, 3.0, (12, 16, 5)), jnp.float32)
    batches = x, jnp.asarray(rng.integers(0, 3, (12, 16)))
    trainer = population.step_from_loss(normed_loss, optax.inject_hyperparams(optax.sgd)(0.0))
    variables = jax.vmap(lambda key: Normed().init(key, x[0], train=False))(
        jax.random.split(jax.random.key(0), 3)
    )
    hyper = {"learning_rate": jnp.array([0.0, 0.1, 0.1]), "decay": jnp.array([0.0, 0.0, 0.1])}
    members = jax.vmap(trainer.init)(variables["params"], variables["batch_stats"], hyper)
    key = jax.random.key(5)
    after, metrics = population.train(trainer.step, members, batches, key=key)
    wanted, rows = by_hand(trainer.step, members, batches, key)
    close(after, wanted, rtol=1e-3)
    close(metrics, rows, rtol=1e-3)
    # A rate of 0 keeps the weights; the statistics move towards those of its own activations.
    close(population.member(after.params, 0), population.member(members.params, 0), 0, 0)
    first = population.member(variables["params"], 0)["Dense_0"]
    mean = (np.asarray(x).reshape(-1, 5) @ first["kernel"]).mean(0)
    np.testing.assert_allclose(after.stats["BatchNorm_0"]["mean"][0], mean, atol=0.8)
    assert (np.asarray(metrics["decay"])[:, :2] == 0).all()
    assert (np.asarray(metrics["decay"])[:, 2] > 0).all()
    assert set(metrics) == {"loss", "decay"}


@pytest.mark.parametrize("per_member", [False, True])
def test_members_spread_over_devices_train_alike(per_member):
    mesh = jax.make_mesh((4,), ("population",), axis_types=(AxisType.Auto,))
    shape = (5, 8, 3) if per_member else (5, 3)
    batches = jnp.asarray(np.random.default_rng(2).normal(size=shape), jnp.float32)
    options = {"key": 1, "segment": 2, "per_member": per_member}
    there, rows = population.train(noisy_step, population.shard(noisy(8), mesh), batches, **options)
    here, alone = population.train(noisy_step, noisy(8), batches, strategy="vmap", **options)
    close(jax.device_get(there), jax.device_get(here))
    close(jax.device_get(rows), jax.device_get(alone))
    assert {s.data.shape for s in there["w"].addressable_shards} == {(2, 3)}
    with pytest.raises(WeightSpaceError, match='spread over devices need "vmap", got "step"'):
        population.train(
            noisy_step, population.shard(noisy(8), mesh), batches, strategy="step", **options
        )


def test_the_given_population_stays_whole(trained):
    members = noisy()
    copy = jax.tree.map(np.array, members)
    population.train(noisy_step, members, jnp.ones((2, 3)), key=0)
    same(jax.tree.map(np.asarray, members), copy)


def chosen(net, shape, batch=8):
    trainer = population.step_from_loss(
        lambda p, b, k, m: nets.cross_entropy(net.apply(p, b[0]), b[1]), optax.sgd(0.1)
    )
    member = jax.eval_shape(lambda: trainer.init(net.init(jax.random.key(0))))
    data = jax.ShapeDtypeStruct((batch, *shape), "float32"), jax.ShapeDtypeStruct((batch,), "int32")
    return population.choose_strategy(trainer.step, member, data, jax.random.key(0))


def test_the_strategy_is_read_from_the_step():
    assert chosen(nets.mlp(64, (32,), 10), (64,)) == "vmap"
    assert chosen(nets.mlp(784, (256,), 10), (784,)) == "map"
    assert chosen(nets.conv(8, (4,), 3), (8, 8)) == "step"


def grows(member, batch, key):
    return {"w": jnp.zeros(4)}, {}


BAD = [
    ({"batches": {}}, "batches: expected at least one array"),
    ({"batches": jnp.float32(1)}, r"batches : expected \[T, \.\.\.\]"),
    ({"batches": jnp.ones((0, 3))}, "T >= 1 steps"),
    (
        {"batches": (jnp.ones((2, 3)), jnp.ones((3, 3)))},
        r"batches 1: .*\(T = 2\), got float32\[3,3\]",
    ),
    ({"per_member": True}, r"batches : expected \[T, 4, \.\.\.\]"),
    ({"start": 3}, "start: expected 0 to 2, got 3"),
    ({"start": -1}, "start: expected 0 to 2, got -1"),
    ({"segment": 0}, "segment: expected at least 1, got 0"),
    ({"step": grows}, "the step's member"),
    ({"population": {"w": jnp.float32(0)}}, "w: expected a leading member axis"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(change, message):
    given = {"step": noisy_step, "population": noisy(), "batches": jnp.ones((2, 3)), "key": 0}
    with pytest.raises(WeightSpaceError, match=message):
        population.train(**{**given, **change})
