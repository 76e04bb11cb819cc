"""`wslax inspect`: what is in a checkpoint."""

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.files import is_orbax, load, metadata
from wslax.io.reader import open_tensors
from wslax.io.statistics import chunks_of, summarise


def _row(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    nbytes = math.prod(shape) * dtype.itemsize
    return {"name": name, "dtype": dtype.name, "shape": list(shape), "bytes": nbytes}


def _rows(path: str, stats: bool) -> Iterator[dict[str, Any]]:
    if path.endswith(".npz") or is_orbax(pathlib.Path(path)):
        for name, array in load(path).items():
            found = summarise([array.reshape(-1)])._asdict() if stats else {}
            yield _row(name, array.dtype, array.shape) | found
        return
    with open_tensors(path) as tensors:
        for name, info in tensors.infos.items():
            found = summarise(chunks_of(tensors, name))._asdict() if stats else {}
            yield _row(name, info.dtype, info.shape) | found


# Built-in nets with the arguments and the input that they are shown for.
NETS: dict[str, tuple[tuple[Any, ...], tuple[int, ...], str]] = {
    "mlp": ((784, [128, 64], 10), (1, 784), "float32"),
    "conv": ((28, [16, 32], 10), (1, 28, 28), "float32"),
    "transformer": ((65, 64), (1, 64), "int32"),
}


def _groups(name: str, json_: bool) -> None:
    """The groups of a built-in net, read from its trace."""
    if name not in NETS:
        known = ", ".join(NETS)
        raise WeightSpaceError(
            f"--groups shows the groups of a built-in net, one of {known}, got {name!r}."
            f"{did_you_mean(name, NETS)} A checkpoint holds no program: for your own model call "
            "`wslax.symmetry.infer(apply, params, *inputs)`"
        )
    import jax

    from wslax import nets, symmetry

    arguments, shape, dtype = NETS[name]
    net = getattr(nets, name)(*arguments)
    params = jax.eval_shape(net.init, jax.random.key(0))
    groups = symmetry.infer(net.apply, params, jax.ShapeDtypeStruct(shape, dtype))
    call = f"wslax.nets.{name}({', '.join(map(str, arguments))})"
    print(groups.to_json() if json_ else f"{call}\n{groups.table()}")


def inspect(
    path: str,
    *,
    stats: bool = True,
    groups: bool = False,
    json_: Annotated[bool, Parameter("--json", negative=())] = False,
) -> None:
    """Show a checkpoint's tensors: name, dtype, shape and statistics.

    Args:
      path: a safetensors file, a sharded index, a folder, an npz or an Orbax checkpoint; with
        --groups a built-in net: mlp, conv or transformer.
      stats: read the data for mean, standard deviation, largest magnitude and the count of NaN and
        infinite elements (--no-stats: headers only).
      groups: show which axes of which leaves are one hidden dimension of a built-in net.
      json_: print JSON.
    """
    if groups:
        _groups(path, json_)
        return
    rows = list(_rows(path, stats))
    total = {
        "path": path,
        "tensors": len(rows),
        "parameters": sum(math.prod(row["shape"]) for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "metadata": metadata(path),
    }
    if json_:
        print(json.dumps({**total, "rows": rows}, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("tensor", overflow="fold")
    table.add_column("dtype")
    table.add_column("shape")
    numbers = ("mean", "std", "absmax", "nan", "inf") if stats else ()
    for word in ("bytes", *numbers):
        table.add_column(word, justify="right", no_wrap=True)
    for row in rows:
        cells = [escape(row["name"]), row["dtype"], str(row["shape"]), f"{row['bytes']:,}"]
        if stats:
            cells += [f"{row[key]:.3g}" for key in ("mean", "std", "absmax")]
            cells += [f"[red]{row[key]}[/]" if row[key] else "0" for key in ("nan", "inf")]
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(
        f"{total['tensors']} tensors, {total['parameters']:,} numbers, {total['bytes']:,} bytes",
        highlight=False,
    )
