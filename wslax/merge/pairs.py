"""One member against its base, entry by entry: small changes, or changes that matter."""

from collections.abc import Mapping
from typing import Any

from wslax.merge.method import Each, Kth, Leaf, Measure, Member, Method, Param, no_rounds, over_rows


def _nearswap(leaf: Leaf) -> Any:
    xp, t = leaf.xp, leaf.params["t"]

    def moved(m: Member) -> Any:
        share = xp.clip(t / xp.maximum(xp.abs(m.delta), 1e-6), 0, 1)
        return share * m.x + (1 - share) * m.base

    return leaf.sum(moved)


def _probabilities(xp: Any, x: Any) -> Any:
    """Softmax along the row, plus 1e-8."""
    powers = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True) + 1e-8


def _divergence(xp: Any, m: Member) -> Any:
    r"""\(KL(p \| q)\) of each row, for the softmaxes p and q of member and base."""
    p, q = _probabilities(xp, m.x), _probabilities(xp, m.base)
    found = xp.sum(p * xp.log(p / q), axis=-1, keepdims=True)
    # Rounding can make it negative where the rows are nearly equal.
    return xp.maximum(found, 0)


def _importance(xp: Any, m: Member) -> Any:
    return xp.abs(m.delta) * m.measured["divergence"]


def _quartiles(xp: Any, m: Member, size: int) -> tuple[int, int, int]:
    """The ranks of the lower quartile, the median and the upper quartile."""
    return size - (size - 1) // 4, size - (size - 1) // 2, size - 3 * (size - 1) // 4


def _arcee_fusion(leaf: Leaf) -> Any:
    xp = leaf.xp

    def fused(m: Member) -> Any:
        lower, median, upper = m.measured["quartiles"]
        chosen = _importance(xp, m) >= median + 1.5 * (upper - lower)
        return m.base + xp.where(chosen, m.delta, xp.zeros_like(m.delta))

    return leaf.sum(fused)


def _fusion_rounds(params: Mapping[str, Any]) -> Mapping[str, Measure]:
    return {"divergence": Each(_divergence), "quartiles": Kth(_importance, _quartiles)}


nearswap = Method(
    name="nearswap",
    about="The base, moved towards the member where the two are near.",
    source="alchemonaut 2024, QuartetAnemoi-70B; mergekit 0.1.5",
    formula=r"a x + (1 - a) b, \; a = \min(1, t / \lvert x - b\rvert)",
    combine=_nearswap,
    rounds=no_rounds,
    params=(Param("t", "difference up to which the member's weight is taken", None),),
    base="required",
    most=1,
)

arcee_fusion = Method(
    name="arcee_fusion",
    about="The base, with the member's weights where the change matters most.",
    source="Arcee AI 2024; mergekit 0.1.5",
    formula=r"b + (x - b)\,[S \ge \tilde S + 1.5\, (S_{3/4} - S_{1/4})]",
    combine=_arcee_fusion,
    rounds=_fusion_rounds,
    params=(),
    base="required",
    most=1,
    scope=over_rows,
)
