"""Activation matching: correlation by numpy and SciPy, and planted orders."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tests.symmetry.zoo import ZOO
from wslax import WeightSpaceError, align, nets, symmetry
from wslax.symmetry import Groups, Site
from wslax.symmetry.proof import randomised


def groups():
    whole = [("w", 1, "produced")]
    heads = [("q", 1, "produced")]
    width = [Site("q", 2, size=5, role="produced")]
    params = {"w": np.zeros((2, 7)), "q": np.zeros((2, 3, 5))}
    return Groups.from_sites(params, [whole, heads, width], per={2: (1,)})


def test_equal_to_correlation_and_scipy():
    a, b = (np.asarray(jr.normal(jr.key(i), (40, 7))) * np.arange(1, 8) for i in (0, 1))
    found = jax.jit(lambda a, b: align.activation_matching({0: a}, {0: b}, groups()))(a, b)[0]
    correlation = np.corrcoef(a.T, b.T)[:7, 7:]
    assert (found == linear_sum_assignment(correlation, maximize=True)[1]).all()


def test_planted_orders_come_back_per_head():
    a = jr.normal(jr.key(0), (30, 3, 5))
    orders = np.stack([np.random.default_rng(i).permutation(5) for i in range(3)])
    b = 3 * jnp.take_along_axis(a, jnp.asarray(orders)[None], -1) + 1
    found = align.activation_matching({2: a}, {2: b}, groups())[2]
    assert (np.take_along_axis(orders, np.asarray(found), -1) == np.arange(5)).all()


def test_units_that_never_vary_and_populations():
    a = jr.normal(jr.key(0), (4, 30, 7)).at[:, :, 2].set(1.0)
    match = jax.vmap(lambda a: align.activation_matching({0: a}, {0: a[:, ::-1]}, groups())[0])
    assert (np.asarray(match(a)) == np.arange(7)[::-1]).all()


def test_what_is_wrong_is_said():
    a = jnp.ones((4, 7))
    with pytest.raises(WeightSpaceError, match=r"as in a, got \[\]"):
        align.activation_matching({0: a}, {}, groups())
    with pytest.raises(WeightSpaceError, match=r"b: expected activations \[4, 7\] of group 0"):
        align.activation_matching({0: a}, {0: a[:, :5]}, groups())


@pytest.mark.parametrize("name", ["scanned", "gpt"])
def test_orders_planted_in_every_group_come_back(name):
    """Layers under a scan, heads and their widths, fused kernels, a tied embedding."""
    apply, params, (tokens,) = ZOO[name]()
    with jax.numpy_rank_promotion("allow"):
        groups = symmetry.infer(apply, params, tokens)
        a = randomised(jr.key(2), params)
        b = symmetry.permute(a, groups, symmetry.random_permutation(jr.key(3), groups))
        tokens = jr.randint(jr.key(4), (64, *tokens.shape[1:]), 0, 7)
        read = jax.jit(lambda p: align.activations(apply, p, groups, tokens))
        seen = read(a)
        assert seen.keys() == {group.id for group in groups.free}
        order = align.activation_matching(seen, read(b), groups)
    back = symmetry.permute(b, groups, order)
    jax.tree.map(np.testing.assert_array_equal, a, back)


def test_activations_are_what_consumers_see():
    net, x = nets.mlp(5, (8, 6), 3), jr.normal(jr.key(0), (7, 5))
    params = net.init(jr.key(1))
    groups = symmetry.infer(net.apply, params, x)
    (first,) = groups.at("hidden_0/kernel", 1)
    hidden = jax.nn.relu(x @ params["hidden_0"]["kernel"])
    (found,) = align.activations(net.apply, params, groups, x)[first.id]
    np.testing.assert_allclose(found, hidden, rtol=1e-5, atol=1e-6)
