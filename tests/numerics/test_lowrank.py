"""Leading singular triplets against numpy's float64 decomposition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError
from wslax.numerics.lowrank import principal, reconstruct


def decaying(m, n, power=0.5, seed=0):
    """A matrix with singular values i^-power, in float64."""
    rng = np.random.default_rng(seed)
    k = min(m, n)
    u = np.linalg.qr(rng.normal(size=(m, k)))[0]
    v = np.linalg.qr(rng.normal(size=(n, k)))[0]
    return (u * np.arange(1, k + 1.0) ** -power) @ v.T


def exact(w, rank):
    u, s, vt = np.linalg.svd(np.asarray(w, float), full_matrices=False)
    return s[:rank], (u[:, :rank] * s[:rank]) @ vt[:rank]


SLOW = decaying(600, 620)
# The iteration, and not the exact solver, on a matrix that is cheap to test.
SMALL = functools.partial(principal, block=8, products=6)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_slowly_decaying_spectrum(transposed):
    """Where 600 > 1.5 * block * products: the iteration and not the exact solver answers."""
    w = jnp.asarray(SLOW.T if transposed else SLOW, jnp.float32)
    found = jax.jit(lambda w: principal(w, 24))(w)
    s, best = exact(w, 24)
    np.testing.assert_allclose(found.singular, s, rtol=1e-4)
    gap = np.linalg.norm(reconstruct(found) - best) / np.linalg.norm(best)
    assert gap < 0.02
    for side in (found.left, found.right):
        np.testing.assert_allclose(side.T @ side, np.eye(24), atol=1e-4)


def test_a_sketch_of_the_same_cost_is_worse():
    """Keeping every block is what pays: the last block alone is a power iteration."""
    w = np.asarray(SLOW, np.float32)
    _, best = exact(w, 24)
    sketch = np.random.default_rng(0).normal(size=(620, 32)).astype(np.float32)
    for _ in range(12):
        basis = np.linalg.qr(w @ sketch)[0]
        sketch = (basis.T @ w).T
    plain = exact(basis @ (basis.T @ w), 24)[1]
    ours = reconstruct(principal(jnp.asarray(w), 24))
    assert 3 * np.linalg.norm(ours - best) < np.linalg.norm(plain - best)


@pytest.mark.parametrize("products", [1, 3, 6])
def test_the_residual_is_what_it_says(products):
    w = jnp.asarray(SLOW, jnp.float32)
    found = principal(w, 8, products=products)
    left, right = np.asarray(found.left, float), np.asarray(found.right, float)
    gap = np.linalg.norm(SLOW @ right - left * np.asarray(found.singular), axis=0)
    np.testing.assert_allclose(found.residual, gap / found.singular[0], rtol=0.05, atol=5e-6)


@pytest.mark.parametrize(
    ("shape", "rank"), [((5, 9), 5), ((9, 5), 2), ((1, 7), 1), ((7, 1), 1), ((64, 64), 3)]
)
def test_small_matrices_are_solved_exactly(shape, rank):
    w = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = principal(jnp.asarray(w), rank)
    s, best = exact(w, rank)
    np.testing.assert_allclose(found.singular, s, rtol=1e-5)
    np.testing.assert_allclose(reconstruct(found), best, atol=2e-5)
    assert float(found.residual.max()) < 1e-5


@pytest.mark.parametrize(("shape", "solve"), [((30, 20), principal), ((90, 80), SMALL)])
def test_rank_deficient_and_zero_matrices(shape, solve):
    m, n = shape
    rng = np.random.default_rng(2)
    w = (rng.normal(size=(m, 3)) @ rng.normal(size=(3, n))).astype(np.float32)
    found = solve(jnp.asarray(w), 6)
    np.testing.assert_allclose(found.singular[:3], exact(w, 3)[0], rtol=1e-4)
    assert (np.asarray(found.singular[3:]) < 1e-4 * float(found.singular[0])).all()
    np.testing.assert_allclose(reconstruct(found), w, atol=1e-3)
    nothing = solve(jnp.zeros((m, n)), 6)
    assert all(np.isfinite(leaf).all() for leaf in nothing)
    assert not reconstruct(nothing).any()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_matrix_does_not_matter(scale):
    w = jnp.asarray(decaying(80, 90), jnp.float32)
    small, plain = SMALL(w * np.float32(scale), 4), SMALL(w, 4)
    np.testing.assert_allclose(small.singular, plain.singular * np.float32(scale), rtol=1e-4)
    np.testing.assert_allclose(
        reconstruct(small) / np.float32(scale), reconstruct(plain), atol=1e-4
    )


def test_a_batch_is_each_alone():
    batch = jnp.asarray(np.stack([decaying(90, 80, seed=i) for i in range(4)]), jnp.float32)
    pairs = SMALL(batch.reshape(2, 2, 90, 80), 4)
    assert pairs.left.shape == (2, 2, 90, 4)
    for i in range(4):
        alone = reconstruct(SMALL(batch[i], 4))
        np.testing.assert_allclose(reconstruct(pairs)[i // 2, i % 2], alone, atol=1e-4)
    mapped = jax.jit(jax.vmap(lambda w: SMALL(w, 4)))(batch)
    np.testing.assert_allclose(reconstruct(mapped)[3], alone, atol=1e-4)


def test_halves_compute_in_float32_and_doubles_in_float64():
    half = jnp.asarray(SLOW[:40, :30], jnp.bfloat16)
    assert principal(half, 2).left.dtype == jnp.float32
    w = decaying(80, 90, power=2)
    with jax.enable_x64(True):
        for solve in (principal, SMALL):
            found = solve(jnp.asarray(w), 3)
            assert found.left.dtype == jnp.float64
            np.testing.assert_allclose(found.singular, exact(w, 3)[0], rtol=1e-10)
            np.testing.assert_allclose(reconstruct(found), exact(w, 3)[1], atol=1e-9)


def test_a_key_decides_the_bits_and_hardly_the_result():
    w = jnp.asarray(decaying(80, 90), jnp.float32)
    one, same, other = (SMALL(w, 4, key=key) for key in (1, jax.random.key(1), 2))
    assert (one.left == same.left).all()
    assert (one.left != other.left).any()
    np.testing.assert_allclose(reconstruct(one), reconstruct(other), atol=1e-4)


def test_the_basis_grows_with_the_rank():
    """Four times the rank, which a spectrum of i^-1/4 needs."""
    w = decaying(300, 300, power=0.25)
    s, best = exact(w, 32)
    found = principal(jnp.asarray(w, jnp.float32), 32, block=8)
    np.testing.assert_allclose(found.singular, s, rtol=1e-4)
    assert np.linalg.norm(reconstruct(found) - best) < 0.005 * np.linalg.norm(best)


W = jnp.zeros((4, 6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: principal(W[0], 1), r"a matrix of floats \[..., m, n\], got float32\[6\]"),
        (lambda: principal(W.astype(int), 1), "a matrix of floats"),
        (lambda: principal(W[:0], 1), "a matrix of floats"),
        (lambda: principal(W, 0), "rank=0 of float32"),
        (lambda: principal(W, 5), "give 1 to 4"),
        (lambda: principal(W, 3, block=1, products=2), "smaller than rank=3"),
        (lambda: principal(W, 3, block=0), "block=0"),
        (lambda: principal(W, 1, products=0), "products=0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(WeightSpaceError, match=message):
        call()
