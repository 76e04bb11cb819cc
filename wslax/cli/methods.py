"""`wslax methods`: the registry of merging methods as a table."""

import json
import re
from typing import Annotated, Any

from cyclopts import Parameter

from wslax.merge.further import FURTHER
from wslax.merge.method import Method, Param
from wslax.merge.registry import METHODS


def _default(param: Param) -> str:
    if param.default is None:
        return "required"
    return str(param.default).lower() if param.kind is bool else f"{param.default:g}"


_BASES = {"required": "yes", "optional": "if given", "first": "is t = 0", "member": "no"}


def _rows() -> list[dict[str, Any]]:
    return [
        {
            "method": method.name,
            "about": method.about,
            "members": _members(method),
            "base": _BASES[method.base],
            "parameters": {param.word: _default(param) for param in method.params},
            "source": method.source,
        }
        for method in (*METHODS.values(), *FURTHER.values())
    ]


def _members(method: Method) -> str:
    if method.most is None:
        return f"{method.least}+"
    return str(method.least) if method.least == method.most else f"{method.least}-{method.most}"


def _cells(row: dict[str, Any], code: str) -> list[str]:
    params = ", ".join(f"{code}{k}{code} {v}" for k, v in row["parameters"].items())
    name = f"{code}{row['method']}{code}"
    return [name, row["about"], row["members"], row["base"], params, row["source"]]


HEAD = ("method", "what it does", "members", "base", "parameters and defaults", "source")


def markdown() -> str:
    """The table in Markdown, as the docs show it.

    Example:
        >>> markdown().splitlines()[0]
        '| method | what it does | members | base | parameters and defaults | source |'
    """
    lines = [HEAD, ["---"] * len(HEAD), *(_cells(row, "`") for row in _rows())]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return re.sub(r"arXiv:([\d.]*\d)", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def methods(
    *,
    markdown_: Annotated[bool, Parameter("--markdown", negative=())] = False,
    json_: Annotated[bool, Parameter("--json", negative=())] = False,
) -> None:
    """List the merging methods with their parameters and defaults.

    Args:
      markdown_: print a Markdown table.
      json_: print JSON.
    """
    if json_:
        print(json.dumps(_rows(), indent=2))
    elif markdown_:
        print(markdown())
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("method", "what it does", "parameters and defaults", box=None)
        for row in _rows():
            name, about, _, _, params, _ = _cells(row, "")
            table.add_row(f"[bold]{name}[/]", about, params)
        Console().print(table)
