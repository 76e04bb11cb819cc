"""Weight matching: the order of units in which two models' weights are nearest."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.align.compose import after, stay
from wslax.align.similarity import float_leaves, pairs, places, similarity, swap_gains
from wslax.errors import WeightSpaceError
from wslax.numerics.assignment import assignment
from wslax.symmetry.actions import permute
from wslax.symmetry.find import locate
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array, Key, Params

Leaves = dict[str, Any]
Order = dict[int, Any]
State = tuple[Leaves, Order, Array]  # the moved model, its order so far, which groups are stale


class Moves(NamedTuple):
    """What may be done to the units of a group, and how.

    Attributes:
      stay: `(groups, group)` to the move that does nothing.
      visit: `(groups, group, a, b)` to `b` after the best move, the move, and whether it helped.
      then: `(groups, moves, id, move)`: the moves of all groups after one more move of one group.
    """

    stay: Callable[..., Any]
    visit: Callable[..., tuple[Leaves, Any, Array]]
    then: Callable[..., Any]


def _neighbours(groups: Groups) -> np.ndarray:
    """`[free, free]`: whether two groups meet on a leaf, so that one's order moves the other's."""
    names = [{site.name for site in group.sites} for group in groups.free]
    return np.array([[bool(a & b) for b in names] for a in names])


def agreement(group: Group, a: Leaves, b: Leaves) -> Array:
    """The inner product of two models over the leaves of a group."""
    names = {site.name for site in places(group)} & a.keys()
    return sum((jnp.vdot(a[name], b[name]) for name in names), start=jnp.float32(0))


def polished(groups: Groups, group: Group, a: Leaves, b: Leaves) -> tuple[Leaves, Array]:
    """Swap pairs of units, the best first, while that raises the agreement."""
    size = group.size
    eye = jnp.arange(size, dtype=jnp.int32)
    above = np.triu(np.ones((size, size), bool), 1)
    least = 1e-6 * agreement(group, a, a)

    def best(b: Leaves) -> tuple[Array, Array]:
        gain = jnp.where(above, swap_gains(groups, group, a, b), -jnp.inf)
        return jnp.max(gain), jnp.argmax(gain)

    def body(state: tuple[Leaves, Array, Array, Array]) -> tuple[Leaves, Array, Array, Array]:
        b, order, _, pair = state
        i, j = (x.astype(jnp.int32) for x in jnp.divmod(pair, size))
        swap = eye.at[i].set(j).at[j].set(i)
        b = permute(b, groups, {group.id: swap})
        return b, order[swap], *best(b)

    begin = (b, eye, *best(b))
    return jax.lax.while_loop(lambda state: state[2] > least, body, begin)[:2]


def _visit(groups: Groups, group: Group, a: Leaves, b: Leaves) -> tuple[Leaves, Array, Array]:
    """Best order of one group, the others held: `b` moved, the order, and whether it helped."""
    score = similarity(groups, group, a, b)
    outer = tuple(groups.all[id].size for id in group.per)
    order = assignment(score).reshape(*outer, group.size)
    quadratic = not group.per and pairs(group)
    if quadratic:
        before = agreement(group, a, b)
        after = agreement(group, a, permute(b, groups, {group.id: order}))
    else:
        before = jnp.trace(score, axis1=-2, axis2=-1).sum()
        after = jnp.take_along_axis(score.reshape(*outer, -1, group.size), order[..., None], -1)
        after = after.sum()
    better = after > before + 1e-6 * jnp.abs(before)
    order = jnp.where(better, order, stay(groups, group))
    b = permute(b, groups, {group.id: order})
    if quadratic:
        b, swaps = polished(groups, group, a, b)
        order, better = order[swaps], better | (swaps != stay(groups, group)).any()
    return b, order, better


def _then(groups: Groups, orders: Order, id: int, new: Array) -> Order:
    return after(groups, orders, {id: new})


ORDERS = Moves(stay, _visit, _then)


def weight_matching(
    a: Params, b: Params, groups: Groups, *, key: Key | None = None, iterations: int = 100
) -> Order:
    r"""Permutations of `b`'s units that bring its weights nearest to `a`'s.

    Git Re-Basin's weight matching (Ainsworth, Hayase and Srinivasa, arXiv:2209.04836, section 3.2
    and algorithm 1): coordinate ascent on \(\langle a, \pi b \rangle\) over all leaves, one group
    at a time by an exact assignment, until a pass changes nothing. A group is left alone while
    neither it nor a group that it meets on a leaf has changed since its last visit. A group on two
    axes of a leaf (square weights between equal widths) makes the problem quadratic; there the
    assignment of the linearised objective is taken only if the objective itself rises, and swaps of
    two units follow while they raise it.

    Args:
      a: parameters.
      b: parameters of the same structure.
      groups: of the model; frozen ones stay as they are.
      key: draws the order of visits anew in each pass; None: the order of ids.
      iterations: most passes, 100 as in the official code.

    Returns:
      Group id to int32 `[*sizes of per, size]`, for `symmetry.permute(b, groups, ...)`. A local
      optimum: other keys find others. Works under `jax.jit` (`groups` static) and `jax.vmap`.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters, or no group is free.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> a = {"in": jnp.array([[1.0, 2.0, 3.0]]), "out": jnp.ones((3, 1))}
        >>> apply = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
        >>> groups = ws.symmetry.infer(apply, a, jnp.zeros((1, 1)))
        >>> b = ws.symmetry.permute(a, groups, {0: jnp.array([2, 0, 1])})
        >>> weight_matching(a, b, groups)[0].tolist()
        [1, 2, 0]
    """
    return solved(a, b, groups, key, iterations, ORDERS)


def solved(
    a: Params, b: Params, groups: Groups, key: Key | None, iterations: int, moves: Moves
) -> Order:
    """Best moves of the groups of `b`, after checking that there are any."""
    tree.check_like(b, a, "b", "a")
    found = locate(a, groups)
    if not groups.free:
        raise WeightSpaceError(
            "no group is free, so there is nothing to align; `groups.table()` says what froze them"
        )
    if key is None:
        solve = lambda a, b: matched(a, b, groups, None, iterations, moves)
        return one_by_one(solve)(float_leaves(a, found), float_leaves(b, found))
    solve = lambda a, b, key: matched(a, b, groups, key, iterations, moves)
    return one_by_one(solve)(float_leaves(a, found), float_leaves(b, found), key)


def one_by_one(solve: Callable[..., Order]) -> Callable[..., Order]:
    """Under `vmap` on a CPU: pair after pair, each for as many passes as it needs."""
    on_cpu = jax.default_backend() == "cpu"
    return jax.custom_batching.sequential_vmap(solve) if on_cpu else solve


def matched(
    a: Leaves,
    b: Leaves,
    groups: Groups,
    key: Key | None,
    iterations: int,
    moves: Moves = ORDERS,
) -> Order:
    """Coordinate ascent on float leaves by their names in the groups."""
    free = groups.free
    meets = jnp.asarray(_neighbours(groups))
    start = {group.id: moves.stay(groups, group) for group in free}

    def visiting(k: int) -> Callable[[State], State]:
        def visit(state: State) -> State:
            b, orders, stale = state
            b, new, better = moves.visit(groups, free[k], a, b)
            orders = moves.then(groups, orders, free[k].id, new)
            return b, orders, jnp.where(better, stale | meets[k], stale).at[k].set(False)

        return visit

    branches = [visiting(k) for k in range(len(free))]

    def turn(k: Array, state: State) -> State:
        go = lambda s: jax.lax.switch(k, branches, s)
        return jax.lax.cond(state[2][k], go, lambda s: s, state)

    def one_pass(state: tuple[Array, *State]) -> tuple[Array, *State]:
        at, *rest = state
        ids = jnp.arange(len(free))
        visits = ids if key is None else jax.random.permutation(jax.random.fold_in(key, at), ids)
        step = lambda i, s: turn(visits[i], s)
        return (at + 1, *jax.lax.fori_loop(0, len(free), step, tuple(rest)))

    stale = jnp.ones(len(free), bool)
    begin = (jnp.int32(0), b, start, stale)
    going = lambda state: (state[0] < iterations) & state[3].any()
    return jax.lax.while_loop(going, one_pass, begin)[2]
