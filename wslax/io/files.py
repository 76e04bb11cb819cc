"""`load` and `save`: a whole tree, in the format that the path asks for."""

import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.header import Spec
from wslax.io.npz import load_npz, save_npz
from wslax.io.reader import open_tensors, refuse_pickle, refuse_target
from wslax.io.writer import write_tensors

Path = str | os.PathLike[str]

TOKENIZER_FILES = (
    "chat_template.*", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*",
    "merges.txt", "spiece.model", "sentencepiece*",
)  # fmt: skip
_CARRIED = (
    "config.json", "generation_config.json", "preprocessor_config.json", "LICENSE*",
    *TOKENIZER_FILES,
)  # fmt: skip


def is_orbax(path: pathlib.Path) -> bool:
    """Whether a folder is an Orbax checkpoint.

    Example:
        >>> is_orbax(pathlib.Path("no-such-folder"))
        False
    """
    return path.is_dir() and any(
        (path / mark).exists() for mark in ("_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt")
    )


def metadata(path: Path) -> dict[str, str]:
    """The string metadata of a safetensors checkpoint; empty for npz and Orbax.

    Example:
        >>> metadata("model.npz")
        {}
    """
    path = pathlib.Path(path)
    return {} if path.suffix == ".npz" or is_orbax(path) else open_tensors(path).metadata


def _flat(path: pathlib.Path) -> dict[str, np.ndarray]:
    refuse_pickle(path)
    if path.suffix == ".npy":
        raise WeightSpaceError(f"{path}: one array has no leaf name; save it as .npz")
    if path.suffix == ".npz":
        return load_npz(path)
    tensors = open_tensors(path)
    return {name: tensors.read(name) for name in tensors}


def _is_key(leaf: Any) -> bool:
    import jax

    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)


def _place(name: str, value: np.ndarray, leaf: Any) -> Any:
    """`value` as what `leaf` is: a key, a Python number, a numpy array, a JAX array as sharded."""
    from wslax.tree import aval, same_aval

    if _is_key(leaf):
        return _place_key(name, value, leaf)
    if not same_aval(value, leaf):
        raise WeightSpaceError(f"{name}: the file has {aval(value)}, like= has {aval(leaf)}")
    if not hasattr(leaf, "dtype"):
        return value.item()
    return value if isinstance(leaf, np.ndarray) else _put(value, leaf)


def _put(value: np.ndarray, leaf: Any) -> Any:
    import jax

    sharding = getattr(leaf, "sharding", None)
    return jax.device_put(value, sharding) if sharding is not None else jax.numpy.asarray(value)


def _place_key(name: str, value: np.ndarray, leaf: Any) -> Any:
    import jax

    from wslax.tree import aval

    words = jax.eval_shape(jax.random.key_data, leaf)
    if aval(value) != aval(words):
        raise WeightSpaceError(
            f"{name}: the file has {aval(value)}, the keys of like= are {aval(words)}"
        )
    impl = jax.random.key_impl(jax.numpy.empty((0,), leaf.dtype))
    # Words can be spread over processes, keys can not; their last axis is on each device whole.
    return jax.random.wrap_key_data(_put(value, leaf), impl=impl)


def _rebuild(flat: Mapping[str, np.ndarray], like: Any, path: pathlib.Path) -> Any:
    import jax

    from wslax.tree import leaf_names

    stored = {name.replace(".", "/"): name for name in flat}
    if len(stored) != len(flat):
        twin = next(name for name in flat if stored[name.replace(".", "/")] != name)
        other = stored[twin.replace(".", "/")]
        raise WeightSpaceError(
            f"{path}: {twin!r} and {other!r} are one leaf name; load without like="
        )
    names = leaf_names(like)
    leaves = []
    for name, leaf in zip(names, jax.tree.leaves(like), strict=True):
        key = stored.get(name.replace(".", "/"))
        if key is None:
            raise WeightSpaceError(
                f"{path}: no tensor for leaf {name!r}.{did_you_mean(name, flat)}"
            )
        leaves.append(_place(name, flat[key], leaf))
    extra = set(stored) - {name.replace(".", "/") for name in names}
    if extra:
        raise WeightSpaceError(f"{path}: has {stored[min(extra)]!r}, which like= has not")
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def load(path: Path, like: Any = None) -> Any:
    """Load parameters from whatever is at `path`.

    Args:
      path: a `.safetensors` file, a sharded index, a Hugging Face folder, an `.npz`, or an Orbax
        checkpoint folder.
      like: a tree (arrays or `jax.ShapeDtypeStruct`s) to rebuild by leaf name, `.` and `/` alike.
        Its leaves say where data goes: numpy stays on the host, a JAX array or a struct with a
        sharding is placed there, a JAX key is rebuilt from its words, and a Python number, such as
        the step of a fresh Flax `TrainState`, takes any width. Empty nodes stay empty.

    Returns:
      The tree; without `like` a flat dict of host arrays with the stored names (for safetensors
      read-only views of the mapped file, read when touched).

    Raises:
      WeightSpaceError: if the file is missing, bad or a pickle, or does not fit `like` (a leaf is
        missing, extra, or of another shape or dtype).

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> params = {"dense": {"kernel": np.ones((2, 3), np.float32)}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save(params, f"{folder}/model.safetensors")
        ...     flat = ws.io.load(f"{folder}/model.safetensors")
        ...     tree = ws.io.load(f"{folder}/model.safetensors", like=params)
        >>> list(flat), tree["dense"]["kernel"].shape
        (['dense/kernel'], (2, 3))
    """
    path = pathlib.Path(path)
    if not os.path.exists(path):
        raise WeightSpaceError(f"{path}: no such file or folder")
    if is_orbax(path):
        from wslax.io.orbax import restore

        return restore(path, like)
    flat = _flat(path)
    return flat if like is None else _rebuild(flat, like, path)


