"""Activations of a model's units, and the order in which those of two models agree most."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.align.compose import moved
from wslax.align.similarity import owned, places
from wslax.errors import WeightSpaceError
from wslax.numerics.assignment import assignment
from wslax.symmetry.find import check_id, locate
from wslax.symmetry.scaling import unit_shape
from wslax.symmetry.types import Group, Groups, Site
from wslax.trace.meeting import Place
from wslax.trace.tapping import Read, seen
from wslax.typing import Array, Params

Units = Array | Sequence[Array]


def _wanted(group: Group) -> tuple[Read, list[Site]]:
    """What to read of a group: what its consumers are given, or else what makes it."""
    consumers = [site for site in group.sites if site.role == "consumed"]
    if consumers:
        return "features", consumers
    return "outputs", [site for site in group.sites if site.role == "produced"]


def _units(
    groups: Groups, group: Group, site: Site, what: str, place: Place, value: Array
) -> tuple[Array, Any] | None:
    """What was read, as `[samples, *sizes of per, size]`, and which outer units the site touches.

    None where the site is not in what was read.

    The elements of a unit are samples, too; but where they are units of groups that may be permuted
    within it, as the width of a head, they have no order, and their mean stands for the unit.
    """
    read = place.produced if what == "outputs" else place.consumed
    axes = [*range(place.loops), *place.batch, *read]
    outer = [s.axis for id in group.per for s in groups.all[id].sites if s.name == site.name]
    if place.lead(what) > len(place.batch) or not {site.axis, *outer} <= set(axes):
        return None
    value = jnp.moveaxis(value, place.loops + len(place.batch), 0)
    missing = [a for a in range(len(groups.shape[site.name])) if a not in axes]
    value = jnp.expand_dims(value, tuple(range(value.ndim, value.ndim + len(missing))))
    axes += missing
    value = jnp.transpose(value, [0, *(1 + axes.index(a) for a in range(len(axes)))])
    shape = value.shape[1:]
    shapes = tuple((name, shape if name == site.name else s) for name, s in groups.shapes)
    index = owned(dataclasses.replace(groups, shapes=shapes), group, site)
    if index is None:  # a whole axis: its own index
        index = np.moveaxis(np.arange(math.prod(shape)).reshape(shape), site.axis, 0)
        index = index.reshape(1, group.size, -1)
    taken = value.reshape(len(value), -1)[:, jnp.maximum(index, 0)]
    taken = jnp.moveaxis(jnp.where(index >= 0, taken, 0), -1, 1)
    if any(group.id in other.per for other in groups.free):
        taken = taken.mean(1)
    taken = taken.reshape(-1, *unit_shape(groups, group))
    return taken, np.any(index >= 0, axis=(1, 2))


def _joined(parts: Sequence[tuple[Array, Any]]) -> list[Array]:
    """One array of sites that touch other outer units each, as where each head has its own."""
    whole: list[tuple[Array, Any]] = []
    for array, touched in parts:
        for i, (other, theirs) in enumerate(whole):
            if array.shape == other.shape and not (touched & theirs).any():
                whole[i] = (other + array, theirs | touched)
                break
        else:
            whole.append((array, touched))
    return [array for array, _ in whole]


def activations(
    apply: Callable[..., Any], params: Params, groups: Groups, *inputs: Any
) -> dict[int, tuple[Array, ...]]:
    r"""The activations of the units of every free group, where they are used.

    For each leaf that consumes a group, what that leaf is given (after the nonlinearity, after a
    norm); for a group without such a leaf, such as the width of queries and keys, the products
    that make it. Read by `trace.taps`' walk: no hooks, no names.

    Args:
      apply: any traceable `(params, *inputs) -> outputs`.
      params: its parameters.
      groups: of the model.
      *inputs: a batch of data.

    Returns:
      Group id to arrays `[samples, *sizes of per, size]`, one a place. Samples are all axes beside
      the group: of a batch, of positions, of the elements of a unit that has several (whose mean
      stands for it where they have no order, as in a head whose width may be permuted). A group is
      left out where no product meets it, or only inside `while` and `cond`. Works under `jax.jit`
      and, over a population, under `jax.vmap`.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> params = {"in": jnp.array([[1.0, -1.0, 2.0]]), "out": jnp.ones((3, 1))}
        >>> x = jnp.array([[1.0], [-1.0]])
        >>> groups = ws.symmetry.infer(apply, params, x)
        >>> activations(apply, params, groups, x)[0][0].tolist()
        [[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]
    """
    locate(params, groups)
    wanted = {group.id: _wanted(group) for group in groups.free}
    reads: dict[str, set[Read]] = {}
    for what, sites in wanted.values():
        for site in sites:
            reads.setdefault(site.name, set()).add(what)
    read = seen(apply, params, inputs, lambda name: sorted(reads.get(name, ()))).read
    found: dict[int, tuple[Array, ...]] = {}
    for group in groups.free:
        what, sites = wanted[group.id]
        parts: dict[Any, list[tuple[Array, Any]]] = {}
        for site in places(dataclasses.replace(group, sites=tuple(sites))):
            for (kind, place), value in read.get(site.name, {}).items():
                units = None if kind != what else _units(groups, group, site, what, place, value)
                if units is not None:
                    parts.setdefault((site.name, place), []).append(units)
        if parts:
            found[group.id] = tuple(unit for part in parts.values() for unit in _joined(part))
    return found


def activation_matching(
    a: Mapping[int, Units], b: Mapping[int, Units], groups: Groups
) -> dict[int, Array]:
    r"""Permutations of `b`'s units whose activations correlate most with `a`'s.

    For each group on its own the assignment of largest total correlation over samples,
    \(\arg\max_p \sum_i \operatorname{corr}(a_i, b_{p_i})\) (Li et al., arXiv:1511.07543; the
    matching of Git Re-Basin, arXiv:2209.04836, section 3.1, has inner products in its place, which
    units of large activations dominate). A unit that never varies correlates with none.

    Args:
      a: group id to activations `[samples, *sizes of per, size]` of the first model, or several
        such arrays: what `activations` gives. Their correlations add up, by numbers of samples.
      b: the same of the second, on the same samples.
      groups: of the model.

    Returns:
      Group id to int32 `[*sizes of per, size]`, for `symmetry.permute(second, groups, ...)`. Works
      under `jax.jit` and `jax.vmap`.

    Raises:
      WeightSpaceError: if a group is frozen or unknown, or shapes do not fit it.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> groups = Groups.from_sites({"w": np.zeros((2, 2))}, [[("w", 1, "produced")]])
        >>> seen = jnp.array([[1.0, 5.0], [2.0, 3.0], [3.0, 4.0]])
        >>> activation_matching({0: seen}, {0: seen[:, ::-1]}, groups)[0].tolist()
        [1, 0]
    """
    if a.keys() != b.keys():
        raise WeightSpaceError(
            f"b: expected activations of groups {sorted(a)} as in a, got {sorted(b)}"
        )
    orders: dict[int, Array] = {}
    for id in sorted(a, key=lambda id: len(check_id(groups, id).per)):  # heads before their widths
        group = groups.all[id]
        shape = unit_shape(groups, group)
        x, y = _several(a[id]), _several(b[id])
        if len(x) != len(y):
            raise WeightSpaceError(f"b: expected {len(x)} arrays of group {id}, got {len(y)}")
        total: Any = 0
        for one, other in zip(x, y, strict=True):
            _check("a", one, len(one), shape, id)
            _check("b", other, len(one), shape, id)
            for outer in (groups.all[o] for o in group.per if o in orders):
                move = functools.partial(moved, group, outer=outer, move=orders[outer.id])
                other = jax.vmap(move)(other)
            agreement = jnp.einsum("s...i,s...j->...ij", standard(one), standard(other))
            total += len(one) * agreement
        orders[id] = assignment(total)
    return orders


def _several(units: Units) -> list[Any]:
    return list(units) if isinstance(units, (tuple, list)) else [units]


def _check(name: str, seen: Array, count: int, shape: tuple[int, ...], id: int) -> None:
    if seen.shape != (count, *shape):
        expected = ", ".join(map(str, (count, *shape)))
        raise WeightSpaceError(
            f"{name}: expected activations [{expected}] of group {id}, got {tree.aval(seen)}"
        )


def standard(seen: Array) -> Array:
    """Mean 0 and length 1 over samples; 0 where nothing varies."""
    seen = jnp.asarray(seen).astype(tree.wide(seen))
    seen = seen - seen.mean(0, keepdims=True)
    length = jnp.sqrt((seen**2).sum(0, keepdims=True))
    return jnp.where(length > 0, seen / jnp.where(length > 0, length, 1), 0)
