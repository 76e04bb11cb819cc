"""Net2WiderNet: copy random units, and divide what reads them by the number of copies."""

from typing import Any

import numpy as np

from wslax import random
from wslax.errors import WeightSpaceError
from wslax.grow.method import Method, WidthMap
from wslax.symmetry import layout
from wslax.symmetry.types import Group
from wslax.typing import Key

_EVEN = ("mean", "variance")
_WHY_NOT = {
    "softmax": "a softmax over copied units shares their weight out again, so nothing after it is "
    "to be divided",
    "sum": "a plain sum counts every copy, and no weight stands there to be divided",
    "product": "two activations are contracted with each other, so every copy counts twice over "
    "and no weight stands there to be divided; widen the heads instead of the width of a head",
}


def _check(group: Group, size: int) -> None:
    start = f"group {group.id}: net2wider does not keep the function"
    for word in group.reductions:
        if word in _WHY_NOT:
            raise WeightSpaceError(f"{start}: {_WHY_NOT[word]}")
    uneven = [word for word in group.reductions if word in _EVEN]
    if uneven and size % group.size:
        raise WeightSpaceError(
            f"{start}: the model takes the {uneven[0]} over its {group.size} units, which uneven "
            f"copies change; choose a multiple such as {group.size * (size // group.size + 1)}"
        )
    consumers = {layout.place(site) for site in group.sites if site.role == "consumed"}
    if not consumers:
        raise WeightSpaceError(f"{start}: no leaf consumes the group, so none could be divided")
    for site in group.sites:
        if site.role != "consumed" and layout.place(site) in consumers:
            raise WeightSpaceError(
                f"{site.name}: {start[: -len(' does not keep the function')]} would divide this "
                f"leaf as it is consumed, but it is {site.role} along the same axis too; give the "
                "two uses a leaf of their own"
            )


def _width_map(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    old = np.arange(group.size, dtype=np.int32)
    if any(word in _EVEN for word in group.reductions):
        index = np.tile(old, size // group.size)
    else:
        name = f"grow/net2wider/{group.id}"
        words = random.bits(key, name, size - group.size, xp=xp)
        index = xp.concatenate([old, (words % np.uint32(group.size)).astype(np.int32)])
    copies = (index[:, None] == old[None]).sum(0)
    return WidthMap(xp.asarray(index), None, (1 / copies)[index])


net2wider = Method("net2wider", _check, _width_map, "arXiv:1511.05641, section 2.2")
