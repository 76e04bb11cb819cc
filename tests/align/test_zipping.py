"""ZipIt!: the published matching in numpy, permuted copies, duplicated units, and real digits."""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from wslax import WeightSpaceError, align, data, merge, nets
from wslax.align.greedy import zip_labels
from wslax.population import member, stack
from wslax.symmetry import Groups, Site, infer, permute, random_permutation
from wslax.symmetry.proof import randomised

sys.path.append(str(Path(__file__).parents[1] / "symmetry"))
from zoo import ZOO

labels = jax.jit(zip_labels, static_argnums=1)
NET = nets.mlp(64, [32, 32], 10)


def published(similar, models, alpha, beta):
    """The paper's loop in float64: merged features leave the matrix; None where it gets stuck."""
    similar = np.array(similar, np.float64)
    size = len(similar) // models
    np.fill_diagonal(similar, -np.inf)
    clusters, origin = [[i] for i in range(len(similar))], np.arange(len(similar)) // size
    left = [int((len(similar) - size) // models * beta + 1e-4)] * models

    def end(model):
        similar[np.ix_(origin == model, origin == model)] = -np.inf

    for model in range(models):
        if left[model] == 0:
            end(model)
    while len(clusters) > size:
        i, j = sorted(divmod(int(similar.argmax()), len(similar)))
        if i == j:
            return None
        least = np.minimum(similar[i], similar[j])
        least = np.array([x if np.isinf(x) else x * alpha for x in least])
        similar[i] = similar[:, i] = least
        clusters[i] += clusters.pop(j)
        similar = np.delete(np.delete(similar, j, 0), j, 1)
        (one, two), origin = origin[[i, j]], np.delete(origin, j)
        if one == two:
            left[one] -= 1
            if left[one] == 0:
                end(one)
    found = np.zeros(sum(map(len, clusters)), int)
    for at, cluster in enumerate(clusters):
        found[cluster] = at
    return found


@pytest.mark.parametrize(("models", "size"), [(1, 4), (2, 9), (3, 5)])
def test_equal_to_the_published_matching(models, size):
    compared = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        similar = np.corrcoef(draw.normal(size=(models * size, 20)))
        alpha, beta = draw.choice([0.0, 0.3, 1.0]), draw.choice([0.0, 0.25, 1.0])
        found = labels(jnp.asarray(similar, jnp.float32), models, alpha=alpha, beta=beta)
        assert sorted(set(found.tolist())) == list(range(size))
        expected = published(similar, models, alpha, beta)
        if expected is not None:
            compared += 1
            assert (found == expected).all()
    assert compared >= 5


def test_no_merges_within_two_models_where_pairs_are_perfect():
    seen = jr.normal(jr.key(0), (60, 9))
    order = jr.permutation(jr.key(1), 9)
    similar = jnp.corrcoef(jnp.concatenate([seen, seen[:, order]], 1).T)
    found = np.asarray(labels(similar, 2, alpha=0.3, beta=0.0))
    assert (found[:9] == np.arange(9)).all()
    assert (found[9:] == np.asarray(order)).all()


def planted(name):
    """A model, a copy whose zipped groups are permuted, groups, and activations that say how."""
    apply, params, inputs = ZOO[name]()
    with jax.numpy_rank_promotion("allow"):
        groups = infer(apply, params, *inputs)
    one = randomised(jr.key(2), params)
    outer = {id for group in groups.free for id in group.per}
    orders, seen = {}, {}
    for id, order in random_permutation(jr.key(3), groups).items():
        if id in outer:
            continue
        sizes = [groups.all[other].size for other in (*groups.all[id].per, id)]
        x = jr.normal(jr.fold_in(jr.key(4), id), (40, *sizes))
        orders[id] = jnp.broadcast_to(order, sizes)
        seen[id] = (x, jnp.take_along_axis(x, orders[id][None], -1))
    other = permute(one, groups, orders)
    return apply, inputs, groups, stack([one, other]), {id: jnp.stack(x) for id, x in seen.items()}


@pytest.mark.parametrize("name", ["mlp", "grouped"])
def test_permuted_copies_become_the_model(name):
    apply, inputs, groups, population, seen = planted(name)
    ids = tuple(seen)
    with jax.numpy_rank_promotion("allow"):
        run = jax.jit(apply)
        before = run(member(population, 0), *inputs)
        solve = jax.jit(align.zipit, static_argnums=2, static_argnames="ids")
        whole = solve(population, seen, groups)
        assert whole.own == ()
        assert jnp.allclose(run(whole.params, *inputs), before, rtol=1e-5, atol=1e-5)
        heads = solve(population, seen, groups, ids=ids)
        assert heads.own
        each = jax.vmap(apply, in_axes=(heads.axes, *[None] * len(inputs)))
        after = jax.jit(each)(heads.params, *inputs)
        assert jnp.allclose(after, before[None], rtol=1e-5, atol=1e-5)


def mlp(p, x):
    return jax.nn.relu(x @ p["in"] + p["bias"][None]) @ p["out"]


def net(seed, distinct, units=8):
    """A net with each of its first units there several times."""
    keys = jr.split(jr.key(seed), 3)
    copies = np.arange(units) % distinct
    make = lambda key, *shape: jr.normal(key, shape)
    return {
        "in": make(keys[0], 3, distinct)[:, copies],
        "bias": make(keys[1], distinct)[copies],
        "out": make(keys[2], units, 2),
    }


def test_duplicates_merge_within_each_model_and_nothing_is_lost():
    x = jr.normal(jr.key(0), (50, 3))
    population = stack([net(1, 4), net(2, 4)])
    groups = infer(mlp, member(population, 0), x)
    (group,) = groups.free
    seen = jax.vmap(lambda p: jax.nn.relu(x @ p["in"] + p["bias"][None]))(population)
    zipped = align.zipit(population, {group.id: (seen, seen)}, groups, ids=[group.id], beta=1.0)
    assert zipped.own == ("out",)
    assert zipped.params["in"].shape == (3, 8)
    after = jax.vmap(mlp, in_axes=(zipped.axes, None))(zipped.params, x)
    before = jax.vmap(mlp, in_axes=(0, None))(population, x)
    assert jnp.allclose(after, before, atol=1e-4)
    whole = align.zipit(population, {group.id: seen}, groups, beta=1.0)
    assert jnp.allclose(mlp(whole.params, x), before.mean(0), atol=1e-4)


def test_matrices_of_the_paper_in_numpy():
    """Sum over models of M W U, with M and U written as matrices."""
    population = {"a": jr.normal(jr.key(0), (3, 2, 5)), "b": jr.normal(jr.key(1), (3, 5, 5))}
    population["steps"] = jnp.arange(3)
    population["a"] = population["a"].astype(jnp.bfloat16)
    groups = Groups.from_sites(
        member(population, 0),
        [[("a", 1, "produced"), ("b", 0, "consumed")], [("b", 1, "produced")]],
    )
    seen = {id: jr.normal(jr.key(id), (3, 30, 5)) for id in (0, 1)}
    found = align.zipit(population, seen, groups, alpha=0.5, beta=0.5).params
    unmerge, merges = {}, {}
    for id, x in seen.items():
        similar = np.corrcoef(np.asarray(x).transpose(0, 2, 1).reshape(15, 30))
        matrix = np.eye(5)[published(similar, 3, 0.5, 0.5)]
        unmerge[id] = matrix.reshape(3, 5, 5)
        merges[id] = (matrix / matrix.sum(0)).reshape(3, 5, 5)
    a, b = (np.asarray(population[name], np.float64) for name in "ab")
    first = np.einsum("xio,xon->in", a, merges[0])
    second = np.einsum("xio,xim,xon->mn", b, unmerge[0], merges[1])
    assert found["a"].dtype == jnp.bfloat16
    assert np.allclose(np.asarray(found["a"], np.float64), first, rtol=1e-2, atol=1e-2)
    assert np.allclose(found["b"], second, atol=1e-5)
    assert found["steps"] == 0


def test_nothing_zipped_is_the_population():
    population = stack([net(1, 8), net(2, 8)])
    groups = infer(mlp, net(1, 8), jnp.ones((1, 3)))
    zipped = align.zipit(population, {}, groups, ids=())
    assert jax.tree.leaves(zipped.axes) == [0, 0, 0]
    for x, y in zip(*map(jax.tree.leaves, (zipped.params, population)), strict=True):
        assert (x == y).all()


def test_what_is_wrong_is_said():
    x = jnp.ones((4, 64))
    population = stack([NET.init(jr.key(i)) for i in range(2)])
    groups = infer(NET.apply, member(population, 0), x)
    first, second = (groups.at(f"hidden_{i}/bias", 0)[0].id for i in range(2))
    seen = {first: jnp.ones((2, 5, 32))}
    solve = functools.partial(align.zipit, population, seen, groups)
    with pytest.raises(WeightSpaceError, match=r"hidden_1/kernel: .* add \d to ids"):
        solve(ids=[second])
    with pytest.raises(WeightSpaceError, match="activations: expected those of all"):
        solve()
    with pytest.raises(WeightSpaceError, match="beta: expected a number from 0 to 1, got 2"):
        solve(ids=[first], beta=2)
    with pytest.raises(WeightSpaceError, match=r"expected \[2, samples, 32\] of group"):
        align.zipit(population, {first: jnp.ones((2, 5, 31))}, groups, ids=[first])
    tied = {"w": jnp.ones((2, 3, 4), jnp.int8)}
    sites = [("w", 1, "produced"), ("w", 1, "consumed")]
    both = Groups.from_sites(member(tied, 0), [sites])
    with pytest.raises(WeightSpaceError, match="w: its axis 1 both makes and reads"):
        align.zipit(tied, {}, both)
    whole = Groups.from_sites(member(tied, 0), [sites[:1]])
    with pytest.raises(WeightSpaceError, match="only floats are merged"):
        align.zipit(tied, {}, whole)
    half = Groups.from_sites(member(tied, 0), [[Site("w", 1, size=2, role="produced")]])
    floats = {"w": jnp.ones((2, 3, 4))}
    with pytest.raises(WeightSpaceError, match="produce a part of it"):
        align.zipit(floats, {}, half, ids=[0])
    heads = Groups.from_sites(member(tied, 0), [[("w", 0, "produced")], sites[:1]], per={1: (0,)})
    with pytest.raises(WeightSpaceError, match="name it or them, not both"):
        align.zipit(floats, {}, heads, ids=[0, 1])


def test_nets_of_other_classes_keep_their_tasks():
    """Two nets, digits 0-4 and 5-9: accuracy each on its own classes, mean over both."""
    (x, y), _, (tx, ty) = data.digits()
    x, y, tx, ty = map(jnp.asarray, (x, y, tx, ty))
    classes = jnp.arange(10)[None] // 5 == jnp.arange(2)[:, None]

    def loss(p, mine):
        logits = NET.apply(p, x)
        each = -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y]
        return (each * mine[y]).sum() / mine[y].sum()

    @jax.jit
    @jax.vmap
    def train(key, mine):
        step = lambda p, _: (
            jax.tree.map(lambda w, g: w - 0.5 * g, p, jax.grad(loss)(p, mine)),
            None,
        )
        return jax.lax.scan(step, NET.init(key), length=150)[0]

    def accuracy(p, mine):
        right = jnp.where(mine[None], NET.apply(p, tx), -jnp.inf).argmax(-1) == ty
        return (right * mine[ty]).sum() / mine[ty].sum()

    def hidden(p):
        one = jax.nn.relu(x.reshape(-1, 64) @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"][None])
        return one, jax.nn.relu(one @ p["hidden_1"]["kernel"] + p["hidden_1"]["bias"][None])

    groups = infer(NET.apply, NET.init(jr.key(0)), x[:1])
    ids = tuple(groups.at(f"hidden_{i}/bias", 0)[0].id for i in range(2))

    @jax.jit
    def compared(population):
        seen = dict(zip(ids, jax.vmap(hidden)(population), strict=True))
        zipped = align.zipit(population, seen, groups, ids=ids[:1])
        mean = lambda p, axes: jax.vmap(accuracy, in_axes=(axes, 0))(p, classes).mean()
        return mean(zipped.params, zipped.axes), mean(merge.linear(population), None)

    for seed in range(3):
        population = train(jr.split(jr.key(seed)), classes)
        partly, plain = compared(population)
        assert partly > plain + 0.05
