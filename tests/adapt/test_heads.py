"""Weight aligning against its formula in numpy, and what it must leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError
from wslax.adapt import weight_align

RNG = np.random.default_rng(0)
HEAD = {
    "trunk": RNG.normal(size=(3, 4)).astype(np.float32),
    "head": {"kernel": RNG.normal(size=(4, 5)).astype(np.float32), "bias": np.ones(5, np.float32)},
}


def formula(kernel, old):
    """Of `[inputs, classes]`."""
    norms = np.linalg.norm(kernel.astype(float), axis=0)
    gamma = norms[:old].mean() / norms[old:].mean()
    return np.concatenate([kernel[:, :old], kernel[:, old:] * gamma], axis=1), gamma


@pytest.mark.parametrize("old", [1, 3, 4])
def test_equals_the_formula_in_either_layout(old):
    expected, _ = formula(HEAD["head"]["kernel"], old)
    found = weight_align(HEAD, "head/kernel", old)
    np.testing.assert_allclose(found["head"]["kernel"], expected, rtol=1e-6)
    assert found["trunk"] is HEAD["trunk"]
    assert found["head"]["bias"] is HEAD["head"]["bias"]
    turned = weight_align({"w": HEAD["head"]["kernel"].T}, "w", old, axis=0)["w"]
    np.testing.assert_allclose(turned.T, expected, rtol=1e-6)


def test_twice_is_once_and_zeros_stay():
    once = weight_align(HEAD, "head/kernel", 2)
    twice = weight_align(once, "head/kernel", 2)["head"]["kernel"]
    np.testing.assert_allclose(twice, once["head"]["kernel"], rtol=1e-6)
    zeros = {"w": jnp.zeros((4, 5)).at[:, 0].set(1)}
    np.testing.assert_array_equal(weight_align(zeros, "w", 1)["w"], zeros["w"])


def test_runs_over_a_population_inside_jit():
    kernels = jnp.asarray(RNG.normal(size=(3, 4, 5)), jnp.bfloat16)
    align = jax.jit(jax.vmap(lambda k: weight_align({"w": k}, "w", 2)["w"]))
    found = align(kernels)
    assert found.dtype == jnp.bfloat16
    for kernel, x in zip(kernels, found, strict=True):
        expected, _ = formula(np.asarray(kernel, np.float32), 2)
        np.testing.assert_allclose(np.asarray(x, np.float32), expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("leaf", "old", "axis", "sentence"),
    [
        ("head/kernal", 2, -1, "no leaf is called 'head/kernal'. Did you mean 'head/kernel'?"),
        ("head/kernel", 0, -1, "head/kernel: expected 0 < old < classes along axis -1, got 0"),
        ("head/kernel", 5, -1, "got 5 and [4, 5]"),
        ("head/kernel", 2, 2, "along axis 2"),
    ],
)
def test_bad_input_is_named(leaf, old, axis, sentence):
    with pytest.raises(WeightSpaceError) as error:
        weight_align(HEAD, leaf, old, axis=axis)
    assert sentence in str(error.value)
