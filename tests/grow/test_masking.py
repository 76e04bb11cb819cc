"""Units that come in by a mask: the old function at 0, the grown one at 1, a path between."""

import forwards
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, grow, symmetry


def test_from_the_old_function_to_the_grown_one():
    params, groups = forwards.mlp_params()
    edit = grow.widen(groups, {0: 9, 1: 7}, method="msg", key=0)
    wide, before = edit.apply(params), {0: 5, 1: 4}
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(6, 3))

        @jax.jit
        def run(level, params):
            return forwards.mlp(grow.masked(params, edit.groups, before, level), x)

        old, new = forwards.mlp(params, x), forwards.mlp(wide, x)
        np.testing.assert_allclose(run(0.0, wide), old, rtol=1e-12)
        np.testing.assert_allclose(run(1.0, wide), new, rtol=1e-12)
        assert np.abs(new - old).max() > 0.1
        near = np.abs(run(1e-3, wide) - old).max() / np.abs(run(2e-3, wide) - old).max()
        assert abs(near - 0.5) < 0.01
        gradient = jax.grad(lambda p: jnp.sum(run(0.5, p) ** 2))(wide)
        assert np.abs(gradient["a"]["kernel"][:, 5:]).min() > 0
        assert np.abs(gradient["b"]["kernel"][5:]).min() > 0


def test_a_mask_of_each_unit():
    params, groups = forwards.mlp_params()
    edit = grow.widen(groups, {0: 7}, method="msg", key=0)
    wide = edit.apply(params)
    out = grow.masked(wide, edit.groups, {0: 5}, np.array([0.0, 0.5]))["b"]["kernel"]
    kernel = wide["b"]["kernel"]
    np.testing.assert_allclose(out[:5], kernel[:5], rtol=1e-6)
    np.testing.assert_allclose(out[5:], [0 * kernel[5], 0.5 * kernel[6]], rtol=1e-6)


def test_what_does_not_fit_is_refused():
    params, groups = forwards.mlp_params()
    with pytest.raises(WeightSpaceError, match="has 5 units, expected fewer"):
        grow.masked(params, groups, {0: 5}, 0.5)
    params, groups = forwards.residual_params()
    with pytest.raises(WeightSpaceError, match="averaged"):
        grow.masked(params, groups, {0: 2}, 0.5)
    assert symmetry.sizes(params, groups)[0] == 4
