"""Float8 and MXFP4 against their bit patterns, whole and in pieces; everything else is refused."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax import WeightSpaceError
from wslax.io.dequantise import dequantise_fp8, dequantise_mxfp4, find_pairs, read_pair

E4M3, E5M2 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(ml_dtypes.float8_e5m2)
E2M1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]  # OCP Microscaling Formats v1.0, table 5


def by_bits(byte, exponent, mantissa, bias):
    """A finite float8 by its definition: sign, exponent, fraction."""
    sign = -1.0 if byte >> 7 else 1.0
    e, m = (byte >> mantissa) & (2**exponent - 1), byte & (2**mantissa - 1)
    fraction = m / 2**mantissa
    return sign * (2.0 ** (1 - bias) * fraction if e == 0 else 2.0 ** (e - bias) * (1 + fraction))


@pytest.mark.parametrize(("dtype", "layout"), [(E4M3, (4, 3, 7)), (E5M2, (5, 2, 15))])
def test_every_code_of_float8(dtype, layout):
    codes = np.arange(256, dtype=np.uint8)
    found = dequantise_fp8(codes.view(dtype), np.ones(1, np.float32))
    # The largest exponent of E5M2 and the largest code of E4M3 are no numbers.
    finite = (codes & 0x7F) < (0x7F if dtype == E4M3 else 0x7C)
    np.testing.assert_array_equal(np.isfinite(found), finite)
    wanted = [by_bits(int(code), *layout) for code in codes[finite]]
    np.testing.assert_array_equal(found[finite], np.array(wanted, np.float32))


def fp8(shape, scales, dtype=E4M3, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.asarray(rng.normal(size=shape) * 4).astype(dtype)
    return codes, np.asarray(rng.uniform(0.5, 2, scales), np.float32)


def spread(scales, shape, blocks):
    """Scales repeated over their blocks, axis by axis, and cut."""
    for axis, block in enumerate(blocks):
        scales = np.repeat(scales, block, axis)
    return scales[tuple(slice(n) for n in shape)]


GRIDS = {
    "tensor": ((5, 7), (), (1, 1)),
    "tensor, one": ((5, 7), (1,), (1, 1)),
    "row": ((5, 7), (5,), (1, 7)),
    "row, kept axis": ((5, 7), (5, 1), (1, 7)),
    "column": ((5, 7), (1, 7), (5, 1)),
    "deepseek": ((300, 130), (3, 2), (128, 128)),
    "small blocks": ((6, 64), (2, 2), (3, 32)),
    "experts": ((2, 130, 5), (2, 2, 1), (1, 128, 5)),
    "experts, one each": ((3, 4, 5), (3,), (1, 4, 5)),
    "vector": ((5,), (5,), (1,)),
    "number": ((), (), ()),
    "nothing": ((0, 7), (1,), (1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("piece", [3, 1 << 20])
def test_scales_of_every_grid(tmp_path, kind, piece):
    shape, grid, blocks = GRIDS[kind]
    codes, scales = fp8(shape, grid)
    if scales.size == 1:
        factor = scales.reshape(())
    else:
        lead = scales.reshape(*scales.shape, *[1] * (len(shape) - scales.ndim))
        factor = spread(lead, shape, blocks)
    wanted = codes.astype(np.float32) * factor
    np.testing.assert_array_equal(dequantise_fp8(codes, scales), wanted)
    if kind in ("deepseek", "experts") and piece == 3:
        piece = 97
    whole = in_pieces(tmp_path, {"w": codes, "w_scale_inv": scales}, piece)
    np.testing.assert_array_equal(whole, wanted)


def in_pieces(tmp_path, tree, piece, dtype=np.float32):
    ws.io.save(tree, tmp_path / "m.safetensors")
    with ws.io.open_tensors(tmp_path / "m.safetensors") as tensors:
        found = find_pairs(tensors.infos)
        assert found.spent == set(tree)
        pair = found.pairs["w"]
        out = np.empty(pair.size, dtype)
        for start in range(0, pair.size, piece):
            read_pair(tensors, pair, start, out[start : start + piece])
    return out.reshape(pair.shape)


@pytest.mark.parametrize("dtype", [np.uint8, ml_dtypes.float8_e8m0fnu])
def test_scales_that_are_powers_of_two(dtype):
    """A byte b means 2^(b - 127)."""
    codes, _ = fp8((3, 4), ())
    scales = np.array([126, 127, 130], np.uint8)
    wanted = codes.astype(np.float32) * np.array([[0.5], [1], [8]], np.float32)
    np.testing.assert_array_equal(dequantise_fp8(codes, scales.view(dtype)), wanted)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_mxfp4_is_e2m1_times_a_power_of_two(seed):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (2, 3, 2, 32), dtype=np.uint8)
    scales = rng.integers(1, 250, (2, 3, 2), dtype=np.uint8)
    blocks = codes[..., 0::2] | codes[..., 1::2] << 4  # the first number is the low half
    signed = np.array([*E2M1, *(-x for x in E2M1)])
    wanted = signed[codes] * 2.0 ** (scales[..., None].astype(float) - 127)
    wanted = wanted.reshape(2, 3, 64)
    np.testing.assert_array_equal(dequantise_mxfp4(blocks, scales), wanted.astype(np.float32))
    other = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float64).reshape(2, 3, 64)
    np.testing.assert_array_equal(dequantise_mxfp4(blocks, np.full_like(scales, 127)), other)


def test_a_scale_of_255_is_nan():
    blocks = np.zeros((1, 16), np.uint8)
    assert np.isnan(dequantise_mxfp4(blocks, np.array([255], np.uint8))).all()


@pytest.mark.parametrize(("lead", "piece"), [((), 7), ((2,), 11), ((2,), 100), ((2,), 1 << 20)])
def test_stacked_experts_are_stored_as_they_are_consumed(tmp_path, lead, piece):
    """[E, out, in / 32, 16] becomes [E, in, out], as gpt-oss's floats are; a matrix stays."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (*lead, 3, 2, 16), dtype=np.uint8)
    scales = rng.integers(120, 130, (*lead, 3, 2), dtype=np.uint8)
    wanted = dequantise_mxfp4(blocks, scales)
    found = in_pieces(tmp_path, {"w_blocks": blocks, "w_scales": scales}, piece, np.float64)
    np.testing.assert_array_equal(found, np.swapaxes(wanted, -1, -2) if lead else wanted)


