"""`masked`: units that come in smoothly, by a mask that rises."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.grow import reasons
from wslax.symmetry import layout
from wslax.symmetry.along import multiplied, space
from wslax.symmetry.find import check_id, locate
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Params


def _masks(group: Group, site: Site) -> bool:
    """Whether the mask goes here: where new units are read, or scaled in place of a tied leaf."""
    if site.role == "consumed":
        is_tied = layout.place(site) in reasons.tied(group)
        return not is_tied and not reasons.is_relieved(group, site)
    return site.name in reasons.levers(group)


def masked(
    params: Params, groups: Groups, sizes: Mapping[int, int], level: Array | float
) -> Params:
    r"""The parameters with what new units put out multiplied by a mask between 0 and 1.

    Masked structural growth (Yao et al., arXiv:2305.02869): after
    `widen(..., method="msg")` the grown model is trained as `apply(masked(params, ...), x)` with
    \(m\) rising from 0, where it computes what the old one did, to 1, where the mask is gone:
    \(w'_j = m\, w_j\) where new units \(j \ge n\) are consumed. Multiplying what reads a unit is
    multiplying what it puts out.

    Args:
      params: of the wide model.
      groups: of the wide model, `edit.groups`.
      sizes: group id to \(n\), its number of units before; static.
      level: \(m\), a scalar, or `[new units]` of one group; may be traced, as from
        `optax.linear_schedule(0, 1, steps)(step)`.

    Returns:
      The tree; gradients pass to the unmasked weights.

    Raises:
      WeightSpaceError: for an unknown or frozen group, a size that is not below the present one,
        or a group whose units are averaged (norms need statistics weighted by the mask).

    Example:
        >>> import numpy as np
        >>> from wslax import grow, symmetry
        >>> params = {"a": np.ones((2, 3)), "out": np.ones((3, 1))}
        >>> groups = symmetry.Groups.from_sites(
        ...     params, [[("a", 1, "produced"), ("out", 0, "consumed")]])
        >>> edit = grow.widen(groups, {0: 4}, method="msg", key=0)
        >>> wide = edit.apply(params)
        >>> grow.masked(wide, edit.groups, {0: 3}, 0.0)["out"][:, 0].tolist()
        [1.0, 1.0, 1.0, 0.0]
    """
    for id, size in sizes.items():
        group = check_id(groups, id)
        if not 0 < size < group.size:
            raise WeightSpaceError(
                f"group {id}: has {group.size} units, expected fewer before growth, got {size!r}"
            )
        reasons.check_consumers(group, "a mask")
        if reasons.is_averaged(group) or reasons.is_product(group):
            raise reasons.refuse(
                group, "a mask",
                "units are averaged or contracted with each other, so no weight that reads them "
                "could carry it; use lemon or zero",
            )  # fmt: skip
    found = locate(params, groups)

    def mask(name: str, leaf: Any) -> Any:
        for id, size in sizes.items():
            group = groups.all[id]
            for site in group.sites:
                if found.get(name) != site.name or not _masks(group, site):
                    continue
                xp = space(leaf, level)
                new = xp.broadcast_to(xp.asarray(level, xp.float32), (group.size - size,))
                values = xp.concatenate([np.ones(size, np.float32), new])
                out = multiplied(leaf, site, values)
                leaf = out if xp is np else tree.cast_like(out, leaf)
        return leaf

    return tree.map_named(mask, params)
