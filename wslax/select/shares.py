"""How many units each group keeps."""

import math
from collections.abc import Mapping

import jax
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.symmetry.types import Groups
from wslax.typing import Array


def rounded(size: int, full: int, round_to: int, least: int) -> int:
    """A number of units as the nearest multiple, from at least one multiple to all units.

    Example:
        >>> rounded(13, 64, 8, 1), rounded(3, 64, 8, 1), rounded(3, 6, 8, 1), rounded(3, 64, 1, 5)
        (16, 8, 6, 5)
    """
    near = max(round_to, round(size / round_to) * round_to)
    low = math.ceil(least / round_to) * round_to
    return min(full, max(near, low))


def joint(
    groups: Groups, scores: Mapping[int, Array], density: float, least: int
) -> dict[int, int]:
    """The number of units of each group among the best share of all.

    Args:
      groups: the groups.
      scores: group id to scores, on the host.
      density: the share.
      least: the number that each group keeps at least.

    Raises:
      WeightSpaceError: if scores are traced.

    Example:
        >>> params = {"a": np.zeros((1, 2)), "b": np.zeros((1, 2))}
        >>> groups = Groups.from_sites(params, [[(name, 1, "produced")] for name in "ab"])
        >>> joint(groups, {0: np.array([5.0, 4.0]), 1: np.array([3.0, 1.0])}, 0.75, 1)
        {0: 2, 1: 1}
    """
    owners, values, weights = [np.empty(0, int)], [np.empty(0)], [np.empty(0, int)]
    for id, each in scores.items():
        if isinstance(each, jax.core.Tracer):
            raise WeightSpaceError(
                f"group {id}: scope='model' finds sizes from the scores, so they cannot be traced; "
                "compute the scores under jit and prune outside"
            )
        group = groups.all[id]
        curve = -np.sort(-each, -1).reshape(-1, group.size).mean(0)
        values.append(np.where(np.arange(group.size) < least, np.inf, curve))
        owners.append(np.full(group.size, id))
        outer = math.prod(groups.all[i].size for i in group.per)
        weights.append(np.full(group.size, outer))
    owner, value, weight = (np.concatenate(x) for x in (owners, values, weights))
    order = np.argsort(-value, kind="stable")
    within = np.cumsum(weight[order]) <= round(density * weight.sum())
    kept = owner[order][within]
    return {id: max(min(least, groups.all[id].size), int((kept == id).sum())) for id in scores}
