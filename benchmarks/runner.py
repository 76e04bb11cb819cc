"""Measure, summarise, keep, and write the page.

A benchmark is a module with `TITLE`, `ABOUT` and `measure(repeats) -> list[Row]`. Every figure is
taken `repeats` times; the table shows the median and the range. Records are appended to
`benchmarks/results.jsonl`, and `docs/benchmarks.md` shows the last record of each benchmark.
"""

import collections
import datetime
import importlib
import importlib.metadata
import json
import os
import pathlib
import pkgutil
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.atomic import replaced

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results.jsonl"
PAGE = HERE.parent / "docs" / "benchmarks.md"
NOT_BENCHMARKS = {"__main__", "exactness", "papers", "runner"}
PACKAGES = ("wslax", "jax", "numpy", "torch", "mergekit", "evosax")


class Row(NamedTuple):
    """One measured quantity.

    Attributes:
      what: what was measured, in words.
      value: one figure a repeat.
      unit: `"x"` for a ratio, `"s"`, `"MB"`, ...
      target: `">= 13"` or `"<= 250"` where the design sets one, else None.
    """

    what: str
    value: Sequence[float]
    unit: str
    target: str | None = None


def peak(compiled: Any) -> int:
    """Bytes of a program's arguments, temporaries and outputs, aliased ones once."""
    m = compiled.memory_analysis()
    return (
        m.argument_size_in_bytes
        + m.temp_size_in_bytes
        + m.output_size_in_bytes
        - m.alias_size_in_bytes
    )


def timed(fn: Callable[[], Any], times: int = 1) -> float:
    """Wall time of a call that returns arrays."""
    import jax

    start = time.perf_counter()
    for _ in range(times):
        jax.block_until_ready(fn())
    return (time.perf_counter() - start) / times


def reached(row: Row) -> bool | None:
    """Whether the median meets the target; None without one."""
    if row.target is None:
        return None
    sign, bound = row.target.split()[:2]
    median = statistics.median(row.value)
    return median >= float(bound) if sign == ">=" else median <= float(bound)


def names() -> list[str]:
    return sorted({m.name for m in pkgutil.iter_modules([str(HERE)])} - NOT_BENCHMARKS)


def _accelerator() -> str | None:
    import jax

    found = jax.devices()[0]
    return None if found.platform == "cpu" else f"one {found.device_kind}"


def machine() -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    cpu = platform.processor()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": _accelerator() or f"{cores} cores of {cpu}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Run one benchmark and append its record."""
    known = names()
    if name not in known:
        raise WeightSpaceError(f"no benchmark is called {name!r}.{did_you_mean(name, known)}")
    module = importlib.import_module(f"benchmarks.{name}")
    rows = module.measure(repeats)
    record = {
        "name": name,
        "title": module.TITLE,
        "about": " ".join(module.ABOUT.split()),
        "machine": machine(),
        "rows": [{**row._asdict(), "value": [float(v) for v in row.value]} for row in rows],
    }
    with RESULTS.open("a") as out:
        out.write(json.dumps(record) + "\n")
    return record


def latest() -> dict[tuple[str, str], dict[str, Any]]:
    """The last record of each benchmark on each kind of device."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    records = map(json.loads, lines)
    return {(record["name"], record["machine"]["device"]): record for record in records}


def _figure(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    """What, median with unit, range, target with its verdict."""
    values = row["value"]
    verdict = {None: "", True: " (reached)", False: " (**not reached**)"}[reached(Row(**row))]
    return (
        row["what"],
        f"{_figure(statistics.median(values))} {row['unit']}",
        f"{_figure(min(values))} to {_figure(max(values))}" if len(values) > 1 else "",
        (row["target"] or "").replace(">=", "≥").replace("<=", "≤") + verdict,
    )


def _section(record: dict[str, Any], twice: bool) -> str:
    facts = record["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    repeats = max(len(row["value"]) for row in record["rows"])
    lines = [
        f"## {record['title']}" + (f", on {facts['device']}" if twice else ""),
        "",
        record["about"],
        "",
        "| what | median | range | target |",
        "| --- | --- | --- | --- |",
        *("| " + " | ".join(cells(row)) + " |" for row in record["rows"]),
        "",
        f"*{facts['date']}, {facts['device']}, {facts['system']}, "
        f"Python {facts['python']}, {versions}; "
        f"{repeats} repeats. `python -m benchmarks {record['name']}`*",
        "",
    ]
    return "\n".join(lines)


def write_page() -> None:
    """Write `docs/benchmarks.md` from the last records."""
    head = (
        "# Benchmarks\n\n"
        "Every figure is measured by `python -m benchmarks`, which also writes this page. Ratios "
        "are taken between two things measured in turn in one run on one machine; the range is "
        'over the repeats. Peers come with `pip install ".[bench]"`, in an environment of their '
        "own.\n\n"
    )
    records = sorted(latest().items())
    count = collections.Counter(name for (name, _), _ in records)
    with replaced(PAGE) as path:
        path.write_text(head + "\n".join(_section(r, count[name] > 1) for (name, _), r in records))


def show(record: dict[str, Any]) -> None:
    """Print a record as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "median", "range", "target", title=record["title"])
    for row in record["rows"]:
        table.add_row(*cells(row))
    Console().print(table)


def main() -> int:
    """`python -m benchmarks [NAME ...] [--repeats N]`."""
    import cyclopts

    app = cyclopts.App(name="python -m benchmarks", help="Measure, and write docs/benchmarks.md.")

    @app.default
    def run(*names_: str, repeats: int = 5) -> None:
        for name in names_ or names():
            show(measure(name, repeats))
        write_page()

    try:
        app()
    except WeightSpaceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
