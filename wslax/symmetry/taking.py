"""An edit that keeps some units of groups: smaller weights, statistics and moments."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from wslax import edit, tree
from wslax.symmetry import layout
from wslax.symmetry.along import multiplied
from wslax.symmetry.find import locate
from wslax.symmetry.gather import gather
from wslax.symmetry.states.moves import Moves
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Params


class Step(NamedTuple):
    """One axis of one leaf gets shorter: groups and group before, sites there, units, factor."""

    groups: Groups
    group: Group
    sites: tuple[Site, ...]
    index: Array
    factor: float


def _taken(leaf: Array, step: Step, weight: int) -> Array:
    site = step.sites[0]
    out = gather(step.groups, step.group, site, leaf, step.index)
    after = dataclasses.replace(site, size=step.index.shape[-1])
    if weight and step.factor != 1:
        out = multiplied(out, after, np.full(after.size, step.factor**weight))
    return out if isinstance(out, np.ndarray) else tree.cast_like(out, leaf)


def _carry(
    params: Params,
    *,
    groups: Groups,
    steps: Mapping[str, list[Step]],
    weight: int = 0,
    gradient: int = 0,
    old_only: bool = False,
) -> Params:
    """`Moves.carry`: all units are old ones, and gradients are taken to stay as they are."""
    found = locate(params, groups)

    def change(name: str, leaf: Any) -> Any:
        if hasattr(leaf, "shape"):
            for step in steps.get(found.get(name, ""), ()):
                leaf = _taken(leaf, step, weight)
        return leaf

    return tree.map_named(change, params)


def keeping(
    groups: Groups, indices: Mapping[int, Array], factors: Mapping[int, float] | None = None
) -> edit.Edit:
    """The edit whose model has the given units of groups, in the given order.

    Args:
      groups: of the large model.
      indices: group id to integers `[count]`, or `[*sizes of per, count]`, each for the model that
        the ones before it leave. May be traced; not checked.
      factors: group id to what weights that only consume the group are multiplied by; default 1.

    Returns:
      The edit. Moments of the units that stay are kept.

    Example:
        >>> import numpy as np
        >>> params = {"w": np.array([[1.0, 2.0, 3.0]])}
        >>> groups = Groups.from_sites(params, [[("w", 1, "produced")]])
        >>> keeping(groups, {0: np.array([2, 0])}).apply(params)["w"].tolist()
        [[3.0, 1.0]]
    """
    steps: dict[str, list[Step]] = {}
    now = groups
    for id, index in indices.items():
        changes, after = layout.resized(now, id, index.shape[-1])
        for before, sites in changes:
            consumed = all(site.role == "consumed" for site in sites)
            factor = (factors or {}).get(id, 1.0) if consumed else 1.0
            step = Step(before, before.all[id], sites, index, factor)
            steps.setdefault(sites[0].name, []).append(step)
        now = after
    carry = functools.partial(_carry, groups=groups, steps=steps)

    def optimizer_state(state: Any, policy: str = "exact") -> Any:
        from wslax.symmetry.states.moving import move_state

        return move_state(state, Moves(frozenset(steps), carry), policy)

    return edit.from_map(functools.partial(carry, weight=1), optimizer_state, now)
