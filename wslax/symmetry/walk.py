"""The walk over a model's program: what each value's axes are, and what each operation ties."""

import collections
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wslax.symmetry.axes import Axes, Nodes
from wslax.trace import jaxpr
from wslax.trace.jaxpr import Branches, Call, Program, Scan, Shards, While

Letters = dict[Any, Nodes]
Origins = tuple[frozenset[tuple[str, int]], ...]


class Reduction:
    """A sum over units whose meaning shows later: a mean once it is divided by their number.

    `linear`, `eps`, `gains` and `astray` are what `Average` says of a mean.
    """

    def __init__(self, nodes: Nodes, count: int, kind: str, of: str | None, linear: bool) -> None:
        self.nodes, self.count, self.kind, self.of = list(nodes), count, kind, of
        self.linear, self.astray = linear, False
        self.eps = 0.0
        self.gains: set[str] = set()


class Tag(NamedTuple):
    """What a value is known to be: `"square"`, `"exp"`, `"sum"`, `"mean"`, `"centred"`, ..."""

    kind: str
    reduction: Reduction | None = None


class Made(NamedTuple):
    """How a value is made of the weights.

    Attributes:
      linear: nodes along which each unit is the same linear function of its own weights.
      lever: axes of leaves such that multiplying a unit's weights at all of them by a positive
        factor multiplies the unit here by it; None where there are none.
      factor: the known number that it was last multiplied by.
      squared: nodes along which it is the square of what is linear.
    """

    linear: frozenset[int] = frozenset()
    lever: frozenset[tuple[str, int]] | None = None
    factor: float = 1.0
    squared: frozenset[int] = frozenset()


class Value(NamedTuple):
    """What is known of an array of the program.

    Attributes:
      axes: the nodes of each axis, major to minor; none for an axis of one element.
      origins: for what is computed from leaves and constants alone, the axes of leaves that each
        axis stems from; None for what depends on the model's inputs.
      tag: what it is known to be, for naming reductions.
      number: its value, where it is a known scalar.
      made: how it is made of the weights.
    """

    axes: tuple[tuple[int, ...], ...]
    origins: Origins | None = None
    tag: Tag | None = None
    number: Any = None
    made: Made = Made()

    @property
    def nodes(self) -> list[int]:
        """All nodes of all axes."""
        return [node for axis in self.axes for node in axis]


Rule = Callable[..., list[Value]]


def merged(origins: Sequence[Origins | None]) -> Origins | None:
    """Origins of what is made of several values, axis by axis; None where one is data."""
    known = [each for each in origins if each is not None]
    if len(known) < len(origins):
        return None
    return tuple(frozenset().union(*axis) for axis in zip(*known, strict=True))


