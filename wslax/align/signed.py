"""Weight matching over orders and signs: units that differ by a factor of -1 are one."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wslax.align.compose import after, moved
from wslax.align.similarity import pairs, similarity
from wslax.align.weights import ORDERS, Leaves, Moves, Order, agreement, polished, solved
from wslax.numerics.assignment import assignment
from wslax.symmetry.actions import permute
from wslax.symmetry.scaling import powers, unit_shape
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array, Key, Params

# Order `[*sizes of per, size]`, signs `[symmetries, *sizes of per, size]` as the units then stand.
Move = tuple[Array, Array]
Pattern = tuple[int, ...]  # the exponent of each symmetry at a site
JOINT = 4  # symmetries that are tried in all combinations


def _apart(patterns: Sequence[Pattern]) -> tuple[list[int], list[int]]:
    """The symmetries of which no two share a site, as many as are easily found, and the others."""
    count = len(patterns[0])
    meets = [
        {k for p in patterns if p[i] for k in range(count) if p[k]} - {i} for i in range(count)
    ]
    apart: list[int] = []
    for i in sorted(range(count), key=lambda i: len(meets[i])):
        if meets[i].isdisjoint(apart):
            apart.append(i)
    return apart, [i for i in range(count) if i not in apart]


def _choices(products: Mapping[Pattern, Any]) -> Iterator[tuple[Any, Any]]:
    """For each choice of the signs that meet others: the best product, and all signs in it."""
    count = len(next(iter(products)))
    apart, joint = _apart(list(products))
    one = jnp.ones_like(next(iter(products.values())), dtype=jnp.float32)
    for chosen in itertools.product((1, -1), repeat=min(len(joint), JOINT)):
        sign = dict(zip(joint, chosen, strict=False))
        parts: dict[int | None, Any] = {}
        for pattern, product in products.items():
            flip = math.prod(sign.get(i, 1) for i, n in enumerate(pattern) if n)
            own = next((i for i in apart if pattern[i]), None)
            parts[own] = parts.get(own, 0) + flip * product
        total = sum(x if i is None else jnp.abs(x) for i, x in parts.items())
        signs = [one * sign.get(i, 1) for i in range(count)]
        for i in apart:
            signs[i] = jnp.where(parts[i] < 0, -one, one)
        yield total, jnp.stack(signs)


def _visit(groups: Groups, group: Group, a: Leaves, b: Leaves) -> tuple[Leaves, Move, Array]:
    """Best order and signs of one group, the others held."""
    rest = jnp.ones((0, *unit_shape(groups, group)))
    if not group.signs:
        b, order, better = ORDERS.visit(groups, group, a, b)
        return b, (order, rest), better
    at = powers(group, signs=True)
    products = {}
    for pattern in dict.fromkeys(at.values()):
        sites = tuple(site for site, own in at.items() if own == pattern)
        part = dataclasses.replace(group, sites=sites)
        products[pattern] = similarity(groups, part, a, b)
    order = assignment(jnp.stack([total for total, _ in _choices(products)]).max(0))
    here = {p: jnp.take_along_axis(x, order[..., None], -1)[..., 0] for p, x in products.items()}
    totals, signs = map(jnp.stack, zip(*_choices(here), strict=True))
    best = totals.argmax(0)
    signs = jnp.take_along_axis(signs, best[None, None], 0)[0]
    shape = unit_shape(groups, group)
    order, signs = order.reshape(shape), signs.reshape(-1, *shape)
    quadratic = not group.per and pairs(group)
    if quadratic:
        before = agreement(group, a, b)
        after = agreement(group, a, permute(b, groups, {group.id: order}, {group.id: signs}))
    else:
        before = sum(jnp.trace(x, axis1=-2, axis2=-1).sum() for x in products.values())
        after = totals.max(0).sum()
    better = after > before + 1e-6 * jnp.abs(before)
    stay, plus = _stay(groups, group)
    order, signs = jnp.where(better, order, stay), jnp.where(better, signs, plus)
    b = permute(b, groups, {group.id: order}, {group.id: signs})
    if quadratic:
        b, swaps = polished(groups, group, a, b)
        order, signs = order[swaps], signs[:, swaps]
        better = better | (swaps != stay).any()
    return b, (order, signs), better


def _stay(groups: Groups, group: Group) -> Move:
    shape = (len(group.signs), *unit_shape(groups, group))
    return ORDERS.stay(groups, group), jnp.ones(shape, jnp.float32)


def _then(groups: Groups, moves: dict[int, Move], id: int, new: Move) -> dict[int, Move]:
    """All moves after one more of one group; the signs of what runs per it move along."""
    order, flips = new
    orders = after(groups, {other: each for other, (each, _) in moves.items()}, {id: order})
    signs = {other: each for other, (_, each) in moves.items()}
    for other, each in signs.items():
        inner = groups.all[other]
        if other == id:
            index = jnp.broadcast_to(order, each.shape)
            signs[other] = jnp.take_along_axis(each, index, -1) * flips
        elif id in inner.per and len(each):
            move = functools.partial(moved, inner, outer=groups.all[id], move=order)
            signs[other] = jax.vmap(move)(each)
    return {other: (orders[other], signs[other]) for other in moves}


def signed_matching(
    a: Params, b: Params, groups: Groups, *, key: Key | None = None, iterations: int = 100
) -> tuple[Order, Order]:
    r"""Permutations and signs of `b`'s units that bring its weights nearest to `a`'s.

    `weight_matching` where a unit may also change its sign: the inner product of unit i of `a` with
    unit j of `b` is \(S^0_{ij} + \sum_k \sigma_k S^k_{ij}\), summed over the sites that each sign
    symmetry of the group has, so the assignment takes \(S^0 + \sum_k |S^k|\) and the signs follow.
    Symmetries that share sites are tried in all combinations, four at most; further ones keep +1.
    For scales, `symmetry.balance` both models before.

    Args:
      a: parameters.
      b: parameters of the same structure.
      groups: of the model; frozen ones stay as they are.
      key: draws the order of visits anew in each pass; None: the order of ids.
      iterations: most passes, 100 as in `weight_matching`.

    Returns:
      Group id to int32 `[*sizes of per, size]`, and group id to -1 or 1 `[symmetries, *sizes of
      per, size]` for the groups that have signs: `symmetry.permute(b, groups, *found)` applies
      both. Works under `jax.jit` (`groups` static) and `jax.vmap`.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters, or no group is free.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> a = {"in": jnp.array([[1.0, 2.0, 3.0]]), "out": jnp.ones((3, 1))}
        >>> apply = lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"]
        >>> groups = ws.symmetry.infer(apply, a, jnp.zeros((1, 1)))
        >>> flips = {0: jnp.array([[1, -1, 1]])}
        >>> b = ws.symmetry.permute(a, groups, {0: jnp.array([2, 0, 1])}, flips)
        >>> orders, signs = signed_matching(a, b, groups)
        >>> orders[0].tolist(), signs[0].tolist()
        ([1, 2, 0], [[-1, 1, 1]])
    """
    moves = solved(a, b, groups, key, iterations, Moves(_stay, _visit, _then))
    orders = {id: order for id, (order, _) in moves.items()}
    signs = {id: s.astype(jnp.int32) for id, (_, s) in moves.items() if groups.all[id].signs}
    return orders, signs
