"""Weight matching: planted orders come back, the published loop agrees, ties between axes hold."""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from wslax import WeightSpaceError, align, nets
from wslax.symmetry import Groups, infer, permute, random_permutation
from wslax.symmetry.proof import randomised

sys.path.append(str(Path(__file__).parents[1] / "symmetry"))
from zoo import ZOO

match = jax.jit(align.weight_matching, static_argnums=2)


def net(sizes, seed):
    names = list("abcdefgh")
    keys = jr.split(jr.key(seed), len(sizes))
    shapes = itertools.pairwise(sizes)
    return {n: jr.normal(k, s) for n, k, s in zip(names, keys, shapes, strict=False)}


def mlp(params, x):
    for name in sorted(params)[:-1]:
        x = jax.nn.relu(x @ params[name])
    return x @ params[max(params)]


def agreement(a, b):
    return sum(float(jnp.vdot(x, y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def published(a, b, hidden):
    """The loop of git-re-basin for a plain net, in numpy, groups in the order of layers."""
    names = sorted(a)
    perm = [np.arange(n) for n in hidden]

    def moved(k, axis):
        w = np.asarray(b[names[k]])
        if axis != 0 and k > 0:
            w = w[perm[k - 1]]
        if axis != 1 and k < len(hidden):
            w = w[:, perm[k]]
        return w

    for _ in range(100):
        progress = False
        for p, n in enumerate(hidden):
            score = np.asarray(a[names[p]]).T @ moved(p, 1)
            score = score + np.asarray(a[names[p + 1]]) @ moved(p + 1, 0).T
            new = linear_sum_assignment(score, maximize=True)[1]
            progress |= score[np.arange(n), new].sum() > score[np.arange(n), perm[p]].sum() + 1e-12
            perm[p] = new
        if not progress:
            return perm
    return perm


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_the_published_loop_from_the_same_start(seed):
    a, b = net([5, 16, 12, 9, 3], seed), net([5, 16, 12, 9, 3], seed + 10)
    groups = infer(mlp, a, jnp.ones((1, 5)))
    found = match(a, b, groups)
    for mine, theirs in zip(found.values(), published(a, b, [16, 12, 9]), strict=True):
        assert (np.asarray(mine) == theirs).all()


@pytest.mark.parametrize("name", ["mlp", "resnet", "scanned", "grouped"])
def test_planted_orders_come_back(name):
    apply, params, inputs = ZOO[name]()
    with jax.numpy_rank_promotion("allow"):
        groups = infer(apply, params, *inputs)
    a = randomised(jr.key(2), params)
    b = permute(a, groups, random_permutation(jr.key(3), groups))
    back = permute(b, groups, match(a, b, groups))
    far, near = agreement(a, a) - agreement(a, b), agreement(a, a) - agreement(a, back)
    assert near < 0.35 * far
    if name == "mlp":
        assert near < 1e-5


def test_square_weights_never_get_worse():
    """Two layers of one width that share their units: the objective is quadratic."""

    def apply(p, x):
        h = jnp.tanh(x @ p["in"])
        return jnp.tanh(h + jnp.tanh(h @ p["w"])) @ p["out"]

    shapes = {"in": (3, 12), "w": (12, 12), "out": (12, 2)}

    def make(seed):
        return {
            n: jr.normal(jr.fold_in(jr.key(seed), i), s) for i, (n, s) in enumerate(shapes.items())
        }

    a = make(0)
    groups = infer(apply, a, jnp.ones((1, 3)))
    for seed in range(1, 6):
        b = make(seed)
        found = permute(b, groups, match(a, b, groups))
        best = agreement(a, found)
        assert best >= agreement(a, b)
        for i in range(12):
            for j in range(i):
                swap = np.arange(12)
                swap[[i, j]] = j, i
                other = agreement(a, permute(found, groups, {groups.free[0].id: swap}))
                assert other <= best + 1e-3 * abs(best)
    moved = permute(a, groups, random_permutation(jr.key(9), groups))
    assert agreement(a, permute(moved, groups, match(a, moved, groups))) > 0.999 * agreement(a, a)


def test_pairs_under_vmap_equal_pairs_alone():
    sizes = [4, 8, 8, 2]
    pairs = [(net(sizes, i), net(sizes, i + 50)) for i in range(3)]
    groups = infer(mlp, pairs[0][0], jnp.ones((1, 4)))
    a, b = (jax.tree.map(lambda *x: jnp.stack(x), *side) for side in zip(*pairs, strict=True))
    key = jr.key(0)
    many = jax.vmap(lambda x, y: align.weight_matching(x, y, groups, key=key))(a, b)
    for i, (x, y) in enumerate(pairs):
        one = align.weight_matching(x, y, groups, key=key)
        assert all((many[id][i] == one[id]).all() for id in one)


def test_half_types_and_integers_pass():
    a = {**net([4, 8, 2], 0), "steps": jnp.int32(3)}
    a["a"] = a["a"].astype(jnp.bfloat16)

    def apply(p, x):
        return jax.nn.relu(x @ p["a"].astype(x.dtype)) @ p["b"]

    groups = infer(apply, a, jnp.ones((1, 4)))
    moved = permute(a, groups, random_permutation(jr.key(1), groups))
    back = permute(moved, groups, match(a, moved, groups))
    assert (back["a"] == a["a"]).all()
    assert back["a"].dtype == jnp.bfloat16


def test_many_noisy_copies_come_together():
    centre = net([6, 16, 12, 3], 0)
    groups = infer(mlp, centre, jnp.ones((1, 6)))
    members = []
    for i in range(5):
        noisy = jax.tree.map(lambda x, i=i: x + 0.02 * jr.normal(jr.key(i), x.shape), centre)
        members.append(permute(noisy, groups, random_permutation(jr.key(100 + i), groups)))
    population = jax.tree.map(lambda *x: jnp.stack(x), *members)
    orders = jax.jit(align.match_many, static_argnums=1)(population, groups, key=jr.key(0))
    aligned = jax.vmap(lambda m, p: permute(m, groups, p))(population, orders)
    spread = lambda p: sum(float(x.var(0).sum()) for x in jax.tree.leaves(p))
    noise = 0.02**2 * sum(x.size for x in jax.tree.leaves(centre))
    assert spread(aligned) < 1.5 * noise < 0.1 * spread(population)


def test_what_is_wrong_is_said():
    a = net([4, 8, 2], 0)
    groups = infer(mlp, a, jnp.ones((1, 4)))
    with pytest.raises(WeightSpaceError, match="b: "):
        align.weight_matching(a, {**a, "b": jnp.ones((8, 3))}, groups)
    frozen = Groups(tuple(g for g in groups.all if g.frozen_by)[:0], ())
    with pytest.raises(WeightSpaceError, match="no group is free"):
        align.weight_matching(a, a, frozen)
    with pytest.raises(WeightSpaceError, match="two or more"):
        align.match_many(jax.tree.map(lambda x: x[None], a), groups, key=jr.key(0))


def test_barrier_is_the_rise_above_the_chord():
    a, b = {"w": jnp.float32(-1), "n": jnp.int32(4)}, {"w": jnp.float32(2), "n": jnp.int32(4)}
    found = align.barrier(lambda p: jnp.sin(p["w"]) + p["n"], a, b, points=61)
    t = np.linspace(0, 1, 61)
    rise = np.sin(-1 + 3 * t) - (1 - t) * np.sin(-1) - t * np.sin(2)
    assert np.allclose(found.height, rise.max(), atol=1e-5)
    with pytest.raises(WeightSpaceError, match="points"):
        align.barrier(lambda p: p["w"], a, b, points=1)


def test_matching_lowers_the_barrier_of_nets_trained_apart():
    from wslax import data

    x, y = data.digits().train
    tx, ty = data.digits().test
    model = nets.mlp(64, [64], 10)

    def loss(p, x=x, y=y):
        return nets.cross_entropy(model.apply(p, x), y)

    @jax.jit
    def train(key):
        def step(p, _):
            return jax.tree.map(lambda w, g: w - 0.5 * g, p, jax.grad(loss)(p)), None

        return jax.lax.scan(step, model.init(key), length=150)[0]

    a, b = train(jr.key(0)), train(jr.key(1))
    groups = infer(model.apply, a, x[:1])
    on_test = lambda p: loss(p, tx, ty)
    before = align.barrier(on_test, a, b, points=11).height
    after = align.barrier(on_test, a, permute(b, groups, match(a, b, groups)), points=11).height
    assert after < 0.6 * before
