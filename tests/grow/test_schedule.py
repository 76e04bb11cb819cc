"""Growth inside a training job, against the same job by hand and against one that was killed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax import WeightSpaceError, grow

OPTIMIZER = optax.adam(optax.linear_schedule(3e-3, 1e-3, 12))
GROWTHS, STEPS = (4, 8), 12


class Block(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        h = nn.gelu(nn.Dense(self.hidden, name="up")(nn.LayerNorm(name="norm")(x)))
        return x + nn.Dense(8, name="down")(h)


class Net(nn.Module):
    """A residual net that takes no sizes but its own."""

    hidden: int = 16
    depth: int = 2

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8, name="embed")(x)
        for i in range(self.depth):
            x = Block(self.hidden, name=f"block_{i}")(x)
        return nn.Dense(1, name="out")(x)


def batch(t):
    x = jax.random.normal(jax.random.key(t), (64, 4))
    return x, jnp.sin(x[:, 0]) + x[:, 1] * x[:, 2]


def train(net):
    def step(params, state, batch):
        x, y = batch

        def loss(params):
            return jnp.mean((net.apply(params, x)[:, 0] - y) ** 2)

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = OPTIMIZER.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


NETS = (Net(), Net(32), Net(32, 3))
BY_HAND = [jax.jit(train(net)) for net in NETS]


def start():
    params = jax.jit(NETS[0].init)(jax.random.key(0), batch(0)[0])
    return params, OPTIMIZER.init(params)


@pytest.fixture(scope="module")
def edits():
    """A resumed job makes them anew from shapes; so does this one."""
    params = jax.eval_shape(NETS[0].init, jax.random.key(0), batch(0)[0])
    groups = ws.symmetry.infer(NETS[0].apply, params, batch(0)[0])
    inner = {group.id: 32 for group in groups.free if group.size == 16}
    assert len(inner) == 2
    wider = grow.widen(groups, inner, method="lemon", key=1)
    return wider, grow.deepen(wider.groups, 3)


def schedule(edits):
    shapes = jax.eval_shape(start)
    parts = zip(GROWTHS, edits, NETS[1:], strict=True)
    growths = {at: (edit, train(net)) for at, edit, net in parts}
    return grow.schedule(train(NETS[0]), growths, *shapes, batch(0))


@pytest.fixture(scope="module")
def run(edits):
    """A job, what it left after every step, and its losses."""
    job = schedule(edits)
    before = job.stages()
    params, state = start()
    held, losses = [jax.device_get((params, state))], []
    for t in range(STEPS):
        params, state, loss = job.step(t, params, state, batch(t))
        held.append(jax.device_get((params, state)))
        losses.append(float(loss))
    return job, before, held, losses


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_equals_growing_by_hand(run, edits):
    params, state = start()
    losses = []
    for t in range(STEPS):
        if t in GROWTHS:
            edit = edits[GROWTHS.index(t)]
            params, state = jax.device_get((params, state))
            params, state = edit.apply(params), edit.optimizer_state(state)
        stage = sum(t >= at for at in GROWTHS)
        params, state, loss = BY_HAND[stage](params, state, batch(t))
        losses.append(float(loss))
    np.testing.assert_allclose(run[3], losses, rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, run[2][-1], (params, state))


def test_the_loss_does_not_jump(run):
    """At a growth the model is the one of the step before: its loss is the old model's."""
    _, _, held, losses = run
    for at, old in zip(GROWTHS, BY_HAND, strict=False):
        _, _, loss = old(*held[at], batch(at))
        np.testing.assert_allclose(losses[at], loss, rtol=1e-5)
    assert losses[-1] < losses[GROWTHS[0]] < losses[0]


@pytest.mark.parametrize("done", [3, 4, 5, 8])
def test_a_resumed_job_ends_with_the_same_bits(run, edits, done):
    """Killed before, at and after a growth; a checkpoint is restored by the shapes of `spec`."""
    job, held = schedule(edits), run[2]
    ws.tree.check_like(held[done], job.spec(done))
    params, state = held[done]
    for t in range(done, STEPS if done == 8 else done + 2):
        params, state, _ = job.step(t, params, state, batch(t))
    same((params, state), held[t + 1])


def test_stages_are_planned_without_data_and_their_costs_are_told(run):
    job, before, held, _ = run
    stages = job.stages()
    assert [stage.start for stage in stages] == [0, *GROWTHS]
    for stage, at in zip(stages, (4, 8, 12), strict=True):
        ws.tree.check_like(held[at], (stage.params, stage.opt_state))
    for old, new in zip(before, stages, strict=True):
        assert (old.compiling, old.growing) == (None, None)
        assert old.params == new.params
        assert min(new.tracing, new.compiling) > 0
    assert stages[0].growing is None
    assert all(stage.growing > 0 for stage in stages[1:])
    lines = str(job).splitlines()
    assert [len(line.split()) for line in lines] == [6, 7, 8, 8]
    assert f"{ws.tree.size(held[12][0]):,}" in lines[3]


