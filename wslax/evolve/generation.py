"""Generations: how children are bred and survivors placed, and those of GENOME."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.evolve.breeding import Make, breed, room
from wslax.evolve.crossover import Crossover, cross
from wslax.evolve.mutation import check_rate, gaussian
from wslax.evolve.selection import ranked, roulette, shares, tournament
from wslax.evolve.staging import Staged
from wslax.evolve.strategy import (
    Evaluation,
    Info,
    Members,
    choose,
    empty,
    newborn,
    place,
    report,
)
from wslax.evolve.succession import both
from wslax.globs import hashable
from wslax.population.int8 import one_leaf_each
from wslax.population.members import as_key, size
from wslax.typing import Array, Key, Params, PerMember, Population, Where

# `(key, old members, new members, parents' ids [C, 2]) -> ` who stays, the first with more right.
Survive = Callable[[Key, Members, Members, Array], Array]


class Plan(NamedTuple):
    """What fixes the shapes and the program; hashable, so equal plans share what is compiled."""

    cross_rate: float
    mutation_rate: float
    gene_rate: float
    elite: float
    tournament: int
    crossover: Crossover
    where: Where
    chunk: int


class State(NamedTuple):
    """GENOME's state.

    Attributes:
      members: the population.
      parents: `[C, 2]`, ids of the parents of the children last asked for.
      next_id: the id of the next child.
      sigma: size of the mutations; may be replaced between generations.
    """

    members: Members
    parents: Array
    next_id: Array
    sigma: Array


def counts(plan: Plan, n: int) -> tuple[int, int, int]:
    """How many children n members get by crossover, mutants of members, mutants of children."""
    crossed = int(plan.cross_rate * (n // 2) + 0.5)
    of_members, of_children = (int(plan.mutation_rate * m + 0.5) for m in (n, crossed))
    return crossed, of_members, of_children


def planned(
    *,
    cross_rate: float,
    mutation_rate: float,
    gene_rate: float,
    elite: float,
    tournament: int,
    crossover: Crossover,
    where: Where,
    chunk: int,
) -> Plan:
    """A checked plan.

    Raises:
      WeightSpaceError: if a rate is outside [0, 1] or a size is below 1.
    """
    rates = {"cross_rate": cross_rate, "mutation_rate": mutation_rate, "gene_rate": gene_rate}
    for what, rate in (rates | {"elite": elite}).items():
        check_rate(what, rate)
    for what, least in {"tournament": tournament, "chunk": chunk}.items():
        if least < 1:
            raise WeightSpaceError(f"{what}: expected at least 1, got {least}")
    globs = hashable(where)
    return Plan(cross_rate, mutation_rate, gene_rate, elite, tournament, crossover, globs, chunk)


def unborn(plan: Plan, population: Population) -> Array:
    """Room for the parents' ids of the children that a population gets, `[C, 2]`.

    Raises:
      WeightSpaceError: if there would be none, or `where` picks nothing.
    """
    check_where(population, plan.where)
    n = size(population)
    children = sum(counts(plan, n))
    if children == 0:
        raise WeightSpaceError(
            f"no child of {n} member(s) at cross_rate={plan.cross_rate}, "
            f"mutation_rate={plan.mutation_rate}; give more members or raise mutation_rate"
        )
    return jnp.zeros((children, 2), jnp.uint32)


def elites(plan: Plan, n: int) -> int:
    """How many of n members stay by rank: at least one."""
    return max(1, int(plan.elite * n))


def owned(population: Population, where: Where) -> Params:
    """The leaves that operators may change: floating ones that `where` picks."""
    picked = tree.picked(population, where)
    return jax.tree.map(lambda x, mine: mine and tree.is_float(x), population, picked)


def check_where(population: Population, where: Where) -> None:
    """Raise if `where` picks nothing."""
    tree.picked(one_leaf_each(population), where)


def coefficients(fitness: PerMember, couples: Array) -> Array:
    """The shares of fitness within each couple, `[C, 2]` of sum 1; halves where both are 0."""
    share = shares(fitness)[couples].astype(jnp.float32)
    total = share.sum(1, keepdims=True)
    return jnp.where(total > 0, share / total, np.float32(0.5))


def alive(first: Array, fitness: PerMember, ids: PerMember, n: int) -> Array:
    """Who stays, `[members]` with n True: those named first, then the best of the rest."""
    total = fitness.shape[0]
    rank = jnp.arange(total, dtype=jnp.int32)
    claim = jnp.zeros(total, jnp.int32).at[ranked(fitness, ids)].set(rank + first.shape[0])
    claim = claim.at[first].min(jnp.arange(first.shape[0], dtype=jnp.int32))
    return jnp.zeros(total, bool).at[jnp.argsort(claim)[:n]].set(True)


def settle(
    survive: Survive,
    key: Key,
    state: Any,
    children: Params,
    evaluation: Array | Evaluation,
    elite: int = 0,
) -> tuple[Any, Info]:
    """`tell`: the children join; the elite, then those that `survive` names, stay.

    Whoever it names twice counts once; the best of the rest take places that are left.
    """
    old, total, slots = state.members, state.parents.shape[0], size(children)
    ids = state.next_id + jnp.arange(slots, dtype=jnp.uint32)
    born = newborn(old, children, evaluation, ids)
    # Slots behind the children are there for the devices' sake (`room`): nobody is in them.
    new = jax.tree.map(lambda x: x[:total], born) if slots > total else born
    living = _living(survive, elite, key, old, new, state.parents)
    now, places = place(old, born, jnp.pad(living, (0, slots - total)))
    info = report(now, new.ids, state.parents, new.fitness, places[:total])
    return state._replace(members=now, next_id=state.next_id + np.uint32(total)), info


@functools.partial(jax.jit, static_argnames=("survive", "elite"))
def _living(
    survive: Survive, elite: int, key: Key, old: Members, new: Members, parents: Array
) -> Array:
    fitness, ids = both(old, new)
    stay = survive(key, old, new, parents).astype(jnp.int32)
    first = jnp.concatenate([ranked(fitness, ids)[:elite], stay])
    return alive(first, fitness, ids, old.ids.shape[0])


def following(next_id: Array, ids: PerMember) -> Array:
    """Ids of one child a member, in the order of the members' own, whatever that of the slots."""
    return next_id + jnp.argsort(jnp.argsort(ids)).astype(jnp.uint32)


