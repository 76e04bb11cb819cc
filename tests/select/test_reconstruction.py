"""SparseGPT against its algorithm in numpy, and against least squares where that is its result."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, select, symmetry
from wslax.trace import taps


def by_hand(w, x, keep, block, pattern=None):
    """Frantar and Alistarh 2023, algorithm 1, in float64: `w` is `[outputs, inputs]`."""
    w, h = w.copy(), 2 * x.T @ x / len(x)
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h += 0.01 * np.mean(np.diag(h) * ~dead) * np.eye(len(h))
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    mask = np.ones(w.shape, bool)
    for start in range(0, w.shape[1], block):
        stop = min(start + block, w.shape[1])
        errors = np.zeros((len(w), stop - start))
        if pattern is None:
            score = (w[:, start:stop] / np.diag(u)[start:stop]) ** 2
            gone = np.argsort(score, axis=None)[: score.size - round(keep * score.size)]
            mask[:, start:stop][np.unravel_index(gone, score.shape)] = False
        for j in range(start, stop):
            if pattern is not None and j % pattern[1] == 0:
                n, m = pattern
                score = (w[:, j : j + m] / np.diag(u)[j : j + m]) ** 2
                gone = np.argsort(score, 1)[:, : m - n]
                np.put_along_axis(mask[:, j : j + m], gone, False, 1)
            error = np.where(mask[:, j], 0, w[:, j]) / u[j, j]
            w[:, j:stop] -= error[:, None] * u[j, j:stop]
            errors[:, j - start] = error
        w[:, stop:] -= errors @ u[start:stop, stop:]
    return np.where(mask, w, 0), mask


RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 20)) @ RNG.normal(size=(20, 20))
X[:, 5] = 0  # an input that never comes
W = RNG.normal(size=(7, 20))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"density": 0.5}, (0.5, 8, None)),  # blocks of 8, 8 and 4
        ({"density": 0.3}, (0.3, 8, None)),
        ({"n_of_m": (2, 4)}, (None, 8, (2, 4))),
    ],
)
def test_the_algorithm(options, rule):
    with jax.enable_x64(True):
        params = {"w": jnp.asarray(W.T)}
        pruned, mask = select.sparsegpt(params, {"w": X.T @ X}, block=8, **options)
        expected, kept = by_hand(W, X, *rule)
        np.testing.assert_array_equal(mask["w"].T, kept)
        np.testing.assert_allclose(pruned["w"].T, expected, rtol=1e-6, atol=1e-9)


def test_least_squares_where_the_first_inputs_go():
    """What goes is made good by all that stays: the optimal brain surgeon's answer, one output."""
    with jax.enable_x64(True):
        x = RNG.normal(size=(60, 12)) @ RNG.normal(size=(12, 12))
        w = np.concatenate([RNG.normal(size=4) * 1e-3, 1 + RNG.random(8)])
        pruned, mask = select.sparsegpt(
            {"w": w[:, None]}, {"w": x.T @ x}, density=2 / 3, damp=1e-12
        )
        assert mask["w"][:, 0].tolist() == [False] * 4 + [True] * 8
        best, *_ = np.linalg.lstsq(x[:, 4:], x @ w, rcond=None)
        np.testing.assert_allclose(pruned["w"][4:, 0], best, rtol=1e-6)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), name="conv")(x))
        x = nn.DenseGeneral((2, 3), name="heads")(x)
        return nn.DenseGeneral(1, axis=(-2, -1), name="out")(x)


def test_every_layer_of_a_net():
    """Windows, heads, one output: outputs of each layer change less than by the same mask alone."""
    x = jnp.asarray(RNG.normal(size=(4, 6, 6, 2)), jnp.float32)
    apply = Net().apply
    with jax.numpy_rank_promotion("allow"):
        params = Net().init(jax.random.key(0), x)
        groups = symmetry.infer(apply, params, x)
        grams = taps(apply, params, x, read="gram")
        pruned, mask = select.sparsegpt(params, grams, density=0.5, groups=groups)
        inputs = taps(apply, params, x)
    for name in ("conv", "heads", "out"):
        key = f"params/{name}/kernel"
        kernel, kept, new = (
            np.asarray(t["params"][name]["kernel"], np.float64) for t in (params, mask, pruned)
        )
        assert (new[kept == 0] == 0).all()
        assert kept.sum() == round(kept.size / 2)
        seen = np.asarray(inputs[key], np.float64).reshape(len(inputs[key]), -1)
        lost = [
            np.square(seen @ (kernel - w).reshape(seen.shape[1], -1)).sum()
            for w in (new, kernel * kept)
        ]
        assert lost[0] < lost[1]
    assert mask["params"]["conv"]["bias"].all()


def test_layers_of_a_scan_are_pruned_one_by_one():
    def apply(params, x):
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])[0]

    params = {"w": jnp.asarray(RNG.normal(size=(3, 6, 6)), jnp.float32)}
    x = jnp.asarray(RNG.normal(size=(20, 6)), jnp.float32)
    groups = symmetry.infer(apply, params, x)
    grams = taps(apply, params, x, read="gram")
    _, mask = select.sparsegpt(params, grams, density=0.5, groups=groups)
    assert mask["w"].sum((1, 2)).tolist() == [18] * 3


def test_what_does_not_fit_is_refused():
    params, gram = {"w": np.ones((6, 2))}, {"w": np.eye(6)}
    for options, sentence in (
        ({}, "either density= or n_of_m="),
        ({"density": 1.5}, "above 0 and at most 1, got 1.5"),
        ({"n_of_m": (3, 2)}, "1 <= n <= m"),
        ({"density": 0.5, "block": 0}, "block: expected at least 1, got 0"),
        ({"n_of_m": (2, 4)}, "w: sums over 6 inputs, no multiple of 4"),
    ):
        with pytest.raises(WeightSpaceError, match=sentence):
            select.sparsegpt(params, gram, **options)
    with pytest.raises(WeightSpaceError, match=r"w: .*expected a Gram matrix \[6, 6\]"):
        select.sparsegpt(params, {"w": np.eye(2)}, density=0.5)
    with pytest.raises(WeightSpaceError, match="v: has a Gram matrix"):
        select.sparsegpt(params, {"v": np.eye(2)}, density=0.5)
    with pytest.raises(WeightSpaceError, match=r"b: .*which axes it sums over is open"):
        select.sparsegpt({"b": np.ones(6)}, {"b": np.eye(6)}, density=0.5)
