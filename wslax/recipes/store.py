"""Where a recipe keeps what it has done: one atomic file a checkpoint."""

import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from wslax import io


class Store(NamedTuple):
    """Reads and writes checkpoints by name.

    Attributes:
      read: `(name, like) -> (tree, notes)` or None; without `like` (None) a flat dict of arrays.
      write: `(name, tree, notes)`; replaces what stood there, whole or not at all.
      folder: where they lie, for what keeps checkpoints of its own; None for nowhere.
    """

    read: Callable[[str, Any], tuple[Any, Any] | None]
    write: Callable[[str, Any, Any], None]
    folder: pathlib.Path | None


def nowhere() -> Store:
    """A store that forgets: for runs without a folder.

    Example:
        >>> nowhere().read("experts", None) is None
        True
    """
    return Store(lambda name, like: None, lambda name, tree, notes: None, None)


def in_folder(folder: str | pathlib.Path) -> Store:
    """A store of `NAME.safetensors` files, notes as JSON in their headers.

    Args:
      folder: made when first written to.

    Returns:
      The store.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = in_folder(folder)
        ...     store.write("experts", {"w": np.ones(2)}, {"step": 3})
        ...     store.read("experts", None)
        ({'w': array([1., 1.])}, {'step': 3})
    """
    folder = pathlib.Path(folder)

    def read(name: str, like: Any) -> tuple[Any, Any] | None:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            return None
        with io.open_tensors(path) as tensors:
            notes = json.loads(tensors.metadata["notes"])
        return io.load(path, like), notes

    def write(name: str, tree: Any, notes: Any) -> None:
        io.save(tree, folder / f"{name}.safetensors", metadata={"notes": json.dumps(notes)})

    return Store(read, write, folder)
