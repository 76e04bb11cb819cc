"""Finding the leaves that groups speak of in a tree, its copies and its collections."""

from collections.abc import Mapping, Sequence
from typing import Any

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.symmetry.types import Group, Groups
from wslax.typing import Params


def ends(name: str) -> list[str]:
    """A name, and what remains of it below each of its parents."""
    parts = name.split("/")
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _has(leaves: Mapping[str, Any], name: str) -> bool:
    """Whether the leaf is there, or stands under one without a shape: a part masked out."""
    parts = name.split("/")
    parents = ("/".join(parts[:i]) for i in range(1, len(parts)))
    return name in leaves or any(p in leaves and not hasattr(leaves[p], "shape") for p in parents)


def _under(leaves: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The outermost prefixes under which the tree has a leaf of every name."""
    wanted = frozenset(names)
    starts = {leaf.removesuffix(end) for leaf in leaves for end in ends(leaf) if end in wanted}
    found: list[str] = []
    for prefix in sorted(starts, key=len):
        inside = any(prefix.startswith(outer) for outer in found)
        if not inside and all(_has(leaves, prefix + name) for name in names):
            found.append(prefix)
    return found


def _missing(leaves: Mapping[str, Any], groups: Groups) -> WeightSpaceError:
    lacking = next(name for name in groups.shape if name not in leaves)
    return WeightSpaceError(
        f"{lacking}: the groups run through this leaf, and the tree has none of that name."
        f"{did_you_mean(lacking, leaves)} Pass the whole tree that the groups were made for, one "
        "of its top-level collections, or a tree that holds copies of it"
    )


def _check_shape(name: str, leaf: Any, expected: tuple[int, ...]) -> None:
    shape = getattr(leaf, "shape", expected)
    if tuple(shape) == expected:
        return
    population = len(shape) == len(expected) + 1 and tuple(shape[1:]) == expected
    hint = (
        "for a population, map it: `jax.vmap(...)`"
        if population
        else "the groups belong to another model, or to this one before an edit (`edit.groups`)"
    )
    raise WeightSpaceError(
        f"{name}: the groups expect shape {list(expected)}, got {list(shape)}; {hint}"
    )


def locate(params: Params, groups: Groups) -> dict[str, str]:
    """Which leaves of a tree the groups speak of, checked for shape.

    The tree may be the one the groups were made for; a tree that holds copies of it under any
    prefixes (`{"params": ..., "ema": ...}`); or one top-level collection of it
    (`variables["params"]` where the groups say `params/...` and `batch_stats/...`).

    Args:
      params: a tree of arrays or `ShapeDtypeStruct`s; a leaf without a shape counts as
        present, with all below it.
      groups: the groups.

    Returns:
      Name of the leaf in this tree to its name in the groups.

    Raises:
      WeightSpaceError: naming a leaf that is missing or has another shape.

    Example:
        >>> import numpy as np
        >>> groups = Groups.from_sites({"w": np.zeros((2, 3))}, [[("w", 1, "produced")]])
        >>> locate({"ema": {"w": np.ones((2, 3))}, "count": 3}, groups)
        {'ema/w': 'w'}
    """
    leaves = tree.named_leaves(params)
    names = list(groups.shape)
    found = {prefix + name: name for prefix in _under(leaves, names) for name in names}
    if not found and frozenset(names).isdisjoint(end for leaf in leaves for end in ends(leaf)):
        for collection in dict.fromkeys(name.split("/")[0] for name in names):
            full = [name for name in names if name.startswith(f"{collection}/")]
            short = [name.removeprefix(f"{collection}/") for name in full]
            for prefix in _under(leaves, short):
                found |= {prefix + s: f for s, f in zip(short, full, strict=True)}
    found = {name: original for name, original in found.items() if name in leaves}
    if names and not found:
        raise _missing(leaves, groups)
    for name, original in found.items():
        _check_shape(name, leaves[name], groups.shape[original])
    return found


def sizes(params: Params, groups: Groups) -> dict[int, int]:
    """The size of every group, after checking the sites against the parameters.

    Args:
      params: what `locate` takes.
      groups: the groups.

    Returns:
      Group id to number of units.

    Raises:
      WeightSpaceError: naming a leaf that is missing or has another shape.

    Example:
        >>> import numpy as np
        >>> groups = Groups.from_sites({"w": np.zeros((2, 3))}, [[("w", 1, "produced")]])
        >>> sizes({"w": np.ones((2, 3))}, groups)
        {0: 3}
    """
    locate(params, groups)
    return {group.id: group.size for group in groups.all}


def check_id(groups: Groups, id: int) -> Group:
    """The free group of that id, or an error that says which ids there are or what froze it."""
    if id not in range(len(groups.all)):
        raise WeightSpaceError(f"no group {id!r}; there are ids 0 to {len(groups.all) - 1}")
    group = groups.all[id]
    if group.frozen_by is not None:
        site = group.sites[0]
        raise WeightSpaceError(
            f"{site.name}: its axis {site.axis} (group {id}) is frozen by {group.frozen_by}, so "
            "another order or number of its units changes what the model computes; "
            "`groups.free` lists the groups that may change"
        )
    return group
