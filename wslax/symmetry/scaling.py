"""Multiplying the units of groups: scales and signs that leave the model's function as it is."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.find import check_id, locate
from wslax.symmetry.gather import owners
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Params


def unit_shape(groups: Groups, group: Group) -> tuple[int, ...]:
    """`(*sizes of per, size)`: all units of a group."""
    return (*(groups.all[id].size for id in group.per), group.size)


def powers(group: Group, *, signs: bool) -> dict[Site, tuple[int, ...]]:
    """The exponent of each symmetry of a group at each of its places."""
    each = zip(*(group.signs if signs else group.scales), strict=True)
    places = {layout.place(s): (s, p) for s, p in zip(group.sites, each, strict=False)}
    return dict(places.values())


def _checked(groups: Groups, id: int, factors: Array, *, signs: bool) -> Array:
    """Factors of one group; their values are checked unless they are traced."""
    group = check_id(groups, id)
    kind, wanted = ("signs", "-1 or 1") if signs else ("scales", "positive")
    count = len(getattr(group, kind))
    if not count:
        raise WeightSpaceError(
            f"group {id}: has no symmetry of {kind}; `groups.table()` says which"
        )
    traced = isinstance(factors, jax.core.Tracer)
    factors = factors if traced else np.asarray(factors)
    whole = (count, *unit_shape(groups, group))
    if factors.shape not in (whole, (count, group.size)):
        shapes = " or ".join(str(list(s)) for s in dict.fromkeys([(count, group.size), whole]))
        raise WeightSpaceError(
            f"group {id}: expected {kind} of shape {shapes}, one row a symmetry, got "
            f"{tree.aval(factors)}"
        )
    if not traced:
        good = np.abs(factors) == 1 if signs else (factors > 0) & np.isfinite(factors)
        if not good.all():
            raise WeightSpaceError(f"group {id}: {kind} are {wanted}, got {factors.tolist()}")
    shape = (count, *(1,) * (len(whole) - factors.ndim), *factors.shape[1:])
    return (jnp if traced else np).broadcast_to(factors.reshape(shape), whole)


def _total(factors: Array, exponents: tuple[int, ...], dtype: np.dtype) -> Array:
    """What each unit is multiplied by at a place, and 1 for what no unit owns."""
    xp: Any = np if isinstance(factors, np.ndarray) else jnp
    powers = np.array(exponents).reshape(-1, *(1,) * (factors.ndim - 1))
    factors = factors.astype(dtype)
    raised = xp.where(powers == 1, factors, factors ** powers.astype(dtype))
    return xp.append(raised.prod(0), np.ones(1, dtype))


def scaled(params: Params, groups: Groups, factors: Mapping[int, Array], *, signs: bool) -> Params:
    """Multiply units at each place by the product of their factors, each to its power there."""
    found = locate(params, groups)
    plan: dict[str, list[Any]] = {}
    for id in factors:
        each = _checked(groups, id, factors[id], signs=signs)
        group = groups.all[id]
        for site, exponents in powers(group, signs=signs).items():
            if any(exponents):
                plan.setdefault(site.name, []).append((group, site, exponents, each))

    def change(name: str, leaf: Any) -> Any:
        todo = plan.get(found.get(name, ""), ())
        if not todo or not tree.is_float(leaf):
            return leaf
        x = jnp.asarray(leaf).astype(tree.wide(leaf))
        for group, site, exponents, each in todo:
            x = x * _total(each, exponents, x.dtype)[owners(groups, group, site)]
        return tree.cast_like(x, leaf)

    return tree.map_named(change, params)


def rescale(params: Params, groups: Groups, factors: Mapping[int, Array]) -> Params:
    r"""Multiply the units of groups by positive factors; the model's function does not change.

    Unit \(u\) is multiplied at each site \(s\) by \(\prod_k c_{ku}^{e_{ks}}\) with the exponents
    \(e_k\) of the group's `scales`: the incoming weights of a ReLU unit by \(c\), the outgoing by
    \(1 / c\).

    Args:
      params: as for `permute`.
      groups: the groups.
      factors: group id to positive numbers `[symmetries, size]`, one row for each entry of
        `Group.scales`, or `[symmetries, *sizes of per, size]`.

    Returns:
      The tree, every leaf with the shape, dtype and weak type it had. Works under `jax.jit` and
      `jax.vmap`.

    Raises:
      WeightSpaceError: if a group or leaf is missing, the group has no scales, or what is not
        traced is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> params = {"in": jnp.array([[1.0, 2.0]]), "out": jnp.array([[3.0], [4.0]])}
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> groups = ws.symmetry.infer(apply, params, jnp.zeros((1, 1)))
        >>> groups.free[0].scales
        ((1, -1),)
        >>> rescale(params, groups, {0: jnp.array([[2.0, 1.0]])})["out"].tolist()
        [[1.5], [4.0]]
    """
    return scaled(params, groups, factors, signs=False)
