"""Figures as inline SVG whose colours are the page's own."""

import io
import re
from collections import Counter
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from wslax.recipes.result import Figure, text

# Colours that stand for the page's: replaced in the SVG's text, so that light and dark both fit.
INK, SOFT, GRID, PAPER = "#010203", "#010204", "#010205", "#010206"
COLOURS = tuple(f"#0102{i:02x}" for i in range(16, 22))
_NAMES = {INK: "ink", SOFT: "soft", GRID: "grid", PAPER: "card"} | {
    colour: f"c{i}" for i, colour in enumerate(COLOURS)
}
_MARKERS = "osD^vP"
_LINES = ("-", "--", "-.", ":", "-", "--")
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6,
}


def svg(figure: Figure, wide: bool = True) -> str:
    """A figure as an `<svg>` element.

    Args:
      figure: the data.
      wide: for a page; otherwise for a telephone, narrower and with the same letters.

    Returns:
      The element; its colours are `var(--ink)`, `var(--grid)`, `var(--c0)`, ...

    Example:
        >>> from wslax.recipes.result import Series
        >>> line = Series("a", (1.0, 2.0), (0.0, 1.0))
        >>> figure = Figure("f", "lines", "A line", "It rises.", (line,))
        >>> svg(figure).startswith("<svg")
        True
    """
    name = f"{figure.name}-{'wide' if wide else 'narrow'}"
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        width = 9.6 if wide else 3.9
        canvas = Canvas(figsize=(width, _height(figure, wide)), layout="constrained")
        _DRAW[figure.kind](canvas, figure, wide)
        out = io.StringIO()
        FigureCanvasSVG(canvas).print_svg(out, metadata={"Date": None, "Creator": None})
    return _themed(out.getvalue(), name, figure.alt)


def _height(figure: Figure, wide: bool) -> float:
    rows = len(figure.series)
    match figure.kind:
        case "dots":
            return 0.9 + 0.3 * len(figure.categories)
        case "heat" | "groups":
            return 0.9 + 0.42 * rows + (0 if wide else 0.5)
        case "images":
            return (0.75 if wide else 0.36) * rows
        case _:
            return 3.9 if wide else 3.4


def _themed(source: str, name: str, alt: str) -> str:
    """The `<svg>` alone, with the page's colours and ids of its own."""
    source = source[source.index("<svg") :]
    for colour, variable in _NAMES.items():
        source = source.replace(colour, f"var(--{variable})")
    source = re.sub(r'\bid="', f'id="{name}-', source)
    source = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", source)
    source = re.sub(r"<metadata>.*?</metadata>", "", source, flags=re.DOTALL)
    source = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", source, flags=re.DOTALL)
    source = re.sub(r"font-family: [^;\"]*;? ?|<!--.*?-->", "", source, flags=re.DOTALL)
    source = re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", source, count=1)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return source.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()


def _axes(canvas: Any, figure: Figure) -> Any:
    axes = canvas.add_subplot()
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    axes.tick_params(length=0)
    return axes


