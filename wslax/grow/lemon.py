"""LEMON: copies with unequal shares, and an exact remainder under norms of any width."""

from typing import Any

import numpy as np

from wslax import random
from wslax.grow import reasons
from wslax.grow.copies import shared, tiled
from wslax.grow.method import Fill, Method, WidthMap
from wslax.symmetry.along import summed
from wslax.symmetry.types import Group
from wslax.typing import Array, Key


def _check(group: Group, size: int) -> None:
    reasons.check_consumers(group, "lemon")
    if not reasons.is_averaged(group) or size % group.size == 0:
        return
    multiple = group.size * (size // group.size + 1)
    if not group.averages:
        why = "which means over the units there are is not known; infer the groups from the model"
    elif any(not average.whole for average in group.averages):
        why = "a mean is taken over the units and other axes at once (GroupNorm over an image)"
    elif any(not average.linear for average in group.averages):
        why = "a mean is taken of what is not linear in the weights (a norm after an activation)"
    elif any(average.of != "values" and not average.divides for average in group.averages):
        why = "a norm has no scale that could be multiplied, or uses its variance elsewhere"
    elif len({average.of == "squares" for average in group.averages}) > 1:
        why = "some norms take the mean away and some do not"
    else:
        return
    raise reasons.refuse(group, "lemon", f"{why}; choose a multiple such as {multiple}")


def _split(group: Group, index: Array, key: Key, xp: Any) -> Array:
    """Random shares that add up to one over the copies of a unit."""
    words = random.bits(key, f"grow/lemon/{group.id}", len(index), xp=xp)
    parts = (np.float32(0.5) + random.uniform(words)).astype(float)
    return parts / summed(parts, index, group.size)[index]


def _width_map(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    if reasons.is_product(group):
        return shared(group, size, xp.asarray(tiled(group, size)))
    if not reasons.is_averaged(group) or size % group.size == 0:
        index = xp.asarray(tiled(group, size))
        return WidthMap(index, out_scale=_split(group, index, key, xp))
    copied = size // group.size * group.size
    index = xp.asarray(tiled(group, copied))
    centred = group.averages[0].of != "squares"
    word, read = ("mean", "zero") if centred else ("zero", "fresh")
    fill = Fill(size - copied, word, word, read)
    split = _split(group, index, key, xp)
    return WidthMap(index, out_scale=split, fill=fill, gain=(copied / size) ** 0.5)


lemon = Method("lemon", _check, _width_map, "arXiv:2310.07999")
