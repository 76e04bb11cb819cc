"""The folder of a run: its last generation, replaced whole.

`evolution.safetensors` is what counts and is replaced in one step. Where the state is spread over
devices it has all but the state, which lies shard by shard in `evolution-GENERATION.orbax`: written
before the file that counts on it, removed after the one that does no more.
"""

import json
import operator
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from wslax import io
from wslax.errors import WeightSpaceError
from wslax.io.files import metadata
from wslax.population import processes
from wslax.tree import named_leaves

_FILE, _SHARDS = "evolution.safetensors", "evolution-{}.orbax"


def claim(folder: str | os.PathLike[str], resume: bool) -> pathlib.Path:
    """The file of a run's folder, which must be free or, to resume, hold a run.

    What a run leaves behind that was killed in its first write counts as nothing.

    Raises:
      WeightSpaceError: if the folder holds a run and `resume` is not set, or other files.

    Example:
        >>> claim("no-such-folder", False).name
        'evolution.safetensors'
    """
    file = pathlib.Path(folder) / _FILE
    if not file.exists():
        left = file.parent.glob(_SHARDS.format(0) + "*")
        io.atomic.check_free(folder, [io.atomic.partial_name(file), *left])
    elif not resume:
        raise WeightSpaceError(
            f"{folder}: holds a run; go on with it by resume=True, or name another folder"
        )
    return file


def write(
    file: pathlib.Path, state: Any, parts: Mapping[str, Any], notes: Mapping[str, Any]
) -> None:
    """Replace what stands there by a state, small trees of host arrays, and plain notes.

    Of several processes the first writes the file, and each its own shards.

    Example:
        >>> import tempfile
        >>> state, parts = {"x": np.ones(2)}, {"a": {"y": np.zeros(1)}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write(claim(folder, False), state, parts, {"generation": 3})
        ...     file = claim(folder, True)
        ...     notes(file), read(file, 3, state, parts)
        ({'generation': 3}, ({'x': array([1., 1.])}, {'a': {'y': array([0.])}}))
    """
    first = jax.process_index() == 0
    shards = file.with_name(_SHARDS.format(notes["generation"]))
    spread = any(not getattr(x, "is_fully_replicated", True) for x in jax.tree.leaves(state))
    if not spread:
        parts = {"state": processes.host(state), **parts}
    else:
        if first:
            io.atomic.remove(shards)  # of a run that was killed between these and the file
        multihost_utils.sync_global_devices(shards.name)
        io.save_orbax(_entries(state), shards)
        if first:
            io.atomic.sync(shards)
    if first:
        io.save(dict(parts), file, metadata={"run": json.dumps(notes)})
        for old in file.parent.glob(_SHARDS.format("*") + "*"):
            if not (spread and old == shards):
                io.atomic.remove(old)


def notes(file: pathlib.Path) -> dict[str, Any]:
    """The notes that `write` was given.

    Raises:
      WeightSpaceError: if there are none.
    """
    try:
        found = json.loads(metadata(file)["run"])
        return {**found, "generation": operator.index(found["generation"])}
    except (KeyError, TypeError, ValueError) as error:
        raise WeightSpaceError(f"{file}: not the checkpoint of a run") from error


def read(
    file: pathlib.Path, generation: int, state: Any, parts: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """State and parts as `write` was given them, like these in shapes, dtypes and shardings.

    Each process reads its own shards. Parts that are not named come as flat host arrays.

    Raises:
      WeightSpaceError: if something is missing or does not fit.
    """
    held: dict[str, dict[str, np.ndarray]] = {}
    for name, array in io.load(file).items():
        part, _, inner = name.partition("/")
        held.setdefault(part, {})[inner] = array
    like = {**held, **parts}
    if "state" in held:
        found = io.load(file, {**like, "state": state})
        return found.pop("state"), found
    shards = io.restore(file.with_name(_SHARDS.format(generation)), _entries(state))
    leaves = [
        shards[name] if leaf.size else jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
        for name, leaf in named_leaves(state).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(state), leaves), io.load(file, like)


def _entries(state: Any) -> dict[str, Any]:
    """Leaves by name, without those of size 0, which Orbax does not keep."""
    return {name: leaf for name, leaf in named_leaves(state).items() if leaf.size}
