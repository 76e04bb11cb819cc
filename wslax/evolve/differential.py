"""Differential evolution on trees (Storn and Price 1997)."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.evolve.breeding import Make, breed
from wslax.evolve.generation import duel, owned
from wslax.evolve.mutation import check_rate
from wslax.evolve.selection import ranked
from wslax.evolve.strategy import Evaluation, Info, Members, Strategy, empty, members
from wslax.globs import hashable
from wslax.population import size
from wslax.population.members import as_key
from wslax.typing import Array, Key, Params, PerMember, Where

Base = Literal["random", "best"]


class Plan(NamedTuple):
    """What fixes the program; hashable."""

    base: Base
    where: Where
    chunk: int


class State(NamedTuple):
    """The state of differential evolution.

    Attributes:
      members: the population.
      parents: `[N, 2]`, ids of the target and the base of the children last asked for.
      next_id: the id of the next child.
      scale: F; may be replaced between generations.
      rate: CR; likewise.
    """

    members: Members
    parents: Array
    next_id: Array
    scale: Array
    rate: Array


def others(words: Array, own: Array, n: int) -> Array:
    """Distinct numbers below n, none of them `own`: one for each word, int32.

    Example:
        >>> import jax.numpy as jnp
        >>> others(jnp.array([2, 1], jnp.uint32), jnp.int32(1), 4).tolist()
        [3, 2]
    """
    taken = own[None].astype(jnp.int32)
    for k in range(words.shape[0]):
        at = (words[k] % np.uint32(n - 1 - k)).astype(jnp.int32)
        for passed in jnp.sort(taken):
            at = at + (at >= passed).astype(jnp.int32)
        taken = jnp.concatenate([taken, at[None]])
    return taken[1:]


def _donated(
    key: Key, id_: Array, target: Params, mine: Params, rate: Array
) -> Callable[[str], Array]:
    """Leaf name to which weights come from the donor: the share `rate`, and one in any case."""
    named = zip(tree.named_leaves(target).items(), jax.tree.leaves(mine), strict=True)
    shapes = {name: leaf.shape for (name, leaf), ours in named if ours and leaf.size}
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    draw = random.bits(key, "evolve/differential/one", 2, member=id_, xp=jnp)
    # By leaves of their sizes, then within one: a flat index would not fit into 32 bits.
    bounds = (ends / ends[-1]).astype(np.float32)
    leaf = jnp.searchsorted(jnp.asarray(bounds), random.uniform(draw[0]), side="right")
    order = {name: i for i, name in enumerate(shapes)}

    def of(name: str) -> Array:
        count = math.prod(shapes[name])
        words = random.bits(key, f"evolve/differential/{name}", count, member=id_, xp=jnp)
        forced = jnp.arange(count, dtype=jnp.uint32) == draw[1] % np.uint32(count)
        taken = (random.uniform(words) < rate) | (forced & (leaf == order[name]))
        return taken.reshape(shapes[name])

    return of


def _made(mine: Params) -> Make:
    """`(slots, [target, a, b, c], (key, ids, scale, rate)) -> trials`."""

    def make(slots: Array, rows: Params, shared: Any) -> Params:
        key, ids, scale, rate = shared

        def one(four: Params, id_: Array) -> Params:
            target = jax.tree.map(lambda x: x[0], four)
            donated = _donated(key, id_, target, mine, rate)

            def trial(name: str, x: Array, rows: Array, ours: bool) -> Array:
                if not ours or x.size == 0:
                    return x
                a, b, c = rows[1:].astype(tree.wide(x))
                donor = a + scale.astype(a.dtype) * (b - c)
                return jnp.where(donated(name), donor.astype(x.dtype), x)

            return tree.map_named(trial, target, four, mine)

        return jax.vmap(one)(rows, ids[slots])

    return make


def _ask(plan: Plan, key: Key, state: State) -> tuple[Params, State]:
    now = state.members
    n = now.ids.shape[0]
    mine, key = owned(now.params, plan.where), as_key(key)
    # In the order of ids, so that the order of slots does not matter.
    by_id = jnp.argsort(now.ids).astype(jnp.int32)
    rank = jnp.argsort(by_id).astype(jnp.int32)
    best = ranked(now.fitness, now.ids)[0]

    def partners(id_: Array, own: Array) -> Array:
        words = random.bits(key, "evolve/differential/partners", 3, member=id_, xp=jnp)
        found = by_id[others(words, own, n)]
        return found.at[0].set(best) if plan.base == "best" else found

    three = jax.vmap(partners)(now.ids, rank)
    four = jnp.concatenate([jnp.arange(n, dtype=jnp.int32)[:, None], three], 1)
    shared = key, now.ids, state.scale, state.rate
    children = empty(now.params, n)
    children = breed(children, 0, four, plan.chunk, _made(mine), shared, now.params)
    parents = jnp.stack([now.ids, now.ids[three[:, 0]]], 1)
    return children, state._replace(parents=parents)


def _tell(
    plan: Plan, key: Key, state: State, children: Params, evaluation: Array | Evaluation
) -> tuple[State, Info]:
    def better(new: PerMember, old: PerMember) -> Array:
        return (new >= old) | (jnp.isnan(old) & ~jnp.isnan(new))

    return duel(better, state, children, evaluation)


@functools.lru_cache(maxsize=128)
def _program(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return jax.jit(functools.partial(_ask, plan)), jax.jit(functools.partial(_tell, plan))


def differential_evolution(
    *,
    base: Base = "random",
    scale: float = 0.8,
    rate: float = 0.9,
    where: Where = None,
    chunk: int = 4,
) -> Strategy:
    r"""Differential evolution, DE/rand/1/bin or DE/best/1/bin.

    Each member \(x_i\) gets one child. Its donor is

    \[v = x_a + F (x_b - x_c)\]

    of three distinct others, or, with `base="best"`, \(x_a\) the best member and \(x_b, x_c\) two
    distinct others than \(x_i\). Each weight of the child is the donor's with probability CR, else
    \(x_i\)'s; one weight is the donor's in any case, drawn uniformly among all weights of all
    leaves that take part. The child replaces \(x_i\) if it is at least as good.

    Args:
      base: what is \(x_a\).
      scale: F; 0.8, as in evosax and within Storn and Price's 0.5 to 1.
      rate: CR, 0.9. Both are in the state and may be replaced there without compiling.
      where: globs of the leaves that take part; others, and integer, bool and key leaves, stay
        the member's own.
      chunk: how many children are made at a time. Bits do not depend on it, memory and speed do.

    Returns:
      The strategy; its state has `members`, `parents`, `next_id`, `scale` and `rate`.

    Raises:
      WeightSpaceError: for an unknown base, a negative scale, or a rate outside [0, 1]; from
        `init`, for fewer than 4 members.

    References:
      Storn and Price 1997, Differential evolution, a simple and efficient heuristic for global
      optimization over continuous spaces, Journal of Global Optimization 11.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> fitness = lambda population: jnp.square(population["w"] - 0.5).sum(1)
        >>> population = {"w": jax.random.normal(jax.random.key(1), (12, 3))}
        >>> end = ws.evolve.run(ws.evolve.differential_evolution(), population, fitness,
        ...     key=0, generations=60, direction="minimize")
        >>> bool(end.members.fitness.max() < 1e-3)
        True
    """
    if base not in ("random", "best"):
        raise WeightSpaceError(f'base: expected "random" or "best", got {base!r}')
    if not scale >= 0:
        raise WeightSpaceError(f"scale: expected a number of at least 0, got {scale}")
    check_rate("rate", rate)
    if chunk < 1:
        raise WeightSpaceError(f"chunk: expected at least 1, got {chunk}")
    plan = Plan(base, hashable(where), chunk)

    def init(key: Key, population: Params, evaluation: Array | Evaluation) -> State:
        first = members(population, evaluation)
        n = size(population)
        if n < 4:
            raise WeightSpaceError(f"differential evolution needs at least 4 members, got {n}")
        mine = owned(population, plan.where)
        if not any(jax.tree.leaves(jax.tree.map(lambda x, m: m and x.size, population, mine))):
            raise WeightSpaceError("differential evolution: no leaf that takes part holds floats")
        two = (jnp.asarray(number, jnp.float32) for number in (scale, rate))
        parents = jnp.zeros((n, 2), jnp.uint32)
        return State(first, parents, jnp.asarray(np.uint32(n)), *two)

    return Strategy(init, *_program(plan))
