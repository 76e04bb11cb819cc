"""Mutations: their sizes, ranks and the bits that they leave."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve


def test_scales_multiply_the_deviation():
    params = {"a": jnp.full((400, 50), 3.0), "b": jnp.full(20_000, 0.1)}
    scale = evolve.rms(params)
    for rate in (0.05, 1.0):
        mutant = evolve.gaussian(0, params, sigma=0.01, rate=rate, scale=scale)
        for name, size in (("a", 3.0), ("b", 0.1)):
            moved = np.asarray(mutant[name] - params[name]).ravel()
            hit = moved[moved != 0]
            assert abs(len(hit) / moved.size - rate) < 0.01
            assert abs(hit.std() / (0.01 * size) - 1) < 0.12


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_a_mask_keeps_bits(rate):
    params = {"w": jnp.linspace(-1, 1, 1000).reshape(20, 50)}
    mask = {"w": (jnp.arange(1000) % 3 == 0).reshape(20, 50).astype("f4")}
    moved = evolve.gaussian(1, params, sigma=1.0, rate=rate, scale=mask)["w"] != params["w"]
    assert moved.any()
    assert not moved[mask["w"] == 0].any()
    with pytest.raises(WeightSpaceError, match=r"w: scale: expected a number or the shape"):
        evolve.gaussian(1, params, sigma=1.0, rate=rate, scale={"w": jnp.ones(3)})


def test_safe_mutation_scales_by_the_jacobian_summed_over_inputs():
    rng = np.random.default_rng(0)
    params = {"w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "n": jnp.array(2)}
    x = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    apply = lambda params, x: jnp.tanh(x @ params["w"]) * params["n"]
    scale = jax.jit(lambda params: evolve.safe_scale(apply, params, x))(params)
    jacobian = jax.jacrev(lambda w: apply({"w": w, "n": 2}, x))(params["w"])  # [5, 4, 3, 4]
    expected = 1 / np.maximum(np.sqrt((np.asarray(jacobian).sum(0) ** 2).sum(0)), 0.01)
    np.testing.assert_allclose(scale["w"], expected, rtol=1e-5)
    assert scale["n"] == 1


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_noise_has_its_rank_and_variance(rank):
    params = {"w": jnp.zeros((4, 50, 60)), "b": jnp.ones(7), "n": jnp.array([1])}
    members = jax.vmap(lambda i: evolve.low_rank(0, params, sigma=0.5, rank=rank, member=i))
    mutants = members(jnp.arange(40))
    assert np.linalg.matrix_rank(mutants["w"][3].reshape(200, 60)) == rank
    assert abs(np.asarray(mutants["w"]).std() / 0.5 - 1) < 0.1
    assert (mutants["n"] == 1).all()
    assert (mutants["b"] != 1).all()
    assert (mutants["w"][0] != mutants["w"][1]).any()


def test_spectral_noise_keeps_singular_vectors():
    w = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)), jnp.float32)
    same = evolve.spectral(2, {"w": w, "b": w[0]}, sigma=0.0)
    assert (same["w"] == w).all()
    assert (same["b"] == w[0]).all()
    mutant = np.asarray(evolve.spectral(2, {"w": w}, sigma=0.3)["w"])
    u, s, v = np.linalg.svd(np.asarray(w), full_matrices=False)
    core = u.T @ mutant @ v.T
    np.testing.assert_allclose(core - np.diag(np.diag(core)), 0, atol=1e-5)
    ratio = np.diag(core) / s
    assert (ratio > 0).all()
    assert ratio.std() > 0.05


def test_reset_draws_a_share_anew():
    init = lambda key: {"w": jax.random.normal(key, (100, 100)), "n": jnp.array(0)}
    params = {"w": jnp.full((100, 100), 9.0), "n": jnp.array(5)}
    mutant = evolve.reset(0, params, init, rate=0.2, member=3)
    fresh = np.asarray(mutant["w"] != 9)
    assert abs(fresh.mean() - 0.2) < 5 * np.sqrt(0.16 / 1e4)
    assert abs(np.asarray(mutant["w"])[fresh].std() - 1) < 0.1
    assert mutant["n"] == 5
    with pytest.raises(WeightSpaceError, match="what init gives"):
        evolve.reset(0, params, lambda key: {"w": jnp.zeros(3), "n": jnp.array(0)}, rate=0.2)
