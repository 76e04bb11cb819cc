"""The page: self-contained, whole, and true to the numbers."""

import html.parser
import re

import numpy as np
import pytest

from wslax import report
from wslax.recipes.result import (
    Card,
    Column,
    Estimate,
    Figure,
    Result,
    Section,
    Series,
    Table,
    text,
)

EVIL = '<script>alert("x")</script> & "quotes"'
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Reader(html.parser.HTMLParser):
    """Tags in balance, ids, loads and cells."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.loads, self.cells, self.bad = [], [], [], [], []
        self.tags = {}

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.ids += [attrs["id"]] if "id" in attrs else []
        for name in ("src", "href", "xlink:href", "action", "data"):
            self.loads += [attrs[name]] if name in attrs else []
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID and (not self.open or self.open.pop() != tag):
            self.bad.append(tag)

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def figures():
    x = (0.0, 1.0, 2.0)
    line = Series("line", (0.1, 0.3, 0.2), x, (0.01, 0.02, 0.0))
    point = Series("p", (0.1, 0.3, 0.2), x, (0.1,) * 3, (0.1,) * 3, ("1", "2", "3"))
    return (
        Figure("lines", "lines", "Lines", EVIL, (line, line), "x", "y", references={"level": 0.2}),
        Figure("points", "points", "Points", "p", (point,), "x", "y"),
        Figure(
            "dots", "dots", "Dots", "d", (Series("d", (0.5, 0.6), margin=(0.1, 0.1)),),
            categories=("a", "b"), references={"level": 0.2},
        ),
        Figure("heat", "heat", "Heat", "h", (Series("r", (0.0, 1.0)),), categories=("a", "b")),
        Figure(
            "images", "images", "Images", "i", (Series("r", ()),),
            images=np.linspace(0, 1, 2 * 28 * 28).reshape(1, 2, 28, 28),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def result():
    rows = (("ties", Estimate(0.789, 0.012), 0.021, None), (EVIL, 0.5, -0.1, 3e-6))
    columns = (
        Column("model"), Column("test", "percent"), Column("gap", "points"), Column("n", "number"),
    )  # fmt: skip
    table = Table("merges", "A table", columns, rows, (0,))
    section = Section("merge", "Merge", "How.", "What.", figures(), (table,))
    card = Card("best", Estimate(0.789, 0.012), "percent", EVIL)
    return Result("Title", "Lead.", {}, {}, (section,), (card,), {"merge": 1.234})


@pytest.fixture(scope="module")
def page(result):
    about = {
        "command": "wslax run --quick", "config": {"seed": 0}, "versions": {"jax": "0.10"},
        "machine": {"processor": EVIL},
    }  # fmt: skip
    return report.page(result, about)


@pytest.fixture(scope="module")
def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_parses(read):
    assert read.bad == []
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))


def test_loads_nothing(page, read):
    assert all(load.startswith(("#", "data:image/png")) for load in read.loads), read.loads
    assert not re.search(r"@import|url\((?!#)", page)
    assert "link" not in read.tags


def test_every_reference_inside_a_figure_is_there(page, read):
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert used <= set(read.ids)


def test_escapes_what_came_from_outside(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_is_accessible(page, read):
    # Two drawings of a figure, for wide and narrow screens.
    assert page.count('role="img"') == 2 * 5 == read.tags["svg"]
    assert page.count('scope="col"') == 4
    assert page.count('scope="row"') == 2
    assert read.tags["caption"] == 1
    assert '<html lang="en">' in page


def test_colours_are_the_pages_own(result):
    for figure in result.figures:
        for wide in (True, False):
            drawn = report.svg(figure, wide)
            assert "var(--" in drawn
            assert not re.search(r"#0102[0-9a-f]{2}|#0{6}|black|font-family", drawn)


def test_drawing_is_deterministic(result):
    assert [report.svg(f) for f in result.figures] == [report.svg(f) for f in result.figures]


def test_shows_the_numbers_of_the_result(result, read):
    for table in result.tables:
        for row in table.rows:
            for value, column in zip(row, table.columns, strict=True):
                assert text(value, column.kind) in read.cells


def _luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_contrast_in_light_and_dark(page):
    themes = re.findall(r":root(?:\[[^]]*\])? \{([^}]*)\}", page)[:2]
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#\w{6});", theme))
        for ink in ("ink", "soft", "accent", "c0", "c1", "c2", "c3", "c4", "c5"):
            for paper in ("card", "page"):
                high, low = sorted(map(_luminance, (colours[ink], colours[paper])), reverse=True)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper)
