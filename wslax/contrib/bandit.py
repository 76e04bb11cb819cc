"""Fitness on a budget: members are shown as many items as it takes to tell who is good.

All members see the items in one shared order, so that they are compared on the same ones. What is
made here is an ordinary `evaluate` for `ws.evolve.run(..., direction="maximize")`.
"""

import bisect
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax import population as populations
from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.population.members import as_key
from wslax.random import bits
from wslax.typing import Array, Key, Params, Population, Scalar

Score = Callable[[Params, Array], Array]


class Judged(NamedTuple):
    """What is known of K members.

    Attributes:
      fitness: `[K]`, to choose by; NaN where a score was NaN.
      means: `[K]`, of the scores of the items shown; NaN where there was none.
      counts: int32 `[K]`, how many items each was shown; their sum is what was spent.
    """

    fitness: Array
    means: Array
    counts: Array


@dataclasses.dataclass(frozen=True)
class Budgeted:
    """An `evaluate` that does not show every item to every member.

    Called with a population it gives the fitness alone.

    Attributes:
      judge: `population -> Judged`.
    """

    judge: Callable[[Population], Judged]

    def __call__(self, population: Population) -> Array:
        """The fitness, `[K]`."""
        return self.judge(population).fitness


def halving(score: Score, *, items: int, budget: float, key: Key) -> Budgeted:
    r"""Successive halving: in each round the better half goes on to more items.

    Rounds have \(K, \lceil K/2 \rceil, \lceil K/4 \rceil, \dots, 2\) members and, until the items
    run out, twice as many new items each: all rounds cost alike. Each round is one call of `score`
    with the members that are left. The first has as many items as the budget allows.

    Who falls out keeps the mean of what it was shown, but at most the least fitness of those that
    went on: a mean of few items that is high by chance puts nobody above who did well on many.

    Args:
      score: `(population of k, int32[m] items) -> [k, m]`, higher is better. Any Python function;
        wrap what you get in `jax.jit` if it can be traced.
      items: how many there are.
      budget: share of the evaluations of all members on all items, in (0, 1].
      key: a JAX key or seed, for the order of the items: the same in every generation, so that
        fitness stays comparable.

    Returns:
      `evaluate(population) -> [K]`, and `evaluate.judge(population)` with means and counts.

    Raises:
      WeightSpaceError: if the budget is out of range; when called, if it does not suffice for one
        item a member in the first round, or the score has another shape.

    References:
      Karnin et al. 2013, Almost optimal exploration in multi-armed bandits; Jamieson and Talwalkar
      2016, arXiv:1502.07943.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> score = lambda p, items: p["w"][:, None] + 0 * items[None]
        >>> evaluate = ws.contrib.bandit.halving(score, items=100, budget=0.25, key=0)
        >>> judged = jax.jit(evaluate.judge)({"w": jnp.arange(8.0) / 8})
        >>> judged.counts.tolist(), int(judged.counts.sum())
        ([8, 8, 8, 8, 24, 24, 56, 56], 192)
    """
    order = _order(items, budget, key)

    def judge(population: Population) -> Judged:
        k = populations.size(population)
        total, counts, seen = jnp.zeros(k), jnp.zeros(k, jnp.int32), 0
        alive = jnp.arange(k, dtype=jnp.int32)
        for left, new in _rounds(k, items, budget):
            alive = alive[jnp.argsort(-total[alive])[:left]]  # NaN comes last
            found = score(populations.take(population, alive), order[seen : seen + new])
            total = total.at[alive].add(_checked(found, left, new).sum(1))
            seen += new
            counts = counts.at[alive].set(seen)
        means = total / counts
        further = (counts[None] > counts[:, None]) & ~jnp.isnan(means)[None]
        least = jnp.min(jnp.broadcast_to(means[None], (k, k)), 1, where=further, initial=jnp.inf)
        return Judged(jnp.minimum(means, least), means, counts)

    return Budgeted(judge)


