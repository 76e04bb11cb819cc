"""Layers by tensor names: there is no table of architectures.

A tensor's layer is the first component of its name that is a number, and its stack is what stands
before: `model.layers.11.mlp.weight` is of layer 11 of `model.layers`. Where that reads a name
wrongly, a recipe's `layers:` names the stacks.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from wslax.errors import WeightSpaceError, did_you_mean


class Address(NamedTuple):
    """A name taken apart around its layer.

    Attributes:
      stack: what stands before the layer's number; `""` outside any stack.
      layer: the number, or None outside.
      rest: what stands after it, or the whole name outside.
    """

    stack: str
    layer: int | None
    rest: str

    def at(self, layer: int) -> str:
        """The name of the same tensor in another layer."""
        return f"{self.stack}.{layer}.{self.rest}"


def address_of(name: str, stacks: Collection[str] = ()) -> Address:
    """Take a name apart.

    Args:
      name: a tensor's name.
      stacks: the only stacks that count; by default the first number tells.

    Example:
        >>> address_of("model.layers.11.mlp.weight")
        Address(stack='model.layers', layer=11, rest='mlp.weight')
        >>> address_of("vision.0.blocks.3.w", ["vision.0.blocks"]).layer, address_of("head.w").layer
        (3, None)
    """
    parts = re.split(r"[./]", name)
    for i, part in enumerate(parts):
        if part.isdecimal() and part.isascii() and len(part) < 10:
            stack = ".".join(parts[:i])
            if not stacks or stack in stacks:
                return Address(stack, int(part), ".".join(parts[i + 1 :]))
    return Address("", None, name)


def depths(names: Iterable[str], stacks: Collection[str] = ()) -> dict[str, int]:
    """The number of layers of every stack.

    Example:
        >>> depths(["embed", "h.0.w", "h.1.w", "head.w"])
        {'h': 2}
    """
    last: dict[str, int] = {}
    for name in names:
        stack, layer, _ = address_of(name, stacks)
        if layer is not None:
            last[stack] = max(last.get(stack, 0), layer + 1)
    return last


def fraction(index: int, count: int) -> float:
    """Where layer `index` of `count` lies for a gradient: 0 to 1, and 1 for the only layer.

    Example:
        >>> fraction(1, 3), fraction(0, 1)
        (0.5, 1.0)
    """
    return index / (count - 1) if count > 1 else 1.0


def positions(names: Sequence[str], stacks: Collection[str] = ()) -> dict[str, float]:
    """Where each tensor lies in its stack of layers; tensors outside any stack are at 0.

    Example:
        >>> positions(["embed", "h.0.w", "h.1.w", "h.2.w"])
        {'embed': 0.0, 'h.0.w': 0.0, 'h.1.w': 0.5, 'h.2.w': 1.0}
    """
    last = depths(names, stacks)
    found = {}
    for name in names:
        stack, layer, _ = address_of(name, stacks)
        found[name] = 0.0 if layer is None else fraction(layer, last[stack])
    return found


def check_stacks(names: Collection[str], stacks: Collection[str]) -> None:
    """Refuse a stack that no tensor is in.

    Example:
        >>> check_stacks(["h.0.w"], ["h"])
    """
    have = depths(names, stacks)
    for stack in stacks:
        if stack not in have:
            hint = did_you_mean(stack, depths(names))
            raise WeightSpaceError(f"layers: no tensor is named {stack}.0...{hint}")


def the_stack(names: Collection[str], stacks: Collection[str], place: str) -> str:
    """The one stack that slices speak of.

    Example:
        >>> the_stack(["h.0.w", "head.w"], (), "slices")
        'h'
    """
    have = depths(names, stacks)
    if len(have) == 1:
        return next(iter(have))
    if not have:
        raise WeightSpaceError(
            f"{place}: no tensor's name has a layer number; layer ranges need one"
        )
    raise WeightSpaceError(
        f"{place}: layers are numbered in {', '.join(sorted(have))}; say which with layers: "
        "[STACK], or slice each part under modules:"
    )


def modules_of(names: Sequence[str], prefixes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The tensors of each module.

    A tensor belongs to the module whose prefix its name has, or else whose name is a component of
    it. One module may have none by its name: it gets all that no other has.

    Args:
      names: the model's tensors.
      prefixes: module name to its prefixes, empty where the module's name should tell.

    Raises:
      WeightSpaceError: two modules that claim a tensor, two without tensors, tensors of none.

    Example:
        >>> modules_of(["vision.0.w", "lm.h.0.w", "norm.w"], {"text": [], "vision": []})
        {'text': ['lm.h.0.w', 'norm.w'], 'vision': ['vision.0.w']}
    """
    found: dict[str, list[str]] = {module: [] for module in prefixes}
    left = []
    for name in names:
        owners = [module for module, given in prefixes.items() if _owns(module, given, name)]
        if len(owners) > 1:
            raise WeightSpaceError(f"modules: {name} is of {' and of '.join(owners)}; give prefix:")
        (found[owners[0]] if owners else left).append(name)
    empty = [module for module, mine in found.items() if not mine]
    if len(empty) > 1 or (empty and not left):
        raise WeightSpaceError(
            f"modules: no tensor's name shows that it is of {' or '.join(empty)}; give it a prefix:"
        )
    if left and not empty:
        raise WeightSpaceError(f"modules: {left[0]} ({len(left)} in all) is of none of them")
    if empty:
        found[empty[0]] = left
    return found


def _owns(module: str, prefixes: Sequence[str], name: str) -> bool:
    if prefixes:
        return any(name == p or name.startswith(p.rstrip(".") + ".") for p in prefixes)
    return module in re.split(r"[./]", name)
