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


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% interval (Student's t)."""
    from scipy import stats

    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return mean, math.inf
    return mean, stats.t.ppf(0.975, n - 1) * statistics.stdev(values) / math.sqrt(n)


def verdict(values: Sequence[float], bound: str) -> str:
    """`"holds"`, `"does not hold"` or `"cannot be told"`."""
    sign, limit = bound.split()
    mean, half = interval(values)
    within = mean - float(limit) if sign == ">" else float(limit) - mean
    return "holds" if within > half else "does not hold" if within < -half else "cannot be told"


def shown(values: Sequence[float]) -> str:
    """Mean and half width, to two digits of the latter."""
    mean, half = interval(values)
    digits = max(0, 1 - math.floor(math.log10(half))) if 0 < half < math.inf else 3
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


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
        "measured here": claim["what"],
        "figure": claim["values"],
        "bound": claim["bound"],
        "verdict": verdict(claim["values"], claim["bound"]),
    }


def section(record: Mapping[str, Any]) -> str:
    """One experiment as text."""
    facts = record["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in facts["versions"].items())
    lines = [f"## {record['title']}", "", f"*{record['paper']}.*", "", record["about"], ""]
    lines += _markdown([claim_row(claim) for claim in record["claims"]])
    for title, rows in record["tables"].items():
        lines += ["", f"### {title}", "", *_markdown(rows)]
    lines += [
        "",
        *(f"Not run: {text}\n" for text in record["skipped"]),
        f"*{facts['date']}, {facts['device']}, {facts['system']}, Python {facts['python']}, "
        f"{versions}; {record['seeds']} seeds. `python -m benchmarks.papers {record['name']}`*",
        "",
    ]
    return "\n".join(lines)


def page() -> str:
    """The page that the last records make."""
    head = (
        "# What papers claim\n\n"
        "Experiments of papers at a size that a small machine carries, on real data, written by "
        "`python -m benchmarks.papers`. Figures are means over seeds, ± half the width of their "
        "95% interval (Student's t). A claim *holds* if the whole interval lies within a bound "
        "that was written down before the run, *does not hold* if it lies outside, and *cannot be "
        "told* at this scale where it crosses. Verdicts speak of what was run here, not of the "
        "papers' own experiments, which are larger.\n\n"
    )
    return head + "\n".join(section(record) for _, record in sorted(latest().items()))


def write_page() -> None:
    """Write `docs/papers.md`."""
    with replaced(PAGE) as path:
        path.write_text(page())


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