def duel(
    better: Callable[[PerMember, PerMember], Array],
    state: Any,
    children: Params,
    evaluation: Array | Evaluation,
) -> tuple[Any, Info]:
    """`tell` where each child competes with the member in its own slot, and with no other."""
    old = state.members
    n = old.ids.shape[0]
    new = newborn(old, children, evaluation, following(state.next_id, old.ids))
    wins = better(new.fitness, old.fitness)
    now = choose(wins, new, old)
    slots = jnp.where(wins, jnp.arange(n, dtype=jnp.int32), jnp.int32(-1))
    info = report(now, new.ids, state.parents, new.fitness, slots)
    return state._replace(members=now, next_id=state.next_id + np.uint32(n)), info


@functools.lru_cache(maxsize=128)
def crossed(crossover: Crossover, where: Where) -> Make:
    """`(slots, pairs, (key, coef, ids)) -> children`: merges, each with a key of its own."""

    def make(slots: Array, pairs: Params, shared: Any) -> Params:
        key, coef, ids = shared
        mine = owned(pairs, where)

        def one(pair: Params, coef: Array, id_: Array) -> Params:
            return cross(crossover, jax.random.fold_in(key, id_), pair, coef, mine)

        return jax.vmap(one)(pairs, coef[slots], ids[slots])

    return make


