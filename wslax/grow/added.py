"""Methods that add units which nothing reads yet."""

from typing import Any

import numpy as np

from wslax.grow import reasons
from wslax.grow.method import Fill, Method, WidthMap
from wslax.symmetry.types import Group
from wslax.typing import Key


def _check(group: Group, size: int, method: str = "zero") -> None:
    reasons.check_consumers(group, method)
    if reasons.is_averaged(group):
        raise reasons.refuse(
            group, method,
            "the model takes a mean over the units, which new ones change even if nothing reads "
            "them; use lemon, or hypercloning for a multiple",
        )  # fmt: skip


def _width_map(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    index = xp.arange(group.size, dtype=np.int32)
    fill = Fill(size - group.size)
    if not reasons.is_product(group):
        return WidthMap(index, fill=fill)
    scale = xp.full(group.size, reasons.ratio(group, size) ** 0.5)
    return WidthMap(index, scale, fill=fill, opposite="zero")


zero = Method("zero", _check, _width_map, "arXiv:2308.06103, sections 3.1 to 3.4")


def _unread_check(group: Group, size: int) -> None:
    _check(group, size, "gradmax")
    if reasons.is_product(group) or reasons.tied(group):
        raise reasons.refuse(
            group, "gradmax", "no outgoing weights of its own could be chosen; use zero"
        )


def _unread_map(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    index = xp.arange(group.size, dtype=np.int32)
    return WidthMap(index, fill=Fill(size - group.size, "zero", "zero"))


unread = Method("gradmax", _unread_check, _unread_map, "arXiv:2201.05125")


def _masked_check(group: Group, size: int) -> None:
    _check(group, size, "msg")
    if reasons.is_product(group):
        raise reasons.refuse(
            group, "msg", "no outgoing weight stands where a mask could rise; use zero"
        )


def _masked_map(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    index = xp.arange(group.size, dtype=np.int32)
    return WidthMap(index, fill=Fill(size - group.size, consumed="fresh"))


msg = Method("msg", _masked_check, _masked_map, "arXiv:2305.02869", exact=False)
