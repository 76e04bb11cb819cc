"""The safetensors header: parsed as hostile input, written as the reference library does.

A file is 8 bytes (little-endian length n), n bytes of JSON
`{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}`, then the
data. Offsets count from the end of the header; tensors lie back to back without holes.
"""

import json
import math
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from wslax.errors import WeightSpaceError

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn,
        "F8_E5M2": ml_dtypes.float8_e5m2,
        "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
        "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
        "F8_E8M0": ml_dtypes.float8_e8m0fnu,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
        "C64": np.complex64,
    }.items()
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
_LIMIT = 100_000_000  # the reference library's own cap on a header's length
_AXES = 64  # NumPy's


class TensorInfo(NamedTuple):
    """Where a tensor lies.

    Attributes:
      dtype: numpy dtype (`ml_dtypes` for bfloat16 and float8).
      shape: its shape.
      file: the file that holds it.
      offset: first byte in the file.
      nbytes: how many bytes.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    file: pathlib.Path
    offset: int
    nbytes: int

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object that refuses a name given twice, and halves of characters.

    An `object_pairs_hook`. JSON can spell half a surrogate pair, which no file or terminal takes.

    Example:
        >>> json.loads('{"w": 1}', object_pairs_hook=no_twins)
        {'w': 1}
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise WeightSpaceError(f"the name {twice!r} stands twice")
    for text in (*found, *found.values()):
        if isinstance(text, str) and not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise WeightSpaceError(f"{text!r} holds half a character") from error
    return found


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _info(name: str, entry: Any, start: int, room: int, file: pathlib.Path) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WeightSpaceError(f"{name!r}: expected dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise WeightSpaceError(f"{name!r}: unknown dtype {code!r}")
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise WeightSpaceError(f"{name!r}: the shape {shape!r} is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise WeightSpaceError(f"{name!r}: data_offsets {offsets!r} is not [begin, end]")
    if len(shape) > _AXES or math.prod(filter(None, shape)) >= 2**59:
        raise WeightSpaceError(f"{name!r}: no array has the shape {shape!r}")
    begin, end = offsets
    if begin > end or end > room:
        raise WeightSpaceError(f"{name!r}: bytes {begin} to {end} lie outside the {room} there are")
    dtype = DTYPES[code]
    needed = math.prod(shape) * dtype.itemsize
    if end - begin != needed:
        raise WeightSpaceError(f"{name!r}: {code}{shape} needs {needed} bytes, has {end - begin}")
    return TensorInfo(dtype, tuple(shape), file, start + begin, needed)


def _check_packed(infos: Mapping[str, TensorInfo], start: int, end: int) -> None:
    position = start
    for name, info in sorted(infos.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if info.offset != position:
            kind = "overlaps the tensor before it" if info.offset < position else "leaves a hole"
            raise WeightSpaceError(f"{name!r}: begins at byte {info.offset - start} and {kind}")
        position += info.nbytes
    if position != end:
        raise WeightSpaceError(f"{end - position} bytes at the end belong to no tensor")


def _read(file: pathlib.Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    with file.open("rb") as handle:
        total = os.fstat(handle.fileno()).st_size
        raw = handle.read(8)
        if len(raw) < 8:
            raise WeightSpaceError(f"is {total} bytes long: too short for a header")
        (length,) = struct.unpack("<Q", raw)
        if length > min(total - 8, _LIMIT):
            raise WeightSpaceError(f"the header claims {length} bytes, the file has {total - 8}")
        text = handle.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=no_twins)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightSpaceError(f"the header is not JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise WeightSpaceError("the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise WeightSpaceError("__metadata__ is not a map of strings")
    start = 8 + length
    infos = {name: _info(name, entry, start, total - start, file) for name, entry in header.items()}
    _check_packed(infos, start, total)
    return infos, metadata


def read_header(file: str | os.PathLike[str]) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Parse and check the header of one safetensors file; no data is read.

    Args:
      file: the file.

    Returns:
      `(name to TensorInfo in the header's order, metadata)`.

    Raises:
      WeightSpaceError: naming the file and the first thing wrong: no such file, truncated, a header
        longer than the file, not JSON, duplicate names, unknown dtypes, sizes that do not fit,
        overlapping or out-of-range offsets, holes.

    Example:
        >>> read_header("missing.safetensors")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: missing.safetensors: no such file
    """
    file = pathlib.Path(file)
    try:
        return _read(file)
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{file}: {error}") from error
    except FileNotFoundError as error:
        raise WeightSpaceError(f"{file}: no such file") from error
    except OSError as error:
        raise WeightSpaceError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # integers of absurd length in the JSON
        raise WeightSpaceError(f"{file}: the header is not valid ({error})") from error


class Spec(NamedTuple):
    """A tensor to be written: dtype and shape."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes its data takes."""
        return self.size * self.dtype.itemsize


def make_header(specs: Mapping[str, Spec], metadata: Mapping[str, Any]) -> tuple[bytes, list[int]]:
    """The bytes of a header, padded to 8, and each tensor's offset in the file.

    Names keep the order of `specs`; data lies with the widest dtypes first, as the reference
    library lays it, so that every tensor is aligned.

    Args:
      specs: name to dtype and shape.
      metadata: strings to keep in the header.

    Returns:
      `(header with its length, offset of each tensor in the order of specs)`.

    Raises:
      WeightSpaceError: if a dtype has no code, a name is reserved, or metadata no map of strings.

    Example:
        >>> import numpy as np
        >>> raw, offsets = make_header({"w": Spec(np.dtype("float32"), (2,))}, {"format": "pt"})
        >>> len(raw) % 8, offsets[0] == len(raw)
        (0, True)
    """
    if not all(isinstance(part, str) for item in metadata.items() for part in item):
        raise WeightSpaceError("metadata: expected a map of strings; use json.dumps for the rest")
    if "__metadata__" in specs:
        raise WeightSpaceError("__metadata__: safetensors keeps this name for itself; rename it")
    for name, spec in specs.items():
        if spec.dtype not in CODES:
            raise WeightSpaceError(f"{name}: safetensors has no dtype for {spec.dtype}")
    begins, position = {}, 0
    for name in sorted(specs, key=lambda name: -specs[name].dtype.itemsize):
        begins[name] = position
        position += specs[name].nbytes
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, spec in specs.items():
        header[name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [begins[name], begins[name] + spec.nbytes],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    raw = struct.pack("<Q", len(text)) + text
    return raw, [len(raw) + begins[name] for name in specs]
