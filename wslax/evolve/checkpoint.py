"""The folder of a run: its last generation in one file, replaced whole."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from wslax import io
from wslax.errors import WeightSpaceError
from wslax.io.files import metadata
from wslax.population import processes

_FILE = "evolution.safetensors"


def claim(folder: str | os.PathLike[str], resume: bool) -> pathlib.Path:
    """The file of a run's folder, which must be free or, to resume, hold a run.

    Raises:
      WeightSpaceError: if the folder holds a run and `resume` is not set, or other files.

    Example:
        >>> claim("no-such-folder", False).name
        'evolution.safetensors'
    """
    file = pathlib.Path(folder) / _FILE
    if not file.exists():
        if file.parent.is_dir():
            io.atomic.remove(io.atomic.partial_name(file))
        io.atomic.check_free(folder)
    elif not resume:
        raise WeightSpaceError(
            f"{folder}: holds a run; go on with it by resume=True, or name another folder"
        )
    return file


def write(file: pathlib.Path, parts: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
    """Replace what stands there by these trees and plain notes; of several processes the first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(claim(folder, False), {"a": {"x": np.ones(2)}}, {"generation": 1})
        ...     read(claim(folder, True), {"a": {"x": np.ones(2)}}), notes(claim(folder, True))
        ({'a': {'x': array([1., 1.])}}, {'generation': 1})
    """
    if jax.process_count() > 1:
        parts = processes.host(parts)
    if jax.process_index() == 0:
        io.save(dict(parts), file, metadata={"run": json.dumps(notes)})


def notes(file: pathlib.Path) -> dict[str, Any]:
    """The notes that `write` was given.

    Raises:
      WeightSpaceError: if there are none.
    """
    try:
        return json.loads(metadata(file)["run"])
    except (KeyError, ValueError) as error:
        raise WeightSpaceError(f"{file}: not the checkpoint of a run") from error


def read(file: pathlib.Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """The trees that `write` was given; parts that `like` lacks come as flat host arrays.

    Raises:
      WeightSpaceError: if a tree does not fit `like`.
    """
    rest: dict[str, dict[str, np.ndarray]] = {}
    for name, array in io.load(file).items():
        part, _, inner = name.partition("/")
        if part not in like:
            rest.setdefault(part, {})[inner] = array
    return io.load(file, {**like, **rest})
