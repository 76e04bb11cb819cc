"""Orbax checkpoints: sharded, asynchronous, for many hosts. Its stable API only."""

import os
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.io.atomic import check_free


def save_orbax(params: Any, path: str | os.PathLike[str]) -> None:
    """Save a tree as an Orbax checkpoint folder and wait until it stands.

    Sharded arrays are written shard by shard, each process its own. Orbax writes under a temporary
    name and renames.

    Args:
      params: a tree of arrays.
      path: a new or empty folder, absolute or relative.

    Raises:
      WeightSpaceError: if the folder is not empty.

    Example:
        >>> import jax.numpy as jnp, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"w": jnp.ones(2)}, f"{folder}/model.orbax")
        ...     ws.io.load(f"{folder}/model.orbax", like={"w": jnp.zeros(2)})
        {'w': Array([1., 1.], dtype=float32)}
    """
    with saving_orbax(params, path):
        pass


@contextmanager
def saving_orbax(params: Any, path: str | os.PathLike[str]) -> Iterator[None]:
    """Save in the background while the block runs; leaving the block waits for the end.

    The arrays are copied off the devices before the block begins, so they may be donated in it.

    Args:
      params: a tree of arrays.
      path: a new or empty folder.

    Raises:
      WeightSpaceError: if the folder is not empty.

    Example:
        >>> import jax.numpy as jnp, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with saving_orbax({"w": jnp.ones(2)}, f"{folder}/step-10.orbax"):
        ...         pass  # train on
    """
    import orbax.checkpoint as ocp

    target = pathlib.Path(path).absolute()
    check_free(target)
    if target.exists():
        shutil.rmtree(target)
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(target, args=ocp.args.StandardSave(params))
        yield
        checkpointer.wait_until_finished()


def restore(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Restore an Orbax checkpoint; `like` gives structure, dtypes and shardings.

    Args:
      path: the folder.
      like: a tree of arrays or `jax.ShapeDtypeStruct`s; without one the stored tree comes back as
        nested dicts of host arrays.

    Returns:
      The tree.

    Raises:
      WeightSpaceError: if the checkpoint does not fit `like`.

    Example:
        See `save_orbax`.

        >>> restore("no-such-folder")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: no-such-folder: no such folder
    """
    import jax
    import orbax.checkpoint as ocp

    source = pathlib.Path(path)
    if not source.is_dir():
        raise WeightSpaceError(f"{path}: no such folder")
    if like is None:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            stored = checkpointer.metadata(source.absolute()).item_metadata.tree
            host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
            return checkpointer.restore(
                source.absolute(), args=ocp.args.PyTreeRestore(restore_args=host)
            )
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        try:
            return checkpointer.restore(source.absolute(), args=ocp.args.StandardRestore(like))
        except (ValueError, KeyError, TypeError) as error:
            raise WeightSpaceError(f"{path}: does not fit like=: {error}") from error
