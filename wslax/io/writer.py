"""Streaming writing: the header is known beforehand, each piece goes to its final offset."""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.io.atomic import check_free, check_space, replaced
from wslax.io.header import Spec, make_header
from wslax.io.reader import INDEX, SINGLE

FORMAT = {"format": "pt"}  # what transformers asks of a file before it loads it


class Place(NamedTuple):
    """Where a tensor goes: an open file and the byte of its first element."""

    descriptor: int
    offset: int
    spec: Spec


class TensorWriter(NamedTuple):
    """Pieces of tensors to their places; thread-safe. Made by `write_tensors`.

    Attributes:
      places: tensor name to its place.
    """

    places: Mapping[str, Place]

    def write(self, name: str, start: int, values: np.ndarray) -> None:
        """Write `values` as elements `start` onwards of a tensor.

        Args:
          name: a declared tensor.
          start: index of the first element in the flat tensor.
          values: of the declared dtype.

        Raises:
          WeightSpaceError: if the dtype or the range is not the declared one.
        """
        place = self.places[name]
        if values.dtype != place.spec.dtype:
            raise WeightSpaceError(f"{name}: declared {place.spec.dtype}, got {values.dtype}")
        if not 0 <= start <= start + values.size <= place.spec.size:
            raise WeightSpaceError(
                f"{name}: declared {place.spec.size} elements, got {start} to {start + values.size}"
            )
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        position = place.offset + start * place.spec.dtype.itemsize
        while data:
            count = os.pwrite(place.descriptor, data, position)
            data, position = data[count:], position + count


def shards(specs: Mapping[str, Spec], shard_bytes: int | None) -> list[dict[str, Spec]]:
    """Split tensors, in order, into shards of at most `shard_bytes` (a larger tensor stands alone).

    Example:
        >>> import numpy as np
        >>> spec = Spec(np.dtype("float32"), (4,))
        >>> [list(s) for s in shards({"a": spec, "b": spec, "c": spec}, 32)]
        [['a', 'b'], ['c']]
    """
    parts: list[dict[str, Spec]] = [{}]
    room = shard_bytes
    for name, spec in specs.items():
        if room is not None and shard_bytes is not None:
            if spec.nbytes > room and parts[-1]:
                parts.append({})
                room = shard_bytes
            room -= spec.nbytes
        parts[-1][name] = spec
    return parts


@contextmanager
def write_file(
    path: pathlib.Path, specs: Mapping[str, Spec], metadata: Mapping[str, str] = FORMAT
) -> Iterator[TensorWriter]:
    """Write one safetensors file in pieces, at a path that is not yet final.

    A file that is there already is written on if it has the very same header.

    Raises:
      WeightSpaceError: if it has another.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "m.safetensors"
        ...     with write_file(file, {"w": Spec(np.dtype("float32"), (2,))}) as writer:
        ...         writer.write("w", 0, np.ones(2, np.float32))
        ...     file.stat().st_size % 8
        0
    """
    raw, offsets = make_header(specs, metadata)
    total = len(raw) + sum(spec.nbytes for spec in specs.values())
    begun = path.exists()
    with path.open("r+b" if begun else "w+b") as handle:
        descriptor = handle.fileno()
        held = os.fstat(descriptor).st_size, os.pread(descriptor, len(raw), 0)
        if begun and held != (total, raw):
            raise WeightSpaceError(
                f"{path}: was begun with other inputs, settings or versions; remove it to start "
                "anew"
            )
        os.truncate(descriptor, total)
        os.pwrite(descriptor, raw, 0)
        yield TensorWriter(
            {
                name: Place(descriptor, offset, spec)
                for (name, spec), offset in zip(specs.items(), offsets, strict=True)
            }
        )


@contextmanager
def write_tensors(
    path: str | os.PathLike[str],
    specs: Mapping[str, Spec],
    metadata: Mapping[str, str] = FORMAT,
    shard_bytes: int | None = None,
    resume: bool = False,
) -> Iterator[tuple[TensorWriter, pathlib.Path]]:
    """Write tensors in pieces, from any thread and in any order, whole or not at all.

    Args:
      path: a name ending in `.safetensors`, or a folder: then `model.safetensors`, or shards with
        their index when there is more than `shard_bytes`.
      specs: name to dtype and shape, in the order to store.
      metadata: string metadata; the default lets transformers load the file.
      shard_bytes: greatest shard, in bytes; None for one file.
      resume: write on in what an earlier call left, and leave what this one has when it fails.

    Yields:
      `(writer, partial)`: other files of the folder go into `partial`.

    Raises:
      WeightSpaceError: if a dtype has no code, the folder is not empty, the disk is too small or
        fills up. The final name is untouched then.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     specs = {"w": Spec(np.dtype("float32"), (2,))}
        ...     with write_tensors(f"{folder}/m.safetensors", specs) as (writer, _):
        ...         writer.write("w", 0, np.ones(2, np.float32))
        ...     ws.io.load(f"{folder}/m.safetensors")
        {'w': array([1., 1.], dtype=float32)}
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        check_free(path)
    check_space(path, sum(spec.nbytes for spec in specs.values()))
    with replaced(path, resume) as partial, ExitStack() as stack:
        if path.suffix == ".safetensors":
            yield stack.enter_context(write_file(partial, specs, metadata)), partial
            return
        partial.mkdir(exist_ok=resume)
        parts = shards(specs, shard_bytes)
        names = [SINGLE]
        if len(parts) > 1:
            names = [
                f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)
            ]
            _write_index(partial / INDEX, parts, names)
        places: dict[str, Place] = {}
        for name, part in zip(names, parts, strict=True):
            places |= stack.enter_context(write_file(partial / name, part, metadata)).places
        yield TensorWriter(places), partial


def _write_index(index: pathlib.Path, parts: list[dict[str, Spec]], names: list[str]) -> None:
    total = sum(spec.nbytes for part in parts for spec in part.values())
    where = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    content = {"metadata": {"total_size": total}, "weight_map": where}
    index.write_text(json.dumps(content, indent=2), "utf-8")
