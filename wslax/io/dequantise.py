"""Quantised tensors as floats: float8 with scales and MXFP4, found by headers alone."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import ml_dtypes
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.io.header import TensorInfo
from wslax.io.reader import Tensors

_FP8 = {
    np.dtype(d)
    for d in (
        ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
        ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz,
    )
}  # fmt: skip
_E8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)  # OCP MX v1.0, table 5 (E2M1)
_BLOCK = 128  # DeepSeek's
_ACTIVATIONS = ("input_scale", "activation_scale", "input_scale_inv", "activation_scale_inv")
# Marks of what is not read, by the end of a name.
_REFUSED = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "bitsandbytes__nf4": "bitsandbytes",
    "bitsandbytes__fp4": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_packed": "compressed-tensors",
    "weight_scale_2": "NVFP4",
}


class Pair(NamedTuple):
    """A tensor stored as codes and scales.

    Attributes:
      kind: `"fp8"` or `"mxfp4"`.
      codes: stored name of the codes.
      scales: stored name of their scales.
      shape: of the tensor of floats.
    """

    kind: Literal["fp8", "mxfp4"]
    codes: str
    scales: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


class Quantised(NamedTuple):
    """What of a checkpoint is quantised.

    Attributes:
      pairs: name of the tensor of floats to how it is stored.
      spent: stored names that no longer stand for themselves: codes, scales, scales of activations.
    """

    pairs: Mapping[str, Pair]
    spent: frozenset[str]


def _block(rows: int, scales: int) -> int | None:
    """How many rows one scale is for; None if the two do not fit."""
    if scales == rows:
        return 1
    if scales == -(-rows // _BLOCK):
        return _BLOCK
    return rows // scales if scales and rows % scales == 0 else None


def _grid(shape: tuple[int, ...], scales: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of scales as one axis for each of the tensor's."""
    if math.prod(scales) == 1:
        return (1,) * len(shape)
    return (*scales, *(1,) * (len(shape) - 1)) if len(scales) == 1 else scales


def _fits(shape: tuple[int, ...], scales: tuple[int, ...]) -> bool:
    grid = _grid(shape, scales)
    if len(grid) != len(shape):
        return False
    lead = all(s in (1, n) for n, s in zip(shape[:-2], grid[:-2], strict=True))
    return lead and all(
        _block(n, s) is not None for n, s in zip(shape[-2:], grid[-2:], strict=True)
    )


def _is_scale(dtype: np.dtype) -> bool:
    return dtype in (_E8M0, np.uint8, ml_dtypes.bfloat16) or dtype.kind == "f"


def _fp8(name: str, infos: Mapping[str, TensorInfo]) -> Pair:
    found = [name + end for end in ("_scale", "_scale_inv") if name + end in infos]
    if len(found) != 1:
        has = "both are there" if found else "neither is there"
        raise WeightSpaceError(
            f"{name}: {infos[name].dtype.name} needs one of {name}_scale and {name}_scale_inv, and "
            f"{has}"
        )
    shape, scales = infos[name].shape, infos[found[0]]
    if not _is_scale(scales.dtype) or not _fits(shape, scales.shape):
        raise WeightSpaceError(
            f"{found[0]}: {scales.dtype.name}{list(scales.shape)} is no scale of {list(shape)} by "
            "tensor, by row or by block"
        )
    return Pair("fp8", name, found[0], shape)


def _mxfp4(codes: str, infos: Mapping[str, TensorInfo]) -> Pair:
    scales = codes.removesuffix("_blocks") + "_scales"
    if scales not in infos:
        raise WeightSpaceError(f"{codes}: MXFP4 means nothing without {scales}")
    shape, other = infos[codes].shape, infos[scales]
    if len(shape) < 3 or shape[-1] != 16 or other.dtype != np.uint8 or other.shape != shape[:-1]:
        raise WeightSpaceError(
            f"{codes}: {list(shape)} with {other.dtype.name}{list(other.shape)} is not MXFP4: "
            "[..., out, in / 32, 16] and uint8 [..., out, in / 32] are expected"
        )
    *lead, out, groups = shape[:-1]
    # Experts, which are stacked, are consumed as [in, out]: so transformers and gpt-oss's floats.
    matrix = (groups * 32, out) if lead else (out, groups * 32)
    return Pair("mxfp4", codes, scales, (*lead, *matrix))


