"""Straight-through matching: the order in which the loss half way between two models is lowest."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.align.compose import after, identity
from wslax.align.similarity import float_leaves
from wslax.align.weights import Leaves, Order, matched, one_by_one
from wslax.errors import WeightSpaceError
from wslax.symmetry.actions import permute
from wslax.symmetry.find import locate
from wslax.symmetry.types import Groups
from wslax.typing import Array, Key, Params

Loss = Callable[[Params, Any], Array]
State = tuple[Any, Any, Order, Order]  # the free model, its optimizer, its order, the best one


def _half_way(a: Any, b: Any) -> Any:
    """The mean of two leaves, or the first where they are no floats."""
    if not tree.is_float(a):
        return a
    wide = tree.wide(a)
    return tree.cast_like((jnp.asarray(a).astype(wide) + b.astype(wide)) / 2, a)


def _steps(batches: Any) -> int:
    """The length of the leading axis that all leaves share."""
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise WeightSpaceError(
            "batches: expected leaves with one leading axis of steps, got lengths "
            f"{sorted(map(list, lengths))}"
        )
    return lengths.pop()[0]


def straight_through(
    loss: Loss,
    a: Params,
    b: Params,
    groups: Groups,
    batches: Any,
    *,
    optimizer: optax.GradientTransformation,
    key: Key | None = None,
) -> Order:
    r"""Permutations of `b`'s units that lower the loss half way between the two models.

    Git Re-Basin's straight-through estimator (Ainsworth, Hayase and Srinivasa, arXiv:2209.04836,
    section 3.3 and algorithm 2): a free model \(\hat b\), at first `a`, is trained through the
    order that it stands for,

    \[\pi = \arg\max_\pi \langle \hat b, \pi b \rangle, \qquad
      \hat b \leftarrow \hat b - \text{update}\left(
      \nabla_{\pi b} L\left(\tfrac12 (a + \pi b)\right)\right),\]

    where each projection is weight matching that goes on from the order before; the first is that
    of `weight_matching`. The best order is at first `b`'s own; the order of a step takes its place
    if its loss half way, on the batch of that step, is the lower of the two (the official code
    compares losses on different batches). So where all steps have the same batch, the loss there is
    no higher than weight matching's.

    Args:
      loss: `(params, batch) -> scalar`.
      a: parameters.
      b: parameters of the same structure; leaves that are no floats are `a`'s in the loss.
      groups: of the model; frozen ones stay as they are.
      batches: a tree with a leading axis of steps; one gradient step a batch.
      optimizer: an Optax transformation; the official code has `optax.sgd(0.01, momentum=0.9)`. It
        sees the float leaves that the groups run through, in a dict by name.
      key: draws the order of visits in each projection; None: the order of ids.

    Returns:
      Group id to int32 `[*sizes of per, size]`, for `symmetry.permute(b, groups, ...)`. One
      `lax.scan`; works under `jax.jit` (`groups` static) and `jax.vmap`.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters, no group is free, or the batches
        share no leading axis.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> net = ws.nets.mlp(4, [8], 3)
        >>> a, b = (net.init(jax.random.key(i)) for i in (0, 1))
        >>> x, y = jnp.ones((20, 5, 4)), jnp.zeros((20, 5), int)
        >>> groups = ws.symmetry.infer(net.apply, a, x[0])
        >>> loss = lambda p, batch: ws.nets.cross_entropy(net.apply(p, batch[0]), batch[1])
        >>> order = straight_through(loss, a, b, groups, (x, y), optimizer=optax.sgd(0.01))
        >>> sorted(order[groups.free[0].id].tolist())
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
    tree.check_like(b, a, "b", "a")
    found, steps = locate(a, groups), _steps(batches)
    if not groups.free:
        raise WeightSpaceError("no group is free; `groups.table()` says what froze them")
    ends = float_leaves(b, found)

    def half(order: Order) -> Params:
        return jax.tree.map(_half_way, a, permute(b, groups, order))

    def project(free: Leaves, ends: Leaves, order: Order, key: Key | None) -> Order:
        then = matched(free, permute(ends, groups, order), groups, key, 100)
        return after(groups, order, then)

    def step(state: State, now: tuple[Array, Any]) -> tuple[State, None]:
        (free, inner, order, best), (at, batch) = state, now
        draw = None if key is None else jax.random.fold_in(key, at)
        order = one_by_one(project)(free, ends, order, draw)
        value, grad = jax.value_and_grad(loss, allow_int=True)(half(order), batch)
        better = value < loss(half(best), batch)
        best = {id: jnp.where(better, order[id], p) for id, p in best.items()}
        slope = {name: g / 2 for name, g in float_leaves(grad, found).items()}
        change, inner = optimizer.update(slope, inner, free)
        return (optax.apply_updates(free, change), inner, order, best), None

    free, start = float_leaves(a, found), identity(groups)
    begin = (free, optimizer.init(free), start, start)
    return jax.lax.scan(step, begin, (jnp.arange(steps), batches))[0][3]
