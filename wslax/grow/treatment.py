"""What a width map means at one place of a group: factors of the weight and of its gradient."""

from typing import NamedTuple

import numpy as np

from wslax.grow import reasons
from wslax.grow.method import WidthMap
from wslax.symmetry.types import Group, Site
from wslax.typing import Array


class Treatment(NamedTuple):
    """What happens along one axis of one leaf.

    Attributes:
      scale: `[m]`: the factor of the weight of each unit that comes from an old one; None for ones.
      slope: `[m]`: the factor of the gradient there.
      word: what the other units get, one of `Fill`'s words; None where there are none.
      consumed: whether the leaf is consumed there, and nothing else.
    """

    scale: Array | None
    slope: Array | None
    word: str | None
    consumed: bool = False


def _times(*factors: Array | None) -> Array | None:
    out = None
    for factor in factors:
        if factor is not None:
            out = factor if out is None else out * factor
    return out


def side(group: Group, site: Site) -> int:
    """The exponent of a site in the scale symmetry of two sides that meet in a product."""
    return group.scales[0][group.sites.index(site)]


def _at_product(group: Group, site: Site, width_map: WidthMap, size: int) -> Treatment:
    """Both sides take the root of the share; what does not scale with a side is copied."""
    a, ratio = width_map.in_scale, reasons.ratio(group, size)
    power = abs(side(group, site))
    slope = None if a is None else a ** (2 - power) / ratio
    fill = width_map.fill
    if fill is None:
        word = None
    elif not power:
        word = "mean"
    elif side(group, site) < 0:
        word = width_map.opposite
    else:
        word = fill.produced if site.role == "produced" else fill.elementwise
    return Treatment(a if power else None, slope, word)


def treated(group: Group, sites: tuple[Site, ...], width_map: WidthMap, size: int) -> Treatment:
    """What a map means for the sites at one place.

    Args:
      group: that they belong to.
      sites: that differ in their roles alone.
      width_map: of the group.
      size: the group's new number of units.

    Returns:
      The treatment.
    """
    site, roles = sites[0], {site.role for site in sites}
    if reasons.is_product(group):
        return _at_product(group, site, width_map, size)
    b, fill = width_map.out_scale, width_map.fill
    consumed = fill.consumed if fill else None
    produced = fill.produced if fill else None
    if roles == {"consumed"}:
        relieved = reasons.is_relieved(group, site)
        return Treatment(None if relieved else b, b if relieved else None, consumed, True)
    if "consumed" in roles or "produced" in roles:
        return Treatment(None, b, produced)
    is_gain = any(site.name in average.gains for average in group.averages)
    gain = np.full(len(width_map.index), width_map.gain) if is_gain else None
    lever = site.name in reasons.levers(group)
    word = fill.elementwise if fill else None
    if word is not None and gain is not None:
        word = "mean"
    elif word is not None and lever:
        word = "zero"
    back = None if gain is None else 1 / gain
    return Treatment(_times(b if lever else None, gain), _times(None if lever else b, back), word)