def find_pairs(infos: Mapping[str, TensorInfo]) -> Quantised:
    """What of a checkpoint is quantised, by names, dtypes and shapes.

    Float8 tensors `X` with `X_scale` or `X_scale_inv` (both multiply) for the tensor, for each row
    or for blocks (of 128 x 128 as DeepSeek's, or any that divide), in floats or as powers of two;
    and MXFP4, `X_blocks` with `X_scales`, as gpt-oss.

    Args:
      infos: the checkpoint's headers.

    Returns:
      The pairs; none for a checkpoint of floats.

    Raises:
      WeightSpaceError: float8 without its scale, scales that do not fit, and any other quantisation
        (GPTQ, AWQ, bitsandbytes, NVFP4, ...).

    References:
      OCP Microscaling Formats (MX) v1.0; DeepSeek-AI 2024, arXiv:2412.19437, section 3.3.2.

    Example:
        >>> info = lambda dtype, *shape: TensorInfo(np.dtype(dtype), shape, None, 0, 0)
        >>> f8 = ml_dtypes.float8_e4m3fn
        >>> infos = {"q.weight": info(f8, 300, 200), "q.weight_scale_inv": info("float32", 3, 2)}
        >>> find_pairs(infos).pairs["q.weight"].shape
        (300, 200)
    """
    pairs: dict[str, Pair] = {}
    for name, info in infos.items():
        end = name.rpartition(".")[2]
        if end in _REFUSED:
            raise WeightSpaceError(
                f"{name}: {_REFUSED[end]} is not read; save the model dequantised (transformers: "
                "model.dequantize()) and use that"
            )
        if info.dtype in _FP8 and not name.endswith(("_scale", "_scale_inv")):
            pairs[name] = _fp8(name, infos)
        elif end.endswith("_blocks") and info.dtype == np.uint8:
            pairs[name.removesuffix("_blocks")] = _mxfp4(name, infos)
    twice = [name for name, pair in pairs.items() if name in infos and pair.codes != name]
    if twice:
        raise WeightSpaceError(f"{twice[0]}: stored as floats and as MXFP4; remove one of them")
    modules = {name.rpartition(".")[0] for name in pairs}
    activations = {
        name for name in infos if name.endswith(_ACTIVATIONS) and name.rpartition(".")[0] in modules
    }
    stored = {stored for pair in pairs.values() for stored in (pair.codes, pair.scales)}
    return Quantised(pairs, frozenset(stored | activations))


def _scale(scales: np.ndarray) -> np.ndarray:
    """Scales as float32; a byte is a power of two."""
    return (scales.view(_E8M0) if scales.itemsize == 1 else scales).astype(np.float32)


