"""Output that stands under its final name whole or not at all."""

import errno
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from wslax.errors import WeightSpaceError

Path = str | os.PathLike[str]


def partial_name(path: Path) -> pathlib.Path:
    """Where output lies until it is whole: `PATH.partial`.

    Example:
        >>> partial_name("out/model.safetensors").name
        'model.safetensors.partial'
    """
    path = pathlib.Path(path)
    return path.with_name(path.name + ".partial")


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one.

    Example:
        >>> remove("no-such-thing")
    """
    path = pathlib.Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_free(path: Path, leftovers: Iterable[Path] = ()) -> None:
    """Refuse a path that holds something: a non-empty folder, or a file.

    Args:
      path: the output's final name.
      leftovers: what may lie in the folder.

    Raises:
      WeightSpaceError: if it exists and is not an empty folder.

    Example:
        >>> check_free("no-such-folder")
    """
    path = pathlib.Path(path)
    if path.is_dir():
        if set(path.iterdir()) - set(map(pathlib.Path, leftovers)):
            raise WeightSpaceError(f"{path}: the output folder is not empty; name another one")
    elif path.exists():
        raise WeightSpaceError(f"{path}: exists already; name another output or remove it")


def check_space(path: Path, nbytes: int) -> None:
    """Refuse to begin when the disk has less room than the output needs.

    Args:
      path: the output's final name.
      nbytes: how much will be written.

    Raises:
      WeightSpaceError: with what is needed and what is free.

    Example:
        >>> check_space(".", 1)
    """
    folder = pathlib.Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise WeightSpaceError(
            f"{path}: needs {nbytes:,} bytes, the disk has {free:,} free; choose another disk"
        )


def sync(path: Path) -> None:
    """`fsync` a file, or a folder and every file in it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sync(folder)
    """
    path = pathlib.Path(path)
    for part in [*path.rglob("*"), path] if path.is_dir() else [path]:
        handle = os.open(part, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def replaced(path: Path, resume: bool = False) -> Iterator[pathlib.Path]:
    """Write a file or a folder under a temporary name, then rename it.

    Yields `PATH.partial`; the caller makes a file or a folder there. On success it is synced and
    takes the final name, replacing a file or an empty folder. On an error it is removed and the
    final name is untouched; a full disk becomes a `WeightSpaceError`. Only a kill leaves it behind,
    and the next try starts it afresh.

    Args:
      path: the final name; its folder is made if needed.
      resume: keep what lies at the temporary name, at the beginning and on an error.

    Yields:
      The temporary path.

    Raises:
      WeightSpaceError: if a folder that holds something has the final name, or the disk is full.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = pathlib.Path(folder) / "result.json"
        ...     with replaced(target) as partial:
        ...         _ = partial.write_text("{}")
        ...     target.read_text()
        '{}'
    """
    path = pathlib.Path(path)
    if path.is_dir():
        check_free(path)
    partial = partial_name(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not resume:
        remove(partial)
    try:
        yield partial
        sync(partial)
        if path.is_dir():
            path.rmdir()
        os.replace(partial, path)
        sync_name(path)
    except BaseException as error:
        if not resume:
            remove(partial)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            kept = f"{partial} was kept" if resume else "nothing was kept"
            raise WeightSpaceError(f"{path}: the disk is full; {kept}") from error
        raise


def sync_name(path: pathlib.Path) -> None:
    """Make a rename durable: `fsync` of the folder that holds the name.

    Example:
        >>> import pathlib
        >>> sync_name(pathlib.Path("pyproject.toml"))
    """
    folder = os.open(path.absolute().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
