"""Weighted means, and the copy: methods that measure nothing."""

from typing import Any

from wslax.merge.method import Leaf, Method, Param, no_rounds

WEIGHT = Param("coef", "weight of the member", 1.0, per="member", yaml="weight")


def nonzero(xp: Any, divisor: Any) -> Any:
    """`divisor`, or 1 where it is (nearly) zero: |divisor| < 1e-8, mergekit's guard.

    Example:
        >>> import numpy as np
        >>> float(nonzero(np, 0.0)), float(nonzero(np, 0.5))
        (1.0, 0.5)
    """
    return xp.where(xp.abs(divisor) < 1e-8, xp.ones_like(divisor), divisor)


def _linear(leaf: Leaf) -> Any:
    total = leaf.sum(lambda m: m.params["coef"] * m.x)
    if not leaf.params["normalize"]:
        return total
    return total / leaf.sum(lambda m: m.params["coef"])


def _passthrough(leaf: Leaf) -> Any:
    return leaf.sum(lambda m: m.params["scale"] * m.x)


linear = Method(
    name="linear",
    about="Weighted mean of the members.",
    source="Wortsman et al. 2022, Model soups, arXiv:2203.05482",
    formula=r"\sum_i w_i x_i \,/ \sum_i w_i",
    combine=_linear,
    rounds=no_rounds,
    params=(WEIGHT, Param("normalize", "divide by the sum of the weights", True, kind=bool)),
    base="member",
)

passthrough = Method(
    name="passthrough",
    about="One member, scaled.",
    source="mergekit 0.1.5",
    formula=r"s\, x",
    combine=_passthrough,
    rounds=no_rounds,
    params=(Param("scale", "factor", 1.0, per="member"),),
    base="member",
    most=1,
)
