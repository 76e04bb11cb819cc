"""npz: a zip of plain numpy arrays. Arrays of objects are pickles and never loaded."""

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.io.atomic import check_space, replaced
from wslax.io.header import Spec

_BAD = (
    ValueError, OSError, EOFError, KeyError, NotImplementedError, RuntimeError, MemoryError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def load_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Load every array of an npz file.

    Args:
      path: the file.

    Returns:
      Stored name to array.

    Raises:
      WeightSpaceError: if there is no such file, it is damaged, or an array holds objects.

    Example:
        >>> load_npz("missing.npz")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: missing.npz: no such file
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for entry in archive.namelist():
                if entry.removesuffix(".npy") in found:
                    raise ValueError(f"{entry} stands twice")
                with archive.open(entry) as handle:
                    array = np.lib.format.read_array(handle, allow_pickle=False)
                if array.dtype.kind not in "biufc":
                    raise ValueError(f"{entry} holds {array.dtype}")
                found[entry.removesuffix(".npy")] = array
            return found
    except FileNotFoundError as error:
        raise WeightSpaceError(f"{path}: no such file") from error
    except _BAD as error:
        raise WeightSpaceError(
            f"{path}: not an npz of plain arrays ({error}); arrays of objects are pickles "
            "and never loaded"
        ) from error


def save_npz(
    path: str | os.PathLike[str], specs: dict[str, Spec], arrays: Iterable[np.ndarray]
) -> None:
    """Save arrays as an npz file, one at a time, whole or not at all.

    Args:
      path: the file; one that exists is replaced.
      specs: name to dtype and shape.
      arrays: the arrays in that order, each taken when its turn comes.

    Raises:
      WeightSpaceError: if npz has no such dtype, or the disk is too small.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     spec = Spec(np.dtype("float64"), (2,))
        ...     save_npz(f"{folder}/m.npz", {"w": spec}, [np.ones(2)])
        ...     load_npz(f"{folder}/m.npz")
        {'w': array([1., 1.])}
    """
    for name, spec in specs.items():
        if spec.dtype.kind not in "biufc":
            raise WeightSpaceError(f"{name}: npz cannot hold {spec.dtype}; use .safetensors")
    check_space(path, sum(spec.nbytes for spec in specs.values()))
    with replaced(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name, array in zip(specs, arrays, strict=True):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                np.lib.format.write_array(handle, np.asarray(array), allow_pickle=False)
