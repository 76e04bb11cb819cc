"""A recipe's output folder: begun once, taken up again, finished whole."""

import json
import os
import pathlib
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from wslax import io
from wslax.errors import WeightSpaceError
from wslax.recipes.config import differences
from wslax.recipes.result import Result, plain
from wslax.recipes.store import Store, in_folder

SCHEMA = 1
BEGUN, RESULTS, REPORT, STATE = "run.json", "results.json", "report.html", "state"

_PACKAGES = ("wslax", "jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on.

    Example:
        >>> "jax" in versions()
        True
    """
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in _PACKAGES
    }


def machine() -> dict[str, str]:
    """What a report says about the machine.

    Example:
        >>> sorted(machine())
        ['cores', 'processor', 'system']
    """
    processor = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    for line in info.read_text("utf-8").splitlines() if info.exists() else ():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "cores": str(os.cpu_count()),
    }


def _json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightSpaceError(f"{path}: cannot be read ({error})") from error


def begun(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What a folder was begun with: `{"recipe", "config", "versions", "command"}`, or None.

    Raises:
      WeightSpaceError: if the record is there and cannot be read.

    Example:
        >>> begun("no-such-folder") is None
        True
    """
    path = pathlib.Path(folder) / BEGUN
    return _json(path) if path.exists() else None


def finished(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The results of a finished folder (`results.json`), or None.

    Example:
        >>> finished("no-such-folder") is None
        True
    """
    path = pathlib.Path(folder) / RESULTS
    return _json(path) if path.exists() else None


def begin(
    folder: str | os.PathLike[str],
    recipe: str,
    config: Mapping[str, Any],
    *,
    command: str = "",
    resume: bool = False,
) -> Store:
    """Claim an output folder, or take up what was begun there.

    Args:
      folder: new, empty, or begun by the same recipe with the same settings and versions.
      recipe: the recipe's name.
      config: its settings.
      command: how it was called; kept for the report.
      resume: whether a folder that was begun may be taken up.

    Returns:
      The store of the checkpoints.

    Raises:
      WeightSpaceError: if the folder holds something else, an unfinished run and `resume` is not
        set, or a run with other settings or versions; what differs is named.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     _ = begin(out, "tour", {"seed": 0})
        ...     begin(out, "tour", {"seed": 1}, resume=True)
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: ...: config.seed is 0 there and 1 here; ...
    """
    folder = pathlib.Path(folder)
    record = {"recipe": recipe, "config": plain(config), "versions": versions()}
    old = begun(folder)
    if old is None:
        io.atomic.remove(io.atomic.partial_name(folder / BEGUN))
        try:
            io.atomic.check_free(folder)
        except WeightSpaceError as error:
            raise WeightSpaceError(
                f"{folder}: holds files that are no run; name another"
            ) from error
        write_json(folder / BEGUN, {**record, "command": command})
    elif not resume:
        raise WeightSpaceError(
            f"{folder}: holds an unfinished run; go on with --resume, or name another --out"
        )
    else:
        other = differences({key: old.get(key, {}) for key in record}, record)
        if other:
            raise WeightSpaceError(
                f"{folder}: {'; '.join(other)}; resume with what it was begun with, or name "
                "another --out"
            )
    return in_folder(folder / STATE)


def write_json(path: pathlib.Path, content: Any) -> None:
    r"""Write JSON, whole or not at all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as out:
        ...     write_json(pathlib.Path(out) / "a.json", {"b": 1})
        ...     (pathlib.Path(out) / "a.json").read_text()
        '{\n  "b": 1\n}\n'
    """
    with io.atomic.replaced(path) as partial:
        partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def results(result: Result, recipe: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `results.json`.

    Figures' pictures stay out. Only `seconds` and `machine` differ between equal runs.

    Args:
      result: what the recipe returned.
      recipe: its name.
      config: its settings.

    Returns:
      Plain data.

    Example:
        >>> results(Result("t", "l", {}, {}, (), (), {}), "tour", {"seed": 0})["schema"]
        1
    """
    sections = [
        {
            "name": section.name, "title": section.title, "finding": section.finding,
            "tables": plain(section.tables),
            "figures": plain([figure._replace(images=None) for figure in section.figures]),
        }
        for section in result.sections
    ]  # fmt: skip
    return {
        "schema": SCHEMA, "recipe": recipe, "title": result.title, "config": plain(config),
        "versions": versions(), "machine": machine(), "metrics": plain(result.metrics),
        "cards": plain(result.cards), "sections": sections, "seconds": plain(result.seconds),
    }  # fmt: skip


def save_models(result: Result, folder: pathlib.Path, orbax: str) -> None:
    """Write every model as safetensors, populations as folders, and one as an Orbax checkpoint.

    Args:
      result: its `params`; a name in the plural is a population.
      folder: where; what stands there is replaced.
      orbax: which of the models is written as `NAME.orbax` too.
    """
    from wslax import population

    for name, params in result.params.items():
        if name.endswith("s"):
            io.atomic.remove(folder / name)
            population.save(params, folder / name)
        else:
            io.save(params, folder / f"{name}.safetensors", metadata={"recipe": "tour"})
    target = folder / f"{orbax}.orbax"
    io.atomic.remove(target)
    io.save(result.params[orbax], target)


def finish(
    folder: str | os.PathLike[str], result: Result, recipe: str, config: Mapping[str, Any],
    html: str, orbax: str,
) -> dict[str, Any]:  # fmt: skip
    """Write models, page and, last, the results, which mark the folder as finished.

    Args:
      folder: the claimed folder.
      result: what the recipe returned.
      recipe: its name.
      config: its settings.
      html: the page.
      orbax: the model to write as an Orbax checkpoint.

    Returns:
      The results.
    """
    folder = pathlib.Path(folder)
    save_models(result, folder / "models", orbax)
    with io.atomic.replaced(folder / REPORT) as partial:
        partial.write_text(html, "utf-8")
    content = results(result, recipe, config)
    write_json(folder / RESULTS, content)
    io.atomic.remove(folder / STATE)
    return content
