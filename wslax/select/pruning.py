"""`prune`: an edit that removes the units of lowest score, so that the model is smaller."""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wslax.edit import Edit
from wslax.errors import WeightSpaceError
from wslax.select.shares import joint, rounded
from wslax.symmetry.find import check_id
from wslax.symmetry.ranking import best, checked
from wslax.symmetry.taking import keeping
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array


def _check(density: float | None, sizes: Any, scope: str, round_to: int, least: int) -> None:
    if (density is None) == (sizes is None):
        raise WeightSpaceError("give either density= or sizes={group id: units to keep}")
    if density is not None and not 0 < density <= 1:
        raise WeightSpaceError(f"density: expected above 0 and at most 1, got {density}")
    if scope not in ("group", "model"):
        raise WeightSpaceError(f"scope {scope!r} is unknown; give 'group' or 'model'")
    if scope == "model" and sizes is not None:
        raise WeightSpaceError("scope='model' finds the sizes; give it a density=")
    for name, value in (("round_to", round_to), ("least", least)):
        if value < 1:
            raise WeightSpaceError(f"{name}: expected at least 1, got {value}")


def _free(groups: Groups, scores: Mapping[int, Array]) -> dict[int, Array]:
    """The scores of free groups; a warning says which others keep all units."""
    free = {}
    for id in scores:
        if id in range(len(groups.all)) and (why := groups.all[id].frozen_by) is not None:
            site = groups.all[id].sites[0]
            warnings.warn(
                f"group {id} ({site}) keeps all units: it is frozen by {why}", stacklevel=4
            )
        else:
            free[id] = checked(groups, check_id(groups, id), scores[id])
    return free


def _sizes(groups: Groups, sizes: Mapping[int, int], scores: Mapping[int, Array]) -> dict[int, int]:
    for id, size in sizes.items():
        group = check_id(groups, id)
        if id not in scores:
            raise WeightSpaceError(f"group {id} ({group.sites[0]}): scores has no entry for it")
        if not 1 <= size <= group.size:
            raise WeightSpaceError(
                f"group {id} ({group.sites[0]}): has {group.size} units, expected 1 to "
                f"{group.size} to keep, got {size}"
            )
    return dict(sizes)


def _remaining(groups: Groups, group: Group, scores: Array, kept: Mapping[int, Array]) -> Array:
    """Scores at the outer units that are kept."""
    if scores.ndim == 1:
        return scores
    xp: Any = jnp if isinstance(scores, jax.core.Tracer) else np
    for axis, id in enumerate(group.per):
        if id not in kept:
            continue
        index, outer = kept[id], groups.all[id].per
        if index.ndim > 1 and not set(outer) <= set(group.per):
            raise WeightSpaceError(
                f"group {group.id} ({group.sites[0]}): lies in group {id}, of which other units "
                f"are kept at each unit of the groups {list(outer)}; prune one after the other"
            )
        at = [group.per.index(i) for i in outer] if index.ndim > 1 else []
        spread = np.argsort([*at, axis])  # the index's axes in the order of the scores'
        lengths = dict(zip([*at, axis], index.shape, strict=True))
        index = index.transpose(spread).reshape([lengths.get(a, 1) for a in range(scores.ndim)])
        scores = xp.take_along_axis(scores, index, axis)
    return scores


