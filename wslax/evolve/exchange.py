"""Crossovers that take whole pieces from either parent: weights, layers, units.

The first parent's share of the coefficients is the chance of each piece to come from it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.evolve.crossover import Crossover
from wslax.symmetry import layout
from wslax.symmetry.types import Groups, Site
from wslax.typing import Array, Key, Params, PerMember, Population


def coins(key: Key, what: str, count: int, coef: PerMember) -> Array:
    """For each of `count` pieces whether it comes from the first parent."""
    words = random.bits(key, f"evolve/exchange/{what}", count, xp=jnp)
    return random.uniform(words) < coef[0] / (coef[0] + coef[1])


def taken(x: Array, first: Any) -> Array:
    """`x[0]` where `first`, else `x[1]`; leaves that hold no floats come from the first parent."""
    return tree.cast_like(jnp.where(first, x[0], x[1]), x) if tree.is_float(x) else x[0]


def uniform(key: Key, pair: Population, coef: PerMember) -> Params:
    r"""Uniform crossover: each weight is the first parent's with probability \(c_0 / (c_0 + c_1)\).

    Args:
      key: differs from child to child.
      pair: two parents, leaves `[2, ...]`.
      coef: `[2]`, the parents' shares.

    Returns:
      One member, of which each weight has the bits of a parent's. Integer, bool and key leaves come
      from the first parent.

    References:
      Syswerda 1989, Uniform crossover in genetic algorithms, ICGA 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> child = ws.evolve.uniform(0, {"w": jnp.array([[1.0] * 6, [2.0] * 6])}, jnp.ones(2))
        >>> sorted(set(child["w"].tolist()))
        [1.0, 2.0]
    """

    def take(name: str, x: Array) -> Array:
        size = x.size // 2
        return taken(x, coins(key, name, size, coef).reshape(x.shape[1:]))

    return tree.map_named(take, pair)


def _layer(name: str) -> str:
    return name.rpartition("/")[0]


def by_layer(label: Callable[[str], str] = _layer) -> Crossover:
    """A crossover by layer or block: all leaves of one label come from one parent.

    Args:
      label: leaf name to a label; default the name without its last part, so that a kernel and its
        bias stay together. For whole blocks: `lambda name: name.split("/")[0]`.

    Returns:
      A crossover, for `genome(crossover=...)`.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> pair = {"a": {"kernel": jnp.array([1.0, 2.0]), "bias": jnp.array([1.0, 2.0])}}
        >>> child = ws.evolve.by_layer()(0, pair, jnp.ones(2))
        >>> bool(child["a"]["kernel"] == child["a"]["bias"])
        True
    """

    def cross(key: Key, pair: Population, coef: PerMember) -> Params:
        def take(name: str, x: Array) -> Array:
            return taken(x, coins(key, f"layer/{label(name)}", 1, coef)[0])

        return tree.map_named(take, pair)

    return cross


def _deciding(groups: Groups) -> dict[str, list[tuple[int, Site]]]:
    """Leaf to the sites whose units its entries belong to: ids of groups, all on one axis.

    A unit owns what it produces and what stands beside it. What no free group produces (a head)
    goes with the units that it reads.
    """
    found: dict[str, dict[bool, list[tuple[int, Site]]]] = {}
    for group in groups.free:
        for site in group.sites:
            by_role = found.setdefault(site.name, {True: [], False: []})
            by_role[site.role != "consumed"].append((group.id, site))
    out = {}
    for name, by_role in found.items():
        sites = by_role[True] or by_role[False]
        axis = min(site.axis for _, site in sites)
        out[name] = [(id, site) for id, site in sites if site.axis == axis]
    return out


def by_unit(groups: Groups) -> Crossover:
    """A crossover by hidden unit: a unit's incoming weights, bias and statistics stay together.

    For each unit of each free group a parent is drawn, and with it all that the unit produces,
    along a residual stream in every leaf that writes to it. Weights that no free group produces (a
    head) come with the units that they read; leaves without units come whole from one parent. Units
    of two nets correspond only after alignment: `align.match_many` the population first.

    Args:
      groups: of one member, from `symmetry.infer`.

    Returns:
      A crossover, for `genome(crossover=...)`.

    References:
      Uriot and Izzo 2020, Safe crossover of neural networks through neuron alignment,
      arXiv:2003.10306.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> net = ws.nets.mlp(3, [4], 2)
        >>> params = net.init(jax.random.key(0))
        >>> groups = ws.symmetry.infer(net.apply, params, jnp.ones((1, 3)))
        >>> pair = jax.tree.map(lambda x: jnp.stack([x * 0 + 1, x * 0 + 2]), params)
        >>> child = ws.evolve.by_unit(groups)(0, pair, jnp.ones(2))
        >>> of = child["hidden_0"]["bias"]
        >>> bool((child["hidden_0"]["kernel"] == of[None]).all())
        True
        >>> bool((child["out"]["kernel"] == of[:, None]).all())
        True
    """
    deciding = _deciding(groups)

    def cross(key: Key, pair: Population, coef: PerMember) -> Params:
        drawn: Mapping[int, Array] = {
            group.id: coins(key, f"group/{group.id}", group.size, coef) for group in groups.free
        }

        def take(name: str, x: Array) -> Array:
            first = coins(key, f"leaf/{name}", 1, coef)[0]
            sites = deciding.get(name, [])
            if not sites:
                return taken(x, first)
            axis, shape = sites[0][1].axis, x.shape[1:]
            first = jnp.broadcast_to(first, shape[axis])
            for id, site in sites:
                units = layout.units(site, shape[axis])
                first = jnp.where(units >= 0, drawn[id][np.maximum(units, 0)], first)
            return taken(x, layout.across(first, axis, len(shape)))

        return tree.map_named(take, pair)

    return cross


def of_task_vectors(base: Params, crossover: Crossover) -> Crossover:
    r"""A crossover of what members learned: \(y = b + C(x_0 - b, x_1 - b)\).

    Args:
      base: the model that all members came from, one member.
      crossover: \(C\), as `ws.evolve.by_layer()`.

    Returns:
      A crossover. Differences are taken and added in float32 for half types.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> base, pair = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([[1.5, 1.0], [1.0, 3.0]])}
        >>> total = lambda key, pair, coef: {"w": pair["w"].sum(0)}
        >>> ws.evolve.of_task_vectors(base, total)(0, pair, jnp.ones(2))["w"].tolist()
        [1.5, 3.0]
    """

    def cross(key: Key, pair: Population, coef: PerMember) -> Params:
        tree.check_structure(base, pair, "base", "the parents")
        less = lambda x, b: x.astype(tree.wide(x)) - b[None] if tree.is_float(x) else x
        plus = lambda d, x, b: tree.cast_like(d + b, x) if tree.is_float(x) else d
        child = crossover(key, jax.tree.map(less, pair, base), coef)
        return jax.tree.map(plus, child, pair, base)

    return cross
