"""WUDI and calibration against their formulas in float64 numpy, PyTorch's way round."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.merge import experts
from wslax import merge

SHAPES = {"tall": (6, 4), "wide": (4, 6), "bias": (6,)}
draw = functools.partial(experts.draw, SHAPES)


@pytest.fixture(scope="module", autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def loss(merged, d):
    """The published loss. merged: [out, in], d: [N, out, in]."""
    return sum((((merged - x) @ x.T) ** 2).sum() / (x**2).sum() for x in d)


def gradient(merged, d):
    return sum(2 * (merged - x) @ x.T @ x / (x**2).sum() for x in d)


def adam(d, steps):
    merged, m, v = d.sum(0), 0.0, 0.0
    for t in range(1, steps + 1):
        g = gradient(merged, d)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        merged = merged - 1e-5 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return merged


def calibrated(merged, d, alpha):
    u, s, vt = np.linalg.svd(merged, full_matrices=False)
    factors = []
    for r in range(len(s)):
        whole = u[:, r] @ merged
        share = [whole @ (u[:, r] @ x) / ((u[:, r] @ x) ** 2).sum() for x in d]
        factors.append(len(d) / sum(max(alpha, x) for x in share))
    return u @ np.diag(np.array(factors) * s) @ vt


@pytest.mark.parametrize("steps", [0, 50])
def test_wudi_takes_the_published_steps(steps):
    population, base = draw()
    with jax.numpy_dtype_promotion("standard"):  # Adam is Optax's
        found = merge.wudi(population, base, steps=steps)
    for leaf, b in base.items():
        d = population[leaf].astype(float) - b
        merged = d.mean(0) if b.ndim == 1 else adam(np.swapaxes(d, 1, 2), steps).T
        close(found[leaf], b + merged, 2e-6)


@pytest.mark.parametrize("lam", [1.0, 0.5])
def test_wudi_is_at_the_minimum(lam):
    population, base = draw()
    found = merge.wudi(population, base, lam=lam)
    close(found["bias"], base["bias"] + lam * (population["bias"] - base["bias"]).mean(0))
    for leaf in ("tall", "wide"):
        d = np.swapaxes(population[leaf].astype(float) - base[leaf], 1, 2)
        merged = (np.asarray(found[leaf], float) - base[leaf]).T / lam
        assert abs(gradient(merged, d)).max() < 1e-5 * abs(gradient(d.sum(0), d)).max()
        assert loss(merged, d) <= loss(adam(d, 50), d)


def test_wudi_leaves_out_members_equal_to_the_base():
    population, base = draw()
    more = {n: np.concatenate([x, base[n][None]]) for n, x in population.items()}
    close(*(merge.wudi(p, base, where="tall")["tall"] for p in (more, population)))


def test_wudi_keeps_what_only_one_task_uses():
    """Tasks that see different inputs do not disturb each other: the sum is the minimum."""
    d = np.zeros((2, 6, 4), np.float32)
    d[0, :3], d[1, 3:] = np.random.default_rng(0).normal(size=(2, 3, 4))
    close(merge.wudi({"w": d}, {"w": np.zeros((6, 4), np.float32)})["w"], d.sum(0))


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_calibrate_is_its_formula(alpha, lam):
    population, base = draw()
    merged = merge.task_arithmetic(population, base, lam=lam)
    found = merge.calibrate(merged, population, base, alpha=alpha)
    assert (found["bias"] == merged["bias"]).all()
    for leaf in ("tall", "wide"):
        b = base[leaf].astype(float)
        d = np.swapaxes(population[leaf] - b, 1, 2)
        close(found[leaf], b + calibrated((np.asarray(merged[leaf]) - b).T, d, alpha).T)


def test_calibrate_undoes_what_equal_tasks_add_up_to():
    population, base = draw(1)
    same = {n: np.repeat(x, 4, 0) for n, x in population.items()}
    found = merge.calibrate(merge.task_arithmetic(same, base), same, base)
    close(found["tall"], population["tall"][0])


def test_calibrate_leaves_what_where_does_not_pick():
    population, base = draw()
    merged = merge.task_arithmetic(population, base)
    found = merge.calibrate(merged, population, base, where="wide")
    assert (found["tall"] == merged["tall"]).all()
    assert (found["wide"] != merged["wide"]).any()


def test_calibrate_vectorises_over_alpha():
    population, base = draw()
    merged = merge.task_arithmetic(population, base)
    many = jax.vmap(lambda a: merge.calibrate(merged, population, base, alpha=a))(
        jnp.array([0.1, 1.0])
    )
    close(many["wide"][1], merge.calibrate(merged, population, base, alpha=1.0)["wide"])
