"""One generation of GENOME: `ask` makes the children, `tell` chooses who stays."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.evolve.breeding import breed, room
from wslax.evolve.crossover import Crossover, cross
from wslax.evolve.mutation import gaussian
from wslax.evolve.selection import ranked, roulette, shares, tournament
from wslax.evolve.strategy import Evaluation, Info, Members, empty, place, report, told
from wslax.population import size
from wslax.population.members import as_key
from wslax.typing import Array, Key, Params, Population, Where


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


def owned(population: Population, where: Where) -> Params:
    """The leaves that operators may change: floating ones that `where` picks."""
    picked = tree.picked(population, where)
    return jax.tree.map(lambda x, mine: mine and tree.is_float(x), population, picked)


Make = Callable[[Array, Params, Any], Params]


def crossed(plan: Plan, mine: Params) -> Make:
    """`(slots, pairs, (key, coef, ids)) -> children`: merges, each with a key of its own."""

    def make(slots: Array, pairs: Params, shared: Any) -> Params:
        key, coef, ids = shared

        def one(pair: Params, coef: Array, id_: Array) -> Params:
            return cross(plan.crossover, jax.random.fold_in(key, id_), pair, coef, mine)

        return jax.vmap(one)(pairs, coef[slots], ids[slots])

    return make


def _mutants(plan: Plan, mine: Params) -> Make:
    """`(slots, rows, (key, sigma, ids)) -> mutants` of the one parent that each has."""

    def make(slots: Array, rows: Params, shared: Any) -> Params:
        key, sigma, ids = shared

        def one(row: Params, id_: Array) -> Params:
            parent = jax.tree.map(lambda x: x[0], row)
            return gaussian(key, parent, sigma=sigma, rate=plan.gene_rate, member=id_, owned=mine)

        return jax.vmap(one)(rows, ids[slots])

    return make


def _shuffled(key: Key, what: str, n: int, count: int) -> Array:
    """`count` distinct numbers below n."""
    words = random.bits(key, f"evolve/{what}", n, xp=jnp) if count else jnp.zeros(0, jnp.uint32)
    return jnp.argsort(words)[:count].astype(jnp.int32)


def ask(plan: Plan, key: Key, state: State) -> tuple[Params, State]:
    """The children of a generation: merges, then mutants of members, then mutants of merges."""
    now = state.members
    n, total = now.ids.shape[0], state.parents.shape[0]
    merges, of_members, of_children = counts(plan, n)
    ids = state.next_id + jnp.arange(total, dtype=jnp.uint32)

    couples = jnp.zeros((0, 2), jnp.int32)
    if merges:
        couples = roulette(key, now.fitness, merges, 2, ids=now.ids)
    share = shares(now.fitness)[couples].astype(jnp.float32)
    total_share = share.sum(1, keepdims=True)
    coef = jnp.where(total_share > 0, share / total_share, np.float32(0.5))
    lone = ranked(now.fitness, now.ids)[_shuffled(key, "mutated members", n, of_members)]
    again = _shuffled(key, "mutated children", merges, of_children)

    mine, key = owned(now.params, plan.where), as_key(key)
    merge = plan.chunk, crossed(plan, mine), (key, coef, ids)
    mutate = plan.chunk, _mutants(plan, mine), (key, state.sigma, ids)
    children = empty(now.params, room(total))
    children = breed(children, 0, couples, *merge, now.params)
    children = breed(children, merges, lone[:, None], *mutate, now.params)
    children = breed(children, merges + of_members, again[:, None], *mutate)
    alone = jnp.concatenate([now.ids[lone], ids[again]])
    parents = jnp.concatenate([now.ids[couples], jnp.stack([alone, alone], 1)])
    return children, state._replace(parents=parents)


def tell(
    plan: Plan, key: Key, state: State, children: Params, evaluation: Array | Evaluation
) -> tuple[State, Info]:
    """Elites of parents and children together, then tournaments without replacement."""
    old = state.members
    n, total = old.ids.shape[0], state.parents.shape[0]
    tree.check_structure(children, old.params, "children", "the population")
    slots = size(children)
    given = jnp.asarray(told(evaluation, slots).fitness, old.fitness.dtype)
    born = Members(children, given, state.next_id + jnp.arange(slots, dtype=jnp.uint32))
    fitness, ids = given[:total], born.ids[:total]
    every = jnp.concatenate([old.fitness, fitness])
    every_id = jnp.concatenate([old.ids, ids])
    elites = max(1, int(plan.elite * n))
    winners = tournament(key, every, n - elites, size=plan.tournament, spare=elites, ids=every_id)
    stay = jnp.concatenate([ranked(every, every_id)[:elites], winners])
    alive = jnp.zeros(n + slots, bool).at[stay].set(True)
    now, places = place(old, born, alive)
    info = report(now, ids, state.parents, fitness, places[:total])
    return state._replace(members=now, next_id=state.next_id + np.uint32(total)), info


@functools.lru_cache(maxsize=128)
def program(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`ask` and `tell` of a plan, jitted: the same objects for the same plan, compiled once."""
    return jax.jit(functools.partial(ask, plan)), jax.jit(functools.partial(tell, plan))
