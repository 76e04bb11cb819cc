r"""Sums of task vectors \(d_i = x_i - b\), whole, trimmed by magnitude or dropped at random.

With \(\hat d_i\) the sparsified task vector (times \(\sum|d_i| / \sum|\hat d_i|\) under `rescale`)
and \(D_i = w_i \hat d_i\):

- sums (`task_arithmetic`, `dare_linear`): \(y = b + \lambda \sum_i D_i\), divided by
  \(\sum_i w_i\) under `normalize` (by 1 where that is below 1e-8);
- election (`ties`, `dare_ties`): \(s = \mathrm{sign}\sum_i D_i\) (zero counts as plus),
  \(y = b + \lambda \sum_{i: \mathrm{sign} D_i = s} D_i\), divided by the \(w_i\) that took part.

Thresholds and sums are over one leaf, as in mergekit 0.1.5. The papers differ: TIES trims over the
whole model and averages the elected without weights, DARE rescales by 1 / density.
"""

from collections.abc import Callable, Mapping
from typing import Any

from wslax.merge.averages import WEIGHT, nonzero
from wslax.merge.method import Kth, Leaf, Measure, Member, Method, Param, Total
from wslax.random import uniform

Keep = Callable[[Any, Member], Any]


def _kept_count(xp: Any, m: Member, size: int) -> Any:
    """`max(1, int(density * size))`, exact in float64 where the density is a Python number."""
    density = m.params["density"]
    if isinstance(density, (int, float)):
        return max(1, int(density * size)) if density > 0 else 0
    count = xp.maximum(xp.floor(density * size), 1).astype("int32")
    # A leaf may be longer than the compute dtype counts exactly; density 1 still keeps all.
    count = xp.where(density >= 1, size, count)
    return xp.where(density > 0, count, 0)


def _magnitude(xp: Any, m: Member) -> Any:
    return xp.abs(m.delta)


def _keep_all(xp: Any, m: Member) -> Any:
    return xp.ones_like(m.x, dtype=bool)


def _keep_largest(xp: Any, m: Member) -> Any:
    return xp.abs(m.delta) >= m.measured["threshold"]


def _keep_random(xp: Any, m: Member) -> Any:
    return uniform(m.words("keep")) < xp.float32(m.params["density"])


def _rounds(keep: Keep) -> Callable[[Mapping[str, Any]], Mapping[str, Measure]]:
    def mass(xp: Any, m: Member) -> tuple[Any, Any]:
        size = xp.abs(m.delta)
        return size, xp.where(keep(xp, m), size, xp.zeros_like(size))

    def rounds(params: Mapping[str, Any]) -> Mapping[str, Measure]:
        found: dict[str, Measure] = {}
        if keep is _keep_largest:
            found["threshold"] = Kth(_magnitude, _kept_count)
        if params.get("rescale"):
            found["mass"] = Total(mass)
        return found

    return rounds


def _weighted(leaf: Leaf, keep: Keep, m: Member) -> Any:
    """The sparsified, rescaled, weighted task vector of one member."""
    xp, delta, weight = leaf.xp, m.delta, m.params["coef"]
    if leaf.params.get("rescale"):
        whole, kept = m.measured["mass"]
        tiny = (whole < 1e-7) | (kept < 1e-7)
        safe = xp.where(tiny, xp.ones_like(kept), kept)
        weight = weight * xp.where(tiny, xp.ones_like(kept), whole / safe).astype(delta.dtype)
    return xp.where(keep(xp, m), weight * delta, xp.zeros_like(delta))


def _sum(keep: Keep) -> Callable[[Leaf], Any]:
    def combine(leaf: Leaf) -> Any:
        total = leaf.sum(lambda m: _weighted(leaf, keep, m))
        if leaf.params["normalize"]:
            total = total / nonzero(leaf.xp, leaf.sum(lambda m: m.params["coef"]))
        return leaf.base + leaf.params["lam"] * total

    return combine


def _elect(keep: Keep) -> Callable[[Leaf], Any]:
    def combine(leaf: Leaf) -> Any:
        xp = leaf.xp
        positive = leaf.sum(lambda m: _weighted(leaf, keep, m)) >= 0

        def agreeing(m: Member) -> tuple[Any, Any]:
            vector = _weighted(leaf, keep, m)
            agrees = xp.where(positive, vector > 0, vector < 0)
            zero = xp.zeros_like(vector)
            return xp.where(agrees, vector, zero), xp.where(agrees, m.params["coef"] + zero, zero)

        total, weight = leaf.sum(agreeing)
        if leaf.params["normalize"]:
            total = total / xp.where(weight == 0, xp.ones_like(weight), weight)
        return leaf.base + leaf.params["lam"] * total

    return combine


def _params(normalize: bool, rescale: bool) -> tuple[Param, ...]:
    return (
        WEIGHT,
        Param(
            "density", "share of each task vector that is kept", 1.0, per="member", low=0, high=1
        ),
        Param("lam", "factor of the merged task vector", 1.0, yaml="lambda"),
        Param("normalize", "divide by the sum of the weights that took part", normalize, kind=bool),
        Param("rescale", "restore each task vector's L1 norm after trimming", rescale, kind=bool),
    )


task_arithmetic = Method(
    name="task_arithmetic",
    about="Base plus a weighted sum of task vectors.",
    source="Ilharco et al. 2023, arXiv:2212.04089",
    combine=_sum(_keep_all),
    rounds=_rounds(_keep_all),
    params=tuple(p for p in _params(False, False) if p.name not in ("density", "rescale")),
    base="required",
)

ties = Method(
    name="ties",
    about="Trim task vectors by magnitude, elect a sign, average those that agree.",
    source="Yadav et al. 2023, arXiv:2306.01708",
    combine=_elect(_keep_largest),
    rounds=_rounds(_keep_largest),
    params=_params(normalize=True, rescale=False),
    base="required",
)

dare_linear = Method(
    name="dare_linear",
    about="Drop entries of task vectors at random, rescale, sum.",
    source="Yu et al. 2024, arXiv:2311.03099",
    combine=_sum(_keep_random),
    rounds=_rounds(_keep_random),
    params=_params(normalize=False, rescale=True),
    base="required",
    random=True,
)

dare_ties = Method(
    name="dare_ties",
    about="Drop entries of task vectors at random, rescale, elect a sign, sum those that agree.",
    source="Yu et al. 2024, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708",
    combine=_elect(_keep_random),
    rounds=_rounds(_keep_random),
    params=_params(normalize=False, rescale=True),
    base="required",
    random=True,
)
