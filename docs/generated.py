"""Write into the pages what the library itself knows: `python docs/generated.py`.

The pages stay plain Markdown, to be read anywhere; a test fails when one of them is behind.
"""

import dataclasses
import importlib
import inspect
import json
import pathlib
import re
import statistics

import yaml

from wslax.cli.methods import markdown
from wslax.merge.further import FURTHER
from wslax.merge.registry import METHODS
from wslax.recipes.result import plain
from wslax.recipes.tour import TourConfig

DOCS = pathlib.Path(__file__).parent


def settings() -> str:
    """Every setting of the tour with its default, as the YAML of `--config`."""
    values = plain(dataclasses.asdict(TourConfig()))
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None)
    return f"```yaml\n{text}```"


FAMILIES = (
    "subspace", "interference", "masks", "competition", "soups", "statistics", "adaptive",
    "propagated", "averaging",
)  # fmt: skip


def _row(function) -> tuple[str, ...]:
    """A function's name, first line, options and first reference, from its own documentation."""
    text = inspect.getdoc(function)
    about = re.sub(r"\\\((.*?)\\\)", r"$\1$", text.splitlines()[0])
    options = ", ".join(
        f"`{name}` {'required' if option.default is option.empty else str(option.default).lower()}"
        for name, option in inspect.signature(function).parameters.items()
        if option.kind is option.KEYWORD_ONLY and name not in ("where", "groups")
    )
    references = " ".join(text.partition("References:")[2].partition("Example:")[0].split())
    who, number = (re.search(p, references) for p in (r"^.*? \d{4}", r"arXiv:([\d.]*\d)"))
    link = f"[arXiv:{number[1]}](https://arxiv.org/abs/{number[1]})" if number else ""
    source = ", ".join(filter(None, (who[0] if who else "", link)))
    return f"`{function.__name__}`", about, options, source


def functions() -> str:
    """The merging functions outside the registry, as a table."""
    rows = [("function", "what it does", "options and defaults", "source"), ("---",) * 4]
    for family in FAMILIES:
        module = importlib.import_module(f"wslax.merge.{family}")
        rows += [
            _row(value)
            for name, value in vars(module).items()
            if inspect.isfunction(inspect.unwrap(value)) and not name.startswith("_")
            if value.__module__ == module.__name__
        ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _latest(name: str) -> dict:
    """The rows of the last record of a benchmark, by what they measured; empty without one."""
    lines = (DOCS.parent / "benchmarks" / "results.jsonl").read_text("utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["name"] == name]
    rows = records[-1]["rows"] if records else []
    return {row["what"]: statistics.median(row["value"]) for row in rows}


def measured() -> str:
    """What each method computes, how near to mergekit's result and how much faster."""
    found = _latest("streaming")

    def cell(method: str, what: str, form: str) -> str:
        value = found.get(f"{method}: {what}")
        return "" if value is None else form.format(value)

    rows = [
        ("method", "formula", "entries off by more than 1e-5", "largest difference",
         "the same in bfloat16", "mergekit's CPU time over wslax's",
         "bytes a second over a copy's"),
        ("---",) * 7,
    ]  # fmt: skip
    for name, method in {**METHODS, **FURTHER}.items():
        off, most = "share of entries off mergekit's", "largest difference from mergekit's"
        rows.append((
            f"`{name}`", f"${method.formula}$", cell(name, off, "{:.2g}"),
            cell(name, most, "{:.1e}"), cell(f"{name}, bfloat16", most, "{:.1e}"),
            cell(name, "mergekit's CPU time over wslax's", "{:.3g} x"),
            cell(name, "bytes per second over a copy's", "{:.3g} x"),
        ))  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


PARTS = {"methods.md": (markdown, measured, functions), "tour.md": (settings,)}


def page(name: str) -> str:
    """The page with its parts, each between two markers, written anew."""
    text, parts = (DOCS / name).read_text("utf-8"), iter(PARTS[name])
    return re.sub(
        "<!-- generated -->.*?<!-- end -->",
        lambda _: f"<!-- generated -->\n\n{next(parts)()}\n\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    for name in PARTS:
        (DOCS / name).write_text(page(name), "utf-8")