@functools.lru_cache(maxsize=128)
def _mutants(plan: Plan) -> Make:
    """`(slots, rows, (key, sigma, ids)) -> mutants` of the one parent that each has."""

    def make(slots: Array, rows: Params, shared: Any) -> Params:
        key, sigma, ids = shared
        mine = owned(rows, plan.where)

        def one(row: Params, id_: Array) -> Params:
            parent = jax.tree.map(lambda x: x[0], row)
            return gaussian(key, parent, sigma=sigma, rate=plan.gene_rate, member=id_, owned=mine)

        return jax.vmap(one)(rows, ids[slots])

    return make


def _shuffled(key: Key, what: str, n: int, count: int) -> Array:
    """`count` distinct numbers below n."""
    words = random.bits(key, f"evolve/{what}", n, xp=jnp) if count else jnp.zeros(0, jnp.uint32)
    return jnp.argsort(words)[:count].astype(jnp.int32)


class Drawn(NamedTuple):
    """Who breeds: merges of `couples` by `coef`, mutants of members `lone` and of merges `again`.

    `ids` are the children's, `parents` those of their parents.
    """

    couples: Array
    coef: Array
    lone: Array
    again: Array
    ids: Array
    parents: Array


@functools.partial(jax.jit, static_argnames="plan")
def _drawn(plan: Plan, key: Key, state: Any) -> Drawn:
    now = state.members
    n, total = now.ids.shape[0], state.parents.shape[0]
    merges, of_members, of_children = counts(plan, n)
    ids = state.next_id + jnp.arange(total, dtype=jnp.uint32)

    couples = jnp.zeros((0, 2), jnp.int32)
    if merges:
        couples = roulette(key, now.fitness, merges, 2, ids=now.ids)
    coef = coefficients(now.fitness, couples)
    lone = ranked(now.fitness, now.ids)[_shuffled(key, "mutated members", n, of_members)]
    again = _shuffled(key, "mutated children", merges, of_children)
    alone = jnp.concatenate([now.ids[lone], ids[again]])
    parents = jnp.concatenate([now.ids[couples], jnp.stack([alone, alone], 1)])
    return Drawn(couples, coef, lone, again, ids, parents)


def ask(plan: Plan, key: Key, state: Any) -> tuple[Params, Any]:
    """The children of a generation: merges, then mutants of members, then mutants of merges.

    The state has the fields of a `State`.
    """
    population, drawn, key = state.members.params, _drawn(plan, key, state), as_key(key)
    merges, others = len(drawn.couples), len(drawn.lone)
    merge = plan.chunk, crossed(plan.crossover, plan.where), (key, drawn.coef, drawn.ids)
    mutate = plan.chunk, _mutants(plan), (key, state.sigma, drawn.ids)
    children = empty(population, room(len(drawn.ids)))
    children = breed(children, 0, drawn.couples, *merge, population)
    children = breed(children, merges, drawn.lone[:, None], *mutate, population)
    children = breed(children, merges + others, drawn.again[:, None], *mutate)
    return children, state._replace(parents=drawn.parents)


def tell(
    plan: Plan, key: Key, state: State, children: Params, evaluation: Array | Evaluation
) -> tuple[State, Info]:
    """Elites of parents and children together, then tournaments without replacement."""
    spare = elites(plan, state.members.ids.shape[0])
    return settle(_winners(plan.tournament, spare), key, state, children, evaluation, spare)


@functools.lru_cache(maxsize=128)
def _winners(size: int, spare: int) -> Survive:
    def survive(key: Key, old: Members, new: Members, parents: Array) -> Array:
        fitness, ids = both(old, new)
        count = old.ids.shape[0] - spare
        return tournament(key, fitness, count, size=size, spare=spare, ids=ids)

    return survive


@functools.lru_cache(maxsize=128)
def program(plan: Plan) -> tuple[Staged, Staged]:
    """`ask` and `tell` of a plan: the same objects for the same plan, compiled once."""
    return Staged(functools.partial(ask, plan)), Staged(functools.partial(tell, plan))
