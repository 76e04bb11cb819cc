"""`shrink`: an edit that keeps some units of groups, the inverse of `widen`."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import edit, tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.grow.along import multiplied
from wslax.grow.moves import Moves
from wslax.symmetry import layout
from wslax.symmetry.find import check_id, locate
from wslax.symmetry.gather import gather
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Params


def _first(group: Group, size: int) -> np.ndarray:
    return np.arange(size)


def _uniform(group: Group, size: int) -> np.ndarray:
    if group.size % size == 0:
        return np.arange(size) * (group.size // size)
    return np.round(np.linspace(0, group.size - 1, size)).astype(int)


EVEN: dict[str, Callable[[Group, int], np.ndarray]] = {"first": _first, "uniform": _uniform}
SHRINK_METHODS = (*EVEN, "ranked")


def _ranked(groups: Groups, group: Group, size: int, scores: Array) -> Array:
    """The best units in their old order; of equal ones the first."""
    traced = isinstance(scores, jax.core.Tracer)
    scores = scores if traced else np.asarray(scores)
    outer = tuple(groups.all[i].size for i in group.per)
    if scores.shape not in ((group.size,), (*outer, group.size)):
        each = f" or {[*outer, group.size]}" if outer else ""
        raise WeightSpaceError(
            f"group {group.id} ({group.sites[0]}): expected scores of shape [{group.size}]{each}, "
            f"got {tree.aval(scores)}"
        )
    if not traced and np.isnan(scores).any():
        raise WeightSpaceError(f"group {group.id} ({group.sites[0]}): scores are not all numbers")
    xp = jnp if traced else np
    best = xp.argsort(-scores, -1, stable=True)[..., :size]
    return xp.sort(best, -1)


class _Step(NamedTuple):
    """One axis of one leaf gets shorter: the groups before, the sites there, units, a factor."""

    groups: Groups
    sites: tuple[Site, ...]
    index: Array
    factor: float


def _taken(leaf: Array, step: _Step, weight: int) -> Array:
    site = step.sites[0]
    out = gather(step.groups, step.groups.owner(site), site, leaf, step.index)
    after = dataclasses.replace(site, size=step.index.shape[-1])
    if weight and step.factor != 1:
        out = multiplied(out, after, np.full(after.size, step.factor**weight))
    return out if isinstance(out, np.ndarray) else tree.cast_like(out, leaf)


def _carry(
    params: Params,
    *,
    groups: Groups,
    steps: Mapping[str, list[_Step]],
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


def _checked(groups: Groups, sizes: Mapping[int, int], scores: Any, method: str) -> None:
    if method not in SHRINK_METHODS:
        raise WeightSpaceError(
            f"method {method!r} is unknown.{did_you_mean(method, SHRINK_METHODS)}"
        )
    if (method == "ranked") != (scores is not None):
        raise WeightSpaceError("scores go with method='ranked', which needs them for each group")
    for id, size in sizes.items():
        group = check_id(groups, id)
        if not 1 <= size <= group.size:
            raise WeightSpaceError(
                f"group {id} ({group.sites[0]}): has {group.size} units, expected 1 to "
                f"{group.size}, got {size}; `grow.widen` gives more"
            )
        if scores is not None and id not in scores:
            raise WeightSpaceError(f"group {id} ({group.sites[0]}): scores has no entry for it")


def shrink(
    groups: Groups,
    sizes: Mapping[int, int],
    *,
    scores: Mapping[int, Array] | None = None,
    method: str = "uniform",
    rescale: bool = False,
) -> edit.Edit:
    r"""Keep some units of groups: a small model that starts from the weights of a large one.

    - `"uniform"`: every k-th unit where the size divides, else units rounded from an even spacing
      of the first to the last; weight selection (arXiv:2311.18823).
    - `"first"`: the leading units, as the slices of a supernet.
    - `"ranked"`: the units of the highest scores, in their old order, and of equal ones the first;
      weight subcloning (arXiv:2312.09299), whose scores are the mean \(|{\rm activation}|\) of each
      unit over data.

    One choice a group, so that all leaves along a residual stream agree. The function is not kept:
    train on. Blocks are dropped by `deepen(groups, order, method="copy")`.

    Args:
      groups: of the large model.
      sizes: group id to the number of units to keep; static.
      scores: for `"ranked"`, group id to `[units]`, or `[*sizes of per, units]` for a choice of its
        own at each outer unit. May be traced.
      method: which units; default weight selection's.
      rescale: multiply consumed weights by \(\sqrt{\text{old size} / \text{new size}}\), which
        keeps the variance of sums over fewer units, as weight subcloning does; a leaf that is
        produced or elementwise along the same axis too (a tied embedding) is left as it is.

    Returns:
      An `Edit`. `apply` takes what `widen`'s takes; `optimizer_state` keeps the moments of the
      units that stay; `groups` are the small model's.

    Raises:
      WeightSpaceError: naming group and leaf, for an unknown or frozen group, more units than
        there are, scores that are missing or of another shape, or an unknown method.

    Example:
        >>> import numpy as np
        >>> from wslax import grow, symmetry
        >>> params = {"hidden": {"kernel": np.zeros((3, 8)), "bias": np.arange(8.0)},
        ...           "out": {"kernel": np.ones((8, 2)), "bias": np.zeros(2)}}
        >>> groups = symmetry.feed_forward(params, ["hidden", "out"])
        >>> small = grow.shrink(groups, {0: 4}).apply(params)
        >>> small["hidden"]["bias"].tolist(), small["out"]["kernel"].shape
        ([0.0, 2.0, 4.0, 6.0], (4, 2))
    """
    _checked(groups, sizes, scores, method)
    steps: dict[str, list[_Step]] = {}
    now = groups
    for id, size in sizes.items():
        group = now.all[id]
        if scores is None:
            index: Array = EVEN[method](group, size)
        else:
            index = _ranked(now, group, size, scores[id])
        factor = (group.size / size) ** 0.5 if rescale else 1.0
        for before, sites in layout.steps(now, id, size):
            consumed = all(site.role == "consumed" for site in sites)
            step = _Step(before, sites, index, factor if consumed else 1.0)
            steps.setdefault(sites[0].name, []).append(step)
        now = layout.resize(now, {id: size})
    carry = functools.partial(_carry, groups=groups, steps=steps)

    def optimizer_state(state: Any, policy: str = "exact") -> Any:
        from wslax.grow.optimizer import grow_state

        return grow_state(state, Moves(frozenset(steps), carry), policy)

    return edit.from_map(functools.partial(carry, weight=1), optimizer_state, now)
