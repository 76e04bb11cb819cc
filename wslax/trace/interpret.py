"""Running a program again with some values kept as more than arrays.

The walk is here: calls, scans, branches and loops. What happens where such a value meets an
operation is a table of rules, one a primitive; an operation without a rule gets the array.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from wslax.trace import jaxpr
from wslax.trace.jaxpr import Branches, Call, Program, Scan, While
from wslax.trace.leaves import is_factored, slices

Rule = Callable[..., list[Any] | None]


class Kept(Protocol):
    """A value that is more than an array."""

    def dense(self) -> Any:
        """The array that it stands for."""
        ...


class View(NamedTuple):
    """A leaf inside a program.

    Attributes:
      leaf: an array, or a factored leaf.
      name: of the leaf.
      order: for each axis of the value the axis of the leaf that lies there; None for one of
        length 1 that the program added.
      loops: which of the scans around, counted from the outermost, run over the leaf's own axes.
    """

    leaf: Any
    name: str
    order: tuple[int | None, ...]
    loops: tuple[int, ...] = ()

    @property
    def axes(self) -> tuple[int, ...]:
        """The leaf's axes in the order in which they lie here."""
        return tuple(axis for axis in self.order if axis is not None)

    def dense(self) -> Any:
        """The array that it stands for."""
        array = self.leaf.dense() if is_factored(self.leaf) else self.leaf
        added = [i for i, axis in enumerate(self.order) if axis is None]
        return jnp.expand_dims(jnp.transpose(array, self.axes), added)


class Note(NamedTuple):
    """Something seen on the way, collected through scans.

    Attributes:
      name: of the leaf it is about.
      value: a tree of arrays. A scan over the leaf's own axis stacks them along it.
      over_steps: `(stacked, own)`: what becomes of values stacked `[steps, ...]` by a scan that
        meets the same leaf at each step; the next `own` axes are the leaf's, from scans within.
      loops: as in `View`.
      about: data without arrays.
    """

    name: str
    value: Any
    over_steps: Callable[[Any, int], Any]
    loops: tuple[int, ...]
    about: Any = None


