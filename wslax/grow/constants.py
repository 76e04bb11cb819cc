"""Numbers in two programs of one model, the second grown: those that stayed and should not have."""

import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from wslax.grow.sizes import Growth
from wslax.trace import jaxpr
from wslax.trace.jaxpr import Call, Program, While

Pairs = frozenset[tuple[int, int]]
# Parameters of operations that users write as sizes.
_SIZES = ("new_sizes", "sizes", "limit_indices", "feature_group_count", "batch_group_count")
_SUMS = ("reduce_sum", "dot_general")


class _Facts(NamedTuple):
    """What is known of the values of both programs.

    Attributes:
      old: number of a variable of the old program that is one.
      new: the same of the new program.
      summed: for a variable of the new program, old and new lengths that it is a sum over, and
        whether it was a plain sum.
    """

    old: dict[Any, float]
    new: dict[Any, float]
    summed: dict[Any, tuple[Pairs, bool]]


def _number(atom: Any, known: dict[Any, float]) -> float | None:
    if not jaxpr.is_literal(atom):
        return known.get(atom)
    value = np.asarray(atom.val)
    return float(value) if value.ndim == 0 and value.dtype.kind in "iuf" else None


def _aligned(old: Program, new: Program) -> Iterator[tuple[Any, Any]]:
    """Equations of both that do the same, in order."""
    a, b = old.jaxpr.eqns, new.jaxpr.eqns
    names = [[eqn.primitive.name for eqn in eqns] for eqns in (a, b)]
    if names[0] == names[1]:
        yield from zip(a, b, strict=True)
        return
    for block in difflib.SequenceMatcher(None, *names, autojunk=False).get_matching_blocks():
        yield from zip(a[block.a :][: block.size], b[block.b :][: block.size], strict=True)


def _shape(atom: Any) -> tuple[int, ...]:
    return tuple(getattr(atom.aval, "shape", ()))


def _lengths(old: Any, new: Any, axes: Sequence[int] | None = None) -> Pairs:
    """Old and new lengths of an array's axes that changed; given axes are one length."""
    a, b = _shape(old), _shape(new)
    if len(a) != len(b):
        return frozenset()
    if axes is not None:
        a, b = ((math.prod(shape[axis] for axis in axes),) for shape in (a, b))
    return frozenset((m, n) for m, n in zip(a, b, strict=True) if m != n)


def _learn(old: Any, new: Any, facts: _Facts) -> None:
    """What the results of one pair of equations are sums over, and their numbers."""
    name = new.primitive.name
    for eqn, known in ((old, facts.old), (new, facts.new)):
        operands = [_number(atom, known) for atom in eqn.invars]
        if len(operands) == 1 and operands[0] is not None and len(eqn.outvars) == 1:
            if name in ("convert_element_type", "broadcast_in_dim", "copy"):
                known[eqn.outvars[0]] = operands[0]
            elif name in ("sqrt", "rsqrt") and operands[0] > 0:
                known[eqn.outvars[0]] = operands[0] ** (0.5 if name == "sqrt" else -0.5)
    if name in _SUMS:
        plain = name == "reduce_sum"
        axes = new.params["axes"] if plain else new.params["dimension_numbers"][0][0]
        made = (_lengths(old.invars[0], new.invars[0], axes), plain)
    else:
        passed = [
            facts.summed[a] for a in new.invars if not jaxpr.is_literal(a) and a in facts.summed
        ]
        made = (frozenset().union(*(p for p, _ in passed)), all(plain for _, plain in passed))
    if made[0]:
        facts.summed.update((out, made) for out in new.outvars)


def _enter(old: Any, new: Any, parts: tuple[Program, Program], facts: _Facts) -> None:
    """Carry what is known of operands to the arguments of a program inside an equation."""
    for eqn, part, known in ((old, parts[0], facts.old), (new, parts[1], facts.new)):
        inner = part.jaxpr.invars
        for var, atom in zip(inner, eqn.invars[-len(inner) :] if inner else (), strict=True):
            value = _number(atom, known)
            known.pop(var, None)
            if value is not None:
                known[var] = value
            if eqn is new:
                facts.summed.pop(var, None)
                if not jaxpr.is_literal(atom) and atom in facts.summed:
                    facts.summed[var] = facts.summed[atom]


def _walk(old: Program, new: Program, facts: _Facts, line: str) -> Iterator[tuple[Any, Any, str]]:
    """Pairs of plain equations of both programs and the programs inside, with the user's line."""
    for o, n in _aligned(old, new):
        here = jaxpr.source(n) or line
        inside = [jaxpr.programs(o), jaxpr.programs(n)]
        if not inside[1]:
            yield o, n, here
            _learn(o, n, facts)
            continue
        for parts in zip(*inside, strict=False):
            if not isinstance(jaxpr.nested(n), While):
                _enter(o, n, parts, facts)
            yield from _walk(parts[0], parts[1], facts, here)
        if isinstance(jaxpr.nested(n), Call):
            for var, atom in zip(n.outvars, inside[1][0].jaxpr.outvars, strict=True):
                if not jaxpr.is_literal(atom) and atom in facts.summed:
                    facts.summed[var] = facts.summed[atom]


