"""Experiments on supernets and generated weights at the size of a toy: what they compare."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import wslax as ws
from benchmarks.papers import neumeta, supernets
from benchmarks.papers.supernets.search import search, sizes_of
from wslax.grow import supernet


def test_the_search_finds_the_best_within_the_budget():
    spec = jax.eval_shape(ws.nets.mlp(4, (6, 6, 6), 2).init, jr.key(0))
    groups = ws.symmetry.feed_forward(spec, supernets.NAMES)
    space = supernet.space(groups, dict.fromkeys(range(3), (1, 2, 3, 4, 5, 6)))
    weigh = jnp.asarray([3.0, 1.0, 2.0])
    value = lambda at: sum(w * jnp.float32(at[k]) for k, w in enumerate(weigh))
    inside = lambda at: at[0] + at[1] + at[2] <= 9
    fitness = lambda at: jnp.where(inside(at), value(at), -1.0)
    genes, found = jax.jit(lambda key: search(key, space, fitness))(jr.key(0))
    at = {id: int(size) for id, size in sizes_of(space, genes).items()}
    grid = np.stack(np.meshgrid(*[np.arange(1, 7)] * 3), -1).reshape(-1, 3)
    best = max(float(row @ np.array([3, 1, 2])) for row in grid if row.sum() <= 9)
    assert sum(at.values()) <= 9
    assert float(found) == best == 3 * at[0] + at[1] + 2 * at[2]


def test_weights_of_an_architecture_are_counted():
    sizes = {0: 8, 1: 16, 2: 24}
    params = jax.eval_shape(ws.nets.mlp(7, tuple(sizes.values()), 10).init, jr.key(0))
    assert supernets.weights_in(sizes, 7) == ws.tree.size(params)
    small, full = (jax.eval_shape(neumeta.net_of(w).init, jr.key(0)) for w in (10, 32))
    assert round(ws.tree.size(small) / ws.tree.size(full), 2) == 0.25


def test_a_smaller_gap_is_a_positive_figure():
    figures = {"alone": np.full((2, 6), 0.9), "plain": np.full((2, 6), 0.6)}
    figures |= {"layer-wise": np.full((2, 6), 0.7), "neuron-wise": np.full((2, 6), 0.85)}
    figures["search, neuron-wise"] = np.array([0.8, 0.9]), np.array([0.7, 0.7])
    told = [np.round(claim.values, 6).tolist() for claim in supernets.claims("toy", figures)]
    assert told == [[0.1, 0.1], [0.15, 0.15], [0.25, 0.25], [0.1, 0.2]]


def test_strongest_units_are_kept_in_their_order():
    params = jax.tree.map(np.zeros_like, neumeta.net_of(4).init(jr.key(0)))
    for name, row in (("hidden_0", [1, 4, 2, 3]), ("hidden_1", [0, 0, 0, 0])):
        params[name]["kernel"] = params[name]["kernel"] + np.float32(row)
    params["out"]["kernel"] = params["out"]["kernel"] + np.float32([[1], [0], [3], [2]])
    groups = ws.symmetry.feed_forward(params, neumeta.NAMES)
    kept = neumeta.strongest(params, 2, groups)
    assert kept["hidden_0"]["kernel"][0].tolist() == [4, 3]
    assert kept["out"]["kernel"][:, 0].tolist() == [3, 2]


def test_what_generated_weights_gain_is_a_positive_figure():
    small = {"generated": np.array([0.9, 0.8]), "first units": np.array([0.1, 0.2])}
    small |= {"strongest units": np.array([0.3, 0.9]), "not smoothed": np.array([0.9, 0.7])}
    told = [np.round(c.values, 6).tolist() for c in neumeta.claims(np.array([1.0, 0.9]), small)]
    assert told == [[0.1, 0.1], [0.8, 0.6], [0.6, -0.1], [0.0, 0.1]]
