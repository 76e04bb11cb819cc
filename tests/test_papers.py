"""Experiments of papers: the verdict against values by hand, and the page against the records."""

import pytest

from benchmarks.papers import runner

FIVE = [1.0, 2.0, 3.0, 4.0, 5.0]  # t of 4 degrees at 97.5% is 2.776: 3 ± 2.776 sqrt(2.5 / 5)
TWO = [0.0, 2.0]  # t of 1 degree is 12.706: 1 ± 12.706


@pytest.mark.parametrize(("values", "mean", "half"), [(FIVE, 3.0, 1.963), (TWO, 1.0, 12.706)])
def test_interval(values, mean, half):
    assert runner.interval(values) == pytest.approx((mean, half), abs=1e-3)


@pytest.mark.parametrize(
    ("values", "bound", "expected"),
    [
        (FIVE, "> 1.03", "holds"),
        (FIVE, "> 1.04", "cannot be told"),
        (FIVE, "> 4.96", "cannot be told"),
        (FIVE, "> 4.97", "does not hold"),
        (FIVE, "< 4.97", "holds"),
        (FIVE, "< 4.96", "cannot be told"),
        (FIVE, "< 1.04", "cannot be told"),
        (FIVE, "< 1.03", "does not hold"),
        ([-x for x in FIVE], "> -4.97", "holds"),
        ([-x for x in FIVE], "< -1.04", "cannot be told"),
        (TWO, "> -11.8", "holds"),
        (TWO, "> -11.7", "cannot be told"),
        ([3.0], "> 0", "cannot be told"),
        ([3.0, 3.0], "> 2.9", "holds"),
        ([3.0, 3.0], "> 3", "cannot be told"),
    ],
)
def test_verdict(values, bound, expected):
    assert runner.verdict(values, bound) == expected


def test_figures_have_the_digits_of_their_interval():
    assert runner.shown(FIVE) == "3.0 ± 2.0"
    assert runner.shown([x / 1000 for x in FIVE]) == "0.0030 ± 0.0020"
    assert runner.shown([1000 * x for x in FIVE]) == "3000 ± 1963"
    assert runner.shown([0.5, 0.5]) == "0.500 ± 0.000"


def test_the_page_is_what_the_records_make():
    assert runner.PAGE.read_text() == runner.page()
    assert set(runner.latest()) == set(runner.names())
