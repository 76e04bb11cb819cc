"""Orbax checkpoints: sharded, asynchronous, for many hosts. Its stable API only."""

import os
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.atomic import check_free

_BROKEN = (ValueError, KeyError, TypeError, AttributeError, OSError)  # what Orbax raises then


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
    import jax
    import orbax.checkpoint as ocp

    target = pathlib.Path(path).absolute()
    check_free(target)
    if target.exists() and jax.process_index() == 0:
        shutil.rmtree(target)
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(target, args=ocp.args.StandardSave(params))
        yield
        checkpointer.wait_until_finished()


def _stored(path: str | os.PathLike[str]) -> Any:
    """What a checkpoint holds: a tree of shapes and dtypes."""
    import orbax.checkpoint as ocp

    source = pathlib.Path(path).absolute()
    if not source.is_dir():
        raise WeightSpaceError(f"{path}: no such folder")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            return checkpointer.metadata(source).item_metadata.tree
        except _BROKEN as error:
            raise WeightSpaceError(f"{path}: not a whole Orbax checkpoint ({error})") from error


def _check(path: str | os.PathLike[str], stored: Any, like: Any) -> None:
    """Orbax itself would cast to another dtype without a word."""
    import jax

    from wslax.tree import aval, named_leaves, same_aval

    found = named_leaves(stored)
    for name, leaf in named_leaves(like).items():
        if name not in found:
            raise WeightSpaceError(f"{path}: no leaf {name!r}.{did_you_mean(name, found)}")
        key = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        wanted = jax.eval_shape(jax.random.key_data, leaf) if key else leaf
        if not same_aval(found[name], wanted):
            raise WeightSpaceError(
                f"{name}: the checkpoint has {aval(found[name])}, like= has {aval(wanted)}"
            )


def restore(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Restore an Orbax checkpoint; `like` gives structure, dtypes and shardings.

    Args:
      path: the folder.
      like: a tree of arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      The tree; without `like` a flat dict of host arrays by leaf name.

    Raises:
      WeightSpaceError: if there is no whole checkpoint, or it does not fit `like`.

    Example:
        See `save_orbax`.

        >>> restore("no-such-folder")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: no-such-folder: no such folder
    """
    import jax
    import orbax.checkpoint as ocp

    from wslax.tree import named_leaves

    source = pathlib.Path(path).absolute()
    stored = _stored(path)
    if like is None:
        host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        handler, args = ocp.PyTreeCheckpointHandler(), ocp.args.PyTreeRestore(restore_args=host)
    else:
        _check(path, stored, like)
        handler, args = ocp.StandardCheckpointHandler(), ocp.args.StandardRestore(like)
    with ocp.Checkpointer(handler) as checkpointer:
        try:
            tree = checkpointer.restore(source, args=args)
        except _BROKEN as error:
            what = "cannot be read" if like is None else "does not fit like="
            raise WeightSpaceError(f"{path}: {what}: {error}") from error
    return named_leaves(tree) if like is None else tree
