"""Conversion of checkpoints between layouts and containers, a block of rows at a time."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.atomic import check_free
from wslax.io.files import carry_files, load, metadata
from wslax.io.header import Spec
from wslax.io.layout import Layout, Rule, Step, plan
from wslax.io.npz import save_npz
from wslax.io.reader import refuse_target
from wslax.io.writer import TensorWriter, write_tensors

_BLOCK = 1 << 24  # bytes copied at a time where axes move


def relayout(tensors: Mapping[str, Any], steps: Sequence[Step]) -> dict[str, Any]:
    """Rename tensors and move their axes as planned.

    Args:
      tensors: name to array (numpy, which gives views, or JAX).
      steps: of `layout.plan`.

    Returns:
      New name to array.

    Example:
        >>> import numpy as np, wslax as ws
        >>> flat = {"fc.weight": np.zeros((2, 3))}
        >>> steps = ws.io.layout.plan({"fc.weight": (2, 3)}, "flax")
        >>> ws.io.relayout(flat, steps)["fc/kernel"].shape
        (3, 2)
    """
    return {step.target: tensors[step.source].transpose(step.axes) for step in steps}


def read_map(path: str | os.PathLike[str]) -> tuple[Rule, ...]:
    """Read a name map: YAML or JSON of `old: new` or `old: {to: new, axes: [1, 0]}`.

    Args:
      path: the file. Both names may hold `*`, as many in each.

    Returns:
      Its lines, in order.

    Raises:
      WeightSpaceError: naming the line that cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder) / "map.yaml"
        ...     _ = file.write_text("'h.*.c_fc.weight': {to: 'h/*/up/kernel', axes: [0, 1]}")
        ...     read_map(file)
        (Rule(old='h.*.c_fc.weight', new='h/*/up/kernel', axes=(0, 1)),)
    """
    from wslax.io.safe_yaml import read_yaml

    try:
        content = read_yaml(pathlib.Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightSpaceError(f"{path}: cannot be read ({error})") from error
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise WeightSpaceError(f"{path}: expected lines of 'old: new'")
    try:
        return tuple(_rule(old, value) for old, value in content.items())
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{path}: {error}") from error


def _rule(old: Any, value: Any) -> Rule:
    entry = {"to": value} if isinstance(value, str) else value
    if (
        not isinstance(old, str)
        or not isinstance(entry, dict)
        or not isinstance(entry.get("to"), str)
    ):
        raise WeightSpaceError(f"{old!r}: expected a new name, or {{to: name, axes: [1, 0]}}")
    unknown = [str(key) for key in entry if key not in ("to", "axes")]
    if unknown:
        raise WeightSpaceError(
            f"{old!r}: unknown key {unknown[0]!r}.{did_you_mean(unknown[0], ['to', 'axes'])}"
        )
    axes = entry.get("axes")
    if axes is not None and not (isinstance(axes, list) and all(type(a) is int for a in axes)):
        raise WeightSpaceError(f"{old!r}: axes {axes!r} is not a list of axis numbers")
    return Rule(old, entry["to"], None if axes is None else tuple(axes))


def _write(writer: TensorWriter, name: str, array: np.ndarray) -> None:
    array = np.atleast_1d(array)
    row = max(array[:1].size, 1)
    rows = max(_BLOCK // (row * array.itemsize), 1)
    for start in range(0, len(array), rows):
        writer.write(name, start * row, array[start : start + rows])


def checkpoint(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: Layout | None = None,
    rules: Sequence[Rule] = (),
    shard_bytes: int | None = None,
) -> tuple[Step, ...]:
    """Write a checkpoint again in another layout, another container, or both.

    Safetensors are read and written a block of rows at a time, whatever their size.

    Args:
      source: anything that `load` reads.
      target: `x.safetensors`, `x.npz`, or a folder for the Hugging Face layout, into which the
        config and tokenizer files of a source folder are copied. Nothing may stand there.
      to: `"flax"`, `"torch"`, or None to keep names and axes.
      rules: a name map (`read_map`), which comes before the default rules of `layout`.
      shard_bytes: greatest file of a folder, in bytes.

    Returns:
      What was done, one step a tensor.

    Raises:
      WeightSpaceError: if the source cannot be read, the plan does not work out (see
        `layout.plan`), something stands at the target, or the target cannot hold a dtype.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"fc.weight": np.zeros((2, 3))}, f"{folder}/hf")
        ...     steps = ws.io.convert.checkpoint(f"{folder}/hf", f"{folder}/flax.npz", to="flax")
        ...     ws.io.load(f"{folder}/flax.npz")["fc/kernel"].shape
        (3, 2)
    """
    target = pathlib.Path(target)
    refuse_target(target)
    if target.suffix == ".orbax":
        raise WeightSpaceError(
            f"{target}: convert writes .safetensors, .npz or a folder; for Orbax use "
            "ws.io.save(ws.io.load(path, like=params), 'x.orbax')"
        )
    check_free(target)
    tensors = load(source)
    steps = plan({name: value.shape for name, value in tensors.items()}, to, rules)
    changed = relayout(tensors, steps)
    specs = {name: Spec(value.dtype, value.shape) for name, value in changed.items()}
    if target.suffix == ".npz":
        save_npz(target, specs, changed.values())
        return steps
    notes = metadata(source) | {"format": "flax" if to == "flax" else "pt"}
    with write_tensors(target, specs, notes, shard_bytes) as (writer, partial):
        for name, value in changed.items():
            _write(writer, name, value)
        if target.suffix != ".safetensors":
            carry_files(source, partial)
    return steps
