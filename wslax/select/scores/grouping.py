"""Scores of units from scores of weights, along symmetry groups."""

import functools
import operator

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.align.similarity import places
from wslax.globs import pick
from wslax.symmetry.along import owned_sums
from wslax.symmetry.find import locate
from wslax.symmetry.types import Groups
from wslax.typing import Array, Params, Where


def along(
    groups: Groups, scores: Params, *, where: Where = None, normalise: bool = True
) -> dict[int, Array]:
    r"""The score of each unit of each free group: the sum over all weights that are its own.

    \(S_u = \sum_{\text{sites}} \sum_{i \in u} s_i\), with everything that a unit consists of at
    every place its dimension runs through: incoming and outgoing weights, biases, gains of norms.
    With `normalise` it is divided by its mean over the units of the group, so that groups can be
    ranked together. Squares of weights give the group norm of DepGraph, `scores.saliency` its
    Taylor score.

    Args:
      groups: of the model.
      scores: a tree like the parameters, or like one collection of them: running statistics are
        not weights, so score `variables["params"]`.
      where: globs of the leaves that count; by default all with floats.
      normalise: whether to divide by the mean; for scores that are not negative.

    Returns:
      Group id to `[*sizes of per, units]`; for groups with a leaf that counts. Host arrays where
      the scores are host arrays. Works under `jit` and `vmap`.

    Raises:
      WeightSpaceError: if the scores do not fit the groups, or `where` picks nothing.

    References:
      Fang et al. 2023, DepGraph, arXiv:2301.12900.

    Example:
        >>> import numpy as np
        >>> from wslax import symmetry
        >>> params = {"in": np.array([[3.0, 1.0]]), "out": np.array([[2.0], [0.0]])}
        >>> sites = [("in", 1, "produced"), ("out", 0, "consumed")]
        >>> groups = symmetry.Groups.from_sites(params, [sites])
        >>> along(groups, params, normalise=False)[0].tolist()
        [5.0, 1.0]
    """
    found, leaves = locate(scores, groups), tree.named_leaves(scores)
    rows = zip(leaves.items(), pick(tuple(leaves), where), strict=True)
    counted = {
        found[name]: leaf.astype(tree.wide(leaf), copy=False)
        for (name, leaf), mine in rows
        if mine and name in found and tree.is_float(leaf)
    }
    units: dict[int, Array] = {}
    for group in groups.free:
        own = [site for site in places(group) if site.name in counted]
        if own:
            sums = [owned_sums(groups, group, site, counted[site.name]) for site in own]
            total = functools.reduce(operator.add, sums)
            units[group.id] = _over_mean(total) if normalise else total
    return units


def _over_mean(x: Array) -> Array:
    xp = np if isinstance(x, np.ndarray) else jnp
    mean = x.mean()
    return x / xp.where(mean == 0, xp.ones_like(mean), mean)
