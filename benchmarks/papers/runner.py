"""Measure a paper's claims over seeds, keep the figures, and write the page.

An experiment is a package here with `TITLE`, `PAPER`, `ABOUT` and `measure(seeds) -> Outcome`.
Bounds stand in the code before a run. A claim *holds* if the 95% interval of the mean over seeds
lies within its bound, *does not hold* if it lies outside, and *cannot be told* where it crosses.
"""

import importlib
import json
import math
import pathlib
import pkgutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.runner import HERE, machine
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.atomic import replaced

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / "results.jsonl"
PAGE = HERE.parent / "docs" / "papers.md"


class Claim(NamedTuple):
    """What a paper says, and what was measured.

    Attributes:
      says: the paper's words, shortened.
      what: the figure measured here.
      values: one a seed.
      bound: `"> 0"` or `"< 1"`, written before the run.
    """

    says: str
    what: str
    values: Sequence[float]
    bound: str


class Outcome(NamedTuple):
    """The result of an experiment.

    Attributes:
      claims: with their figures.
      tables: title to rows, each a map of column to text or to one figure a seed.
      skipped: what could not be run, and why.
    """

    claims: Sequence[Claim]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    skipped: Sequence[str] = ()


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of its 95% interval (Student's t)."""
    from scipy import stats

    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return mean, -math.inf, math.inf
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half


def verdict(values: Sequence[float], bound: str) -> str:
    """`"holds"`, `"does not hold"` or `"cannot be told"`."""
    sign, limit = bound.split()
    _, low, high = interval(values)
    if sign == "<":
        low, high, edge = -high, -low, -float(limit)
    else:
        edge = float(limit)
    return "holds" if low > edge else "does not hold" if high < edge else "cannot be told"


def shown(values: Sequence[float]) -> str:
    """Mean with its interval."""
    mean, low, high = interval(values)
    return f"{mean:.3g} ({low:.3g} to {high:.3g})"


def names() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules([str(FOLDER)]) if m.ispkg)


def measure(name: str, seeds: int) -> dict[str, Any]:
    """Run one experiment and append its record."""
    if name not in names():
        raise WeightSpaceError(f"no paper is called {name!r}.{did_you_mean(name, names())}")
    module = importlib.import_module(f"benchmarks.papers.{name}")
    outcome = module.measure(seeds)
    record = {
        "name": name, "title": module.TITLE, "paper": module.PAPER,
        "about": " ".join(module.ABOUT.split()), "machine": machine(), "seeds": seeds,
        "claims": [claim._asdict() for claim in outcome.claims],
        "tables": outcome.tables, "skipped": outcome.skipped,
    }  # fmt: skip
    with RESULTS.open("a") as out:
        out.write(json.dumps(record) + "\n")
    return record


def latest() -> dict[str, dict[str, Any]]:
    """The last record of each experiment."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def _markdown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    head = list(rows[0])
    cell = lambda value: value if isinstance(value, str) else shown(value)
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return lines + ["| " + " | ".join(cell(row[key]) for key in head) + " |" for row in rows]


def claim_row(claim: Mapping[str, Any]) -> dict[str, Any]:
    """A claim as a row of its table."""
    return {
        "the paper says": claim["says"],
        "measured": claim["what"],
        "mean (95% interval)": claim["values"],
        "bound": claim["bound"],
        "verdict": verdict(claim["values"], claim["bound"]),
    }


def section(record: Mapping[str, Any]) -> str:
    """One experiment as text."""
    facts = record["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    lines = [f"## {record['title']}", "", f"{record['paper']}. {record['about']}", ""]
    lines += _markdown([claim_row(claim) for claim in record["claims"]])
    for title, rows in record["tables"].items():
        lines += ["", f"### {title}", "", *_markdown(rows)]
    lines += ["", *(f"Not run: {text}" for text in record["skipped"])]
    lines += [
        f"*{facts['date']}, {facts['device']}, {facts['system']}, Python {facts['python']}, "
        f"{versions}; {record['seeds']} seeds. `python -m benchmarks.papers {record['name']}`*",
        "",
    ]
    return "\n".join(lines)


def write_page() -> None:
    """Write `docs/papers.md` from the last records."""
    head = (
        "# What papers claim\n\n"
        "Experiments of papers at a size that a small machine carries, on real data, written by "
        "`python -m benchmarks.papers`. A claim *holds* if the 95% interval of the mean over seeds "
        "lies within a bound that was written down before, *does not hold* if it lies outside, and "
        "*cannot be told* at this scale where it crosses.\n\n"
    )
    with replaced(PAGE) as path:
        path.write_text(head + "\n".join(section(r) for _, r in sorted(latest().items())))


def main() -> int:
    """`python -m benchmarks.papers [NAME ...] [--seeds N]`."""
    import cyclopts

    app = cyclopts.App(name="python -m benchmarks.papers", help="Measure what papers claim.")

    @app.default
    def run(*names_: str, seeds: int = 5) -> None:
        for name in names_ or names():
            print(section(measure(name, seeds)))
        write_page()

    try:
        app()
    except WeightSpaceError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
