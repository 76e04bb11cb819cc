"""The one file that knows how JAX writes a traced program down, in every version supported.

A program is a list of equations over variables. Equations that hold programs (a compiled
function, a scan, a branch) are shown by `nested` as one of five small types, whatever JAX calls
them and however it stores their parameters.
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core


class Program(NamedTuple):
    """A traced function.

    Attributes:
      jaxpr: JAX's own object, with `eqns`, `invars`, `constvars`, `outvars`.
      consts: the arrays of its `constvars`.
    """

    jaxpr: Any
    consts: tuple[Any, ...]


class Call(NamedTuple):
    """A program run once on the equation's operands (`jit`, `remat`, `custom_jvp`, ...)."""

    program: Program


class Scan(NamedTuple):
    """A program run `length` times; operands are constants, carries, then stacked inputs."""

    program: Program
    consts: int
    carries: int
    length: int


class While(NamedTuple):
    """Two programs; operands are the condition's constants, the body's, then the carries."""

    condition: Program
    body: Program
    condition_consts: int
    body_consts: int


class Branches(NamedTuple):
    """One program of several; operands are the index, then what each of them takes."""

    programs: tuple[Program, ...]


class Shards(NamedTuple):
    """A program run on each device of a mesh.

    Attributes:
      program: over local shapes.
      inputs: mesh axes that shard each axis of each operand.
      outputs: the same of each result.
      sizes: devices along each mesh axis.
    """

    program: Program
    inputs: tuple[tuple[tuple[str, ...], ...], ...]
    outputs: tuple[tuple[tuple[str, ...], ...], ...]
    sizes: dict[str, int]


Nested = Call | Scan | While | Branches | Shards


def program(jaxpr: Any, consts: Sequence[Any] | None = None) -> Program:
    """A program from JAX's open or closed form; since 0.12 there is one type for both."""
    if consts is None:
        consts = getattr(jaxpr, "consts", None) or ()
    return Program(getattr(jaxpr, "jaxpr", jaxpr), tuple(consts))


def trace(fn: Callable[..., Any], *args: Any) -> tuple[Program, Any]:
    """Trace a function without running it; what no output depends on is left out.

    Args:
      fn: a traceable function.
      *args: trees of arrays or `ShapeDtypeStruct`s.

    Returns:
      The program over the flattened arguments, and the tree of `ShapeDtypeStruct`s it returns.
    """
    from jax.interpreters import partial_eval

    closed, out = jax.make_jaxpr(fn, return_shape=True)(*args)
    jaxpr, consts = program(closed)
    live, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), True)
    return Program(live, consts), out


def is_literal(atom: Any) -> bool:
    """Whether an operand is a number written in the program, with its value in `.val`."""
    return isinstance(atom, core.Literal)


def _spec(spec: Any, rank: int) -> tuple[tuple[str, ...], ...]:
    """Mesh axes of each array axis from a `PartitionSpec` or the older dict of axis to names."""
    if isinstance(spec, dict):
        return tuple(tuple(spec.get(axis, ())) for axis in range(rank))
    entries = [*spec, *[None] * (rank - len(spec))]
    return tuple(
        () if e is None else tuple(e) if isinstance(e, tuple) else (str(e),) for e in entries
    )


def _scan(eqn: Any) -> Scan:
    params = eqn.params
    if "num_carry" in params:
        consts, carries = params["num_consts"], params["num_carry"]
    else:
        consts, carries, _ = (len(part) for part in params["ft_in"].unpack())
    return Scan(program(params["jaxpr"]), consts, carries, params["length"])


def _shards(eqn: Any) -> Shards:
    params = eqn.params

    def specs(which: str, atoms: Sequence[Any]) -> tuple[tuple[tuple[str, ...], ...], ...]:
        return tuple(_spec(s, len(v.aval.shape)) for s, v in zip(params[which], atoms, strict=True))

    sizes = dict(params["mesh"].shape)
    inner = program(params["jaxpr"], ())
    return Shards(inner, specs("in_specs", eqn.invars), specs("out_specs", eqn.outvars), sizes)


def nested(eqn: Any) -> Nested | None:
    """The programs inside an equation; None for a plain primitive.

    A primitive that holds exactly one program over exactly its operands is a `Call`, whatever its
    name, so what JAX adds later is walked too.
    """
    params = eqn.params
    match eqn.primitive.name:
        case "scan":
            return _scan(eqn)
        case "while":
            return While(
                program(params["cond_jaxpr"]),
                program(params["body_jaxpr"]),
                params["cond_nconsts"],
                params["body_nconsts"],
            )
        case "cond":
            return Branches(tuple(program(branch) for branch in params["branches"]))
        case "shard_map":
            return _shards(eqn)
        case "pallas_call":
            return None
    found = [program(value) for value in params.values() if _holds_program(value)]
    if len(found) != 1:
        return None
    inner = found[0].jaxpr
    fits = len(inner.invars) == len(eqn.invars) and len(inner.outvars) == len(eqn.outvars)
    return Call(found[0]) if fits else None


def _holds_program(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def source(eqn: Any) -> str | None:
    """`"file.py:12 (function)"`: the line of the user's model that made an equation.

    Lines of installed packages (a layer library) count only where there is no other; None where
    JAX kept no line, as inside what it compiled before.
    """
    from jax._src import source_info_util

    frames = list(source_info_util.user_frames(eqn.source_info.traceback))
    own = [frame for frame in frames if "-packages" not in frame.file_name]
    for frame in [*own, *frames][:1]:
        file = frame.file_name.replace("\\", "/").rpartition("/")[2]
        return f"{file}:{frame.start_line} ({frame.function_name.rpartition('.')[2]})"
    return None


def programs(eqn: Any) -> tuple[Program, ...]:
    """The programs inside an equation, none for a plain primitive."""
    match nested(eqn):
        case None:
            return ()
        case While(condition, body):
            return condition, body
        case Branches(programs):
            return programs
        case other:
            return (other.program,)


def primitives(inner: Program) -> dict[str, int]:
    """How often each plain primitive occurs in a program and all programs inside it."""
    counts: collections.Counter[str] = collections.Counter()
    for eqn in inner.jaxpr.eqns:
        parts = programs(eqn)
        counts.update([] if parts else [eqn.primitive.name])
        for part in parts:
            counts.update(primitives(part))
    return dict(counts)


def bind(eqn: Any, *operands: Any) -> list[Any]:
    """Run one equation on arrays or tracers, as JAX would."""
    params = eqn.primitive.get_bind_params(eqn.params)
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*operands, **params)
    return list(out) if eqn.primitive.multiple_results else [out]
