"""Every method's numbers have gradients: finite, and differences where the method is smooth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import merge

RNG = np.random.default_rng(4)
BASE = RNG.normal(size=(3, 4))
X = BASE + RNG.normal(size=(3, 3, 4))
# Counts entries or decides between them: steps, whose slope is 0 and never a difference.
STEPS = {"density", "gamma", "epsilon", "select_topk", "tol"}


@pytest.mark.parametrize("name", [n for n, m in merge.METHODS.items() if not m.random])
def test_numbers_have_gradients(name):
    method = merge.METHODS[name]
    count = min(3, method.most or 3)
    numeric = [p for p in method.params if p.kind is float]
    if not numeric:
        pytest.skip("the method has no numbers")
    start = {p.name: 0.5 if p.default in (None, 1.0) else p.default for p in numeric}
    start = {
        p.name: start[p.name] * np.linspace(0.8, 1, count) if p.per == "member" else start[p.name]
        for p in numeric
    }
    with jax.enable_x64(True):
        population, base = {"w": jnp.asarray(X[:count])}, {"w": jnp.asarray(BASE)}
        weights = jnp.asarray(RNG.normal(size=BASE.shape))
        start = jax.tree.map(lambda v: jnp.asarray(v, float), start)
        value = jax.jit(
            lambda given: (merge.run(method, population, base, given)["w"] * weights).sum()
        )
        slopes = jax.grad(value)(start)
        for p in numeric:
            assert np.isfinite(slopes[p.name]).all()
            if p.name in STEPS:
                continue
            ends = [value({**start, p.name: start[p.name] + h}) for h in (1e-6, -1e-6)]
            np.testing.assert_allclose(
                slopes[p.name].sum(), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-7
            )