class Walk:
    """The state of one walk: the axes, and what was noted of leaves on the way."""

    def __init__(self, rules: Mapping[str, Rule], note: Callable[..., list[Value]]) -> None:
        self.axes = Axes()
        self.rules, self.note = rules, note
        self.roles: dict[tuple[str, int], set[str]] = {}
        self.reductions: list[Reduction] = []
        self.reads: dict[tuple[str, int], list[frozenset[tuple[str, int]]]] = {}  # by contraction
        self.uses: collections.Counter[tuple[str, int]] = collections.Counter()
        self.astray: set[tuple[str, int]] = set()  # levers whose value went elsewhere too
        self.implicit: list[int] = []  # every value inside a loop has the loop's axis too

    # What rules are made of

    def reason(self, eqn: Any, why: str = "") -> str:
        """`"cumsum at model.py:12 (apply)"`."""
        return f"{why or eqn.primitive.name} at {self.axes.line}"

    def fresh(self, shape: Iterable[int], frozen: str | None = None) -> Value:
        """A value whose axes are new."""
        axes = tuple(tuple(self.axes.axis(size, frozen)) for size in shape)
        return Value(axes)

    def constant(self, array: Any) -> Value:
        """A constant: frozen along the axes that it varies along."""
        reason = f"a constant that varies along it at {self.axes.line}"
        if not _is_plain(array):
            return self.fresh(np.shape(array), reason)
        array = np.asarray(array)
        if array.ndim == 0:
            return Value((), (), number=array)
        axes = []
        for axis, size in enumerate(array.shape):
            first = np.take(array, [0], axis) if size else array
            uniform = bool((array == first).all())
            axes.append(tuple(self.axes.axis(size, None if uniform else reason)))
        return self.born(Value(tuple(axes), (frozenset(),) * array.ndim))

    def born(self, value: Value) -> Value:
        """Note of new axes beside which others they are."""
        self.axes.see(value.nodes, [*value.nodes, *self.implicit])
        return value

    def match(self, *values: Mapping[Any, Nodes]) -> None:
        """Unite what has the same letter, and note what is aligned between any two values.

        Each value is a map from letters to nodes, as in an einsum.
        """
        whole: dict[Any, Nodes] = {}
        for value in values:
            for letter, nodes in value.items():
                if letter in whole:
                    self.axes.unite(whole[letter], nodes)
                else:
                    whole[letter] = nodes
        for a, b in itertools.combinations(values, 2):
            aligned = [n for letter in a if letter in b for n in a[letter]]
            apart = [n for letter in a if letter not in b for n in a[letter]]
            apart += [n for letter in b if letter not in a for n in b[letter]]
            self.axes.use(aligned)
            self.axes.see(aligned, [*aligned, *self.implicit], apart)

    def freeze(self, eqn: Any, *values: Value, why: str = "") -> None:
        """Freeze every axis of values."""
        reason = self.reason(eqn, why)
        for value in values:
            self.axes.freeze(value.nodes, reason)

    def play(self, origins: Iterable[tuple[str, int]], role: str) -> None:
        """Note the role in which axes of leaves meet data."""
        for origin in origins:
            self.roles.setdefault(origin, set()).add(role)

    def meet(self, operands: Iterable[Value], shaped: Iterable[Value]) -> Origins | None:
        """Origins of what operands give element by element; leaves that meet data note it.

        `shaped` are those operands that have the result's axes.
        """
        known = [value.origins for value in operands]
        if all(origins is not None for origins in known):
            return merged([value.origins for value in shaped])
        for origins in known:
            self.play((origin for axis in origins or () for origin in axis), "elementwise")
        return None

    def linear(self, value: Value) -> set[int]:
        """The atoms along which a value is linear in the weights."""
        return set(self.axes.atoms(value.made.linear))

    def unknown(self, eqn: Any, *operands: Value) -> list[Value]:
        """An operation without a rule: everything it touches is frozen."""
        why = f"{eqn.primitive.name} (no rule)"
        self.freeze(eqn, *operands, why=why)
        self.meet((*operands, Value(())), ())
        reason = self.reason(eqn, why)
        return [self.fresh(var.aval.shape, reason) for var in eqn.outvars]

    # Programs

    def run(self, program: Program, operands: Sequence[Value]) -> list[Value]:
        """Walk a program; operands are its arguments."""
        body = program.jaxpr
        known: dict[Any, Value] = dict(zip(body.invars, operands, strict=True))
        consts = dict(zip(body.constvars, program.consts, strict=True))

        def read(atom: Any) -> Value:
            if jaxpr.is_literal(atom):
                return self.constant(atom.val)
            if atom not in known:  # made at its first use, whose line says where it varies
                known[atom] = self.constant(consts[atom])
            return known[atom]

        outside = self.axes.line
        for eqn in body.eqns:
            self.axes.line = jaxpr.source(eqn) or outside
            found = self.step(eqn, [read(atom) for atom in eqn.invars])
            known.update(zip(eqn.outvars, found, strict=True))
        self.axes.line = outside
        return [read(atom) for atom in body.outvars]

    def step(self, eqn: Any, operands: list[Value]) -> list[Value]:
        """Walk one equation."""
        match jaxpr.nested(eqn):
            case None:
                rule = self.rules.get(eqn.primitive.name)
                if rule is None:
                    return self.unknown(eqn, *operands)
                return self.note(self, eqn, operands, rule(self, eqn, *operands))
            case Call(program):
                return self.run(program, operands)
            case Scan() as scan:
                return self._scan(eqn, scan, operands)
            case While() as loop:
                return self._while(loop, operands)
            case Branches(programs):
                results = [self.run(program, operands[1:]) for program in programs]
                return [self._same(*values) for values in zip(*results, strict=True)]
            case Shards() as shards:
                return self._shards(eqn, shards, operands)

    def _same(self, first: Value, *others: Value) -> Value:
        """Values that stand at one place of the program, on one run or another."""
        values = (first, *others)
        self.match(*(dict(enumerate(value.axes)) for value in values))
        self._seen_whole(first)
        return Value(first.axes, merged([value.origins for value in values]))

    def _seen_whole(self, *values: Value) -> None:
        """Note that values are the same at every step of a loop that is being entered or left."""
        for value in values:
            self.axes.see(value.nodes, [*value.nodes, *self.implicit])

    def _scan(self, eqn: Any, scan: Scan, operands: list[Value]) -> list[Value]:
        step = self.axes.axis(scan.length, self.reason(eqn))
        consts = operands[: scan.consts]
        carry = operands[scan.consts : scan.consts + scan.carries]
        stacked = operands[scan.consts + scan.carries :]
        self._seen_whole(*consts, *carry)
        for value in stacked:
            self.axes.unite(value.axes[0], step)
        slices = [
            value._replace(axes=value.axes[1:], origins=value.origins and value.origins[1:])
            for value in stacked
        ]
        varying = [Value(value.axes, made=Made(value.made.linear)) for value in carry]
        self.implicit += step
        before = len(self.reductions)
        out = self.run(scan.program, [*consts, *varying, *slices])
        del self.implicit[len(self.implicit) - len(step) :]
        carried, made = out[: scan.carries], out[scan.carries :]
        stays = all(self.linear(a) <= self.linear(b) for a, b in zip(varying, carried, strict=True))
        for reduction in self.reductions[before:]:
            reduction.linear &= stays
        ends = [self._same(Value(a.axes), b) for a, b in zip(carry, carried, strict=True)]
        kept = [Made(a.made.linear if stays else frozenset()) for a in varying]
        ends = [Value(value.axes, made=m) for value, m in zip(ends, kept, strict=True)]
        ys = []
        for value in made:
            origins = None if value.origins is None else (frozenset(), *value.origins)
            ys.append(Value((tuple(step), *value.axes), origins))
        return [*ends, *ys]

    def _while(self, loop: While, operands: list[Value]) -> list[Value]:
        split = loop.condition_consts + loop.body_consts
        condition, body = operands[: loop.condition_consts], operands[loop.condition_consts : split]
        carry = [Value(value.axes) for value in operands[split:]]
        self._seen_whole(*carry)
        self.run(loop.condition, [*condition, *carry])
        out = self.run(loop.body, [*body, *carry])
        return [Value(self._same(a, b).axes) for a, b in zip(carry, out, strict=True)]

    def _shards(self, eqn: Any, shards: Shards, operands: list[Value]) -> list[Value]:
        reason = self.reason(eqn)
        devices = {name: self.axes.axis(n, reason) for name, n in shards.sizes.items()}
        self._seen_whole(*operands)
        local = []
        for value, spec in zip(operands, shards.inputs, strict=True):
            axes = []
            for nodes, names in zip(value.axes, spec, strict=True):
                parts = [shards.sizes[name] for name in names]
                rest = self.axes.length(nodes) // math.prod(parts)
                found = self.axes.regroup(nodes, [*parts, rest])
                if found is None:
                    return self.unknown(eqn, *operands)
                for name, group in zip(names, found, strict=False):
                    self.axes.unite(devices[name], group)
                axes.append(tuple(found[-1]))
            local.append(value._replace(axes=tuple(axes)))
        mesh = [node for nodes in devices.values() for node in nodes]
        self.implicit += mesh
        out = self.run(shards.program, local)
        del self.implicit[len(self.implicit) - len(mesh) :]
        results = []
        for value, spec in zip(out, shards.outputs, strict=True):
            outer = [[n for name in names for n in devices[name]] for names in spec]
            axes = (tuple(each) for each in map(operator.add, outer, map(list, value.axes)))
            results.append(Value(tuple(axes)))
        self._seen_whole(*results)
        return results


def _is_plain(array: Any) -> bool:
    """Whether numpy can look at a constant: not a key, not a token."""
    return (hasattr(array, "dtype") and isinstance(array.dtype, np.dtype)) or np.isscalar(array)
