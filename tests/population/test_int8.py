"""Quantized populations: the error of a weight, what stays, what functions are given."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
from hypothesis.extra import numpy as arrays

import wslax as ws
from wslax import population
from wslax.population.int8 import Int8

WEIGHTS = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30)
SHAPES = st.sampled_from([(2, 5), (2, 3, 4), (1, 2, 3, 2)])


@hypothesis.settings(deadline=None)
@hypothesis.given(SHAPES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=WEIGHTS)))
def test_a_weight_is_within_half_a_step_and_a_second_time_the_same(x):
    axes = tuple(range(1, x.ndim - 1)) or (1,)
    step = np.abs(x.astype(np.float64)).max(axes, keepdims=True) / 127
    small = population.quantize({"w": x})
    wide = np.asarray(population.dequantize(small)["w"])
    assert (np.abs(wide - x) <= 0.5001 * step + 1e-37).all()
    again = population.quantize({"w": wide})
    np.testing.assert_array_equal(again["w"].values, small["w"].values)


def test_what_is_no_float_or_a_number_a_member_stays():
    members = {
        "w": jnp.ones((2, 3), jnp.bfloat16), "gain": jnp.ones(2), "steps": jnp.ones((2, 3), int),
    }  # fmt: skip
    small = population.quantize(members)
    assert isinstance(small["w"], Int8)
    assert small["gain"] is members["gain"]
    assert small["steps"] is members["steps"]
    assert population.quantize(small)["w"] is small["w"]


def test_a_quarter_of_the_bytes():
    small = population.quantize({"w": jnp.ones((10, 64, 64))})["w"]
    assert (small.values.dtype, small.scale.dtype) == (jnp.int8, jnp.float32)
    assert small.values.nbytes + small.scale.nbytes < 0.27 * 4 * 10 * 64 * 64


def test_functions_of_a_member_get_float32(tmp_path):
    small = population.quantize({"w": jnp.arange(6.0).reshape(2, 3) - 2})
    wide = population.dequantize(small)["w"]
    found = population.evaluate(lambda member: member["w"] * 2, small)
    np.testing.assert_array_equal(found, 2 * wide)
    judged = ws.evolve.each(lambda member: np.asarray(member["w"]).sum())(small)
    np.testing.assert_allclose(judged, wide.sum(1), rtol=1e-6)
    ws.io.save(small, tmp_path / "small.safetensors")
    back = ws.io.load(tmp_path / "small.safetensors", like=small)
    np.testing.assert_array_equal(back["w"].values, small["w"].values)
