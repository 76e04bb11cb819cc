"""What one model gives to one tensor of the output, read a piece at a time."""

import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from wslax.io.dequantise import Pair, read_pair
from wslax.io.lora import Adapter, apply_adapter
from wslax.io.peft import CONFIG
from wslax.io.reader import Tensors
from wslax.merge.files.scratch import scratch

BLOCK = 1 << 16  # elements; a product by fixed blocks does not depend on what is asked for


@runtime_checkable
class Part(Protocol):
    """A tensor of one model, as the merge sees it."""

    @property
    def path(self) -> pathlib.Path:
        """The file or index, for messages."""
        ...

    @property
    def name(self) -> str:
        """Its name there."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Dtype as stored."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that hold it."""
        ...

    @property
    def files(self) -> set[pathlib.Path]:
        """The files that hold it."""
        ...

    def read(self, start: int, out: np.ndarray) -> None:
        """Elements from `start` on of the flat tensor into a flat buffer of any float dtype."""
        ...


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file."""

    tensors: Tensors
    name: str

    @property
    def path(self) -> pathlib.Path:
        """The file or index."""
        return self.tensors.path

    @property
    def dtype(self) -> np.dtype:
        """As stored."""
        return self.tensors.infos[self.name].dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.tensors.infos[self.name].shape

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.tensors.infos[self.name].nbytes

    @property
    def files(self) -> set[pathlib.Path]:
        """The file that holds it."""
        return {self.tensors.infos[self.name].file}

    def read(self, start: int, out: np.ndarray) -> None:
        """See `Part`."""
        if self.dtype == out.dtype:
            self.tensors.read_into(self.name, start, out)
        else:
            raw = scratch.get("raw", self.dtype, out.size)
            np.copyto(out, self.tensors.read_into(self.name, start, raw), casting="unsafe")


@dataclass(frozen=True)
class Adapted:
    """A tensor of a base with a LoRA adapter in it."""

    base: Part
    adapter: Adapter

    @property
    def path(self) -> pathlib.Path:
        """The adapter's file."""
        return self.adapter.tensors.path

    @property
    def name(self) -> str:
        """The base's name."""
        return self.base.name

    @property
    def dtype(self) -> np.dtype:
        """The base's."""
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The base's."""
        return self.base.shape

    def _factors(self) -> list[str]:
        made, whole = self.adapter.factors.get(self.name), self.adapter.whole.get(self.name)
        found = [whole] if made is None else [made.a, made.b, whole]
        return [name for name in found if name is not None]

    @property
    def nbytes(self) -> int:
        """Bytes of the base and the factors."""
        infos = self.adapter.tensors.infos
        return self.base.nbytes + sum(infos[name].nbytes for name in self._factors())

    @property
    def files(self) -> set[pathlib.Path]:
        """The base's and the adapter's."""
        infos = self.adapter.tensors.infos
        own = {infos[name].file for name in self._factors()}
        return self.base.files | own | {self.path.with_name(CONFIG)}

    def read(self, start: int, out: np.ndarray) -> None:
        """See `Part`."""
        size, stop = int(np.prod(self.shape)), start + out.size
        width = max(1, self.shape[-1] if self.shape else 1)
        block = max(1, BLOCK // width) * width
        for begin in range(start // block * block, stop, block):
            values = scratch.get("block", out.dtype, min(block, size - begin))
            self.base.read(begin, values)
            found = apply_adapter(self.adapter, self.name, begin, values)
            first, last = max(start, begin), min(stop, begin + values.size)
            out[first - start : last - start] = found[first - begin : last - begin]


@dataclass(frozen=True)
class Dequantised:
    """A tensor that is stored as codes and scales, as floats."""

    tensors: Tensors
    name: str
    pair: Pair

    @property
    def path(self) -> pathlib.Path:
        """The file or index."""
        return self.tensors.path

    @property
    def dtype(self) -> np.dtype:
        """Of the floats."""
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the floats."""
        return self.pair.shape

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        infos = self.tensors.infos
        return infos[self.pair.codes].nbytes + infos[self.pair.scales].nbytes

    @property
    def files(self) -> set[pathlib.Path]:
        """The files of codes and scales."""
        infos = self.tensors.infos
        return {infos[self.pair.codes].file, infos[self.pair.scales].file}

    def read(self, start: int, out: np.ndarray) -> None:
        """See `Part`."""
        read_pair(self.tensors, self.pair, start, out)


@dataclass(frozen=True)
class Promised:
    """A tensor that an earlier merge of the same file will write; it can be checked, not read."""

    path: pathlib.Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    nbytes: int
    files: set[pathlib.Path]

    def read(self, start: int, out: np.ndarray) -> None:
        """See `Part`."""
        raise AssertionError(f"{self.path}: {self.name} is not written yet")


def widest(dtypes: Sequence[np.dtype]) -> np.dtype:
    """The dtype that holds all of them: their own where they agree, else float32 or float64.

    Example:
        >>> widest([np.dtype("float16"), np.dtype("float32")])
        dtype('float32')
    """
    if len(set(dtypes)) == 1:
        return dtypes[0]
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)
