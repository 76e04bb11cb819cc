"""Carrying a tree through width maps: weights, moments and zeros by the same gathers."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.grow.method import WidthMap
from wslax.grow.moves import Moves
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


def _factor(scales: Sequence[Array | None], powers: Sequence[int]) -> Array | None:
    """The product of the scales to their powers, None for ones."""
    out = None
    for scale, power in zip(scales, powers, strict=True):
        if scale is not None and power:
            out = scale**power if out is None else out * scale**power
    return out


def _old_only(leaf: Array, site: Site, old: int) -> Array:
    """Zero the entries of all units but the old ones."""
    new = layout.units(site, leaf.shape[site.axis]) >= old
    shape = [-1 if a == site.axis else 1 for a in range(leaf.ndim)]
    xp = np if isinstance(leaf, np.ndarray) else jnp
    return xp.where(new.reshape(shape), xp.zeros((), leaf.dtype), leaf)


def _changed(
    leaf: Array, change: Change, weight: int, gradient: int, old_only: bool, noise: Noise | None
) -> Array:
    site, width_map = change.sites[0], change.width_map
    group = next(group for group in change.groups.all if site in group.sites)
    grown = gather(change.groups, group, site, leaf, width_map.index)
    after = Site(
        site.name, site.axis, site.outer, site.start, size=len(width_map.index), inner=site.inner,
        role=site.role,
    )  # fmt: skip
    powers = (gradient, weight) if site.role == "consumed" else (weight, gradient)
    factor = _factor((width_map.in_scale, width_map.out_scale), powers)
    if factor is not None:
        if not tree.is_float(leaf):
            raise WeightSpaceError(
                f"{site.name}: is {leaf.dtype} and would have to be scaled; only floating-point "
                "leaves can be"
            )
        xp = np if isinstance(factor, np.ndarray) else jnp
        grown = _times(grown, layout.spread(after, grown.shape[site.axis], factor, xp), site.axis)
    if old_only:
        grown = _old_only(grown, after, site.size)
    if noise is not None and site.role == "produced" and tree.is_float(leaf):
        grown = _noisy(grown, after, site.size, site.name, noise)
    return grown if isinstance(grown, np.ndarray) else tree.cast_like(grown, leaf)


def carry(
    params: Params, plan: Plan, *, weight: int = 0, gradient: int = 0, old_only: bool = False
) -> Params:
    """A tree shaped like the parameters through all changes of a plan: `Moves.carry`.

    Args:
      params: what `symmetry.locate` takes.
      plan: the changes.
      weight: 1 for weights and statistics, 0 for what does not scale with them.
      gradient: k for what scales as the k-th power of a gradient.
      old_only: whether the entries of new units are zero.

    Returns:
      The grown tree.
    """
    found = locate(params, plan.groups)
    noise = plan.noise if (weight, gradient) == (1, 0) else None
    by_leaf: dict[str, Sequence[Change]] = {}
    for change in plan.changes:
        name = change.sites[0].name
        by_leaf[name] = [*by_leaf.get(name, ()), change]

    def grow(name: str, leaf: Any) -> Any:
        if name in found and hasattr(leaf, "shape"):
            for change in by_leaf.get(found[name], ()):
                leaf = _changed(leaf, change, weight, gradient, old_only, noise)
        return leaf

    return tree.map_named(grow, params)


def moves(plan: Plan) -> Moves:
    """What optimizer states need to know of a plan."""
    names = frozenset(change.sites[0].name for change in plan.changes)
    return Moves(names, functools.partial(carry, plan=plan))