def units(
    groups: Groups,
    scores: Mapping[int, Array],
    *,
    density: float | None = None,
    sizes: Mapping[int, int] | None = None,
    scope: Literal["group", "model"] = "group",
    round_to: int = 1,
    least: int = 1,
) -> dict[int, Array]:
    """Which units `prune` keeps: those of the highest scores, of equal ones the first.

    Args:
      groups: as in `prune`.
      scores: as in `prune`.
      density: as in `prune`.
      sizes: as in `prune`.
      scope: as in `prune`.
      round_to: as in `prune`.
      least: as in `prune`.

    Returns:
      Group id to integers `[kept]`, or `[*kept units of per, kept]`, in their old order.

    Raises:
      WeightSpaceError: as `prune`.

    Example:
        >>> import numpy as np
        >>> from wslax import symmetry
        >>> sites = [("in", 1, "produced"), ("out", 0, "consumed")]
        >>> params = {"in": np.ones((2, 4)), "out": np.ones((4, 2))}
        >>> groups = symmetry.Groups.from_sites(params, [sites])
        >>> units(groups, {0: np.array([1.0, 4.0, 3.0, 2.0])}, density=0.5)[0].tolist()
        [1, 2]
    """
    _check(density, sizes, scope, round_to, least)
    if sizes is not None:
        wanted = _sizes(groups, sizes, scores)
        free = {id: checked(groups, groups.all[id], scores[id]) for id in wanted}
    else:
        free = _free(groups, scores)
        if density is None or scope == "group":
            each = {id: round((density or 1) * groups.all[id].size) for id in free}
        else:
            each = joint(groups, free, density, least)
        full = {id: groups.all[id].size for id in free}
        wanted = {id: rounded(each[id], full[id], round_to, least) for id in free}
    kept: dict[int, Array] = {}
    for id in sorted(free, key=lambda id: len(groups.all[id].per)):  # heads before their widths
        kept[id] = best(_remaining(groups, groups.all[id], free[id], kept), wanted[id])
    return kept


def prune(
    groups: Groups,
    scores: Mapping[int, Array],
    *,
    density: float | None = None,
    sizes: Mapping[int, int] | None = None,
    scope: Literal["group", "model"] = "group",
    round_to: int = 1,
    least: int = 1,
) -> Edit:
    """Remove the units of lowest score: the leaves get smaller, and with them memory and time.

    A unit goes with all that is its own at every place its dimension runs through: rows and
    columns of weights, biases, gains, running statistics, moments of the optimizer. Heads, widths
    of heads, channels, hidden units and residual streams are groups alike. The function stays if
    what is removed gave nothing (outgoing weights of zero) and nothing else is computed over the
    units (`Group.reductions`): a norm or the scaled product of queries and keys sees a smaller
    width. Widths that a model does not read from its parameters, such as the number of heads
    of a Flax module, are yours to set: `symmetry.sizes(edit.apply(params), edit.groups)`.

    Weights on the host (`jax.device_get`) are sliced there at once; JAX arrays compile a slice for
    each shape, or one program under `jax.jit(edit.apply)`.

    Args:
      groups: of the model.
      scores: group id to `[units]`, or `[*sizes of per, units]` for a choice of its own at each
        outer unit (each head keeps its own width); from `scores.along` or `scores.fidelity`. Groups
        without an entry keep all units, and so do frozen ones, with a warning. May be traced with
        `scope="group"`.
      density: share of the units to keep, above 0 and at most 1.
      sizes: group id to the number of units to keep, instead of `density`.
      scope: `"group"`: the same share of each group; `"model"`: all groups in one ranking, for
        which scores must be comparable, as `scores.along` makes them. A unit counts as many times
        as the group has outer units, and the k-th best of those are ranked by their mean.
      round_to: numbers of units are rounded to the nearest multiple, at least one (or all units of
        a group with fewer); 8 or more suits matrix units.
      least: the least number of units that a group keeps.

    Returns:
      An `Edit`. `apply` takes the parameters, one collection of them, variables with statistics, or
      copies such as an EMA; `optimizer_state` keeps the moments of the units that stay; `groups`
      are the small model's.

    Raises:
      WeightSpaceError: naming group and leaf, for an unknown group, a frozen one among `sizes`,
        scores of another shape or not numbers, numbers out of range, or groups that share an axis
        in a way that none can shrink alone.

    References:
      Fang et al. 2023, DepGraph, arXiv:2301.12900; Li et al. 2017, arXiv:1608.08710.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
        >>> groups = ws.symmetry.infer(apply, params, jnp.ones((1, 3)))
        >>> squares = jax.tree.map(jnp.square, params)
        >>> edit = ws.select.prune(groups, ws.select.scores.along(groups, squares), density=0.5)
        >>> jax.tree.map(jnp.shape, edit.apply(params))
        {'in': (3, 4), 'out': (4, 2)}
    """
    kept = units(
        groups,
        scores,
        density=density,
        sizes=sizes,
        scope=scope,
        round_to=round_to,
        least=least,
    )
    try:
        return keeping(groups, kept)
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{error}; leave its group out of the scores") from error
