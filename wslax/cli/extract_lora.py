"""`wslax extract-lora`: a fine-tuned checkpoint as an adapter of its base."""

import json
from typing import Annotated

from cyclopts import Parameter

from wslax.adapt import Extraction, extract
from wslax.cli.show import bar, size
from wslax.io.reader import open_tensors

_Globs = Annotated[list[str] | None, Parameter(negative=(), consume_multiple=True)]


def _show(made: Extraction) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("module", overflow="fold")
    table.add_column("rank", justify="right")
    table.add_column("lost", justify="right")
    for module in made.modules:
        table.add_row(escape(module.module), str(module.rank), f"{module.lost:.2%}")
    for name in made.whole:
        table.add_row(escape(name), "whole", "")
    console = Console()
    console.print(table)
    console.print(
        f"[bold]{escape(made.out)}[/]  {len(made.modules)} modules, {len(made.whole)} tensors "
        f"whole, {made.unchanged} unchanged, {size(made.written)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def extract_lora(
    model: str,
    base: str,
    out: str,
    *,
    max_rank: int = 128,
    sv_epsilon: float = 0.0,
    include: _Globs = None,
    exclude: _Globs = None,
    whole: _Globs = None,
    json_: Annotated[bool, Parameter("--json", negative=())] = False,
) -> None:
    """Write what changed between a fine-tuned checkpoint and its base as a LoRA adapter.

    Of every matrix that changed the largest singular values are kept; embeddings, heads, norms and
    biases that changed are stored as they are. PEFT loads the folder.

    Args:
      model: the fine-tuned checkpoint: a safetensors file, a sharded index or a folder.
      base: what it was tuned from.
      out: the adapter's folder, new or empty.
      max_rank: greatest rank.
      sv_epsilon: singular values up to this are left out.
      include: tensors (globs) to look at; all by default.
      exclude: tensors (globs) to leave as they are in the base.
      whole: matrices (globs) to store whole.
      json_: print JSON.
    """
    with open_tensors(model) as tensors:
        total = sum(info.nbytes for info in tensors.infos.values())
    with bar(total, "extract") as tell:
        made = extract(
            model, base, out, max_rank=max_rank, sv_epsilon=sv_epsilon,
            include=include or (), exclude=exclude or (), whole=whole or (), progress=tell,
        )  # fmt: skip
    if json_:
        modules = [module._asdict() for module in made.modules]
        print(json.dumps({**made._asdict(), "modules": modules}, indent=2))
    else:
        _show(made)