def test_no_more_than_old_and_new_weights_are_held(edits, monkeypatch):
    """What XLA plans for the growth, and that the old buffers are gone after it."""
    from wslax.grow import jobs

    plans, compiled = [], jobs._compiled

    def spy(*args):
        out = compiled(*args)
        plans.append(out[0].memory_analysis())
        return out

    monkeypatch.setattr(jobs, "_compiled", spy)
    old = Net(256)
    params = jax.jit(old.init)(jax.random.key(0), batch(0)[0])
    state = OPTIMIZER.init(params)
    groups = ws.symmetry.infer(old.apply, params, batch(0)[0])
    inner = {group.id: 512 for group in groups.free if group.size == 256}
    wider = grow.widen(groups, inner, key=1)
    growths = {1: (wider, train(Net(512)))}
    job = grow.schedule(train(old), growths, params, state, batch(0))
    job.step(1, params, state, batch(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((params, state)))
    weights, moments, _ = plans
    old = weights.argument_size_in_bytes + moments.argument_size_in_bytes
    new = weights.output_size_in_bytes + moments.output_size_in_bytes
    held = lambda p: p.output_size_in_bytes + p.temp_size_in_bytes - p.alias_size_in_bytes
    first = old + held(weights)
    then = moments.argument_size_in_bytes + weights.output_size_in_bytes + held(moments)
    assert max(first, then) < 1.05 * (old + new)


def test_segments_of_steps(edits):
    """A step may be a scan; a segment that begins before a growth has the shapes from before."""

    def segment(net):
        def run(params, state, batches):
            def one(carry, batch):
                params, state, loss = train(net)(*carry, batch)
                return (params, state), loss

            (params, state), losses = jax.lax.scan(one, (params, state), batches)
            return params, state, losses

        return run

    batches = lambda t: jax.tree.map(lambda *x: jnp.stack(x), *(batch(t + i) for i in range(2)))
    growths = {4: (edits[0], segment(NETS[1]))}
    job = grow.schedule(segment(NETS[0]), growths, *start(), batches(0))
    params, state = start()
    for t in (2, 4):
        before = params, state
        params, state, losses = job.step(t, params, state, batches(t))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert losses.shape == (2,)
    message = (
        r"kernel: the model at step 3 is float32\[32,8\], that of stage 0 \(from step 0\) is fl"
    )
    with pytest.raises(WeightSpaceError, match=message):
        job.step(3, params, state, batches(3))


def test_bad_input_is_named_before_any_work(edits):
    shapes, (wider, deeper) = jax.eval_shape(start), edits
    first, *others = map(train, NETS)
    make = lambda growths, *more: grow.schedule(first, growths, *shapes, *(more or (batch(0),)))
    for steps in ((8, 4), (0, 4), (4, 8.0), (True, 8)):
        growths = dict(zip(steps, zip(edits, others, strict=True), strict=True))
        with pytest.raises(WeightSpaceError, match="expected integers from 1 on, in increasing"):
            make(growths)
    with pytest.raises(WeightSpaceError, match=r"stage 1 \(from step 4\): its edit does not fit"):
        make({4: (deeper, others[0])})
    with pytest.raises(WeightSpaceError, match=r"stage 1 \(from step 4\): its training step does"):
        make({4: (wider, others[1])})
    with pytest.raises(
        WeightSpaceError, match=r"stage 0 \(from step 0\): its training step fails: "
    ):
        make({}, 3)
    with pytest.raises(WeightSpaceError, match="training step returns ShapeDtypeStruct"):
        grow.schedule(lambda *args: first(*args)[2], {}, *shapes, batch(0))
    with pytest.raises(WeightSpaceError, match="what the training step returns"):
        grow.schedule(lambda *args: first(*args)[::-1], {}, *shapes, batch(0))
    with pytest.raises(WeightSpaceError, match="no group 99"):
        make({4: (grow.widen(wider.groups, {99: 40}, key=0), others[0])})
    id = next(group.id for group in wider.groups.free if group.size == 32)
    with pytest.raises(WeightSpaceError, match="has 32 units, expected at least that, got 16"):
        make({4: (grow.widen(wider.groups, {id: 16}, key=0), others[0])})
    job = make({4: (wider, others[0])})
    with pytest.raises(WeightSpaceError, match="expected a number from 0 on, got -1"):
        job.step(-1, *shapes, batch(0))
    with pytest.raises(
        WeightSpaceError, match=r"the model at step 5 is .* that of stage 1 \(from step 4\) is"
    ):
        job.step(5, *start(), batch(5))
