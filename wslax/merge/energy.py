"""Task vectors selected where members differ, weighted by energy, elected by sign."""

from collections.abc import Mapping
from typing import Any

from wslax.merge.method import Across, Kth, Leaf, Measure, Member, Method, Param, Total


def _variance(leaf: Leaf) -> Any:
    """N times the variance across members, entry by entry; exactly 0 where all agree.

    Differences to the first member are at most a few times the spread: squares cancel little.
    """
    xp = leaf.xp
    first = leaf.sum(lambda m: xp.where(m.index == 0, m.x, xp.zeros_like(m.x)))

    def powers(m: Member) -> tuple[Any, Any]:
        difference = m.x - first
        return difference, difference * difference

    total, squares = leaf.sum(powers)
    return xp.maximum(squares - total * total / leaf.count, 0)


def _selected_count(xp: Any, m: Member, size: Any) -> tuple[Any]:
    """`int(select_topk * size)` in float32, as mergekit; all where `select_topk` is 1."""
    share = xp.float32(m.params["select_topk"])
    count = xp.floor(share * xp.float32(size)).astype("int32")
    return (xp.where(share < 1, count, size + 1),)


def _selected(of: Member | Leaf) -> Any:
    (least,) = of.measured["least"]
    return of.measured["variance"] >= least


def _energy(xp: Any, m: Member) -> tuple[Any]:
    square = m.delta * m.delta
    return (xp.where(_selected(m), square, xp.zeros_like(square)),)


def _rounds(params: Mapping[str, Any]) -> Mapping[str, Measure]:
    return {
        "variance": Across(_variance),
        "least": Kth(
            lambda xp, m: m.measured["variance"], _selected_count, per="leaf", positive=True
        ),
        "energy": Total(_energy),
    }


def _sce(leaf: Leaf) -> Any:
    xp = leaf.xp
    whole = leaf.sum(lambda m: m.measured["energy"][0]) / leaf.size
    faint = whole < 1e-6
    safe = xp.where(faint, xp.ones_like(whole), whole)
    # What is selected is the same for all members, so the others may take part in the election.
    positive = leaf.sum(lambda m: m.delta) >= 0

    def agreeing(m: Member) -> tuple[Any, Any]:
        share = m.measured["energy"][0] / leaf.size / safe
        share = xp.where(faint, xp.ones_like(share) / leaf.count, share).astype(m.x.dtype)
        agrees = xp.where(positive, m.delta > 0, m.delta < 0)
        zero = xp.zeros_like(m.delta)
        return xp.where(agrees, share * m.delta, zero), xp.where(agrees, share + zero, zero)

    total, share = leaf.sum(agreeing)
    mean = total / xp.maximum(share, 1e-6)
    return leaf.base + xp.where(_selected(leaf), mean, xp.zeros_like(mean))


sce = Method(
    name="sce",
    about="Task vectors where members differ most, weighted by energy, averaged where signs agree.",
    source="Wan et al. 2024, FuseChat, arXiv:2408.07990",
    formula=r"b + \frac{\sum_i m_i v_i d_i}{\sum_i m_i v_i}, \; v_i = \overline{d_i^2}",
    combine=_sce,
    rounds=_rounds,
    params=(Param("select_topk", "share of entries selected by variance", 1.0, low=0, high=1),),
    base="required",
)
