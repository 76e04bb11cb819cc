r"""Sums of task vectors that depend on how many members change an entry.

Member i is active where \(|d_i| > \epsilon\); \(c\) is the number of active members of an entry.
"""

from collections.abc import Mapping
from typing import Any

from wslax.merge.method import Across, Leaf, Measure, Member, Method, Param, Total, no_rounds


def _active(xp: Any, m: Member) -> Any:
    return xp.abs(m.delta) > m.params["epsilon"]


def _count(leaf: Leaf) -> Any:
    """The number of active members, entry by entry."""
    return leaf.sum(lambda m: _active(leaf.xp, m).astype(m.x.dtype))


def _active_delta(xp: Any, m: Member) -> Any:
    return xp.where(_active(xp, m), m.delta, xp.zeros_like(m.delta))


def _ram(leaf: Leaf) -> Any:
    xp = leaf.xp
    total = leaf.sum(lambda m: _active_delta(xp, m))
    return leaf.base + total / xp.maximum(_count(leaf), 1)


def _entries(xp: Any, m: Member) -> tuple[Any, Any]:
    """The member's active entries, and those among them where it is alone."""
    active = _active(xp, m)
    return active, active & (m.measured["count"] == 1)


def _overlap_rounds(params: Mapping[str, Any]) -> Mapping[str, Measure]:
    return {"count": Across(_count), "entries": Total(_entries)}


def _ramplus(leaf: Leaf) -> Any:
    xp, count = leaf.xp, leaf.measured["count"]
    r, alpha = leaf.params["r"], leaf.params["alpha"]

    def scaled(m: Member) -> tuple[Any, Any]:
        active, alone = (n.astype(m.x.dtype) for n in m.measured["entries"])
        overlap = (active - alone) / xp.maximum(alone, m.params["epsilon"])
        delta = _active_delta(xp, m)
        return delta, (1 + r * xp.clip(overlap, 0, alpha)) * delta

    plain, raised = leaf.sum(scaled)
    return leaf.base + xp.where(count == 1, raised, plain / xp.maximum(count, 1))


_EPSILON = Param("epsilon", "change from which a member counts as active", 1e-5, low=0)

ram = Method(
    name="ram",
    about="Base plus, entry by entry, the mean of the task vectors of the members active there.",
    source="arXiv:2601.13572",
    formula=r"b + \tfrac{1}{c} \sum_i [\lvert d_i\rvert > \epsilon]\, d_i",
    combine=_ram,
    rounds=no_rounds,
    params=(_EPSILON,),
    base="required",
)

ramplus_tl = Method(
    name="ramplus_tl",
    about="As ram, with entries that one member alone changes raised by its overlap with others.",
    source="arXiv:2601.13572",
    formula=r"\mathrm{ram},\; \text{entries of one member} \times "
    r"(1 + r\, \mathrm{clip}(s_i / a_i, 0, \alpha))",
    combine=_ramplus,
    rounds=_overlap_rounds,
    params=(
        Param("r", "factor of the raise", 0.1),
        Param("alpha", "greatest overlap that counts", 0.2, low=0),
        _EPSILON,
    ),
    base="required",
)
