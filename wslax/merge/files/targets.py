"""The tensors of the output and what each is made of, from names alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from wslax.errors import WeightSpaceError
from wslax.merge.files.layers import (
    address_of,
    check_stacks,
    fraction,
    modules_of,
    positions,
    the_stack,
)
from wslax.merge.files.names import (
    Spelling,
    check_same,
    find,
    is_embedding,
    prefix_between,
    tied_head,
)
from wslax.merge.files.parts import Part
from wslax.merge.files.recipe import Piece, Recipe, pieces
from wslax.merge.files.references import Model


class Target(NamedTuple):
    """A tensor of the output.

    Attributes:
      name: its name.
      piece: the piece of the recipe that it belongs to.
      inputs: its name in each source of the piece.
      parts: what each source gives.
      position: where its layer lies, 0 to 1.
      layered: whether it lies in a layer.
    """

    name: str
    piece: Piece
    inputs: tuple[str, ...]
    parts: tuple[Part, ...]
    position: float
    layered: bool


class Stacked(NamedTuple):
    """How many layers a stack of the output has, and where the donor's config gets them from.

    Attributes:
      stack: its name.
      before: the donor's number of layers.
      layers: for each layer of the output, the first source's layer.
    """

    stack: str
    before: int
    layers: tuple[int, ...]


def _layers(names: Sequence[str], stack: str) -> dict[int, list[str]]:
    """What stands in each layer of a stack, by what follows the layer's number."""
    found: dict[int, list[str]] = {}
    for name in names:
        own, layer, rest = address_of(name, (stack,))
        if layer is not None and own == stack:
            found.setdefault(layer, []).append(rest)
    return found


class _Names:
    """The donor's names, and how every other model spells them."""

    def __init__(self, recipe: Recipe, models: Mapping[str, Model], donor: Model) -> None:
        self.models, self.donor = models, donor
        self.stacks = tuple(recipe.layers)
        check_stacks(donor.parts.keys(), self.stacks)
        self.spelled = {
            reference: Spelling(*prefix_between(donor.parts, model.parts, self.stacks))
            for reference, model in models.items()
        }
        self.found: dict[tuple[str, str], dict[int, list[str]]] = {}
        self.prefixes = {name: module.prefix for name, module in recipe.modules.items()}

    def of_module(self, model: Model, module: str) -> list[str]:
        """A model's tensors in a module; all of them where there are no modules."""
        names = list(model.parts)
        return modules_of(names, self.prefixes)[module] if self.prefixes else names

    def heads(self, piece: Piece, module: str) -> dict[str, tuple[int, ...]]:
        """Heads that another source stores and the donor ties."""
        return {
            name: self.models[entry.model].parts[name].shape
            for entry in piece.sources
            for name in self.of_module(self.models[entry.model], module)
            if name not in self.donor.parts
            and tied_head(self.donor, name, self.models[entry.model].parts[name].shape)
        }

    def own_stack(self, reference: str, stack: str) -> str:
        """How a model spells the donor's stack."""
        return address_of(self.spelled[reference][f"{stack}.0.x"]).stack

    def layers(self, reference: str, stack: str) -> dict[int, list[str]]:
        """What stands in each layer of a model's stack; found once, for recipes of many slices."""
        if (reference, stack) not in self.found:
            self.found[reference, stack] = _layers(list(self.models[reference].parts), stack)
        return self.found[reference, stack]

    def target(
        self, name: str, piece: Piece, inputs: Sequence[str], position: float, layered: bool
    ) -> Target:
        """Find the parts and check their shapes."""
        models = [self.models[entry.model] for entry in piece.sources]
        shape = next(m.parts[n].shape for m, n in zip(models, inputs, strict=True) if n in m.parts)
        parts = []
        for model, spelling in zip(models, inputs, strict=True):
            part = find(model, spelling, shape)
            assert part is not None
            parts.append(part)
        return Target(name, piece, tuple(inputs), tuple(parts), position, layered)

    def outside(self, names: Mapping[str, tuple[int, ...]], piece: Piece) -> list[Target]:
        """Tensors that lie in no layer: the same name in every source."""
        return [
            self.target(n, piece, [self.spelled[e.model][n] for e in piece.sources], 0.0, False)
            for n in names
        ]


