"""Carrying a tree through width maps: weights, moments and zeros by the same gathers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.grow.method import WidthMap
from wslax.symmetry import layout
from wslax.symmetry.find import locate
from wslax.symmetry.gather import gather
from wslax.symmetry.types import Groups, Site
from wslax.typing import Array, Key, Params


class Change(NamedTuple):
    """One axis of one leaf gets longer: the groups that hold before it, the sites, the map."""

    groups: Groups
    sites: tuple[Site, ...]
    width_map: WidthMap


class Noise(NamedTuple):
    """Relative noise on the incoming weights of new units."""

    key: Key
    scale: float


class Plan(NamedTuple):
    """All changes in order, and the groups that the first one finds."""

    groups: Groups
    changes: tuple[Change, ...]
    noise: Noise | None


def _times(leaf: Array, factor: Any, axis: int) -> Array:
    """A leaf times a vector along one axis, half types by way of float32."""
    wide = tree.wide(leaf)
    shape = [-1 if a == axis else 1 for a in range(leaf.ndim)]
    return (leaf.astype(wide) * factor.reshape(shape).astype(wide)).astype(leaf.dtype)


def _noisy(leaf: Array, site: Site, old: int, name: str, noise: Noise) -> Array:
    new = layout.units(site, leaf.shape[site.axis]) >= old
    words = random.bits(noise.key, f"grow/noise/{name}", leaf.size, xp=jnp)
    factor = 1 + noise.scale * random.normal(words).reshape(leaf.shape)
    shape = [-1 if a == site.axis else 1 for a in range(leaf.ndim)]
    factor = jnp.where(new.reshape(shape), factor, np.float32(1))
    host = isinstance(leaf, np.ndarray)
    wide = tree.wide(leaf)
    factor = (np.asarray(factor) if host else factor).astype(wide)
    return (leaf.astype(wide) * factor).astype(leaf.dtype)


def _changed(leaf: Array, change: Change, power: int | None, noise: Noise | None) -> Array:
    site, width_map = change.sites[0], change.width_map
    group = next(group for group in change.groups.all if site in group.sites)
    grown = gather(change.groups, group, site, leaf, width_map.index)
    after = Site(
        site.name, site.axis, site.outer, site.start, size=len(width_map.index), inner=site.inner,
        role=site.role,
    )  # fmt: skip
    scales = width_map.in_scale, width_map.out_scale
    if (site.role == "consumed") == (power is None):
        scales = scales[::-1]
    scale = scales[0]
    if scale is not None and power != 0:
        if not tree.is_float(leaf):
            raise WeightSpaceError(
                f"{site.name}: is {leaf.dtype} and would have to be scaled; only floating-point "
                "leaves can be"
            )
        xp = np if isinstance(scale, np.ndarray) else jnp
        factor = layout.spread(after, grown.shape[site.axis], scale ** (power or 1), xp)
        grown = _times(grown, factor, site.axis)
    if noise is not None and power is None and site.role == "produced" and tree.is_float(leaf):
        grown = _noisy(grown, after, site.size, site.name, noise)
    return grown if isinstance(grown, np.ndarray) else tree.cast_like(grown, leaf)


def carry(params: Params, plan: Plan, power: int | None = None) -> Params:
    """A tree of parameters, or of moments of their gradients, through all changes of a plan.

    Args:
      params: what `symmetry.locate` takes.
      plan: the changes.
      power: None for weights and statistics; k for what scales as the k-th power of a gradient.

    Returns:
      The grown tree.
    """
    found = locate(params, plan.groups)
    by_leaf: dict[str, Sequence[Change]] = {}
    for change in plan.changes:
        name = change.sites[0].name
        by_leaf[name] = [*by_leaf.get(name, ()), change]

    def grow(name: str, leaf: Any) -> Any:
        if name in found and hasattr(leaf, "shape"):
            for change in by_leaf.get(found[name], ()):
                leaf = _changed(leaf, change, power, plan.noise)
        return leaf

    return tree.map_named(grow, params)
