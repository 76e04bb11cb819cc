"""`wslax convert`: a checkpoint in another layout or container."""

import json
import pathlib
from typing import Annotated

from cyclopts import Parameter

from wslax.io.convert import checkpoint, read_map
from wslax.io.layout import Layout


def convert(
    source: str,
    target: str,
    *,
    to: Layout | None = None,
    map_: Annotated[pathlib.Path | None, Parameter("--map")] = None,
    shard_bytes: int | None = None,
    json_: Annotated[bool, Parameter("--json", negative=())] = False,
) -> None:
    """Write a checkpoint again in another layout, another container, or both.

    Prints for every tensor which rule gave it which name and shape.

    Args:
      source: a safetensors file, a sharded index, a folder, an npz or an Orbax checkpoint.
      target: a new .safetensors or .npz file, or a new folder in the Hugging Face layout.
      to: "flax" ([in, out], a/b/kernel) or "torch" ([out, in], a.b.weight); without it names and
        axes stay.
      map_: YAML or JSON of `old: new` or `old: {to: new, axes: [1, 0]}`; `*` stands for any text.
        Its lines come before the default rules.
      shard_bytes: greatest file of a folder, in bytes.
      json_: print JSON.
    """
    rules = () if map_ is None else read_map(map_)
    steps = checkpoint(source, target, to, rules, shard_bytes)
    if json_:
        rows = [step._asdict() | {"new_shape": step.new_shape} for step in steps]
        print(json.dumps({"source": source, "target": target, "steps": rows}, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for head in ("tensor", "shape", "rule", "becomes", "shape"):
        table.add_column(head, overflow="fold")
    for step in steps:
        before, after = str(list(step.shape)), str(list(step.new_shape))
        table.add_row(escape(step.source), before, escape(step.rule), escape(step.target), after)
    console = Console()
    console.print(table)
    changed = sum(s.source != s.target or s.axes != tuple(sorted(s.axes)) for s in steps)
    hint = "" if changed or to else "; --to flax or --to torch changes the layout"
    console.print(f"{len(steps)} tensors, {changed} changed{hint}: {target}", highlight=False)