def _fp8_rows(codes: np.ndarray, scales: np.ndarray, first: int, last: int) -> np.ndarray:
    """Rows of a float8 tensor seen as a matrix of its last axis."""
    shape = codes.shape if codes.ndim > 1 else (codes.size, 1)
    grid = _grid(shape, scales.shape)
    *lead, rows, columns = shape
    height, width = (_block(n, s) or 1 for n, s in zip((rows, columns), grid[-2:], strict=True))
    # The row of scales for each row: its matrix, then its block.
    matrix, row = np.divmod(np.arange(first, last), max(rows, 1))
    along = np.unravel_index(matrix, lead) if lead else ()
    at = tuple(i % size for i, size in zip(along, grid[:-2], strict=True))
    factor = _scale(scales.reshape(grid)[(*at, row // height)])
    values = codes.reshape(-1, columns)[first:last].astype(np.float32)
    if width == 1 or grid[-1] == 1:
        return values * factor
    for i in range(grid[-1]):
        values[:, i * width : (i + 1) * width] *= factor[:, i, None]
    return values


def dequantise_fp8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Float8 times its scales, in float32.

    Args:
      codes: float8, any shape.
      scales: one; one a row, `[rows]` or `[rows, 1]`; or one a block of the last two axes.

    Returns:
      float32, shaped as `codes`.

    Example:
        >>> codes = np.ones((2, 3), ml_dtypes.float8_e4m3fn)
        >>> dequantise_fp8(codes, np.array([2.0, 0.5], np.float32))
        array([[2. , 2. , 2. ],
               [0.5, 0.5, 0.5]], dtype=float32)
    """
    rows = codes.size // max(codes.shape[-1], 1) if codes.ndim > 1 else codes.size
    return _fp8_rows(codes, scales, 0, rows).reshape(codes.shape)


def dequantise_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """MXFP4 in float32: each byte two E2M1 numbers, the low one first, times `2^(scale - 127)`.

    Args:
      blocks: uint8 `[..., in / 32, 16]`.
      scales: uint8 `[..., in / 32]`; 255 is NaN.

    Returns:
      float32 `[..., in]`.

    References:
      OCP Microscaling Formats (MX) v1.0, sections 5.3 and 6.3.

    Example:
        >>> blocks = np.full((1, 16), 0xA2, np.uint8)  # 1 and -1
        >>> dequantise_mxfp4(blocks, np.array([128], np.uint8))[:4]
        array([ 2., -2.,  2., -2.], dtype=float32)
    """
    table = np.concatenate([_FP4, -_FP4])
    values = table[np.stack([blocks & 15, blocks >> 4], axis=-1)]
    values *= _scale(scales)[..., None, None]
    return values.reshape(*blocks.shape[:-2], -1)


def _mxfp4_rows(blocks: np.ndarray, scales: np.ndarray, first: int, last: int) -> np.ndarray:
    """Rows of the tensor that `find_pairs` promises, seen as a matrix of its last axis."""
    if blocks.ndim == 3:
        return dequantise_mxfp4(blocks[first:last], scales[first:last])
    out, groups = blocks.shape[-3:-1]
    blocks, scales = blocks.reshape(-1, out, groups, 16), scales.reshape(-1, out, groups)
    parts = []
    while first < last:
        expert, row = divmod(first, groups * 32)
        stop = min(row + last - first, groups * 32)
        some = slice(row // 32, -(-stop // 32))
        part = dequantise_mxfp4(blocks[expert, :, some], scales[expert, :, some]).T
        parts.append(part[row - some.start * 32 : stop - some.start * 32])
        first += stop - row
    return np.concatenate(parts)


def read_pair(tensors: Tensors, pair: Pair, start: int, out: np.ndarray) -> np.ndarray:
    """Dequantise elements `start` to `start + out.size` of the flat tensor into a buffer.

    Args:
      tensors: the checkpoint of which `find_pairs` found `pair`.
      pair: the tensor.
      start: first element.
      out: a contiguous buffer of float32 or float64.

    Returns:
      `out`.

    Example:
        >>> import tempfile, wslax as ws
        >>> tree = {"w": np.ones((2, 3), ml_dtypes.float8_e5m2), "w_scale": np.full(1, 0.5)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save(tree, f"{folder}/m.safetensors")
        ...     with ws.io.open_tensors(f"{folder}/m.safetensors") as tensors:
        ...         pair = find_pairs(tensors.infos).pairs["w"]
        ...         read_pair(tensors, pair, 4, np.empty(2, np.float32))
        array([0.5, 0.5], dtype=float32)
    """
    stop = start + out.size
    if not 0 <= start <= stop <= pair.size:
        raise WeightSpaceError(f"{pair.codes}: {pair.size} elements, asked for {start} to {stop}")
    if out.size == 0:
        return out
    width = pair.shape[-1] if len(pair.shape) > 1 else 1
    first, last = start // width, -(-stop // width)
    rows = _fp8_rows if pair.kind == "fp8" else _mxfp4_rows
    found = rows(tensors.read(pair.codes), tensors.read(pair.scales), first, last)
    out.reshape(-1)[...] = found.reshape(-1)[start - first * width : stop - first * width]
    return out
