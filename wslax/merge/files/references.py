"""Models as recipes name them: a path or a Hub id, a revision, a LoRA on top."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from wslax.errors import WeightSpaceError
from wslax.io.dequantise import find_pairs
from wslax.io.header import no_twins
from wslax.io.lora import read_adapter
from wslax.io.peft import CONFIG as LORA_CONFIG
from wslax.io.reader import INDEX, SINGLE, Tensors, open_tensors
from wslax.merge.files.parts import Adapted, Dequantised, Part, Stored

_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.txt", "*.model", "*.jinja"]
_LIMIT = 100_000_000  # bytes of a JSON file; the largest tokenizers have 35 million


class Model(NamedTuple):
    """A model of a merge, opened; no data is read.

    Attributes:
      reference: as the recipe names it.
      tensors: its files.
      parts: its tensors by name, with adapters and scales applied.
      folder: where its config and tokenizer lie; None for a file that does not have Hugging Face's
        name, which says nothing about its neighbours.
    """

    reference: str
    tensors: Tensors
    parts: Mapping[str, Part]
    folder: pathlib.Path | None

    @property
    def path(self) -> pathlib.Path:
        """The file or index."""
        return self.tensors.path

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file beside the weights; empty where there is none."""
        return read_json(self.folder / name) if self.folder is not None else {}

    @property
    def config(self) -> dict[str, Any]:
        """Its `config.json`."""
        return self.json("config.json")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object from a stranger's file; empty where there is no file.

    Example:
        >>> read_json(pathlib.Path("no-such.json"))
        {}
    """
    if not path.is_file():
        return {}
    if path.stat().st_size > _LIMIT:
        raise WeightSpaceError(f"{path}: {path.stat().st_size:,} bytes are no such file")
    try:
        found = json.loads(path.read_text("utf-8"), object_pairs_hook=no_twins)
    except (ValueError, RecursionError) as error:
        raise WeightSpaceError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise WeightSpaceError(f"{path}: expected a JSON object")
    return found


def split(reference: str) -> tuple[str, str | None]:
    """A reference's model and LoRA; what exists as a path is one whatever it contains.

    Example:
        >>> split("org/model@v2+org/lora"), split("model")
        (('org/model@v2', 'org/lora'), ('model', None))
    """
    if "+" not in reference or pathlib.Path(reference).exists():
        return reference, None
    model, _, lora = reference.rpartition("+")
    return model, lora


def _is_id(path: str) -> bool:
    known = (".safetensors", ".bin", ".pt", ".json")
    return path.count("/") == 1 and path[0] not in "./~" and (
        pathlib.PurePath(path).suffix not in known
    )  # fmt: skip


def locate(reference: str) -> pathlib.Path:
    """The path of a model, which for a Hub id is in its local cache or fetched there.

    Args:
      reference: a path, or `org/name` with `@revision` where that is wanted.

    Raises:
      WeightSpaceError: if there is neither.

    Example:
        >>> locate("no-such-folder")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: no-such-folder: no such file or folder
    """
    if not reference or "\0" in reference:
        raise WeightSpaceError(f"{reference!r}: is no path")
    with contextlib.suppress(OSError):  # a name that is too long is none
        if pathlib.Path(reference).exists():
            return pathlib.Path(reference)
    name, _, revision = reference.partition("@")
    if not _is_id(name):
        raise WeightSpaceError(f"{reference}: no such file or folder")
    try:
        import huggingface_hub
    except ImportError:
        raise WeightSpaceError(
            f"{reference}: no such file or folder; for a Hub id pip install 'wslax[hub]', or pass "
            "the path of a folder with model.safetensors"
        ) from None
    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                name, revision=revision or None, allow_patterns=_FILES
            )
        )
    except Exception as error:
        raise WeightSpaceError(
            f"{reference}: no such path, and the Hub gave {type(error).__name__}; pass the path of "
            "a folder with model.safetensors"
        ) from error


def open_model(reference: str, made: Mapping[str, Model] = MappingProxyType({})) -> Model:
    """Open a model as a recipe names it and check all that headers can tell.

    Args:
      reference: `PATH`, `org/name`, either with `@revision` and `+LORA`.
      made: models by path that need not be opened.

    Raises:
      WeightSpaceError: nothing there, a bad header, a quantisation that is not read, an adapter
        that does not fit.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"w": np.ones((2, 3), np.float32)}, f"{folder}/a.safetensors")
        ...     model = open_model(f"{folder}/a.safetensors")
        >>> model.parts["w"].shape
        (2, 3)
    """
    name, lora = split(reference)
    if name in made:
        return _adapted(made[name]._replace(reference=reference), lora)
    given = locate(name)
    if (given / LORA_CONFIG).is_file() and not (given / "config.json").is_file():
        raise WeightSpaceError(f"{reference}: is a LoRA adapter; write MODEL+{reference}")
    tensors = open_tensors(given)
    folder = given if given.is_dir() else given.parent
    bare = given.is_file() and given.name not in (SINGLE, INDEX)
    try:
        parts = _parts(tensors)
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{given}: {error}") from error
    return _adapted(Model(reference, tensors, parts, None if bare else folder), lora)


def _adapted(model: Model, lora: str | None) -> Model:
    if lora is None:
        return model
    adapter = read_adapter(locate(lora), {n: part.shape for n, part in model.parts.items()})
    changed = {n: Adapted(model.parts[n], adapter) for n in adapter.names}
    return model._replace(parts={**model.parts, **changed})


def _parts(tensors: Tensors) -> dict[str, Part]:
    """The tensors by name, in stored order; codes and scales as the floats that they mean."""
    found = find_pairs(tensors.infos)
    codes = {pair.codes: name for name, pair in found.pairs.items()}
    parts: dict[str, Part] = {}
    for stored in tensors:
        if stored in codes:
            name = codes[stored]
            parts[name] = Dequantised(tensors, name, found.pairs[name])
        elif stored not in found.spent:
            parts[stored] = Stored(tensors, stored)
    return parts
