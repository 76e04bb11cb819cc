"""Lazy reading: headers at once, data when asked for."""

import json
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.header import TensorInfo, no_twins, read_header

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def refuse_pickle(path: pathlib.Path) -> None:
    """Raise for a file whose loading would run code.

    Example:
        >>> refuse_pickle(pathlib.Path("model.safetensors"))
    """
    if path.suffix.lower() in _PICKLES:
        raise WeightSpaceError(
            f"{path}: a pickle file runs whatever code is inside when loaded, so wslax never does; "
            'where you trust it: python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{path.name}', weights_only=True), 'model.safetensors')\""
        )


def refuse_target(path: pathlib.Path) -> None:
    """Raise for an output that would be a pickle or a nameless array.

    Example:
        >>> refuse_target(pathlib.Path("model.safetensors"))
    """
    if path.suffix.lower() in _PICKLES | {".npy"}:
        raise WeightSpaceError(
            f"{path}: wslax writes no {path.suffix}; name a .safetensors, an .npz or a folder"
        )


class Tensors:
    """The tensors of a safetensors file, a sharded checkpoint or a folder, unread.

    Thread-safe: reads are positional. Made by `open_tensors`.

    Attributes:
      path: what was opened.
      infos: name to `TensorInfo`, in stored order.
      metadata: the files' string metadata, merged.
    """

    def __init__(self, path: pathlib.Path, infos: dict[str, TensorInfo], metadata: dict[str, str]):
        self.path = path
        self.infos = infos
        self.metadata = metadata
        self._maps: dict[pathlib.Path, np.ndarray] = {}
        self._handles: dict[pathlib.Path, BinaryIO] = {}
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor's name, in stored order."""
        return tuple(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __contains__(self, name: str) -> bool:
        return name in self.infos

    def _descriptor(self, file: pathlib.Path) -> int:
        with self._lock:
            if file not in self._handles:
                self._handles[file] = file.open("rb")
            return self._handles[file].fileno()

    def close(self) -> None:
        """Close the files that `read_into` opened; views of the mapped files stay good."""
        with self._lock:
            for handle in self._handles.values():
                handle.close()
            self._handles.clear()

    def __enter__(self) -> "Tensors":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def info(self, name: str) -> TensorInfo:
        """Where a tensor lies.

        Raises:
          WeightSpaceError: if there is none of that name; near names are listed.
        """
        if name not in self.infos:
            raise WeightSpaceError(
                f"{self.path}: no tensor {name!r}.{did_you_mean(name, self.infos)}"
            )
        return self.infos[name]

    def read(self, name: str) -> np.ndarray:
        """The tensor as a read-only view of the mapped file: no copy, pages come when touched."""
        info = self.info(name)
        if info.nbytes == 0:
            return np.empty(info.shape, info.dtype)
        if info.file not in self._maps:
            self._maps[info.file] = np.memmap(info.file, np.uint8, mode="r")
        raw = self._maps[info.file][info.offset : info.offset + info.nbytes]
        return raw.view(np.ndarray).view(info.dtype).reshape(info.shape)

    def view(self, name: str, start: int, stop: int) -> np.ndarray:
        """Elements `start` to `stop` of the flat tensor, as a view of the mapped file."""
        return self.read(name).reshape(-1)[start:stop]

    def read_into(self, name: str, start: int, out: np.ndarray) -> np.ndarray:
        """Read elements `start` to `start + out.size` of the flat tensor into a buffer.

        For one pass over large files: a reused buffer keeps memory small, while every page of a
        mapped file that was touched counts as resident. Any number of threads may read.

        Args:
          name: the tensor.
          start: first element.
          out: a contiguous buffer of the tensor's dtype.

        Returns:
          `out`.

        Raises:
          WeightSpaceError: if the range or the buffer's dtype is not the tensor's, or the file ends
            early (it changed since it was opened).
        """
        info = self.info(name)
        if out.dtype != info.dtype or not 0 <= start <= start + out.size <= info.size:
            raise WeightSpaceError(
                f"{name}: {info.dtype} with {info.size} elements, asked for {start} to "
                f"{start + out.size} as {out.dtype}"
            )
        if not out.flags.c_contiguous:
            raise WeightSpaceError(f"{name}: the buffer is not contiguous; read into a fresh one")
        target = out.reshape(-1).view(np.uint8).data
        position = info.offset + start * info.dtype.itemsize
        descriptor = self._descriptor(info.file)
        while target:
            count = os.preadv(descriptor, [target], position)
            if count == 0:
                raise WeightSpaceError(f"{info.file}: ended while reading {name!r}")
            target, position = target[count:], position + count
        return out


def _shard(folder: pathlib.Path, name: Any) -> pathlib.Path:
    if not isinstance(name, str) or pathlib.PurePath(name).name != name or name in ("", ".", ".."):
        raise WeightSpaceError(f"the shard name {name!r} is not a plain file name")
    return folder / name


def _open_index(index: pathlib.Path) -> Tensors:
    try:
        content = json.loads(index.read_text("utf-8"), object_pairs_hook=no_twins)
        where = content["weight_map"]
        shards = {_shard(index.parent, name) for name in where.values()}
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{index}: {error}") from error
    except OSError as error:
        raise WeightSpaceError(f"{index}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightSpaceError(f"{index}: not an index of shards (no weight_map)") from error
    infos: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for shard in sorted(shards):
        found, notes = read_header(shard)
        metadata |= notes
        for name, info in found.items():
            if where.get(name) != shard.name:
                claimed = where.get(name)
                raise WeightSpaceError(
                    f"{index}: {name!r} lies in {shard.name}, the index says {claimed}"
                )
            infos[name] = info
    missing = [name for name in where if name not in infos]
    if missing:
        raise WeightSpaceError(f"{index}: {where[missing[0]]} has no tensor {missing[0]!r}")
    return Tensors(index, infos, metadata)


def open_tensors(path: str | os.PathLike[str]) -> Tensors:
    """Open safetensors lazily; every header is checked, no data is read.

    Args:
      path: a `.safetensors` file, a `model.safetensors.index.json`, or a folder that holds an index
        or one `.safetensors` file.

    Returns:
      A `Tensors`, usable as a context manager.

    Raises:
      WeightSpaceError: if there is nothing to open, a header is bad (see `read_header`), a shard is
        missing or unlike its index, or the file is a pickle.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"w": np.arange(3.0)}, f"{folder}/m.safetensors")
        ...     with open_tensors(f"{folder}/m.safetensors") as tensors:
        ...         [float(x) for x in tensors.read("w")]
        [0.0, 1.0, 2.0]
    """
    path = pathlib.Path(path)
    refuse_pickle(path)
    if os.path.isdir(path):
        if (path / INDEX).is_file():
            return _open_index(path / INDEX)
        files = sorted(path.glob("*.safetensors"))
        if (path / SINGLE) in files:
            files = [path / SINGLE]
        if len(files) != 1:
            for other in sorted(path.iterdir()):
                refuse_pickle(other)
            what = "no .safetensors file" if not files else f"{len(files)} .safetensors files"
            raise WeightSpaceError(f"{path}: has {what} and no {INDEX}; name the file")
        path = files[0]
    if path.name.endswith(".index.json"):
        return _open_index(path)
    infos, metadata = read_header(path)
    return Tensors(path, infos, metadata)
