"""One order of units after another, where one group's order is chosen by the units of another."""

import jax.numpy as jnp

from wslax.symmetry.scaling import unit_shape
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array

Order = dict[int, Array]


def stay(groups: Groups, group: Group) -> Array:
    """The order of a group that leaves every unit where it is, `[*sizes of per, size]`."""
    units = jnp.arange(group.size, dtype=jnp.int32)
    return jnp.broadcast_to(units, unit_shape(groups, group))


def identity(groups: Groups) -> Order:
    """The order of every free group that leaves all as it is."""
    return {group.id: stay(groups, group) for group in groups.free}


def moved(group: Group, order: Array, outer: Group, move: Array) -> Array:
    """An order whose outer units along one group are `move` of the old ones.

    Args:
      group: whose order it is; anything of shape `[*sizes of per, size]` moves so.
      order: the order.
      outer: one of the groups that it runs per.
      move: the order of that group.
    """
    ids, own = (*group.per, group.id), (*outer.per, outer.id)
    move = jnp.transpose(move, sorted(range(len(own)), key=lambda axis: ids.index(own[axis])))
    move = jnp.expand_dims(move, [i for i, id in enumerate(ids) if id not in own])
    return jnp.take_along_axis(order, move, ids.index(outer.id))


def after(groups: Groups, first: Order, then: Order) -> Order:
    r"""The one order that does what two do in turn.

    `permute(permute(p, groups, first), groups, then)` is `permute(p, groups, after(...))`. Orders
    of a group with `per` are listed by outer units as they stand when it is the group's turn, so
    they move with an outer group that is permuted later, or before and anew.

    Args:
      groups: of the model.
      first: group id to `[*sizes of per, size]`, for all groups in `then` and those they run per.
      then: the same, of some groups.

    Returns:
      All of `first`, in its order of ids.
    """
    orders = dict(first)
    turn = {id: i for i, id in enumerate(orders)}
    for id, move in then.items():
        group = groups.all[id]
        for other in orders:
            inner = groups.all[other]
            if id in inner.per and turn[id] < turn[other]:
                orders[other] = moved(inner, orders[other], group, move)
        for outer in group.per:
            if outer in orders and turn[outer] > turn[id]:
                back = jnp.argsort(orders[outer], -1)
                move = moved(group, move, groups.all[outer], back)
        orders[id] = jnp.take_along_axis(orders[id], move, -1)
    return orders