def host_leaves(params: Any) -> dict[str, np.ndarray]:
    """Leaf name to host array; JAX keys as their words.

    Example:
        >>> import numpy as np
        >>> host_leaves({"w": np.zeros(2)})
        {'w': array([0., 0.])}
    """
    if isinstance(params, Mapping) and all(isinstance(v, np.ndarray) for v in params.values()):
        return {str(name): value for name, value in params.items()}
    import jax

    from wslax.tree import is_whole, named_leaves

    leaves = named_leaves(params)
    for name, leaf in leaves.items():
        if callable(leaf) or isinstance(leaf, str):
            raise WeightSpaceError(
                f"{name}: a {type(leaf).__name__} is no array; for Equinox modules save "
                "eqx.partition(model, eqx.is_array)[0]"
            )
        if not is_whole(leaf):
            raise WeightSpaceError(
                f"{name}: is spread over several processes; name a path that ends in .orbax, or "
                "save what ws.population.host gives of it, in one process"
            )
    return {n: np.asarray(jax.random.key_data(x) if _is_key(x) else x) for n, x in leaves.items()}


def save(
    params: Any,
    path: Path,
    *,
    metadata: Mapping[str, str] | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Save parameters in the format that the path's suffix asks for, whole or not at all.

    Args:
      params: any tree of arrays; leaves are stored under their canonical names.
      path: `x.safetensors`, `x.npz`, `x.orbax` (an Orbax checkpoint folder), or a folder, which
        gets the Hugging Face layout. A folder must be new or empty; a file is replaced.
      metadata: strings to keep in a safetensors header beside `{"format": "pt"}`.
      shard_bytes: split a folder's safetensors into shards of at most this many bytes.

    Raises:
      WeightSpaceError: if a leaf is no array or, but for Orbax, spread over several processes, the
        folder is not empty, a dtype cannot be stored, or the disk is full.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"w": np.ones(2)}, f"{folder}/model.npz")
        ...     ws.io.load(f"{folder}/model.npz")
        {'w': array([1., 1.])}
    """
    path = pathlib.Path(path)
    if path.suffix == ".orbax":
        from wslax.io.orbax import save_orbax

        return save_orbax(params, path)
    refuse_target(path)
    leaves = host_leaves(params)
    specs = {name: Spec(value.dtype, value.shape) for name, value in leaves.items()}
    if path.suffix == ".npz":
        return save_npz(path, specs, leaves.values())
    notes = {"format": "pt", **(metadata or {})}
    with write_tensors(path, specs, notes, shard_bytes) as (writer, _):
        for name, value in leaves.items():
            writer.write(name, 0, value)
    return None


def carry_files(source: Path, target: Path, globs: Sequence[str] = _CARRIED) -> list[str]:
    """Copy a Hugging Face folder's config and tokenizer files byte for byte.

    Args:
      source: the folder of a model (a file's own folder carries nothing).
      target: an existing folder.
      globs: of the names to copy.

    Returns:
      The names copied.

    Example:
        >>> carry_files("no-such-folder", ".")
        []
    """
    source, target = pathlib.Path(source), pathlib.Path(target)
    if not source.is_dir():
        return []
    weights = {".bin", ".safetensors"}
    found = {
        file
        for glob in globs
        for file in source.glob(glob)
        if file.is_file() and file.suffix not in weights
    }
    for file in found:
        shutil.copyfile(file, target / file.name)
    return sorted(file.name for file in found)
