"""All integer solutions of a sparse system of equations, over the rationals or modulo two."""

import math
from collections.abc import Iterable
from fractions import Fraction

from wslax.symmetry.charges.forms import Row

Line = dict[int, int | Fraction]


def _zeros(rows: Iterable[Row], *, signs: bool) -> tuple[set[int], set[Row]]:
    """The unknowns that equations of one term make zero, and what remains of the others."""
    zeros: set[int] = set()
    rest = {tuple((u, n % 2) for u, n in row if n % 2) for row in rows} if signs else set(rows)
    while single := {row[0][0] for row in rest if len(row) == 1}:
        zeros |= single
        rest = {tuple(term for term in row if term[0] not in single) for row in rest}
    return zeros, rest - {()}


def _reduced(line: Line, by: Line, unknown: int, *, signs: bool) -> Line:
    """The line without an unknown, which `by` has with coefficient 1."""
    factor = line[unknown]
    made = {u: line.get(u, 0) - factor * by.get(u, 0) for u in line.keys() | by.keys()}
    return {u: n % 2 if signs else n for u, n in made.items() if (n % 2 if signs else n)}


def solutions(rows: Iterable[Row], count: int, *, signs: bool) -> tuple[tuple[int, ...], ...]:
    """A basis of the exponents that solve every equation.

    Args:
      rows: equations, each a sum of coefficient times unknown that is to be zero.
      count: of unknowns.
      signs: modulo two, where a coefficient is a parity.

    Returns:
      Integers `[count]`, echelon: the first unknown that one solution has, the others lack.
    """
    zeros, rest = _zeros(rows, signs=signs)
    pivots: dict[int, Line] = {}  # the last unknown of an equation, by those before it
    for row in sorted(rest):
        line: Line = {u: int(n) if n == int(n) else Fraction(n) for u, n in row}
        while line and max(line) in pivots:
            line = _reduced(line, pivots[max(line)], max(line), signs=signs)
        if line:
            last = max(line)
            unit = line[last] if abs(line[last]) == 1 else 1 / Fraction(line[last])
            pivots[last] = {u: n * unit for u, n in line.items()}
    found = []
    for free in sorted(set(range(count)) - zeros - pivots.keys()):
        values: Line = {free: 1}
        for last in sorted(pivots):
            total = -sum(n * values[u] for u, n in pivots[last].items() if u in values)
            if total := total % 2 if signs else total:
                values[last] = total
        scale = math.lcm(*(n.denominator for n in values.values()))
        found.append(tuple(int(values.get(u, 0) * scale) for u in range(count)))
    return tuple(found)
