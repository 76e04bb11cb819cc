"""Axes as algebra: atoms, products and sums of them, and what unites them.

An axis of an array is a list of *nodes*, major to minor. A node is an atom (a set of units), a
product of nodes (a reshaped axis) or a sum of nodes (pieces laid one after another). Uniting two
axes refines both until they agree; what cannot be made to agree is frozen, with the reason.

A node may mean different units at different pieces of another one: the head width of a fused
`3 * heads * width` axis is one set of units for queries and keys and another for values. Such an
*instance* of a node at a piece is a node of its own; `settle` unites it with the node again
unless every use of the node knows which piece it is at.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

Nodes = Sequence[int]
PIECES = 512  # A sum of more pieces is a program unrolled over units, not a layout.


class Context(NamedTuple):
    """Beside which nodes an atom was matched between two values, and beside which in one alone."""

    aligned: tuple[int, ...]
    apart: tuple[int, ...] = ()


class Instance(NamedTuple):
    """`node` is what `of` means at `piece`, a part of the sum `cut`."""

    of: int
    cut: int
    piece: int
    node: int


class Axes:
    """The nodes of one traced model; mutable, alive only while the model is walked."""

    def __init__(self) -> None:
        self.size: list[int] = []
        self.line = "an unknown line"  # of the model, for reasons found while uniting
        self._parent: list[int] = []
        self._product: dict[int, list[int]] = {}
        self._sum: dict[int, list[int]] = {}
        self._frozen: dict[int, str] = {}
        self._contexts: dict[int, set[Context]] = {}
        self._alone: set[int] = set()  # seen where nothing is aligned: one permutation for all
        self._instances: list[Instance] = []
        self._reductions: dict[int, set[str]] = {}
        self._used: set[int] = set()

    # Nodes

    def atom(self, size: int, frozen: str | None = None) -> int:
        """A new set of units."""
        node = len(self.size)
        self.size.append(size)
        self._parent.append(node)
        if frozen is not None:
            self._frozen[node] = frozen
        return node

    def axis(self, size: int, frozen: str | None = None) -> list[int]:
        """A new axis; one element needs no node."""
        return [] if size == 1 else [self.atom(size, frozen)]

    def find(self, node: int) -> int:
        """The node that stands for all united with this one."""
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node

    def factors(self, nodes: Iterable[int]) -> list[int]:
        """Atoms and sums whose product the nodes are, major to minor, without single units."""
        found: list[int] = []
        for node in nodes:
            root = self.find(node)
            if root in self._product:
                found += self.factors(self._product[root])
            elif self.size[root] > 1:
                found.append(root)
        return found

    def pieces(self, node: int) -> list[int] | None:
        """The pieces of a sum in order, sums within it opened; None for an atom."""
        root = self.find(node)
        if root not in self._sum:
            return None
        return [p for part in self._sum[root] for p in self.pieces(part) or [self.find(part)]]

    def atoms(self, nodes: Iterable[int]) -> list[int]:
        """All atoms below nodes, those of each piece of a sum too."""
        found: list[int] = []
        for node in self.factors(nodes):
            parts = self.pieces(node)
            found += [node] if parts is None else self.atoms(parts)
        return found

    def length(self, nodes: Iterable[int]) -> int:
        """Units in the product of nodes."""
        return math.prod(self.size[node] for node in nodes)

    def one(self, nodes: Nodes) -> int:
        """A single node for a list."""
        if len(nodes) == 1:
            return self.find(nodes[0])
        factors = self.factors(nodes)
        if len(factors) == 1:
            return factors[0]
        made = self.atom(self.length(factors))
        if factors:
            self._product[made] = factors
        return made

    def join(self, pieces: Sequence[Nodes]) -> int:
        """The sum of pieces, one after another."""
        parts = [self.one(nodes) for nodes in pieces]
        made = self.atom(sum(self.size[part] for part in parts))
        self._sum[made] = parts
        return made

    def shuffled(self, cut: int) -> bool:
        """Whether a sum has the pieces of another one in another order."""
        pieces = self.pieces(cut) or []
        for other in list(self._sum):
            theirs = self.pieces(other) or []
            if theirs != pieces and sorted(theirs) == sorted(pieces):
                return True
        return False

    # What is known of atoms

    def freeze(self, nodes: Iterable[int], reason: str) -> None:
        """Units may no longer be permuted; the first reason stays."""
        for atom in self.atoms(nodes):
            self._frozen.setdefault(atom, reason)

    def frozen(self, node: int) -> str | None:
        """Why an atom is frozen, or None."""
        return self._frozen.get(self.find(node))

    def reduce(self, nodes: Iterable[int], kind: str) -> None:
        """Record that the model reduces over units."""
        for atom in self.atoms(nodes):
            self._reductions.setdefault(atom, set()).add(kind)

    def reductions(self, node: int) -> set[str]:
        """How the model reduces over an atom's units."""
        return self._reductions.get(self.find(node), set())

    def use(self, nodes: Iterable[int]) -> None:
        """Note that the model does something with units."""
        self._used.update(nodes)

    def unused(self) -> set[int]:
        """Atoms that the model does nothing with, such as rows that no slice takes."""
        every = {atom for node in range(len(self.size)) for atom in self.atoms([node])}
        return every - set(self.atoms(self._used))

    def see(self, nodes: Iterable[int], aligned: Iterable[int], apart: Iterable[int] = ()) -> None:
        """Record that nodes were matched between two values.

        Args:
          nodes: factors that both values have.
          aligned: all factors that both have, these too.
          apart: all factors that one of them has beyond those.
        """
        aligned, apart = sorted(self.factors(aligned)), tuple(sorted(self.factors(apart)))
        for node in dict.fromkeys(self.factors(nodes)):
            beside = list(aligned)
            if node in beside:
                beside.remove(node)
            for atom in dict.fromkeys(self.atoms([node])):
                self._record(atom, Context(tuple(beside), apart))

    def _record(self, atom: int, context: Context) -> None:
        if atom in self._alone or atom in self._frozen:
            return
        contexts = self._contexts.setdefault(atom, set())
        if context not in contexts:
            contexts.add(context)
            if not self._known(atom, context):
                self._close(atom)

    def _close(self, atom: int) -> None:
        self._alone.add(atom)
        self._contexts.pop(atom, None)

    def _known(self, atom: int, context: Context) -> set[int]:
        """Nodes whose unit is known, and the same, wherever the context holds."""
        aligned = self.factors(context.aligned)
        twice = {node for node in aligned if aligned.count(node) > 1}
        return set(aligned) - twice - set(self.factors(context.apart)) - {atom}

    def per(self, node: int) -> set[int]:
        """Nodes at each unit of which this atom may be permuted on its own."""
        root = self.find(node)
        contexts = self._contexts.get(root)
        if root in self._alone or not contexts:
            return set()
        return set.intersection(*(self._known(root, context) for context in contexts))

    # Refining

    def _inherit(self, node: int, parts: Nodes, siblings: bool) -> None:
        """Give what is known of an atom to what it became."""
        reason, kinds = self._frozen.pop(node, None), self._reductions.pop(node, set())
        contexts = self._contexts.pop(node, set())
        if node in self._alone:
            contexts = {Context(())}
        for i, part in enumerate(parts):
            beside = [*parts[:i], *parts[i + 1 :]] if siblings else []
            for atom in dict.fromkeys(self.atoms([part])):
                if reason is not None:
                    self._frozen.setdefault(atom, reason)
                if kinds:
                    self._reductions.setdefault(atom, set()).update(kinds)
                for aligned, apart in contexts:
                    self._record(atom, Context((*aligned, *beside), apart))

    def split(self, node: int, minor: int) -> tuple[list[int], list[int]] | None:
        """A factor as (major, minor) with that minor length, or None where it has no such form."""
        root = self.find(node)
        if self.size[root] % minor:
            return None
        pieces = self.pieces(root)
        if pieces is None:
            parts = [self.atom(self.size[root] // minor), self.atom(minor)]
            self._product[root] = parts
            self._inherit(root, parts, siblings=True)
            return parts[:1], parts[1:]
        halves = [self.regroup([p], [max(self.size[p] // minor, 1), minor]) for p in pieces]
        found = [half for half in halves if half is not None]
        if len(found) < len(pieces):
            return None
        cut = self.join([high for high, _ in found])
        return [cut], self.gather(cut, [low for _, low in found], [])

    def gather(self, cut: int, variants: Sequence[Nodes], beside: Nodes) -> list[int]:
        """Nodes that mean one of the variants at each piece of a sum.

        Args:
          cut: a new sum.
          variants: nodes of one length for each piece.
          beside: other nodes of the value.
        """
        first = self.factors(variants[0])
        if all(self.factors(nodes) == first for nodes in variants):
            return first
        atoms = [atom for nodes in variants for atom in self.atoms(nodes)]
        if any(atom in self._frozen or atom in self._alone for atom in atoms):
            for nodes in variants[1:]:
                self.unite(first, nodes)
            return self.factors(first)
        made = self.atom(self.length(first))
        self.see([made], [made, cut, *beside])
        for piece, nodes in zip(self._sum[cut], variants, strict=True):
            self._instances.append(Instance(made, cut, piece, self.one(nodes)))
        return [made]

    def regroup(self, nodes: Nodes, sizes: Sequence[int]) -> list[list[int]] | None:
        """Nodes divided into axes of those lengths, major to minor; None where they cross."""
        rest, out = self.factors(nodes), []
        if self.length(rest) != math.prod(sizes):
            return None
        for size in reversed(sizes):
            taken: list[int] = []
            while size > 1:
                node = rest.pop()
                if size % self.size[node] == 0:
                    taken.insert(0, node)
                    size //= self.size[node]
                    continue
                halves = self.split(node, size)
                if halves is None:
                    return None
                rest += self.factors(halves[0])
                taken[:0] = self.factors(halves[1])
                size = 1
            out.insert(0, taken)
        return out

    def take(self, nodes: Nodes, start: int, stop: int) -> tuple[list[int], int, int] | None:
        """A range of an axis as `(its nodes, the factor that was cut, the piece of it)`.

        None where the range is no whole piece of the axis' major factor.
        """
        first, *rest = self.factors(nodes)
        inner = self.length(rest)
        if start % inner or stop % inner:
            return None
        piece = self._piece(first, start // inner, stop // inner)
        return None if piece is None else ([piece, *self.at(rest, first, piece)], first, piece)

    def _piece(self, node: int, start: int, stop: int) -> int | None:
        root = self.find(node)
        size = self.size[root]
        if (start, stop) == (0, size):
            return root
        pieces = self.pieces(root)
        if pieces is None:
            lengths = (start, stop - start, size - stop)
            parts = [self.atom(n) for n in lengths if n]
            self._sum[root] = parts
            self._inherit(root, parts, siblings=False)
            return parts[start > 0]
        if len(pieces) > PIECES:
            return None
        at, found = 0, []
        for piece in pieces:
            low, high = max(start - at, 0), min(stop - at, self.size[piece])
            if low < high:
                found.append(self._part(piece, low, high))
            at += self.size[piece]
        if None in found:
            return None
        return found[0] if len(found) == 1 else self.join([[part] for part in found if part])

    def _part(self, piece: int, start: int, stop: int) -> int | None:
        """A range of a piece, which may be a product."""
        if (start, stop) == (0, self.size[piece]):
            return self.find(piece)
        taken = self.take([piece], start, stop)
        return None if taken is None else self.one(taken[0])

    def at(self, nodes: Nodes, cut: int, piece: int) -> list[int]:
        """What nodes mean at a piece of a sum."""
        return [self._at(node, cut, piece) for node in self.factors(nodes)]

    def _at(self, node: int, cut: int, piece: int) -> int:
        if self.pieces(node) is not None:
            self.see([node], [])
            return node
        if node in self._frozen or self.find(cut) not in self.per(node):
            return node
        for known in self._instances:
            if (self.find(known.of), self.find(known.piece)) == (node, self.find(piece)):
                return self.find(known.node)
        made = self.atom(self.size[node])
        self._instances.append(Instance(node, cut, piece, made))
        return made

    def worth_cutting(self, nodes: Nodes, others: Nodes) -> bool:
        """Whether a cut of an axis can tell anything: it is free, or others vary along it."""
        roots = set(self.factors(nodes))
        free = any(atom not in self._frozen for atom in self.atoms(nodes))
        return free or any(self.per(other) & roots for other in self.atoms(others))

    # Uniting

    def unite(self, a: Nodes, b: Nodes) -> None:
        """Make two axes of one length the same, refining both; freeze both where that fails."""
        left, right = self.factors(a), self.factors(b)
        while left and right and left != right:
            small = min(self.size[left[-1]], self.size[right[-1]])
            for side in (left, right):
                if self.size[side[-1]] != small:
                    halves = self.split(side.pop(), small)
                    if halves is None:
                        self.freeze([*a, *b], f"a layout that does not fit at {self.line}")
                        return
                    side += [*halves[0], *halves[1]]
            self._unite(left.pop(), right.pop())
            left, right = self.factors(left), self.factors(right)

    def _unite(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        left, right = self.pieces(a), self.pieces(b)
        if left is not None and right is not None:
            self._unite_sums(a, b)
        elif left is None and right is None:
            self._merge(a, b)
        else:
            atom, whole = (a, b) if left is None else (b, a)
            if atom in self.atoms([whole]):
                self.freeze([whole], f"a layout that meets itself shifted at {self.line}")
                return
            self._parent[atom] = whole
            self._inherit(atom, self._sum[whole], siblings=False)

    def _merge(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        self._parent[a] = b
        if a in self._frozen:
            self._frozen.setdefault(b, self._frozen.pop(a))
        if a in self._reductions:
            self._reductions.setdefault(b, set()).update(self._reductions.pop(a))
        contexts = self._contexts.pop(a, set())
        if a in self._alone:
            self._close(b)
        elif contexts and b not in self._alone:
            self._contexts.setdefault(b, set()).update(contexts)

    def _unite_sums(self, a: int, b: int) -> None:
        left, right = self.pieces(a) or [], self.pieces(b) or []
        while left:
            if len(left) + len(right) > PIECES or self._shifted(left, right):
                self.freeze([a, b], f"a layout that meets itself shifted at {self.line}")
                return
            small = min(self.size[left[0]], self.size[right[0]])
            for side in (left, right):
                if self.size[side[0]] > small:
                    head = self._part(side[0], 0, small)
                    tail = self._part(side[0], small, self.size[side[0]])
                    if head is None or tail is None:
                        self.freeze([a, b], f"pieces that do not fit together at {self.line}")
                        return
                    side[:1] = [head, tail]
            if small == 1:
                self._merge(left[0], right[0])
            else:
                self.unite([left[0]], [right[0]])
            left, right = left[1:], right[1:]
        a, b = self.find(a), self.find(b)
        self._parent[a] = b

    def _shifted(self, left: list[int], right: list[int]) -> bool:
        """Whether a set of units would meet itself at another place."""

        def offsets(pieces: list[int]) -> dict[int, int]:
            places = itertools.accumulate((self.size[p] for p in pieces), initial=0)
            return dict(zip(map(self.find, pieces), places, strict=False))

        here, there = offsets(left), offsets(right)
        return any(here[p] != there[p] and self.size[p] > 1 for p in here.keys() & there)

    def settle(self) -> None:
        """Decide every instance: its own units, or the units of the node it stems from."""
        while self._settle_once():
            pass

    def _settle_once(self) -> bool:
        waiting, self._instances = self._instances, []
        changed = False
        for known in waiting:
            of = self.find(known.of)
            if self.factors([of]) != [of] or self.pieces(of) is not None:
                self.unite([known.node], self.at([of], known.cut, known.piece))
            elif self.find(known.cut) not in self.per(of) or of in self._frozen:
                self.unite([known.node], [of])
            elif (same := self._same(known)) is not None:
                self.unite([known.node], [same])
            else:
                self._instances.append(known)
                continue
            changed = True
        return changed

    def _same(self, known: Instance) -> int | None:
        """Another instance of the atom at a piece that shares units with this one."""

        def units(piece: int) -> set[int]:
            return set(self.pieces(piece) or [self.find(piece)])

        for other in self.instances(known.of):
            if units(other.piece) & units(known.piece):
                return other.node
        return None

    def instances(self, node: int) -> list[Instance]:
        """What is known of an atom at pieces of others."""
        return [known for known in self._instances if self.find(known.of) == self.find(node)]
