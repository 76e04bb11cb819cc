"""`wslax diff`: what two checkpoints differ in."""

import json
from typing import Annotated, Any

from cyclopts import Parameter

from wslax.cli import UsageError
from wslax.errors import WeightSpaceError
from wslax.io.difference import Change, Differences, Sums, differences


def _numbers(sums: Sums) -> dict[str, Any]:
    return {
        "relative": sums.relative, "cosine": sums.cosine, "absmax": sums.absmax,
        "share": sums.share, "changed": sums.changed, "size": sums.size,
    }  # fmt: skip


def _json(found: Differences) -> dict[str, Any]:
    return {
        "same": found.same,
        **_numbers(found.total),
        "only_left": list(found.left),
        "only_right": list(found.right),
        "shapes": {name: list(map(list, both)) for name, both in found.shapes.items()},
        "tensors": [
            {"name": c.name, "shape": list(c.shape), "dtypes": list(c.dtypes), **_numbers(c.sums)}
            for c in found.changes
        ],
    }


def _cells(sums: Sums) -> tuple[str, ...]:
    return f"{sums.relative:.3g}", f"{sums.cosine:.6f}", f"{sums.absmax:.3g}", f"{sums.share:.2%}"


def _dtypes(change: Change) -> str:
    left, right = change.dtypes
    return left if left == right else f"{left} → {right}"


def _show(found: Differences, left: str, right: str) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    moved = [c for c in found.changes if c.sums.changed or c.dtypes[0] != c.dtypes[1]]
    if moved:
        table = Table(box=None, pad_edge=False)
        table.add_column("tensor", overflow="fold")
        table.add_column("dtype")
        table.add_column("shape")
        for word in ("distance", "cosine", "absmax", "changed"):
            table.add_column(word, justify="right", no_wrap=True)
        for change in moved:
            cells = escape(change.name), _dtypes(change), str(list(change.shape))
            table.add_row(*cells, *_cells(change.sums))
        table.add_section()
        table.add_row("all", "", "", *_cells(found.total))
        console.print(table)
    for path, names in ((left, found.left), (right, found.right)):
        for name in names:
            console.print(f"only in {path}: {name}", highlight=False, markup=False, soft_wrap=True)
    for name, (a, b) in found.shapes.items():
        text = f"{name}: {list(a)} and {list(b)}"
        console.print(text, highlight=False, markup=False, soft_wrap=True)
    same = len(found.changes) - len(moved)
    console.print(f"{len(moved)} of {len(moved) + same} tensors in both differ", highlight=False)


def diff(
    left: str,
    right: str,
    *,
    json_: Annotated[bool, Parameter("--json", negative=())] = False,
) -> int:
    """Compare two checkpoints tensor by tensor, the most changed first.

    Shows the relative distance (norm of the difference over the larger norm), the cosine, the
    largest difference and the share of entries that differ, of every tensor and of all; then names
    that only one has and shapes that differ. The exit code is diff's: 0 if all agrees, names,
    shapes, dtypes and entries; 1 if not; 2 if the two cannot be compared.

    Args:
      left: a safetensors file, a sharded index, a folder, an npz or an Orbax checkpoint.
      right: the same.
      json_: print JSON, unchanged tensors too.
    """
    try:
        found = differences(left, right)
    except WeightSpaceError as error:
        raise UsageError(str(error)) from error
    if json_:
        print(json.dumps(_json(found), indent=2))
    else:
        _show(found, left, right)
    return 0 if found.same else 1
