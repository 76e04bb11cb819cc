"""Who is chosen: functions from fitness to index vectors; applying one is a gather.

All of them work on ranks, so they do not depend on the order of members, nor on the scale of
fitness except where shares are the point. NaN and -inf are worst and are chosen only when nothing
else is left.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Key, PerMember


def ranked(fitness: PerMember, ids: PerMember | None = None) -> Array:
    """Indices from best to worst.

    Args:
      fitness: `[N]`, higher is better; NaN comes last.
      ids: `[N]`; equal fitness goes to the lower id (default: the lower index).

    Returns:
      int32 `[N]`.

    Example:
        >>> import jax.numpy as jnp
        >>> ranked(jnp.array([1.0, jnp.nan, 3.0, 1.0])).tolist()
        [2, 0, 3, 1]
    """
    fitness = jnp.asarray(fitness)
    ids = jnp.arange(fitness.shape[0]) if ids is None else ids
    return jnp.lexsort((ids, -fitness)).astype(jnp.int32)


def elite(fitness: PerMember, count: int, ids: PerMember | None = None) -> Array:
    """The indices of the `count` best.

    Example:
        >>> import jax.numpy as jnp
        >>> elite(jnp.array([1.0, 5.0, 3.0]), 2).tolist()
        [1, 2]
    """
    return ranked(fitness, ids)[:count]


def shares(fitness: PerMember) -> Array:
    r"""Fitness as proportional, non-negative shares.

    \(s_i = f_i\) where no fitness is negative (GENOME's case); otherwise the window
    \(s_i = f_i - \min f + (\max f - \min f)/N\), in which the worst keeps a share. Scaled so that
    the largest is 1. NaN and -inf have none; next to +inf only +inf has. All equal, all zero or
    none valid: all (valid) share alike.

    Args:
      fitness: `[N]`, higher is better.

    Returns:
      `[N]` in [0, 1], the dtype of `fitness`.

    Example:
        >>> import jax.numpy as jnp
        >>> shares(jnp.array([1.0, 4.0, jnp.nan])).tolist()
        [0.25, 1.0, 0.0]
        >>> shares(jnp.zeros(2)).tolist()
        [1.0, 1.0]
    """
    fitness = jnp.asarray(fitness)
    valid = fitness > -jnp.inf
    low = jnp.min(fitness, where=valid, initial=jnp.inf)
    high = jnp.max(fitness, where=valid, initial=-jnp.inf)
    extra = 1 / fitness.shape[0]
    window = ((fitness - low) / (high - low) + extra) / (1 + extra)
    share = jnp.where(low < 0, window, fitness / high)
    share = jnp.where(high == jnp.inf, (fitness == jnp.inf).astype(share.dtype), share)
    alike = (high == low) | ~valid.any()
    share = jnp.where(alike, jnp.ones_like(share), share)
    return jnp.where(valid | ~valid.any(), share, jnp.zeros_like(share)).astype(fitness.dtype)


def rank_shares(
    fitness: PerMember, *, pressure: float = 2.0, ids: PerMember | None = None
) -> Array:
    r"""Shares by rank, for `roulette` whatever the scale of fitness: linear ranking.

    \[s_r = 2 - p + 2 (p - 1) \frac{N - 1 - r}{N - 1}\]

    for rank r = 0 (the best) to N - 1: the best is drawn p times as often as the average.

    Args:
      fitness: `[N]`, higher is better; NaN comes last.
      pressure: p, from 1 (all alike) to 2 (default; the worst is never drawn).
      ids: `[N]`; equal fitness goes to the lower id.

    Returns:
      float32 `[N]` of mean 1, to be given to `roulette` as fitness.

    References:
      Baker 1985, Adaptive selection methods for genetic algorithms, ICGA 1.

    Raises:
      WeightSpaceError: if the pressure is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> rank_shares(jnp.array([7.0, 900.0, 8.0])).tolist()
        [0.0, 2.0, 1.0]
    """
    if not 1 <= pressure <= 2:
        raise WeightSpaceError(f"pressure: expected a number from 1 to 2, got {pressure}")
    order = ranked(fitness, ids)
    last = max(order.shape[0] - 1, 1)
    rank = jnp.zeros(order.shape, jnp.float32).at[order].set(jnp.arange(len(order), dtype="f4"))
    return 2 - pressure + 2 * (pressure - 1) * (last - rank) / last


# Far below any log-share plus Gumbel noise, with room between the two in float32.
_NO_SHARE, _INVALID = np.float32(-200), np.float32(-400)


def roulette(
    key: Key,
    fitness: PerMember,
    draws: int,
    count: int = 1,
    *,
    ids: PerMember | None = None,
    first: Any = 0,
) -> Array:
    r"""Indices drawn in proportion to the shares of fitness, distinct within a draw.

    Each draw takes the `count` largest of \(\log s_i + G_i\) with independent Gumbel \(G_i\), which
    is drawing one after the other in proportion to what is left. Members without a share come only
    when the others are used up.

    Args:
      key: a JAX key or seed.
      fitness: `[N]`, higher is better; see `shares` for zero, negative and NaN.
      draws: how many independent draws; static.
      count: how many distinct indices a draw, at most N; static.
      ids: `[N]`, breaks ties.
      first: number of the first draw; draw `d` has random words of its own.

    Returns:
      int32 `[draws, count]`.

    Raises:
      WeightSpaceError: if `count` exceeds N.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.evolve.roulette(0, jnp.array([0.0, 1.0, 0.0]), draws=3)[:, 0].tolist()
        [1, 1, 1]
    """
    fitness = jnp.asarray(fitness)
    n = fitness.shape[0]
    if count > n:
        raise WeightSpaceError(f"roulette: cannot draw {count} distinct members of {n}")
    order = ranked(fitness, ids)
    share = shares(fitness)[order].astype(jnp.float32)
    weight = jnp.where(share > 0, jnp.maximum(jnp.log(share), _NO_SHARE / 2), _NO_SHARE)
    weight = jnp.where((fitness > -jnp.inf)[order], weight, _INVALID)

    def draw(number: Array) -> Array:
        words = random.bits(key, "evolve/roulette", n, member=number, xp=jnp)
        cell = (words >> np.uint32(9)).astype(jnp.float32) + np.float32(0.5)
        score = weight - jnp.log(-jnp.log(cell * np.float32(2.0**-23)))
        return order[jax.lax.top_k(score, count)[1]]

    numbers = jnp.arange(draws, dtype=jnp.uint32) + jnp.asarray(first, jnp.uint32)
    return jax.vmap(draw)(numbers)


def pairs(key: Key, n: int, count: int) -> Array:
    """Unordered pairs of `n` things in random order, again in that order when they run out.

    Args:
      key: a JAX key or seed.
      n: how many things, at least 2; static.
      count: how many pairs; static.

    Returns:
      int32 `[count, 2]`, the lower index first.

    Raises:
      WeightSpaceError: if there are fewer than two.

    Example:
        >>> import wslax as ws
        >>> sorted(ws.evolve.pairs(0, 3, 3).tolist())
        [[0, 1], [0, 2], [1, 2]]
    """
    if n < 2:
        raise WeightSpaceError(f"pairs: expected at least 2 members, got {n}")
    every = np.stack(np.triu_indices(n, 1), 1).astype(np.int32)
    order = jnp.argsort(random.bits(key, "evolve/pairs", len(every), xp=jnp))
    return jnp.asarray(every)[order[jnp.arange(count) % len(every)]]


def tournament(
    key: Key,
    fitness: PerMember,
    count: int,
    *,
    size: int = 3,
    spare: int = 0,
    replace: bool = False,
    ids: PerMember | None = None,
) -> Array:
    """Winners of tournaments; a winner leaves the pool, or stays in it.

    Without replacement each round draws `size` distinct members of the pool (all of it when fewer
    are left); the best wins and leaves. Members without a fitness enter only when no other is left,
    in order of id.

    With replacement the pool stays the same and each competitor is drawn alone, so a member may
    meet itself and win more than once: how parents are chosen (Goldberg and Deb 1991).

    Args:
      key: a JAX key or seed.
      fitness: `[N]`, higher is better.
      count: how many winners; static.
      size: how many compete, GENOME's 3; static.
      spare: how many of the best stay outside (elites chosen before); static.
      replace: whether winners stay in the pool.
      ids: `[N]`, breaks ties.

    Returns:
      int32 `[count]`, distinct unless `replace`.

    Raises:
      WeightSpaceError: if the pool has fewer than `count`, or with `replace` none.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.evolve.tournament(0, jnp.array([2.0, 9.0, 4.0]), 1).tolist()
        [1]
    """
    fitness = jnp.asarray(fitness)
    pool = ranked(fitness, ids)[spare:]
    if pool.shape[0] < (min(count, 1) if replace else count):
        raise WeightSpaceError(f"tournament: {count} winners of a pool of {pool.shape[0]}")
    if count == 0:
        return pool[:0]
    entered = jnp.sum(~jnp.isnan(fitness), dtype=jnp.int32) - spare
    u = random.uniform(random.bits(key, "evolve/tournament", count * size, xp=jnp))
    u = u.reshape(count, size)
    if replace:
        among = jnp.where(entered > 0, entered, pool.shape[0])
        drawn = (u * among.astype(jnp.float32)).astype(jnp.int32)
        return pool[jnp.minimum(drawn, among - 1).min(1)]

    def swap(places: jax.Array, i: Array, j: Array) -> jax.Array:
        a, b = places[i], places[j]
        return places.at[i].set(b).at[j].set(a)

    def round_(r: Array, places: jax.Array) -> Array:
        # Of the `left` places still in play, the competitors are shuffled to the end; the winner,
        # who is the one of the lowest rank, then goes to the very end, and out of play.
        left = entered - r
        last = jnp.maximum(left - 1, 0)
        for k in range(size):
            end = jnp.maximum(last - k, 0)
            chosen = jnp.minimum((u[r, k] * (end + 1).astype(jnp.float32)).astype(jnp.int32), end)
            places = swap(places, chosen, end)
        at = jnp.maximum(last - jnp.arange(size, dtype=jnp.int32), 0)
        winner = at[jnp.argmin(places[at])]
        return swap(places, winner, last)

    ranks = jnp.arange(pool.shape[0], dtype=jnp.int32)
    places = jax.lax.fori_loop(
        0, count, lambda r, p: jnp.where(r < entered, round_(r, p), p), ranks
    )
    r = jnp.arange(count, dtype=jnp.int32)
    return pool[places[jnp.where(r < entered, jnp.maximum(entered - 1 - r, 0), r)]]
