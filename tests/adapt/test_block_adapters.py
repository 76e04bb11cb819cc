"""Bone and MiSS against PEFT's formulas, written for matrices [out, in] in float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adapt.test_products import change, trained
from wslax import WeightSpaceError, adapt


def bat(w, b):
    """`weight + get_delta_weight`: blocks W[j, i] of [out, in] become W + W B_j + B_j."""
    r = b.shape[-1]
    out = w.copy()
    for j in range(w.shape[0] // r):
        for i in range(w.shape[1] // r):
            at = np.s_[j * r : (j + 1) * r, i * r : (i + 1) * r]
            out[at] += w[at] @ b[j] + b[j]
    return out


def unbat(w, b):
    """The way back: (W - B_j)(I + B_j)^-1."""
    r = b.shape[-1]
    out = w.copy()
    for j in range(w.shape[0] // r):
        for i in range(w.shape[1] // r):
            at = np.s_[j * r : (j + 1) * r, i * r : (i + 1) * r]
            out[at] = (w[at] - b[j]) @ np.linalg.inv(np.eye(r) + b[j])
    return out


def turned(x):
    return np.float64(np.swapaxes(x, -1, -2))


def test_bone_maps_every_block():
    adapter = adapt.bone(2)
    params, train, fixed = trained(adapter, (6, 4))
    found = adapter.fuse(params, train, fixed)["w"]
    assert np.allclose(found.T, bat(turned(params["w"]), turned(train["w"]["maps"])), atol=1e-5)
    assert train["w"]["maps"].size == 4 * 2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([0.01, 0.1, 0.3]))
def test_the_base_comes_back_from_what_bone_fused(seed, size):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(6, 4)).astype(np.float32)}
    maps = rng.uniform(-size, size, (2, 2, 2)).astype(np.float32)  # I + B: det at least 0.4
    fused = adapt.bone(2).fuse(params, {"w": {"maps": maps}}, {"w": {}})["w"]
    assert np.allclose(unbat(turned(fused), turned(maps)).T, params["w"], atol=1e-4)


@pytest.mark.parametrize(("width", "inputs"), [(None, 6), (None, 7), (1, 6), (2, 7)])
def test_miss_adds_one_block_to_all_blocks_of_rows(width, inputs):
    adapter = adapt.miss(3, width=width)
    params, train, fixed = trained(adapter, (inputs, 4))
    block = np.float64(train["w"]["block"])
    assert block.shape == (3, width or 4)
    over = np.tile(block, (1, 4 // block.shape[1]))
    expected = np.stack([over[i % 3] for i in range(inputs)])
    found = change(adapter, params, train, fixed)
    assert np.allclose(found, expected, atol=1e-5)
    assert np.linalg.matrix_rank(found, 1e-3) <= 3


def test_miss_has_a_gradient_at_its_start_where_half_of_lora_has_none():
    params = {"w": np.float32(np.arange(24).reshape(6, 4) / 24)}

    def gradient(adapter):
        train, fixed = adapter.init(jax.random.key(0), params)
        loss = lambda train: (adapter.fuse(params, train, fixed)["w"] ** 2).sum()
        return {name: abs(g).max() > 0 for name, g in jax.grad(loss)(train)["w"].items()}

    assert gradient(adapt.miss(2)) == {"block": True}
    assert gradient(adapt.bone(2)) == {"maps": True}
    assert gradient(adapt.lora(2)) == {"down": False, "up": True}


def test_what_does_not_fit_is_refused():
    params = {"w": np.ones((6, 4), np.float32)}
    with pytest.raises(WeightSpaceError, match="w: blocks of 3 do not fill axis 1"):
        adapt.bone(3).init(0, params)
    with pytest.raises(WeightSpaceError, match="w: rank 7 does not fit"):
        adapt.miss(7).init(0, params)
    with pytest.raises(WeightSpaceError, match="w: blocks of 3 do not fill axis 1"):
        adapt.miss(2, width=3).init(0, params)
