"""What a recipe returns: numbers, tables and figures as plain data, for page, terminal and JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

Kind = Literal["text", "percent", "points", "number", "count"]


class Estimate(NamedTuple):
    """A number and the half-width of its 95% interval, None where there is none."""

    value: float
    margin: float | None = None


class Column(NamedTuple):
    """A column of a table: its heading, and how its cells read.

    Attributes:
      name: the heading.
      kind: `"percent"` for shares from 0 to 1, `"points"` for their differences, `"number"`,
        `"count"`, or `"text"`.
    """

    name: str
    kind: Kind = "text"


class Table(NamedTuple):
    """A table.

    Attributes:
      name: a key, unique in the result.
      title: its caption.
      columns: the columns; the first one names the rows.
      rows: cells are strings, numbers, `Estimate`s or None.
      marked: rows to point out.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    marked: tuple[int, ...] = ()


class Series(NamedTuple):
    """One line, set of bars or set of points of a figure.

    Attributes:
      label: its name in the legend.
      y: the values.
      x: where they stand; None for categories, one after the other.
      margin: half-widths of the intervals of `y`, or None.
      x_margin: the same of `x`.
      notes: a label a point, or none.
    """

    label: str
    y: tuple[float, ...]
    x: tuple[float, ...] | None = None
    margin: tuple[float, ...] | None = None
    x_margin: tuple[float, ...] | None = None
    notes: tuple[str, ...] = ()


class Figure(NamedTuple):
    """A figure as data.

    Attributes:
      name: a key, unique in the result.
      kind: `"lines"`, `"points"` (joined in order, with intervals both ways), `"family"` (points,
        those of the last series joined by `links`), `"dots"` (one row a category, with interval),
        `"heat"` (series are rows), `"groups"` (series are leaves,
        categories groups; `y` is 0 or the role: 1 produced, 2 consumed, 3 elementwise) or
        `"images"` (series are rows, `images` the pictures).
      title: its caption.
      alt: what it shows, in words.
      series: the data.
      x: label of the x axis.
      y: label of the y axis.
      values: how the y axis of lines reads, `"percent"` or `"number"`.
      categories: names of the positions on a categorical axis.
      references: label to value, drawn as lines across.
      images: `[rows, columns, height, width]` in [0, 1], or None.
      links: parent and child, as positions in the last series of a `"family"`.
    """

    name: str
    kind: Literal["lines", "points", "family", "dots", "heat", "groups", "images"]
    title: str
    alt: str
    series: tuple[Series, ...]
    x: str = ""
    y: str = ""
    values: Literal["percent", "number"] = "percent"
    categories: tuple[str, ...] = ()
    references: Mapping[str, float] = {}
    images: Any = None
    links: tuple[tuple[int, int], ...] = ()


class Card(NamedTuple):
    """A headline number.

    Attributes:
      label: what it is.
      value: the number.
      kind: how it reads.
      note: what to compare it with.
    """

    label: str
    value: Any
    kind: Kind
    note: str


class Section(NamedTuple):
    """One stage on the page.

    Attributes:
      name: a key.
      title: the heading.
      about: what was done, in a sentence or two.
      finding: what the numbers say, in a sentence.
      figures: the figures.
      tables: the tables.
    """

    name: str
    title: str
    about: str
    finding: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


class Result(NamedTuple):
    """What a recipe returns.

    Attributes:
      title: of the page.
      lead: the job in two sentences.
      metrics: name to number, the values worth tracking.
      params: name to parameter tree; a name ending in `s` (experts) is a population.
      sections: one a stage, in order.
      cards: headline numbers.
      seconds: stage to seconds; the only part that differs between equal runs.
    """

    title: str
    lead: str
    metrics: Mapping[str, Any]
    params: Mapping[str, Any]
    sections: tuple[Section, ...]
    cards: tuple[Card, ...]
    seconds: Mapping[str, float]

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, in order."""
        return tuple(table for section in self.sections for table in section.tables)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """All figures, in order."""
        return tuple(figure for section in self.sections for figure in section.figures)


def text(value: Any, kind: Kind = "text", digits: int | None = None) -> str:
    """A cell as people read it.

    Args:
      value: a string, a number, an `Estimate` or None.
      kind: as in `Column`.
      digits: decimals; by default 1 for percent and points, 3 significant ones for a number.

    Returns:
      The text; `"–"` for None.

    Example:
        >>> text(Estimate(0.789, 0.012), "percent"), text(0.021, "points"), text(1234, "count")
        ('78.9 ± 1.2%', '+2.1', '1,234')
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, Estimate):
        middle = text(value.value, kind, digits)
        if value.margin is None:
            return middle
        unit = "%" if kind == "percent" else ""
        margin = text(value.margin, kind, digits).removeprefix("+").removesuffix("%")
        return f"{middle.removesuffix('%')} ± {margin}{unit}"
    match kind:
        case "percent":
            return f"{100 * value:.{1 if digits is None else digits}f}%"
        case "points":
            return f"{100 * value:+.{1 if digits is None else digits}f}".replace("-", "−")
        case "count":
            return f"{value:,}"
        case _:
            short, _, power = f"{value:.{3 if digits is None else digits}g}".partition("e")
            return f"{short} × 10{str(int(power)).translate(_RAISED)}" if power else short


def plain(value: Any) -> Any:
    """A result part as JSON knows it: named tuples become objects, numpy numbers numbers.

    Example:
        >>> plain(Estimate(0.5, None))
        {'value': 0.5, 'margin': None}
    """
    if hasattr(value, "_asdict"):
        return {k: plain(v) for k, v in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, str) or value is None:
        return value
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    return value
