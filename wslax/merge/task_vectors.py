r"""Sums of task vectors \(d_i = x_i - b\), whole or sparsified, with or without an election.

With \(\hat d_i\) the sparsified task vector (times \(\sum|d_i| / \sum|\hat d_i|\) under `rescale`)
and \(D_i = w_i \hat d_i\):

- sums: \(y = b + \lambda \sum_i D_i\), divided by \(\sum_i w_i\) under `normalize` (by 1 where that
  is below 1e-8);
- elections: \(s = \mathrm{sign}\sum_i D_i\) (zero counts as plus),
  \(y = b + \lambda \sum_{i: \mathrm{sign} D_i = s} D_i\), divided by the \(w_i\) that took part.

Thresholds and sums are over one leaf, as in mergekit 0.1.5. The papers differ: TIES trims over the
whole model and averages the elected without weights, DARE rescales by 1 / density, DELLA by one
over each entry's probability.
"""

from collections.abc import Callable, Mapping
from typing import Any

from wslax.merge import sparsify
from wslax.merge.averages import WEIGHT, nonzero
from wslax.merge.method import Leaf, Measure, Member, Method, Param, Total
from wslax.merge.sparsify import Sparsifier


def _rounds(sparsifier: Sparsifier) -> Callable[[Mapping[str, Any]], Mapping[str, Measure]]:
    def mass(xp: Any, m: Member) -> tuple[Any, Any]:
        size = xp.abs(m.delta)
        return size, xp.where(sparsifier.keep(xp, m), size, xp.zeros_like(size))

    def rounds(params: Mapping[str, Any]) -> Mapping[str, Measure]:
        rescale = {"mass": Total(mass)} if params.get("rescale") else {}
        return {**sparsifier.rounds, **rescale}

    return rounds


def _weighted(leaf: Leaf, sparsifier: Sparsifier, m: Member) -> Any:
    """The sparsified, rescaled, weighted task vector of one member."""
    xp, delta, weight = leaf.xp, m.delta, m.params["coef"]
    if leaf.params.get("rescale"):
        whole, kept = m.measured["mass"]
        tiny = (whole < 1e-7) | (kept < 1e-7)
        safe = xp.where(tiny, xp.ones_like(kept), kept)
        weight = weight * xp.where(tiny, xp.ones_like(kept), whole / safe).astype(delta.dtype)
    return xp.where(sparsifier.keep(xp, m), weight * delta, xp.zeros_like(delta))


def _sum(sparsifier: Sparsifier) -> Callable[[Leaf], Any]:
    def combine(leaf: Leaf) -> Any:
        total = leaf.sum(lambda m: _weighted(leaf, sparsifier, m))
        if leaf.params["normalize"]:
            total = total / nonzero(leaf.xp, leaf.sum(lambda m: m.params["coef"]))
        return leaf.base + leaf.params["lam"] * total

    return combine


def _elect(sparsifier: Sparsifier) -> Callable[[Leaf], Any]:
    def combine(leaf: Leaf) -> Any:
        xp = leaf.xp
        positive = leaf.sum(lambda m: _weighted(leaf, sparsifier, m)) >= 0

        def agreeing(m: Member) -> tuple[Any, Any]:
            vector = _weighted(leaf, sparsifier, m)
            agrees = xp.where(positive, vector > 0, vector < 0)
            zero = xp.zeros_like(vector)
            return xp.where(agrees, vector, zero), xp.where(agrees, m.params["coef"] + zero, zero)

        total, weight = leaf.sum(agreeing)
        if leaf.params["normalize"]:
            total = total / xp.where(weight == 0, xp.ones_like(weight), weight)
        return leaf.base + leaf.params["lam"] * total

    return combine


