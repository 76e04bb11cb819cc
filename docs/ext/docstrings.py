r"""Docstrings have `code`, \(maths\) and \[maths\] in plain text; Sphinx reads reStructuredText."""

import inspect
import re

_TOKEN = re.compile(
    r"``.+?``|:[\w:]+:`[^`]+`|`([^`]+)`_?|\\\((.+?)\\\)|\\\[(.+?)\\\]|\|", re.DOTALL
)
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def _code(text):
    text = " ".join(text.split())
    if not _NAME.fullmatch(text):
        return f"``{text}``"
    if text.startswith("ws."):
        return f":py:obj:`{text} <wslax.{text[3:]}>`"
    return f":py:obj:`{text}`"


def _convert(paragraph):
    if paragraph.lstrip().startswith((">>>", "..")):
        return paragraph
    indent = re.findall(r"^ *", paragraph.split("\n")[-1])[0]

    def swap(found):
        code, inline, display = found.groups()
        if code:
            plural = paragraph[found.end() : found.end() + 1].isalnum()
            return _code(code) + "\\ " * plural
        if inline:
            return f"\\ :math:`{' '.join(inline.split())}`\\ "
        if display:
            formula = " ".join(display.split()).rstrip()
            return f"\n\n{indent}.. math::\n\n{indent}    {formula}\n\n{indent}"
        return r"\|" if found.group() == "|" else found.group()

    return _TOKEN.sub(swap, paragraph)


def _process(app, what, name, obj, options, lines):
    if (
        what == "data"
        and "\n".join(lines).strip() == inspect.cleandoc(type(obj).__doc__ or "").strip()
    ):
        lines[:] = []  # what a dict is in general says nothing
    text = "\n".join(lines)
    lines[:] = "\n\n".join(map(_convert, re.split(r"\n[ \t]*\n", text))).split("\n")


def _skip(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples: their class describes them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-process-docstring", _process, priority=600)  # after napoleon
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True}
