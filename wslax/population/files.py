"""A population on disk: one checkpoint a member, and an index."""

import json
import os
import pathlib

import jax

from wslax import io
from wslax.errors import WeightSpaceError
from wslax.population.members import size, stack, unstack, words
from wslax.typing import Params

_INDEX = "population.json"


def save(population: Params, path: str | os.PathLike[str]) -> None:
    """Save N members as N safetensors files in one folder, whole or not at all.

    Args:
      population: N members; leaves of any dtype, JAX keys included.
      path: a new or empty folder. It gets `member-00000.safetensors`, ... and `population.json`.

    Raises:
      WeightSpaceError: if the folder is not empty or the disk is full.

    Example:
        >>> import jax.numpy as jnp, tempfile, wslax as ws
        >>> population = {"w": jnp.arange(4.0).reshape(2, 2)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.population.save(population, f"{folder}/experts")
        ...     ws.population.load(f"{folder}/experts", like={"w": jnp.zeros(2)})
        {'w': Array([[0., 1.],
               [2., 3.]], dtype=float32)}
    """
    io.atomic.check_free(path)
    names = [f"member-{i:05d}.safetensors" for i in range(size(population))]
    with io.atomic.replaced(path) as partial:
        partial.mkdir()
        for name, one in zip(names, unstack(jax.device_get(words(population))), strict=True):
            io.save(one, partial / name)
        (partial / _INDEX).write_text(json.dumps({"members": names}, indent=2), "utf-8")


def load(path: str | os.PathLike[str], like: Params) -> Params:
    """Load a population that `save` wrote.

    Args:
      path: the folder.
      like: one member's tree (arrays or `jax.ShapeDtypeStruct`s).

    Returns:
      The population, on the default device.

    Raises:
      WeightSpaceError: if a file is missing or a member does not fit `like`.

    Example:
        See `save`.

        >>> load("no-such-folder", {})
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: no-such-folder: no population.json there
    """
    folder = pathlib.Path(path)
    index = folder / _INDEX
    if not index.is_file():
        raise WeightSpaceError(f"{folder}: no {_INDEX} there")
    try:
        names = json.loads(index.read_text("utf-8"))["members"]
        files = [folder / pathlib.PurePath(name).name for name in names]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightSpaceError(f"{index}: not an index of members") from error
    return stack([io.load(file, like) for file in files])
