"""Methods that copy units and divide what reads them: Net2WiderNet, HyperCloning, FPI."""

from typing import Any

import numpy as np

from wslax import random
from wslax.grow import reasons
from wslax.grow.method import Method, WidthMap
from wslax.symmetry.along import space, summed
from wslax.symmetry.types import Group
from wslax.typing import Array, Key


def tiled(group: Group, size: int) -> np.ndarray:
    """The old units over and over, the last time not all of them."""
    return np.arange(size, dtype=np.int32) % np.int32(group.size)


def drawn(group: Group, size: int, key: Key, xp: Any) -> Array:
    """The old units, then one drawn at random for each new one."""
    words = random.bits(key, f"grow/net2wider/{group.id}", size - group.size, xp=xp)
    new = (words % np.uint32(group.size)).astype(np.int32)
    return xp.concatenate([np.arange(group.size, dtype=np.int32), new])


def shares(group: Group, index: Array) -> Array:
    """One over the number of copies, for each new unit."""
    ones = space(index).ones(len(index))
    return (1 / summed(ones, index, group.size))[index]


def shared(group: Group, size: int, index: Array) -> WidthMap:
    """The map of copies with equal shares, at both sides where activations meet each other."""
    share = shares(group, index)
    if reasons.is_product(group):
        return WidthMap(index, (share * reasons.ratio(group, size)) ** 0.5)
    return WidthMap(index, out_scale=share)


def _net2wider_check(group: Group, size: int) -> None:
    reasons.check_consumers(group, "net2wider")
    reasons.check_even(group, size, "net2wider")


def _net2wider_map(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    even = reasons.is_averaged(group)
    index = xp.asarray(tiled(group, size)) if even else drawn(group, size, key, xp)
    return shared(group, size, index)


def _hypercloning_check(group: Group, size: int) -> None:
    reasons.check_consumers(group, "hypercloning")
    if size % group.size:
        raise reasons.refuse(
            group, "hypercloning",
            f"it clones all {group.size} units equally often; choose a multiple such as "
            f"{group.size * (size // group.size + 1)}, or lemon",
        )  # fmt: skip


def _hypercloning_map(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    return shared(group, size, xp.asarray(tiled(group, size)))


def _fpi_check(group: Group, size: int) -> None:
    reasons.check_consumers(group, "fpi")


def _fpi_map(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    return shared(group, size, drawn(group, size, key, xp))


net2wider = Method(
    "net2wider", _net2wider_check, _net2wider_map, "arXiv:1511.05641",
    noise="produced",
)  # fmt: skip
hypercloning = Method(
    "hypercloning", _hypercloning_check, _hypercloning_map, "arXiv:2409.12903", noise="consumed"
)
fpi = Method("fpi", _fpi_check, _fpi_map, "arXiv:2110.07143", exact=False, noise="produced")
