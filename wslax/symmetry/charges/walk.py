"""The walk over a program that finds what it demands of charges."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wslax.symmetry.charges.forms import Form, System
from wslax.symmetry.charges.rules import RULES
from wslax.symmetry.charges.rules.elementwise import opaque
from wslax.trace import jaxpr
from wslax.trace.jaxpr import Branches, Call, Program, Scan, Shards, While


def _constant(array: Any) -> Form:
    """Zeros have any charge, other constants none."""
    numeric = np.isscalar(array) or isinstance(getattr(array, "dtype", None), np.dtype)
    return None if numeric and not np.any(np.asarray(array)) else {}


def run(system: System, program: Program, operands: Sequence[Form]) -> list[Form]:
    """Charges of a program's results, from those of its arguments."""
    body = program.jaxpr
    known: dict[Any, Form] = dict(zip(body.invars, operands, strict=True))
    known |= {var: _constant(x) for var, x in zip(body.constvars, program.consts, strict=True)}

    def read(atom: Any) -> Form:
        return _constant(atom.val) if jaxpr.is_literal(atom) else known[atom]

    for eqn in body.eqns:
        found = _step(system, eqn, [read(atom) for atom in eqn.invars])
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in body.outvars]


def _step(system: System, eqn: Any, operands: list[Form]) -> list[Form]:
    match jaxpr.nested(eqn):
        case None:
            return RULES.get(eqn.primitive.name, opaque)(system, eqn, *operands)
        case Call(program):
            return run(system, program, operands)
        case Scan() as scan:
            return _scan(system, scan, operands)
        case While() as loop:
            return _while(system, loop, operands)
        case Branches(programs):
            system.vanish(operands[0])
            results = [run(system, program, operands[1:]) for program in programs]
            return [system.same(*forms) for forms in zip(*results, strict=True)]
        case Shards():
            return opaque(system, eqn, *operands)


def _repeated(
    system: System, program: Program, consts: list[Form], carry: list[Form], rest: list[Form]
) -> tuple[list[Form], list[Form]]:
    """A loop's carries and other results; a carry that begins as zeros is what it becomes."""
    while True:
        out = run(system, program, [*consts, *carry, *rest])
        carried, made = out[: len(carry)], out[len(carry) :]
        became = [new if old is None else old for old, new in zip(carry, carried, strict=True)]
        if [x is None for x in became] == [x is None for x in carry]:
            ends = [system.same(old, new) for old, new in zip(carry, carried, strict=True)]
            return ends, made
        carry = became


def _scan(system: System, scan: Scan, operands: list[Form]) -> list[Form]:
    split = scan.consts + scan.carries
    stacked = [system.even(form, [0]) for form in operands[split:]]
    slices = [form and {u: x[0] for u, x in form.items()} for form in stacked]
    consts, carry = operands[: scan.consts], operands[scan.consts : split]
    ends, made = _repeated(system, scan.program, consts, carry, slices)
    return [*ends, *(form and {u: x[None] for u, x in form.items()} for form in made)]


def _while(system: System, loop: While, operands: list[Form]) -> list[Form]:
    split = loop.condition_consts + loop.body_consts
    consts, carry = operands[loop.condition_consts : split], operands[split:]
    ends, _ = _repeated(system, loop.body, consts, carry, [])
    system.vanish(*run(system, loop.condition, [*operands[: loop.condition_consts], *ends]))
    return ends