def _cut(old: Any, new: Any, changed: Pairs) -> Iterator[tuple[str, int]]:
    """Sizes by which an array is cut that stayed, though it grew."""
    name = new.primitive.name
    if name in ("reshape", "split"):
        field = "new_sizes" if name == "reshape" else "sizes"
        a, b = old.params[field], new.params[field]
        both = list(zip(a, b, strict=True)) if len(a) == len(b) else []
        if any(m != n and (m, n) not in changed for m, n in both):
            yield from ((f"{name} to", m) for m, n in both if m == n)
    if name == "slice" and len(_shape(old.invars[0])) == len(_shape(new.invars[0])):
        each = zip(
            _shape(old.invars[0]), _shape(new.invars[0]),
            old.params["limit_indices"], new.params["limit_indices"], strict=True,
        )  # fmt: skip
        yield from (("slice to", end) for a, b, end, now in each if a != b and end == now)


def _powers(old: Any, new: Any, other: int, facts: _Facts, sizes: Growth) -> Iterator[Any]:
    """Numbers that may stand for a width beside an operand, with what they should become."""
    pairs, plain = facts.summed.get(new.invars[other], (frozenset(), False))
    for m, n in pairs if plain else ():
        yield from ((m, n), (1 / m, 1 / n))
    for m, n in pairs | _lengths(old.invars[other], new.invars[other]):
        if m in sizes.products and (m, n) in sizes.changed():
            yield from ((m**0.5, n**0.5), (m**-0.5, n**-0.5))


def _scalar(old: Any, new: Any, facts: _Facts, sizes: Growth) -> Iterator[str]:
    """What is wrong with the number of a sum, product or quotient."""
    name = new.primitive.name
    if name not in ("div", "mul", "add") or len(old.invars) != 2:
        return
    for i, atom in enumerate(new.invars):
        a, b = _number(old.invars[i], facts.old), _number(atom, facts.new)
        if a is None or a != b or jaxpr.is_literal(new.invars[1 - i]):
            continue
        if name == "add":
            pairs, _ = facts.summed.get(new.invars[1 - i], (frozenset(), False))
            factors = {factor for m, n, factor in sizes.shares.values() if (m, n) in pairs}
            yield from (f"eps {a:.6g}, expected {a * f:.6g}" for f in factors if 0 < a < 0.1)
            continue
        for value, right in _powers(old, new, 1 - i, facts, sizes):
            if math.isclose(a, value, rel_tol=1e-3 if a < 1 else 1e-4):
                yield f"{name} by {a:.6g}, expected {right:.6g}"


def unchanged(old: Program, new: Program, sizes: Growth) -> list[str]:
    """Numbers that are an old size in both programs, one sentence each.

    Args:
      old: the program of the old model.
      new: that of the new one.
      sizes: what changed between them.

    Returns:
      `"file.py:12 (function): what, expected value"`.
    """
    facts, changed, notes = _Facts({}, {}, {}), sizes.changed(), []
    for program, known in ((old, facts.old), (new, facts.new)):
        for var, const in zip(program.jaxpr.constvars, program.consts, strict=True):
            if np.ndim(const) == 0 and np.asarray(const).dtype.kind in "iuf":
                known[var] = float(const)
    for o, n, line in _walk(old, new, facts, "an unknown line"):
        notes += [f"{line}: {what}" for what in _scalar(o, n, facts, sizes)]
        for what, value in _cut(o, n, changed):
            notes += [
                f"{line}: {what} {value}, expected {right}" for right in _right(value, changed)
            ]
    return notes


def _right(value: int, changed: Pairs) -> list[str]:
    """The new sizes of an old one, as one text; none where it did not change."""
    found = sorted(n for m, n in changed if m == value)
    return [" or ".join(map(str, found))] if found else []


def _held(program: Program, changed: Pairs, line: str) -> Iterator[tuple[str, str]]:
    for eqn in program.jaxpr.eqns:
        here = jaxpr.source(eqn) or line
        for part in jaxpr.programs(eqn):
            yield from _held(part, changed, here)
        for field in _SIZES:
            held = eqn.params.get(field, ())
            for value in held if isinstance(held, tuple) else (held,):
                what = f"{eqn.primitive.name} to" if isinstance(held, tuple) else field
                for right in _right(value, changed):
                    yield here, f"{here}: {what} {value}, expected {right}"


def suspects(old: Program, sizes: Growth, line: str | None) -> list[str]:
    """Sizes in the old program that grew: those at the line that raised, or else all.

    Args:
      old: the program of the old model.
      sizes: what changed.
      line: of the user's model that raised in the new one.

    Returns:
      Sentences as `unchanged` writes them.
    """
    found = list(_held(old, sizes.changed(), "an unknown line"))
    raised = [note for here, note in found if here == line]
    return raised or [note for _, note in found]


def read(program: Program, names: Sequence[str]) -> frozenset[str]:
    """Which of the leaves, its first arguments, a program reads."""
    used = {atom for eqn in program.jaxpr.eqns for atom in eqn.invars if not jaxpr.is_literal(atom)}
    used |= {atom for atom in program.jaxpr.outvars if not jaxpr.is_literal(atom)}
    return frozenset(
        name for name, var in zip(names, program.jaxpr.invars, strict=False) if var in used
    )
