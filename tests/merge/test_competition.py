"""Parameter competition balancing against the released code's steps in float64 numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from tests.merge import experts
from wslax import merge

SHAPES = {"bias": (20,), "kernel": (16, 20)}
draw = functools.partial(experts.draw, SHAPES)


@pytest.fixture(scope="module", autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def pcb(d, lam, density, clip):
    """d: `[N, size]`."""

    def normalize(x):
        low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
        return (x - low) / (high - low)

    def clamp(x, low, high):
        size, order = x.shape[1], np.sort(x, 1)
        return np.clip(x, order[:, [int(size * low)]], order[:, [int(size * (1 - high) - 1)]])

    count = len(d)
    size = clamp(abs(d), clip, clip)
    signed = np.sign(d) * normalize(size)
    intra = np.exp(count * normalize(size) ** 2)
    inter = np.stack([sum(np.tanh(x * y) for y in signed) for x in signed])
    scores = normalize(clamp(intra * inter, 1 - density, 0))
    total = (np.reshape(lam, (-1, 1)) * scores * np.sign(d) * size).sum(0)
    return total / np.maximum(scores.sum(0), 1e-12)


def flat(tree):
    return np.concatenate([np.asarray(tree[n], float).ravel() for n in sorted(tree)])


@pytest.mark.parametrize(
    ("lam", "density", "clip"),
    [(1.2, 0.05, 0.01), (1.0, 0.1, 0.0), (np.array([0.8, 1.0, 1.3]), 0.9, 0.1), (1.0, 1.0, 0.01)],
)
def test_is_its_formula(lam, density, clip):
    """At a density of 0.9 the last score counted is negative."""
    population, base = draw()
    found = merge.pcb(population, base, lam=lam, density=density, clip=clip)
    d = np.concatenate([(population[n] - base[n]).reshape(3, -1) for n in sorted(base)], 1)
    expected = pcb(d.astype(float), np.broadcast_to(lam, (3,)), density, clip)
    np.testing.assert_allclose(flat(found) - flat(base), expected, rtol=2e-4, atol=2e-6)


def test_no_task_vectors_give_the_base_and_order_does_not_matter():
    population, base = draw()
    same = {n: np.repeat(b[None], 3, 0) for n, b in base.items()}
    turned = {n: x[[2, 0, 1]] for n, x in population.items()}
    assert (merge.pcb(same, base)["kernel"] == base["kernel"]).all()
    found, expected = merge.pcb(turned, base), merge.pcb(population, base)
    np.testing.assert_allclose(found["kernel"], expected["kernel"], atol=1e-5)


def test_only_the_share_that_is_kept_moves():
    population, base = draw(1)
    found = merge.pcb(population, base, density=0.1, clip=0.0)
    assert (flat(found) != flat(base)).sum() == int(0.1 * 340) - 1  # the last kept scores 0


def test_coefficients_vectorise_and_have_gradients():
    population, base = draw()
    slope = jax.jacobian(lambda lam: merge.pcb(population, base, lam=lam)["bias"])(jnp.float32(1.0))
    np.testing.assert_allclose(
        base["bias"] + 1.2 * slope, merge.pcb(population, base)["bias"], atol=1e-6
    )
    many = jax.vmap(lambda p: merge.pcb(population, base, density=p)["kernel"])(
        jnp.array([0.1, 0.05])
    )
    np.testing.assert_allclose(many[1], merge.pcb(population, base)["kernel"], atol=1e-5)


def test_errors_come_first():
    population, base = draw()
    with pytest.raises(ws.WeightSpaceError, match="density: expected 0 to 1, got 2"):
        merge.pcb(population, base, density=2.0)
    with pytest.raises(ws.WeightSpaceError, match="clip: expected 0 to"):
        merge.pcb(population, base, clip=0.6)
    with pytest.raises(ws.WeightSpaceError, match="lam: expected a number or 3 numbers"):
        merge.pcb(population, base, lam=np.ones(2))
