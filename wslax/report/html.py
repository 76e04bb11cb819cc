"""The page: a template filled with a result's numbers, tables and figures."""

from collections.abc import Mapping
from typing import Any

import jinja2

from wslax.recipes.result import Estimate, Result, text
from wslax.report.plots import svg


def page(result: Result, about: Mapping[str, Any]) -> str:
    """A self-contained HTML page: no script, style, font or picture comes from elsewhere.

    Args:
      result: what a recipe returned.
      about: how to do it again: `command` (a string), `config` (dotted key to value), `versions`
        and `machine` (name to value).

    Returns:
      The page.

    Example:
        >>> result = Result("Nothing", "Nothing was done.", {}, {}, (), (), {})
        >>> about = {"command": "wslax run", "config": {}, "versions": {}, "machine": {}}
        >>> "Nothing was done." in page(result, about)
        True
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wslax.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": text, "order": _order}

    def draw(figure: Any, wide: bool) -> Any:
        return jinja2.utils.markupsafe.Markup(svg(figure, wide))

    return environment.get_template("template.html").render(result=result, about=about, draw=draw)


def _order(value: Any) -> Any:
    """What a column is sorted by."""
    if isinstance(value, Estimate):
        return value.value
    return "" if value is None else value
