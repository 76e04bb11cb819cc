"""`wslax run`: the tour, with its folder, progress and page."""

import dataclasses
import importlib.util
import pathlib
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from cyclopts import Parameter

from wslax.cli import UsageError
from wslax.errors import WeightSpaceError
from wslax.recipes import config as configs

_NEEDED = ("jinja2", "matplotlib", "mlxtend", "scipy")


def _settings(quick: bool, seed: int | None, file: pathlib.Path | None) -> dict[str, Any]:
    """The settings that were given: the preset, over it the file, over it the options."""
    from wslax.recipes.tour.config import PRESETS

    given: dict[str, Any] = PRESETS["quick"] if quick else {}
    if file is not None:
        try:
            content = configs.read(file)
        except WeightSpaceError as error:
            raise UsageError(str(error)) from error
        if not isinstance(content, Mapping):
            raise UsageError(f"{file}: expected keys and values, got {content!r}")
        given = configs.merged(given, content)
    return given if seed is None else {**given, "seed": seed}


def _config(given: dict[str, Any], source: str) -> Any:
    from wslax.recipes.tour.config import TourConfig

    try:
        return configs.parse(TourConfig, given, source)
    except WeightSpaceError as error:
        raise UsageError(str(error)) from error


def _check_extra() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise WeightSpaceError(
            f'{" and ".join(missing)} missing: the tour needs pip install "wslax[run]"'
        )


@contextmanager
def _live(console: Any, stages: tuple[str, ...]) -> Iterator[Any]:
    """A progress callback: bars on a terminal, a line now and then elsewhere."""
    if not console.is_terminal:
        said: set[tuple[str, bool]] = set()

        def line(stage: str, done: int, total: int, note: str) -> None:
            mark = (stage, done >= total)
            if mark not in said and note != "":
                said.add(mark)
                console.print(f"{stage}: {note}", highlight=False)

        yield line
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:8}"), BarColumn(), TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        tasks = {name: bar.add_task(name, total=1, note="", start=False) for name in stages}

        def update(stage: str, done: int, total: int, note: str) -> None:
            bar.start_task(tasks[stage])
            bar.update(tasks[stage], completed=done, total=total, note=note)

        yield update


def _summary(console: Any, results: dict[str, Any], folder: pathlib.Path) -> None:
    from rich.table import Table

    from wslax.recipes.folder import REPORT
    from wslax.recipes.result import Estimate, text

    table = Table("", "test accuracy", "", title=results["title"], title_justify="left")
    for card in results["cards"]:
        value = card["value"]
        value = Estimate(**value) if isinstance(value, dict) else value
        table.add_row(card["label"], text(value, card["kind"]), card["note"])
    console.print(table)
    for section in results["sections"]:
        console.print(f"[bold]{section['name']}[/]  {section['finding']}", highlight=False)
    seconds = sum(results["seconds"].values())
    console.print(f"{seconds:.0f} s of work. The report:", highlight=False)
    console.print(str((folder / REPORT).absolute()), soft_wrap=True, highlight=False)


def _go(config: Any, folder: pathlib.Path, resume: bool, command: str, console: Any) -> Any:
    from wslax.recipes import folder as folders

    settings = dataclasses.asdict(config)
    try:
        store = folders.begin(folder, "tour", settings, command=command, resume=resume)
    except WeightSpaceError as error:
        raise UsageError(str(error)) from error
    from wslax.recipes import tour

    try:
        with _live(console, tour.STAGES) as progress:
            result = tour.run(config, progress, store)
    except KeyboardInterrupt:
        console.print(f"go on with: wslax run --resume --out {folder}", highlight=False)
        raise
    console.print("writing the report and the models", highlight=False)
    from wslax import report

    about = {
        "command": (folders.begun(folder) or {}).get("command", "wslax run"),
        "config": configs.flat(settings),
        "versions": folders.versions(),
        "machine": folders.machine(),
    }
    html = report.page(result, about)
    return folders.finish(folder, result, "tour", settings, html, "trained")


def run(
    *,
    quick: Annotated[bool, Parameter(negative=())] = False,
    out: pathlib.Path = pathlib.Path("wslax-run"),
    seed: Annotated[int | None, Parameter(show_default=False)] = None,
    config: Annotated[pathlib.Path | None, Parameter(show_default=False)] = None,
    resume: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Run the tour: train, merge, evolve, widen and adapt small nets on 5,000 real digits.

    Writes `report.html`, `results.json` and the models. Killed at any point, it goes on with
    `--resume` and ends with the same results.

    Args:
      quick: a smaller tour.
      out: the output folder.
      seed: of every random draw; 0 if nothing else says.
      config: a YAML file of settings, over those of --quick.
      resume: go on with the unfinished run in the output folder, with its own settings.
    """
    from rich.console import Console

    from wslax.recipes import folder as folders

    console = Console()
    given = _settings(quick, seed, config)
    old, done = folders.begun(out), folders.finished(out)
    if old is not None and old["recipe"] == "tour" and not given and (resume or done):
        given = old["config"]
    settings = _config(given, str(config or "options"))
    if old is not None and done is not None:
        other = configs.differences(old["config"], dataclasses.asdict(settings))
        if other:
            raise UsageError(f"{out}: holds a finished run: {'; '.join(other)}; name another --out")
    else:
        _check_extra()
        words = ["--quick"] * quick
        words += ["--seed", str(seed)] * (seed is not None)
        words += ["--config", str(config)] * (config is not None)
        command = shlex.join(["wslax", "run", *words, "--out", str(out)])
        done = _go(settings, out, resume, command, console)
    _summary(console, done, out)