def _percent(axis: Any, steps: int = 7) -> None:
    axis.set_major_locator(MaxNLocator(steps, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")


def _references(axes: Any, figure: Figure, across: bool) -> None:
    for i, (label, value) in enumerate(figure.references.items()):
        style = {"color": SOFT, "linewidth": 1.3, "linestyle": (0, (2, 2 + 2 * i)), "label": label}
        (axes.axhline if across else axes.axvline)(value, **style)


def _lines(canvas: Any, figure: Figure, wide: bool) -> None:
    axes = _axes(canvas, figure)
    for i, series in enumerate(figure.series):
        x, y = np.array(series.x), np.array(series.y)
        axes.plot(x, y, color=COLOURS[i], linestyle=_LINES[i], label=series.label,
                  marker=_MARKERS[i] if len(x) < 12 else "")  # fmt: skip
        if series.margin is not None:
            margin = np.array(series.margin)
            axes.fill_between(x, y - margin, y + margin, color=COLOURS[i], alpha=0.15, linewidth=0)
    _references(axes, figure, across=True)
    if figure.values == "percent":
        _percent(axes.yaxis)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(x=0.02)
    _legend(canvas, axes, wide)


def _legend(canvas: Any, axes: Any, wide: bool) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = min(len(labels), 3 if wide else 1)
    canvas.legend(handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0)


def _points(canvas: Any, figure: Figure, wide: bool) -> None:
    axes = _axes(canvas, figure)
    for i, series in enumerate(figure.series):
        axes.errorbar(
            series.x, series.y, xerr=series.x_margin, yerr=series.margin, color=COLOURS[i],
            marker=_MARKERS[i], linestyle=_LINES[i], elinewidth=1, linewidth=1.6,
            label=series.label,
        )  # fmt: skip
        for x, y, note in zip(series.x or (), series.y, series.notes if wide else (), strict=False):
            axes.annotate(note, (x, y), (5, 5), textcoords="offset points", color=SOFT, fontsize=9)
    _percent(axes.xaxis, 7 if wide else 4)
    _percent(axes.yaxis)
    _legend(canvas, axes, wide)


def _family(canvas: Any, figure: Figure, wide: bool) -> None:
    axes = _axes(canvas, figure)
    *others, family = figure.series
    x, y = np.array(family.x), np.array(family.y)
    parents = Counter(child for _, child in figure.links)
    for i, (ends, label) in enumerate([(2, "two parents"), (1, "one parent")]):
        joined = [link for link in figure.links if parents[link[1]] == ends]
        if joined:
            at = np.array(joined).T
            style = {"color": COLOURS[i], "linestyle": _LINES[i], "linewidth": 1.0, "alpha": 0.7}
            axes.plot(x[at], y[at], **style)
            axes.plot([], [], **style, label=label)
    for i, series in enumerate(others):
        axes.plot(series.x, series.y, linestyle="", color=SOFT, marker=_MARKERS[i], markersize=2.5,
                  alpha=0.5, label=series.label)  # fmt: skip
    axes.plot(x, y, linestyle="", color=INK, marker="o", markersize=4, label=family.label)
    if figure.values == "percent":
        _percent(axes.yaxis)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.margins(x=0.02)
    _legend(canvas, axes, wide)


def _dots(canvas: Any, figure: Figure, wide: bool) -> None:
    axes = _axes(canvas, figure)
    where = np.arange(len(figure.categories))
    for i, series in enumerate(figure.series):
        axes.errorbar(
            series.y, where, xerr=series.margin, color=COLOURS[i], marker="o", linestyle="",
            elinewidth=2,
        )  # fmt: skip
        for x, margin, y in zip(series.y, series.margin or [0.0] * len(where), where, strict=True):
            axes.annotate(
                text(x, "percent"), (x + margin, y), (6, 0), textcoords="offset points",
                va="center", color=INK, fontsize=10,
            )  # fmt: skip
    _references(axes, figure, across=False)
    axes.set_yticks(where, figure.categories, color=INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    _percent(axes.xaxis, 7 if wide else 4)
    if figure.references:
        handles, labels = axes.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper right", borderaxespad=0)


def _heat(canvas: Any, figure: Figure, wide: bool) -> None:
    axes = _axes(canvas, figure)
    values = np.array([series.y for series in figure.series])
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        axes.add_patch(
            Rectangle(
                (column - 0.48, row - 0.46), 0.96, 0.92, facecolor=COLOURS[0],
                alpha=0.06 + 0.44 * float(value), linewidth=0,
            )
        )  # fmt: skip
        label = f"{100 * value:.0f}%" if wide else f"{100 * value:.0f}"
        axes.text(column, row, label, ha="center", va="center", color=INK, fontsize=11)
    axes.set_xlim(-0.5, values.shape[1] - 0.5)
    axes.set_ylim(values.shape[0] - 0.5, -0.5)
    axes.set_xticks(range(values.shape[1]), figure.categories, color=INK)
    axes.set_yticks(range(values.shape[0]), [series.label for series in figure.series], color=INK)
    axes.xaxis.tick_top()
    if not wide:
        axes.tick_params(axis="x", labelrotation=35)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


ROLES = ("", "produced", "consumed", "elementwise")


def _groups(canvas: Any, figure: Figure, wide: bool) -> None:
    axes = _axes(canvas, figure)
    rows, columns = len(figure.series), len(figure.categories)
    for row, series in enumerate(figure.series):
        for column, role in enumerate(series.y):
            colour = COLOURS[column % len(COLOURS)] if role else GRID
            box = Rectangle((column - 0.48, row - 0.42), 0.96, 0.84, facecolor=colour, linewidth=0)
            box.set_alpha(0.3 if role else 0.15)
            axes.add_patch(box)
            word = ROLES[int(role)] if wide else ROLES[int(role)][:4]
            axes.text(column, row, word, ha="center", va="center", color=INK, fontsize=11)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks(range(columns), figure.categories, color=INK)
    axes.set_yticks(range(rows), [series.label for series in figure.series], color=INK)
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _images(canvas: Any, figure: Figure, wide: bool) -> None:
    axes = _axes(canvas, figure)
    images = np.asarray(figure.images)
    rows, columns, height, width = images.shape
    sheet = np.ones((rows * (height + 2), columns * (width + 2), 4))
    sheet[..., 3] = 0
    for row, column in np.ndindex(rows, columns):
        at = (row * (height + 2), column * (width + 2))
        tile = sheet[at[0] : at[0] + height, at[1] : at[1] + width]
        # Grey ink on nothing: half-tones show on white and on black.
        tile[..., :3] = 0.5
        tile[..., 3] = images[row, column]
    axes.imshow((255 * sheet).astype(np.uint8), interpolation="none")
    axes.set_yticks(
        [(row + 0.5) * (height + 2) for row in range(rows)],
        [series.label for series in figure.series], color=INK,
    )  # fmt: skip
    axes.set_xticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


_DRAW = {
    "lines": _lines, "points": _points, "family": _family, "dots": _dots, "heat": _heat,
    "groups": _groups, "images": _images,
}  # fmt: skip
