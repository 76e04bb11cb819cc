"""Orders of units: the function stays, the path is the shortest, weights get smoother."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import wslax as ws
from wslax.generate import shortest_path, total_variation

X = jr.normal(jr.key(9), (16, 8, 8))


def net(make, *args):
    made = make(*args)
    params = made.init(jr.key(0))
    shake = lambda leaf: leaf + 0.3 * jr.normal(jr.key(leaf.size), leaf.shape)
    return made.apply, jax.tree.map(shake, params)


@pytest.mark.parametrize("model", [(ws.nets.mlp, 64, (12, 30), 10), (ws.nets.conv, 8, (6, 24), 10)])
def test_the_function_stays_and_variation_falls(model):
    apply, params = net(*model)
    groups = ws.symmetry.infer(apply, params, X)
    order = shortest_path(params, groups, seconds=0.2)
    assert set(order) == {group.id for group in groups.free}
    smooth = ws.symmetry.permute(params, groups, order)
    np.testing.assert_allclose(apply(smooth, X), apply(params, X), rtol=1e-5, atol=1e-5)
    assert total_variation(smooth, groups) < 0.97 * total_variation(params, groups)


def length(rows, order):
    """Of the way through the units, by hand."""
    return sum(np.abs(rows[a] - rows[b]).sum() for a, b in itertools.pairwise(order))


def units(params):
    """The weights of each hidden unit of a perceptron with one hidden layer."""
    hidden, out = params["hidden_0"], params["out"]
    return np.concatenate([hidden["kernel"].T, hidden["bias"][:, None], out["kernel"]], 1)


def test_no_order_is_shorter():
    _, params = net(ws.nets.mlp, 3, (6,), 2)
    rows = units(jax.tree.map(np.asarray, params))
    groups = ws.symmetry.feed_forward(params, ["hidden_0", "out"])
    found = shortest_path(params, groups)[0]
    assert found[0] < found[-1]
    least = min(length(rows, order) for order in itertools.permutations(range(6)))
    assert length(rows, found) == pytest.approx(least, rel=1e-4)


def test_variation_is_its_formula():
    _, params = net(ws.nets.conv, 8, (3, 4), 2)
    groups = ws.symmetry.infer(ws.nets.conv(8, (3, 4), 2).apply, params, X)
    expected = []
    for leaf in jax.tree.leaves(params):
        axes = (-1, -2) if leaf.ndim > 1 else (-1,)
        expected.append(sum(np.abs(np.diff(np.float64(leaf), axis=axis)).sum() for axis in axes))
    assert float(total_variation(params, groups)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_bad_input_and_equal_units():
    _, params = net(ws.nets.mlp, 3, (6,), 2)
    groups = ws.symmetry.feed_forward(params, ["hidden_0", "out"])
    same = jax.tree.map(jnp.ones_like, params)
    assert shortest_path(same, groups)[0].tolist() == list(range(6))
    params["out"]["kernel"] = params["out"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(ws.WeightSpaceError, match="out/kernel: holds NaN"):
        shortest_path(params, groups)
