"""Matching over orders, signs and scales: what was planted comes back."""

import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from wslax import WeightSpaceError, align
from wslax.symmetry import Groups, balance, infer, permute, random_permutation, rescale
from wslax.symmetry.proof import random_scales, random_signs, randomised

sys.path.append(str(Path(__file__).parents[1] / "symmetry"))
from zoo import ZOO

match = jax.jit(align.signed_matching, static_argnums=2)


def net(sizes, seed, act):
    names = list("abcdefgh")
    keys = jr.split(jr.key(seed), len(sizes))
    shapes = itertools.pairwise(sizes)
    params = {n: jr.normal(k, s) for n, k, s in zip(names, keys, shapes, strict=False)}

    def apply(p, x):
        for name in sorted(p)[:-1]:
            x = act(x @ p[name])
        return x @ p[max(p)]

    return params, infer(apply, params, jnp.ones((1, sizes[0])))


@pytest.mark.parametrize(
    "act", [jnp.tanh, jax.nn.relu, lambda h: h], ids=["tanh", "relu", "linear"]
)
def test_planted_orders_signs_and_scales_come_back(act):
    a, groups = net([64, 12, 10, 3], 0, act)
    order = random_permutation(jr.key(3), groups)
    b = permute(a, groups, order, random_signs(jr.key(4), groups))
    b = rescale(b, groups, random_scales(jr.key(5), groups))
    a, b = balance(a, groups), balance(b, groups)
    orders, signs = match(a, b, groups)
    for group in groups.free:
        assert (order[group.id][orders[group.id]] == jnp.arange(group.size)).all()
    back = permute(b, groups, orders, signs)
    for name in a:
        np.testing.assert_allclose(back[name], a[name], rtol=1e-4, atol=1e-5)


def test_a_model_with_heads_gated_units_and_recurrence_comes_back():
    apply, params, inputs = ZOO["lstm_separate"]()
    with jax.numpy_rank_promotion("allow"):
        groups = infer(apply, params, *inputs)
    a = randomised(jr.key(2), params)
    order = random_permutation(jr.key(3), groups)
    b = permute(a, groups, order, random_signs(jr.key(4), groups))
    back = permute(b, groups, *match(a, b, groups))
    for x, y in zip(*map(jax.tree.leaves, (a, back)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


def test_one_layer_against_the_best_of_all_signs():
    """One group, two sign symmetries that share a site, against numpy over all combinations."""
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 5), "b": (3, 5), "c": (5, 2)}
    a, b = ({n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()} for _ in "ab")
    sites = [("a", 1, "produced"), ("b", 1, "produced"), ("c", 0, "consumed")]
    groups = Groups.from_sites(a, [sites], signs={0: ((1, 0, 1), (0, 1, 1))})
    s = [a["a"].T @ b["a"], a["b"].T @ b["b"], a["c"] @ b["c"].T]
    every = list(itertools.product((1, -1), repeat=2))
    scores = np.stack([x * s[0] + y * s[1] + x * y * s[2] for x, y in every])
    rows, order = linear_sum_assignment(scores.max(0), maximize=True)
    orders, signs = match(a, b, groups)
    assert (np.asarray(orders[0]) == order).all()
    best = scores.argmax(0)[rows, order]
    assert (signs[0] == np.array(every)[best].T).all()


def test_without_signs_it_is_weight_matching():
    (a, groups), (b, _) = net([5, 9, 8, 3], 0, jax.nn.relu), net([5, 9, 8, 3], 1, jax.nn.relu)
    orders, signs = match(a, b, groups)
    assert signs == {}
    for id, order in align.weight_matching(a, b, groups).items():
        assert (orders[id] == order).all()
    with pytest.raises(WeightSpaceError, match="b: "):
        align.signed_matching(a, {**b, "b": jnp.ones((9, 3))}, groups)
