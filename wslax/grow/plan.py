"""Carrying a tree through width maps: weights, moments and zeros by the same gathers."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.grow.treatment import Treatment
from wslax.symmetry import layout
from wslax.symmetry.along import by_unit, multiplied, space
from wslax.symmetry.find import locate
from wslax.symmetry.gather import gather
from wslax.symmetry.types import Groups, Site
from wslax.typing import Array, Key, Params


class Change(NamedTuple):
    """One axis of one leaf gets longer.

    Attributes:
      groups: that hold before it.
      site: along which.
      index: `[m]`: the old unit that each new one comes from.
      more: how many units come after these, from no old one.
      treatment: what becomes of the entries.
      noise: what the method's noise is added to here, `"produced"`, `"consumed"` or None.
    """

    groups: Groups
    site: Site
    index: Array
    more: int
    treatment: Treatment
    noise: str | None


class Plan(NamedTuple):
    """All changes in order, the groups that the first one finds, and what is drawn."""

    groups: Groups
    changes: tuple[Change, ...]
    key: Key
    noise: float


class _Step(NamedTuple):
    """One change of one leaf under way: what its helpers share."""

    name: str
    site: Site  # after the change
    units: np.ndarray  # of the new axis, -1 outside
    old: int
    key: Key

    def over(self, leaf: Array, values: Any) -> Any:
        """A vector along the changed axis, shaped to meet the leaf."""
        return layout.across(values, self.site.axis, leaf.ndim)

    def normal(self, leaf: Array, kind: str) -> Any:
        """Normal numbers like the leaf, on the host where it is."""
        words = random.bits(self.key, f"grow/{kind}/{self.name}", leaf.size, xp=jnp)
        drawn = random.normal(words).reshape(leaf.shape)
        return np.asarray(drawn) if isinstance(leaf, np.ndarray) else drawn


def _powers(treatment: Treatment, weight: int, gradient: int) -> Array | None:
    """The factor of each unit that comes from an old one, None for ones."""
    out = None
    for scale, power in ((treatment.scale, weight), (treatment.slope, gradient)):
        if scale is not None and power:
            out = scale**power if out is None else out * scale**power
    return out


def _mean(leaf: Array, site: Site, step: _Step) -> Array:
    """The mean over the old units of a site, at each element of the new axis (any, outside)."""
    first, means = site.start * site.inner, by_unit(leaf, site).astype(tree.wide(leaf)).mean(1)
    means = means.reshape(-1, *means.shape[2:])
    length = len(step.units)
    tile = np.arange(length) // (length // site.outer)
    within = (np.arange(length) % (length // site.outer) - first) % site.inner
    return space(leaf).moveaxis(means[tile * site.inner + within], 0, site.axis)


def _fresh(leaf: Array, grown: Array, site: Site, step: _Step) -> Array:
    """Normal numbers with the root mean square of the old entries, or of one over the fan-in."""
    xp, wide = space(grown), tree.wide(leaf)
    own = step.over(leaf, layout.units(site, leaf.shape[site.axis]) >= 0)
    square = xp.where(own, leaf, xp.zeros((), leaf.dtype)).astype(wide) ** 2
    count = leaf.size // leaf.shape[site.axis] * site.outer * site.size * site.inner
    spread = xp.sqrt(square.sum() / count)
    fan_in = max(leaf.size // leaf.shape[site.axis], 1)
    spread = xp.where(spread > 0, spread, xp.asarray(fan_in**-0.5, wide))
    return step.normal(grown, "fresh").astype(wide) * spread


def _noisy(leaf: Array, change: Change, step: _Step, noise: float) -> Array:
    """Noise that tells copies apart: see `Method.noise`."""
    xp, wide = space(leaf), tree.wide(leaf)
    draws = step.normal(leaf, "noise").astype(wide)
    values = leaf.astype(wide)
    if change.noise == "produced":
        new = step.over(leaf, step.units >= step.old)
        factor = xp.where(new, 1 + noise * draws, xp.ones((), wide))
        return (values * factor).astype(leaf.dtype)
    # For each copy of what an element belongs to, where its element stands.
    turns = np.arange(len(change.index) // step.old)[:, None] - step.units // step.old
    inside = step.units >= 0
    alike = np.arange(len(inside)) + np.where(inside, turns * step.old * step.site.inner, 0)
    mean = sum(xp.take(draws, at, step.site.axis) for at in alike) / len(alike)
    spread = xp.sqrt((values**2).mean())
    added = xp.where(step.over(leaf, inside), draws - mean, xp.zeros((), wide))
    return (values + noise * spread * added).astype(leaf.dtype)


def _filled(leaf: Array, grown: Array, word: str | None, old: Site, step: _Step, m: int) -> Array:
    """The units that come from no old one, from the `m`-th on, as a word of `Fill` says."""
    xp, fill = space(grown), np.zeros(())
    if word in ("mean", "fresh") and not tree.is_float(leaf):
        raise WeightSpaceError(
            f"{old.name}: is {leaf.dtype} and its new units would need numbers between; only "
            "floating-point leaves can get them"
        )
    if word == "mean":
        fill = _mean(leaf, old, step)
    elif word == "fresh":
        fill = _fresh(leaf, grown, old, step)
    return xp.where(step.over(grown, step.units >= m), fill.astype(leaf.dtype), grown)


def check_finite(params: Params, plan: Plan) -> None:
    """Raise, naming leaf and group, if a weight that changes is not finite; traced ones pass."""
    owners = {one.site.name: one for one in reversed(plan.changes)}
    leaves, finite = tree.named_leaves(params), {}
    for name, original in locate(params, plan.groups).items():
        leaf = leaves[name]
        known = hasattr(leaf, "dtype") and not isinstance(leaf, jax.core.Tracer)
        if original in owners and known and tree.is_float(leaf):
            finite[name] = (original, space(leaf).isfinite(leaf).all())
    for name, (original, whole) in jax.device_get(finite).items():
        if not whole:
            one = owners[original]
            group = one.groups.owner(one.site)
            raise WeightSpaceError(
                f"{name}: group {group.id}: holds numbers that are not finite, which growth would "
                "copy and spread; mend the model before it grows"
            )


def changed(
    leaf: Array, change: Change, plan: Plan, powers: tuple[int, int] = (1, 0), only: bool = False
) -> Array:
    """A leaf after one change; `powers` and `only` are those of `carry`."""
    site, treatment = change.site, change.treatment
    xp: Any = np if isinstance(change.index, np.ndarray) else jnp
    size = len(change.index) + change.more
    index = xp.concatenate([change.index, np.zeros(change.more, np.int32)])
    grown = gather(change.groups, change.groups.owner(site), site, leaf, index)
    after = Site(
        site.name, site.axis, site.outer, site.start, size=size, inner=site.inner, role=site.role
    )
    step = _Step(site.name, after, layout.units(after, grown.shape[site.axis]), site.size, plan.key)
    weights = powers == (1, 0)
    factor = _powers(treatment, *powers)
    if factor is not None:
        grown = multiplied(grown, after, xp.concatenate([factor, np.ones(change.more)]))
    if change.more:
        word = treatment.word if weights else "zero"
        grown = _filled(leaf, grown, word, site, step, len(change.index))
    if only:
        old = step.over(grown, step.units < site.size)
        grown = space(grown).where(old, grown, np.zeros((), leaf.dtype))
    if weights and plan.noise and change.noise and tree.is_float(leaf):
        grown = _noisy(grown, change, step, plan.noise)
    return grown if isinstance(grown, np.ndarray) else tree.cast_like(grown, leaf)


def through(params: Params, plan: Plan, change: Callable[[Array, Change], Array]) -> Params:
    """A tree whose leaves went through all changes of a plan, one after the other."""
    found = locate(params, plan.groups)
    by_leaf: dict[str, Sequence[Change]] = {}
    # The first axis last: XLA then gathers without a transposed copy.
    for one in sorted(plan.changes, key=lambda one: -one.site.axis):
        by_leaf[one.site.name] = [*by_leaf.get(one.site.name, ()), one]

    def grow(name: str, leaf: Any) -> Any:
        if name in found and hasattr(leaf, "shape"):
            for one in by_leaf.get(found[name], ()):
                leaf = change(leaf, one)
        return leaf

    return tree.map_named(grow, params)


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
    powers = (weight, gradient)
    return through(params, plan, lambda leaf, one: changed(leaf, one, plan, powers, old_only))