def _whole(names: _Names, module: str, piece: Piece) -> list[Target]:
    shapes = {n: names.donor.parts[n].shape for n in names.of_module(names.donor, module)}
    shapes |= names.heads(piece, module)
    for entry in piece.sources:
        model = names.models[entry.model]
        theirs = names.of_module(model, module)
        check_same(shapes, names.donor, model, theirs, names.spelled[entry.model])
    place = positions(list(shapes), names.stacks)
    return [
        names.target(
            n, piece, [names.spelled[e.model][n] for e in piece.sources], place[n],
            address_of(n, names.stacks).layer is not None,
        )
        for n in shapes
    ]  # fmt: skip


def _sliced(names: _Names, module: str, parts: Sequence[Piece]) -> tuple[list[Target], Stacked]:
    mine = names.of_module(names.donor, module)
    stack = the_stack(mine, names.stacks, parts[0].place)
    outside = {
        n: names.donor.parts[n].shape for n in mine if address_of(n, names.stacks).stack != stack
    }
    outside |= names.heads(parts[0], module) | names.heads(parts[-1], module)
    before = {n: shape for n, shape in outside.items() if is_embedding(n)}
    after = {n: shape for n, shape in outside.items() if n not in before}
    for piece, wanted in ((parts[0], before), (parts[-1], after)):
        for entry in piece.sources:
            model, spelled = names.models[entry.model], names.spelled[entry.model]
            theirs = [
                n
                for n in names.of_module(model, module)
                if address_of(n, (names.own_stack(entry.model, stack),)).layer is None
                and is_embedding(n) == (wanted is before)
            ]
            check_same(wanted, names.donor, model, theirs, spelled)
    found = names.outside(before, parts[0])
    layers: list[int] = []
    for piece in parts:
        found += _layered(names, stack, piece, layers)
    found += names.outside(after, parts[-1])
    depth = max(names.layers(names.donor.reference, stack), default=-1) + 1
    return found, Stacked(stack, depth, tuple(layers))


def _layered(names: _Names, stack: str, piece: Piece, layers: list[int]) -> list[Target]:
    """One slice's layers, numbered on from those before; `layers` gets their first sources'."""
    held = []
    for entry in piece.sources:
        model = names.models[entry.model]
        own = names.own_stack(entry.model, stack)
        have = names.layers(entry.model, own)
        assert entry.layer_range is not None
        first, last = entry.layer_range
        depth = max(have, default=-1) + 1
        if last > depth:
            raise WeightSpaceError(
                f"{piece.place}: layers {first} to {last} of {entry.model} are wanted, it has "
                f"{depth} ({own})"
            )
        held.append((model, own, have, first))
    found, count = [], _length(piece)
    for i in range(count):
        number = len(layers)
        rests = held[0][2].get(held[0][3] + i, [])
        for model, own, have, first in held:
            if sorted(have.get(first + i, [])) != sorted(rests):
                raise WeightSpaceError(
                    f"{piece.place}: layer {own}.{first + i} of {model.path} and layer "
                    f"{held[0][1]}.{held[0][3] + i} of {held[0][0].path} have different tensors"
                )
        for rest in rests:
            inputs = [f"{own}.{first + i}.{rest}".removeprefix(".") for _, own, _, first in held]
            name = f"{stack}.{number}.{rest}".removeprefix(".")
            found.append(names.target(name, piece, inputs, fraction(i, count), True))
        layers.append(held[0][3] + i)
    return found


def _length(piece: Piece) -> int:
    first, last = piece.sources[0].layer_range or (0, 0)
    return last - first


def find_targets(
    recipe: Recipe, models: Mapping[str, Model], donor: Model
) -> tuple[list[Target], list[Stacked]]:
    """Every tensor of the output, in its order.

    Whole models: the donor's tensors in stored order. Slices: what stands before the layers (names
    with `emb`, `wte` and the like) from the first slice's sources, the layers renumbered from 0,
    and the rest (norm, head) from the last slice's.

    Args:
      recipe: a checked recipe.
      models: every model that it names.
      donor: the base, or the first model: its names count.

    Returns:
      The tensors, and how layers were stacked anew.

    Raises:
      WeightSpaceError: tensors that a source lacks, layers that it does not have, modules that
        cannot be told apart.
    """
    names = _Names(recipe, models, donor)
    found: list[Target] = []
    stacked: list[Stacked] = []
    for module, parts in pieces(recipe).items():
        if parts[0].place.endswith("models"):
            found += _whole(names, module, parts[0])
        else:
            more, stack = _sliced(names, module, parts)
            found += more
            stacked.append(stack)
    return found, stacked