def _method(
    name: str,
    about: str,
    source: str,
    sparsifier: Sparsifier,
    kept: str,
    *,
    elect: bool = False,
    normalize: bool = False,
    rescale: bool | None = None,
) -> Method:
    """A method; `kept` says what stays of a task vector, `rescale` is its default or None."""
    params = (
        WEIGHT,
        *sparsifier.params,
        Param("lam", "factor of the merged task vector", 1.0, yaml="lambda"),
        Param("normalize", "divide by the sum of the weights that took part", normalize, kind=bool),
    )
    if rescale is not None:
        about_rescale = "restore each task vector's L1 norm after trimming"
        params = (*params, Param("rescale", about_rescale, rescale, kind=bool))
    return Method(
        name=name,
        about=about,
        source=source,
        formula=(_SUMMED if not elect else _AVERAGED if normalize else _ELECTED) + kept,
        combine=(_elect if elect else _sum)(sparsifier),
        rounds=_rounds(sparsifier),
        params=params,
        base="required",
        random=sparsifier.random,
        scope=sparsifier.scope,
    )


_SUMMED = r"b + \lambda \sum_i w_i d'_i"
_ELECTED = r"b + \lambda \sum_{i \in A} w_i d'_i, \; A: \text{of the elected sign}"
_AVERAGED = (
    r"b + \lambda \frac{\sum_{i \in A} w_i d'_i}{\sum_{i \in A} w_i}, "
    r"\; A: \text{of the elected sign}"
)
_LARGEST = r", \; d'_i = \mathrm{top}_\rho(d_i)"
_AT_RANDOM = r", \; d'_i = c_i m_i d_i, \; m_i \sim \mathrm{Bernoulli}(\rho)"
_BAND = r", \; d'_i: \gamma \text{ largest and } 1 - \rho - \gamma \text{ smallest dropped}"
_RANKED = r", \; d'_i = c_i m_i d_i, \; P(m_i) = \rho \mp \epsilon \text{ by rank}"
_TIES = "Yadav et al. 2023, arXiv:2306.01708"
_DARE = "Yu et al. 2024, arXiv:2311.03099"
_BREADCRUMBS = "Davari and Belilovsky 2024, arXiv:2312.06795"
_DELLA = "Deep et al. 2024, arXiv:2406.11617"

task_arithmetic = _method(
    "task_arithmetic",
    "Base plus a weighted sum of task vectors.",
    "Ilharco et al. 2023, arXiv:2212.04089",
    sparsify.everything,
    "",
)

ties = _method(
    "ties",
    "Trim task vectors by magnitude, elect a sign, average those that agree.",
    _TIES,
    sparsify.largest,
    _LARGEST,
    elect=True,
    normalize=True,
    rescale=False,
)

dare_linear = _method(
    "dare_linear",
    "Drop entries of task vectors at random, rescale, sum.",
    _DARE,
    sparsify.at_random,
    _AT_RANDOM,
    rescale=True,
)

dare_ties = _method(
    "dare_ties",
    "Drop entries of task vectors at random, rescale, elect a sign, sum those that agree.",
    f"{_DARE}; {_TIES}",
    sparsify.at_random,
    _AT_RANDOM,
    elect=True,
    rescale=True,
)

breadcrumbs = _method(
    "breadcrumbs",
    "Drop the largest and the smallest entries of task vectors, sum.",
    _BREADCRUMBS,
    sparsify.band,
    _BAND,
    rescale=False,
)

breadcrumbs_ties = _method(
    "breadcrumbs_ties",
    "Drop the largest and the smallest entries, elect a sign, sum those that agree.",
    f"{_BREADCRUMBS}; {_TIES}",
    sparsify.band,
    _BAND,
    elect=True,
    rescale=False,
)

della = _method(
    "della",
    "Drop entries at random, small ones more often, rescale, elect a sign, average what agrees.",
    f"{_DELLA}; {_TIES}",
    sparsify.ranked,
    _RANKED,
    elect=True,
    normalize=True,
    rescale=True,
)

della_linear = _method(
    "della_linear",
    "Drop entries of task vectors at random, small ones more often, rescale, sum.",
    _DELLA,
    sparsify.ranked,
    _RANKED,
    rescale=True,
)