class Interpreter:
    """Runs programs by a table of rules.

    Attributes:
      rules: primitive to `(interpreter, equation, *operands) -> results`; None from a rule means
        that it does not apply.
      on_dense: called with a `View` and the equation that needs it as an array.
      loops: scans that are being run.
      notes: what rules have noted.
    """

    def __init__(
        self, rules: Mapping[str, Rule], on_dense: Callable[[View, Any], None] = lambda *_: None
    ) -> None:
        self.rules = rules
        self.on_dense = on_dense
        self.loops = 0
        self.notes: list[Note] = []

    def dense(self, value: Any, eqn: Any) -> Any:
        """An array, from whatever stands for it."""
        if isinstance(value, View):
            self.on_dense(value, eqn)
        return value.dense() if is_kept(value) else value

    def run(self, program: Program, operands: Sequence[Any]) -> list[Any]:
        """Run a program; operands are its arguments."""
        body = program.jaxpr
        known = dict(zip(body.constvars, program.consts, strict=True))
        known.update(zip(body.invars, operands, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if jaxpr.is_literal(atom) else known[atom]

        for eqn in body.eqns:
            found = self._step(eqn, [read(atom) for atom in eqn.invars])
            known.update(zip(eqn.outvars, found, strict=True))
        return [read(atom) for atom in body.outvars]

    def _step(self, eqn: Any, operands: list[Any]) -> list[Any]:
        if not any(map(is_kept, operands)):
            return jaxpr.bind(eqn, *operands)
        match jaxpr.nested(eqn):
            case Call(program):
                return self.run(program, operands)
            case Scan() as scan:
                return self._scan(eqn, scan, operands)
            case Branches(programs):
                index, *rest = operands
                run = lambda p: lambda: self._alone(eqn, p, rest)
                return jax.lax.switch(index, [run(p) for p in programs])
            case While() as loop:
                return self._while(eqn, loop, operands)
            case _:
                rule = self.rules.get(eqn.primitive.name)
                found = None if rule is None else rule(self, eqn, *operands)
                if found is None:
                    found = jaxpr.bind(eqn, *self._arrays(eqn, operands))
                return found

    def _arrays(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        return [self.dense(value, eqn) for value in values]

    def _alone(self, eqn: Any, program: Program, operands: Sequence[Any]) -> list[Any]:
        """A part that may run or not: arrays come out, and no notes."""
        before = len(self.notes)
        out = self._arrays(eqn, self.run(program, operands))
        del self.notes[before:]
        return out

    def _scan(self, eqn: Any, scan: Scan, operands: list[Any]) -> list[Any]:
        consts = operands[: scan.consts]
        carry = self._arrays(eqn, operands[scan.consts : scan.consts + scan.carries])
        stacked = operands[scan.consts + scan.carries :]
        views = {i: v for i, v in enumerate(stacked) if isinstance(v, View) and v.order[0] == 0}
        each = {i: slices(view.leaf) for i, view in views.items()}
        views = {i: view for i, view in views.items() if each[i] is not None}
        xs = [each[i] if i in views else self.dense(v, eqn) for i, v in enumerate(stacked)]
        outside, noted = self.notes, []

        def body(carry: Any, xs: Any) -> Any:
            inner = [self._slice(views[i], x) if i in views else x for i, x in enumerate(xs)]
            self.notes, self.loops = [], self.loops + 1
            out = self._arrays(eqn, self.run(scan.program, [*consts, *carry, *inner]))
            noted[:], self.loops = self.notes, self.loops - 1
            values = [note.value for note in noted]
            return out[: scan.carries], (out[scan.carries :], values)

        params = eqn.params
        carry, (ys, values) = jax.lax.scan(
            body, carry, xs, scan.length, reverse=params["reverse"], unroll=params["unroll"]
        )
        self.notes = outside
        for note, value in zip(noted, values, strict=True):
            within = [loop for loop in note.loops if loop > self.loops]
            own = self.loops in note.loops
            value = value if own else note.over_steps(value, len(within))
            self.notes.append(note._replace(value=value))
        return [*carry, *ys]

    def _slice(self, view: View, leaf: Any) -> View:
        """What a scan over a leaf's first axis sees of it."""
        order = tuple(None if axis is None else axis - 1 for axis in view.order[1:])
        return View(leaf, view.name, order, (*view.loops, self.loops))

    def _while(self, eqn: Any, loop: While, operands: list[Any]) -> list[Any]:
        split = loop.condition_consts + loop.body_consts
        condition, body = operands[: loop.condition_consts], operands[loop.condition_consts : split]
        return jax.lax.while_loop(
            lambda carry: self._alone(eqn, loop.condition, [*condition, *carry])[0],
            lambda carry: self._alone(eqn, loop.body, [*body, *carry]),
            self._arrays(eqn, operands[split:]),
        )


def is_kept(value: Any) -> bool:
    """Whether a value is more than an array."""
    return hasattr(value, "dense")


def transpose(run: Interpreter, eqn: Any, view: Any) -> list[Any] | None:
    """A view with its axes in another order."""
    if not isinstance(view, View):
        return None
    return [view._replace(order=tuple(view.order[a] for a in eqn.params["permutation"]))]


def convert(run: Interpreter, eqn: Any, view: Any) -> list[Any] | None:
    """A view of the leaf in another dtype."""
    if not isinstance(view, View):
        return None
    leaf = view.leaf
    new, old = eqn.params["new_dtype"], leaf.dtype
    cast = lambda x: x.astype(new) if getattr(x, "dtype", None) == old else x
    return [view._replace(leaf=jax.tree.map(cast, leaf))]


def broadcast(run: Interpreter, eqn: Any, view: Any, *sizes: Any) -> list[Any] | None:
    """A view with axes of length 1 more, as a bias gets them."""
    mapped, shape = eqn.params["broadcast_dimensions"], eqn.params["shape"]
    added = [a for a in range(len(shape)) if a not in mapped]
    if not isinstance(view, View) or any(shape[a] != 1 for a in added):
        return None
    if tuple(shape[a] for a in mapped) != eqn.invars[0].aval.shape:
        return None
    order = dict(zip(map(int, mapped), view.order, strict=True))
    return [view._replace(order=tuple(order.get(a) for a in range(len(shape))))]


def reshape(run: Interpreter, eqn: Any, view: Any, *sizes: Any) -> list[Any] | None:
    """A view with axes of length 1 more or less."""
    old, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    kept = [n for n in old if n != 1]
    if not isinstance(view, View) or kept != [n for n in new if n != 1]:
        return None
    axes = [axis for axis, n in zip(view.order, old, strict=True) if n != 1]
    if len(axes) != len(view.axes):  # an axis of the leaf itself has length 1
        return None
    left = iter(axes)
    return [view._replace(order=tuple(None if n == 1 else next(left) for n in new))]


LIFTED: dict[str, Rule] = {"broadcast_in_dim": broadcast, "reshape": reshape}
VIEWS: dict[str, Rule] = {"transpose": transpose, "convert_element_type": convert}
