"""The general genetic algorithm: any selection, crossover, mutation and succession."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.breeding import Make, breed, room
from wslax.evolve.crossover import Crossover, linear
from wslax.evolve.generation import Survive, check_where, coefficients, crossed, owned, settle
from wslax.evolve.mutation import gaussian
from wslax.evolve.selection import roulette
from wslax.evolve.staging import Staged
from wslax.evolve.strategy import Evaluation, Info, Members, Strategy, empty, members
from wslax.evolve.succession import plus
from wslax.globs import hashable
from wslax.population import size
from wslax.population.members import as_key
from wslax.typing import Array, Key, Params, Where

Select = Callable[[Key, Members, int], Array]
Mutate = Callable[..., Params]

SPARSE = functools.partial(gaussian, sigma=0.01, rate=0.01)
"""GENOME's mutation."""


class Plan(NamedTuple):
    """What fixes the shapes and the program; hashable, so equal plans share what is compiled."""

    select: Select
    crossover: Crossover | None
    mutate: Mutate | None
    survive: Survive
    elite: int
    where: Where
    chunk: int


class State(NamedTuple):
    """The state of a genetic algorithm.

    Attributes:
      members: the population, with scores and descriptors where they were told.
      parents: `[C, 2]`, ids of the parents of the children last asked for.
      next_id: the id of the next child.
    """

    members: Members
    parents: Array
    next_id: Array


def by_roulette(key: Key, members: Members, count: int) -> Array:
    """Couples of two distinct parents in proportion to fitness; of one member, that one twice."""
    drawn = roulette(key, members.fitness, count, min(2, members.ids.shape[0]), ids=members.ids)
    return jnp.broadcast_to(drawn, (count, 2))


@functools.lru_cache(maxsize=128)
def _made(plan: Plan) -> Make:
    """`(slots, pairs, (key, coef, ids)) -> children`, crossed and mutated."""

    def mutated(mutate: Mutate, mine: Params, key: Key, child: Params, id_: Array) -> Params:
        new = mutate(key, child, member=id_)
        tree.check_like(new, child, "the mutant", "the child")
        return jax.tree.map(lambda x, y, mine: x if mine else y, new, child, mine)

    def make(slots: Array, pairs: Params, shared: Any) -> Params:
        key, _, ids = shared
        mine = owned(pairs, plan.where)
        if plan.crossover is None:
            young = jax.tree.map(lambda x: x[:, 0], pairs)
        else:
            young = crossed(plan.crossover, plan.where)(slots, pairs, shared)
        if plan.mutate is None:
            return young
        return jax.vmap(functools.partial(mutated, plan.mutate, mine, key))(young, ids[slots])

    return make


@functools.partial(jax.jit, static_argnames="plan")
def _drawn(plan: Plan, key: Key, state: State) -> tuple[Array, Array, Array]:
    """Couples of parents, their shares and the ids of their children."""
    now, total = state.members, state.parents.shape[0]
    ids = state.next_id + jnp.arange(total, dtype=jnp.uint32)
    couples = jnp.asarray(plan.select(key, now, total))
    if couples.shape != (total, 2) or not jnp.issubdtype(couples.dtype, jnp.integer):
        raise WeightSpaceError(
            f"select: expected the indices of two parents a child, int[{total},2], got "
            f"{tree.aval(couples)}"
        )
    return couples, coefficients(now.fitness, couples), ids


def _ask(plan: Plan, key: Key, state: State) -> tuple[Params, State]:
    now, key = state.members, as_key(key)
    couples, coef, ids = _drawn(plan, key, state)
    children = empty(now.params, room(len(ids)))
    make, shared = _made(plan), (key, coef, ids)
    children = breed(children, 0, couples, plan.chunk, make, shared, now.params)
    return children, state._replace(parents=now.ids[couples])


def _tell(
    plan: Plan, key: Key, state: State, children: Params, evaluation: Array | Evaluation
) -> tuple[State, Info]:
    # Words of their own: `select` drew from the key itself, children from their ids, which are > 0.
    key = jax.random.fold_in(as_key(key), 0)
    return settle(plan.survive, key, state, children, evaluation, plan.elite)


@functools.lru_cache(maxsize=128)
def _program(plan: Plan) -> tuple[Staged, Staged]:
    return Staged(functools.partial(_ask, plan)), Staged(functools.partial(_tell, plan))


