"""Straight-through matching: the algorithm written out for one hidden layer, and real digits."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from wslax import WeightSpaceError, align, data, nets
from wslax.symmetry import Groups, infer, permute, random_permutation

NET = nets.mlp(64, [48], 10)
RATE = 5.0  # large, so that twenty steps leave the order of weight matching


def loss(p, batch):
    return nets.cross_entropy(NET.apply(p, batch[0]), batch[1])


def repeated(batch, steps):
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape)), batch)


@pytest.fixture(scope="module")
def trained():
    """Six nets on one set of digits, their groups, and the set."""
    batch = tuple(map(jnp.asarray, data.digits().train))

    @jax.jit
    @jax.vmap
    def train(key):
        step = lambda p, _: (
            jax.tree.map(lambda w, g: w - 0.5 * g, p, jax.grad(loss)(p, batch)),
            None,
        )
        return jax.lax.scan(step, NET.init(key), length=150)[0]

    population = train(jr.split(jr.key(0), 6))
    models = [jax.tree.map(lambda x, i=i: x[i], population) for i in range(6)]
    return models, infer(NET.apply, models[0], batch[0][:1]), batch


@pytest.fixture(scope="module")
def match(trained):
    """Compiled for twenty steps."""

    def solve(a, b, batches):
        optimizer = optax.sgd(RATE, momentum=0.9)
        return align.straight_through(loss, a, b, trained[1], batches, optimizer=optimizer)

    return jax.jit(solve)


def half(a, b):
    return jax.tree.map(lambda x, y: (x + y) / 2, a, b)


def written_out(a, b, batches):
    """Algorithm 2 of the paper with momentum; of one hidden layer each projection is exact."""
    (hidden, out), flat = ("hidden_0", "out"), lambda p: jax.tree.map(np.asarray, p)
    a, b, free = flat(a), flat(b), flat(a)
    speed = jax.tree.map(np.zeros_like, free)
    best, visited = np.arange(b[out]["kernel"].shape[0]), set()

    def moved(p):
        first = {"kernel": b[hidden]["kernel"][:, p], "bias": b[hidden]["bias"][p]}
        return {hidden: first, out: {**b[out], "kernel": b[out]["kernel"][p]}}

    for batch in zip(*batches, strict=True):
        score = free[hidden]["kernel"].T @ b[hidden]["kernel"]
        score += np.outer(free[hidden]["bias"], b[hidden]["bias"])
        score += free[out]["kernel"] @ b[out]["kernel"].T
        order = linear_sum_assignment(score, maximize=True)[1]
        grad = flat(jax.grad(lambda p, batch=batch: loss(half(a, p), batch))(moved(order)))
        speed = jax.tree.map(lambda v, g: 0.9 * v + g, speed, grad)
        free = jax.tree.map(lambda w, v: w - RATE * v, free, speed)
        if loss(half(a, moved(order)), batch) < loss(half(a, moved(best)), batch):
            best = order
        visited.add(tuple(order))
    assert len(visited) > 2  # the free model goes where weight matching does not
    return best


def test_equal_to_the_algorithm_written_out(trained, match):
    (a, b, *_), _, (x, y) = trained
    batches = (x[:1000].reshape(20, 50, 8, 8), y[:1000].reshape(20, 50))
    (order,) = match(a, b, batches).values()
    assert (np.asarray(order) == written_out(a, b, batches)).all()


def test_half_way_no_higher_than_weight_matching(trained, match):
    models, groups, batch = trained
    pairs = zip(models[::2], models[1::2], strict=True)
    for a, b in pairs:
        found = match(a, b, repeated(batch, 20))
        weights = align.weight_matching(a, b, groups)
        ours, theirs, plain = (
            float(loss(half(a, permute(b, groups, order)), batch)) for order in (found, weights, {})
        )
        assert ours <= theirs + 1e-6 < plain


def test_planted_orders_come_back_and_pairs_map(trained, match):
    (a, b, *_), groups, batch = trained
    batches = repeated(batch, 20)
    moved = permute(a, groups, random_permutation(jr.key(3), groups))
    same = permute(moved, groups, match(a, moved, batches))
    assert all((x == y).all() for x, y in zip(*map(jax.tree.leaves, (same, a)), strict=True))
    both = jax.tree.map(lambda *x: jnp.stack(x), b, moved)
    mapped = jax.vmap(match, in_axes=(None, 0, None))(a, both, batches)
    for i, other in enumerate((b, moved)):
        alone = match(a, other, batches)
        assert all((mapped[id][i] == p).all() for id, p in alone.items())


def test_what_is_wrong_is_said(trained):
    (a, b, *_), groups, batch = trained
    solve = lambda groups, batches: align.straight_through(
        loss, a, b, groups, batches, optimizer=optax.sgd(0.1)
    )
    with pytest.raises(WeightSpaceError, match="one leading axis of steps"):
        solve(groups, (batch[0], batch[1][:5]))
    with pytest.raises(WeightSpaceError, match="no group is free"):
        solve(Groups((), ()), batch)
