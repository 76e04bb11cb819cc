"""`wslax inspect`: what is in a checkpoint."""

import json
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from wslax.io.reader import Tensors, open_tensors

_CHUNK = 1 << 20


def statistics(tensors: Tensors, name: str) -> dict[str, Any]:
    """Mean, standard deviation, largest magnitude and non-finite count, a chunk at a time.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"w": np.array([1.0, 3.0])}, f"{folder}/m.safetensors")
        ...     with open_tensors(f"{folder}/m.safetensors") as tensors:
        ...         statistics(tensors, "w")
        {'mean': 2.0, 'std': 1.0, 'absmax': 3.0, 'nonfinite': 0}
    """
    info = tensors.info(name)
    total = square = absmax = 0.0
    nonfinite = 0
    for start in range(0, info.size, _CHUNK):
        raw = tensors.read_into(name, start, np.empty(min(_CHUNK, info.size - start), info.dtype))
        x = np.abs(raw) if info.dtype.kind == "c" else raw
        x = x.astype(np.float64)
        finite = np.isfinite(x)
        nonfinite += int(x.size - np.count_nonzero(finite))
        x = x[finite]
        total, square = total + float(x.sum()), square + float(np.square(x).sum())
        absmax = max(absmax, float(np.abs(x).max(initial=0.0)))
    count = max(info.size - nonfinite, 1)
    mean = total / count
    std = float(np.sqrt(max(square / count - mean * mean, 0.0)))
    return {"mean": mean, "std": std, "absmax": absmax, "nonfinite": nonfinite}


def inspect(
    path: str,
    *,
    stats: bool = True,
    json_: Annotated[bool, Parameter("--json", negative=())] = False,
) -> None:
    """Show a checkpoint's tensors: name, dtype, shape and statistics.

    Args:
      path: a safetensors file, a sharded index, or a folder.
      stats: read the data for mean, standard deviation and largest magnitude (--no-stats: headers
        only).
      json_: print JSON.
    """
    with open_tensors(path) as tensors:
        rows = [
            {
                "name": name,
                "dtype": info.dtype.name,
                "shape": list(info.shape),
                "bytes": info.nbytes,
            }
            | (statistics(tensors, name) if stats else {})
            for name, info in tensors.infos.items()
        ]
    total = {
        "path": str(tensors.path),
        "tensors": len(rows),
        "parameters": sum(info.size for info in tensors.infos.values()),
        "bytes": sum(info.nbytes for info in tensors.infos.values()),
        "metadata": tensors.metadata,
    }
    if json_:
        print(json.dumps({**total, "rows": rows}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    head = ["tensor", "dtype", "shape", *(["mean", "std", "absmax", "non-finite"] if stats else [])]
    table = Table(*head)
    for row in rows:
        cells = [row["name"], row["dtype"], str(row["shape"])]
        if stats:
            cells += [f"{row[key]:.4g}" for key in ("mean", "std", "absmax")]
            cells += [f"[red]{row['nonfinite']}[/]" if row["nonfinite"] else "0"]
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(
        f"{total['tensors']} tensors, {total['parameters']:,} numbers, {total['bytes']:,} bytes",
        highlight=False,
    )