def thompson(
    score: Score,
    *,
    items: int,
    budget: float,
    key: Key,
    batch: int = 20,
    slots: int = 1,
    prior: Scalar = 0.5,
) -> Budgeted:
    r"""Thompson sampling: those go on whose posterior says that they may be the best.

    Each step draws \(\theta_k \sim \mathrm{Beta}(a_0 + s_k, b_0 + n_k - s_k)\) for every member,
    s the sum of its scores on the n items it was shown, and shows their next `batch` items to the
    `slots` members with the largest draws. Who has seen all items is out of the race; where fewer
    than `slots` are left in it, less is spent. The prior is FormatSpread's, \(b_0 = 5\) and
    \(a_0 = b_0 \mu_0 / (1 - \mu_0)\), at least 1.1 and here at most the number of items, so that
    \(\mu_0 = 1\) is a number.

    The fitness is the posterior mean less the posterior's standard deviation. FormatSpread answers
    with the best mean, by which a member that was lucky in one batch can win. Below a quarter of
    all evaluations `halving` finds better members.

    Args:
      score: `(population of 1, int32[m] items) -> [1, m]`, in [0, 1], higher is better. Traceable:
        the steps are one compiled loop.
      items: how many there are.
      budget: share of the evaluations of all members on all items, in (0, 1].
      key: a JAX key or seed, for the order of the items and the draws.
      batch: items a step, at most all; default 20, FormatSpread's. Static.
      slots: members a step, evaluated together; at most all. Static.
      prior: \(\mu_0\), the mean that is expected; FormatSpread takes one member's on all items.

    Returns:
      `evaluate(population) -> [K]`, and `evaluate.judge(population)` with means and counts.

    Raises:
      WeightSpaceError: if the budget is out of range; when called, if it does not suffice for one
        step, or the score has another shape.

    References:
      Sclar et al. 2024, FormatSpread, arXiv:2310.11324.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> score = lambda p, items: p["w"][:, None] + 0 * items[None]
        >>> evaluate = ws.contrib.bandit.thompson(score, items=100, budget=0.5, key=0)
        >>> judged = evaluate.judge({"w": jnp.arange(8.0) / 8})
        >>> int(judged.fitness.argmax()), int(judged.counts.sum())
        (7, 400)
    """
    order = _order(items, budget, key)
    draws, batch = as_key(key), min(batch, items)
    a0 = jnp.clip(_STRENGTH * prior / (1 - jnp.asarray(prior, jnp.float32)), 1.1, items)

    @jax.jit
    def judge(population: Population) -> Judged:
        k = populations.size(population)
        wide = min(slots, k)
        steps = int(budget * k * items) // (wide * batch) if min(wide, batch) > 0 else 0
        if steps < 1:
            raise WeightSpaceError(
                f"thompson: {budget:g} of {k} x {items} evaluations are less than one step of "
                f"{wide} x {batch}; raise the budget or lower batch or slots"
            )

        def one(member: Params, chosen: Array) -> Array:
            alone = jax.tree.map(lambda x: x[None], member)
            return _checked(score(alone, chosen), 1, batch)[0]

        def step(state: Any, t: Array) -> tuple[Any, None]:
            total, counts = state
            a, b = _posterior(a0, total, counts)
            lost = jnp.isnan(total)
            a, b = (jnp.where(lost, jnp.ones_like(x), x) for x in (a, b))
            draw = jax.random.beta(jax.random.fold_in(draws, t), a, b)
            pulled = jax.lax.top_k(jnp.where(lost | (counts >= items), -jnp.inf, draw), wide)[1]
            at = counts[pulled][:, None] + jnp.arange(batch, dtype=jnp.int32)[None]
            found = jax.vmap(one)(populations.take(population, pulled), order[at % items])
            found = jnp.where(at < items, found, 0).sum(1)
            new = jnp.minimum(items - counts[pulled], batch)
            return (total.at[pulled].add(found), counts.at[pulled].add(new)), None

        start = (jnp.zeros(k), jnp.zeros(k, jnp.int32))
        (total, counts), _ = jax.lax.scan(step, start, jnp.arange(steps, dtype=jnp.uint32))
        a, b = _posterior(a0, total, counts)
        mean = a / (a + b)
        spread = jnp.sqrt(mean * (1 - mean) / (a + b + 1))
        return Judged(mean - spread, total / counts, counts)

    return Budgeted(judge)


_STRENGTH = 5.0  # FormatSpread's b of the prior


def _posterior(a0: Array, total: Array, counts: Array) -> tuple[Array, Array]:
    return a0 + total, _STRENGTH + counts - total


def _order(items: int, budget: float, key: Key) -> Array:
    if items < 1 or not 0 < budget <= 1:
        raise WeightSpaceError(
            f"expected items >= 1 and a budget in (0, 1], got {items} and {budget:g}"
        )
    return jnp.argsort(bits(key, "contrib/bandit", items, xp=jnp)).astype(jnp.int32)


def _rounds(k: int, items: int, budget: float) -> list[tuple[int, int]]:
    """Members and new items of each round, the most that the budget allows."""

    def shown(first: int) -> list[tuple[int, int]]:
        left, new, seen, rounds = k, first, 0, []
        while seen < items and (left > 1 or not rounds):
            new = min(new, items - seen)
            rounds.append((left, new))
            left, new, seen = -(-left // 2), 2 * new, seen + new
        return rounds

    cost = lambda first: sum(left * new for left, new in shown(first))
    first = bisect.bisect_right(range(1, items + 1), budget * k * items, key=cost)
    if first == 0:
        raise WeightSpaceError(
            f"halving: the budget allows {budget * k * items:.0f} evaluations, and one item a "
            f"member in the first round takes {cost(1)}; raise the budget"
        )
    return shown(first)


def _checked(found: Array, members: int, items: int) -> Array:
    found = jnp.asarray(found)
    if found.shape != (members, items):
        raise WeightSpaceError(
            f"score: expected one number a member and item, [{members}, {items}], "
            f"got {tree.aval(found)}"
        )
    return found.astype(jnp.float32)