def genetic_algorithm(
    *,
    select: Select = by_roulette,
    crossover: Crossover | None = linear,
    mutate: Mutate | None = SPARSE,
    survive: Survive = plus,
    children: int | None = None,
    elite: int = 1,
    where: Where = None,
    chunk: int = 4,
) -> Strategy:
    """A genetic algorithm of any parts: parents, children, mutants, and who stays.

    Each generation makes a fixed number of children: `select` names two parents for each,
    `crossover` joins them by their shares of fitness (`linear`), `mutate` changes the child, and
    after the evaluation the `elite` best of members and children stay, then those whom `survive`
    names. A member's scores and descriptors, where `init` and `tell` get an `Evaluation`, move with
    it in the same gather, for `select` and `survive` to read.

    Args:
      select: `(key, members, count) -> int [count, 2]`, indices of parents. Default: two distinct
        ones in proportion to fitness. Any selection of `ws.evolve` fits, as

        - `roulette(key, rank_shares(members.fitness), count, 2)`,
        - `tournament(key, members.fitness, 2 * count, replace=True).reshape(count, 2)`,
        - `lexicase(key, members.scores, 2 * count).reshape(count, 2)`.
      crossover: `(key, pair, coef) -> params`; merges are crossovers. None: a child begins as its
        first parent.
      mutate: `(key, params, member=id) -> params`, as a `functools.partial` of `gaussian`,
        `low_rank`, `spectral` or `reset`. Default: GENOME's, 1% of the weights by 0.01. None: no
        mutation.
      survive: `(key, old, new, parents) -> int [...]`, indices of who stays, members before
        children: `plus` (default), `comma`, `crowding`, or a function of your own, of which
        repeated names count once and the best of the rest fill what is left.
      children: how many a generation; static. Default: as many as members.
      elite: how many of the best stay whatever `survive` says.
      where: globs of the leaves that are crossed and mutated; others, and integer, bool and key
        leaves, come from the first parent.
      chunk: how many children are made at a time; memory and speed depend on it. Of an offloaded
        population so many are on the device, and the weights that `select` or `survive` reads.

    Returns:
      The strategy; its state has `members`, `parents` and `next_id`. A population of one evolves by
      mutation alone.

    Raises:
      WeightSpaceError: if a count is below 1 (`elite`: 0); where first used, if `select` gives
        another shape, or an operator another tree.

    References:
      Holland 1975, Adaptation in natural and artificial systems. M2N2, of the example: Abrantes et
      al. 2025, arXiv:2508.16204.

    Example:
        M2N2: parents and survivors by competition for items, mates by attraction, one child a step.

        >>> import functools, jax, jax.numpy as jnp, wslax as ws
        >>> def select(key, members, count):
        ...     niche = ws.evolve.niche_fitness(members.scores)
        ...     first = ws.evolve.roulette(key, niche, count, ids=members.ids)[:, 0]
        ...     return jnp.stack([first, ws.evolve.attraction(key, members.scores, first)], 1)
        >>> def survive(key, old, new, parents):
        ...     niche = ws.evolve.niche_fitness(jnp.concatenate([old.scores, new.scores]))
        ...     return ws.evolve.elite(niche, len(old.ids))
        >>> init, ask, tell = ws.evolve.genetic_algorithm(
        ...     select=select, survive=survive, elite=0, children=1)
        >>> judge = lambda p: ws.evolve.Evaluation(p["w"].sum(1), scores=p["w"] > 0.5)
        >>> population = {"w": jax.random.normal(jax.random.key(1), (8, 5))}
        >>> state = init(jax.random.key(0), population, judge(population))
        >>> for generation in range(3):
        ...     key = jax.random.fold_in(jax.random.key(0), generation)
        ...     children, state = ask(key, state)
        ...     state, info = tell(key, state, children, judge(children))
        >>> state.members.scores.shape, int(state.next_id)
        ((8, 5), 11)
    """
    sizes = {"children": (1 if children is None else children, 1), "elite": (elite, 0)}
    for what, (given, least) in (sizes | {"chunk": (chunk, 1)}).items():
        if given < least:
            raise WeightSpaceError(f"{what}: expected at least {least}, got {given}")
    plan = Plan(select, crossover, mutate, survive, elite, hashable(where), chunk)

    def init(key: Key, population: Params, evaluation: Array | Evaluation) -> State:
        first = members(population, evaluation, served=True)
        n = size(population)
        check_where(population, plan.where)
        parents = jnp.zeros((children or n, 2), jnp.uint32)
        return State(first, parents, jnp.asarray(np.uint32(n)))

    return Strategy(init, *_program(plan))