def infos_of(tmp_path, tree):
    ws.io.save({k: np.zeros(s, d) for k, (d, s) in tree.items()}, tmp_path / "m.safetensors")
    return ws.io.open_tensors(tmp_path / "m.safetensors").infos


def test_what_is_spent_and_what_stays(tmp_path):
    infos = infos_of(tmp_path, {
        "a.q.weight": (E4M3, (4, 4)), "a.q.weight_scale": ("f4", ()), "a.q.input_scale": ("f4", ()),
        "a.norm.weight": ("f4", 4), "a.norm.input_scale": ("f4", ()), "a.mask": ("u1", 4),
        "e.up_blocks": ("u1", (2, 3, 1, 16)), "e.up_scales": ("u1", (2, 3, 1)),
        "e.up_bias": ("f4", (2, 3)), "down_blocks": ("f4", 3),
    })  # fmt: skip
    found = find_pairs(infos)
    assert {k: (p.kind, p.shape) for k, p in found.pairs.items()} == {
        "a.q.weight": ("fp8", (4, 4)),
        "e.up": ("mxfp4", (2, 32, 3)),
    }
    assert set(infos) - found.spent == {
        "a.norm.weight", "a.norm.input_scale", "a.mask", "e.up_bias", "down_blocks",
    }  # fmt: skip


REFUSED = {
    "no scale": ({"w": (E5M2, (2, 2))}, "w: float8_e5m2 needs one of w_scale and w_scale_inv"),
    "two scales": (
        {"w": (E4M3, 2), "w_scale": ("f4", 1), "w_scale_inv": ("f4", 1)}, "both are there"),
    "grid": ({"w": (E4M3, (5, 7)), "w_scale": ("f4", (2, 1))}, r"float32\[2, 1\] is no scale of"),
    "more axes": ({"w": (E4M3, (5, 7)), "w_scale": ("f4", (5, 7, 1))}, "is no scale of"),
    "integers": ({"w": (E4M3, (5, 7)), "w_scale": ("i4", 5)}, "int32.* is no scale of"),
    "blocks alone": ({"w_blocks": ("u1", (2, 1, 16))}, "means nothing without w_scales"),
    "blocks of 8": ({"w_blocks": ("u1", (2, 1, 8)), "w_scales": ("u1", (2, 1))}, "is not MXFP4"),
    "scales": ({"w_blocks": ("u1", (2, 1, 16)), "w_scales": ("u1", (1, 2))}, "is not MXFP4"),
    "stored twice": (
        {"w": ("f4", 1), "w_blocks": ("u1", (2, 1, 16)), "w_scales": ("u1", (2, 1))},
        "stored as floats and as MXFP4"),
    "gptq": ({"q.qweight": ("i4", (2, 2))}, "q.qweight: GPTQ or AWQ is not read"),
    "nf4": ({"q.weight.quant_map": ("f4", 16)}, "bitsandbytes is not read"),
    "int8": ({"q.SCB": ("f4", 2)}, "bitsandbytes is not read"),
    "nvfp4": ({"q.weight_scale_2": ("f4", 1)}, "NVFP4 is not read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals(tmp_path, kind):
    tree, message = REFUSED[kind]
    with pytest.raises(WeightSpaceError, match=message):
        find_pairs(infos_of(tmp_path, tree))


def test_reads_outside_a_tensor_are_refused(tmp_path):
    codes, scales = fp8((2, 3), ())
    ws.io.save({"w": codes, "w_scale": scales}, tmp_path / "m.safetensors")
    with ws.io.open_tensors(tmp_path / "m.safetensors") as tensors:
        pair = find_pairs(tensors.infos).pairs["w"]
        with pytest.raises(WeightSpaceError, match="6 elements, asked for 4 to 7"):
            read_pair(tensors, pair, 4, np.empty(3, np.float32))
