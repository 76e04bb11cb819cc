"""Crossovers by pieces: which parent each weight has its bits from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import evolve, symmetry


def parents(params):
    """Of ones and of twos, so that each weight says whose it is."""
    return jax.tree.map(lambda x: jnp.stack([x * 0 + 1, x * 0 + 2]).astype(x.dtype), params)


@pytest.fixture(scope="module")
def transformer():
    net = ws.nets.transformer(7, 4, width=8, heads=2, depth=2)
    params = net.init(jax.random.key(0))
    return params, symmetry.infer(net.apply, params, jnp.zeros((1, 4), int))


def test_uniform_takes_the_first_parents_share():
    pair = {"w": jnp.stack([jnp.zeros(20_000), jnp.ones(20_000)]), "n": jnp.array([3, 4])}
    take = jax.jit(jax.vmap(lambda key: evolve.uniform(key, pair, jnp.array([3.0, 1.0]))))
    children = take(jax.random.split(jax.random.key(0), 3))
    share = 1 - np.asarray(children["w"]).mean(1)
    np.testing.assert_allclose(share, 0.75, atol=5 * np.sqrt(0.75 * 0.25 / 20_000))
    assert (children["n"] == 3).all()
    assert (children["w"][0] != children["w"][1]).any()


def test_layers_and_blocks_come_whole(transformer):
    pair = parents(transformer[0])
    whole = evolve.by_layer(lambda name: name.split("/")[0])
    seen = set()
    for seed in range(12):
        child = jax.jit(whole)(jax.random.key(seed), pair, jnp.ones(2))
        of_block = [
            {float(x) for leaf in jax.tree.leaves(b) for x in leaf.ravel()} for b in child.values()
        ]
        assert all(len(values) == 1 for values in of_block)
        seen.add(tuple(min(values) for values in of_block))
    assert len(seen) > 3
    child = ws.tree.named_leaves(evolve.by_layer()(5, pair, jnp.ones(2)))
    for name, leaf in child.items():
        kernel = child.get(f"{name.rpartition('/')[0]}/kernel", leaf)
        assert leaf.min() == leaf.max() == kernel.max()


def test_all_that_a_unit_produces_has_one_parent(transformer):
    params, groups = transformer
    child = ws.tree.named_leaves(
        jax.jit(evolve.by_unit(groups))(jax.random.key(3), parents(params), jnp.ones(2))
    )
    streams = next(group for group in groups.free if len(group.sites) > 10)
    whose = child["embedding/embedding"][0]
    assert set(whose.tolist()) == {1.0, 2.0}
    for name, axis in (("block_0/down/kernel", 1), ("block_1/attention/out/kernel", 2)):
        assert any((s.name, s.axis) == (name, axis) for s in streams.sites)
        moved = jnp.moveaxis(child[name], axis, -1).reshape(-1, 8)
        assert (moved == whose[None]).all()
    assert (child["norm/scale"] == whose).all()
    # A hidden unit's incoming weights and bias; heads whole, in queries, keys and values alike.
    up = child["block_0/up/bias"]
    assert (child["block_0/up/kernel"] == up[None]).all()
    heads = child["block_1/attention/query/bias"][:, 0]
    for part in ("query", "key", "value"):
        kernel = child[f"block_1/attention/{part}/kernel"]
        assert (kernel == heads[None, :, None]).all()


def test_alike_parents_have_that_child_in_any_type(transformer):
    params, groups = transformer
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params) | {"steps": jnp.array(7)}
    pair = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    base = jax.tree.map(lambda x: x * 0, params)
    by_unit = evolve.by_unit(groups)
    for crossover in (
        evolve.uniform,
        evolve.by_layer(),
        by_unit,
        evolve.of_task_vectors(base, by_unit),
    ):
        child = crossover(1, pair, jnp.ones(2))
        ws.tree.check_like(child, params)
        assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), child, params)))


def test_genome_takes_them_as_crossovers(transformer):
    params, groups = transformer
    population = jax.tree.map(lambda x: jnp.stack([x + i for i in range(4)]), params)
    strategy = evolve.genome(crossover=evolve.by_unit(groups), mutation_rate=0.0)
    state = strategy.init(0, population, jnp.arange(4.0))
    children, _ = strategy.ask(jax.random.key(1), state)
    shifts = children["norm"]["scale"] - params["norm"]["scale"][None]
    assert set(np.round(np.unique(shifts), 4)) <= {0.0, 1.0, 2.0, 3.0}
    assert len(np.unique(np.round(shifts[0], 4))) == 2
