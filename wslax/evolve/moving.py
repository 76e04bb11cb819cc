"""GENOME+: GENOME whose members also move as a swarm (Zhang et al. 2025, arXiv:2503.01155)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.evolve import generation, swarm
from wslax.evolve.breeding import room
from wslax.evolve.crossover import Crossover, linear
from wslax.evolve.generation import Plan
from wslax.evolve.selection import ranked, roulette
from wslax.evolve.strategy import Evaluation, Info, Members, Strategy, place, report, told
from wslax.evolve.succession import both
from wslax.evolve.swarm import Particles, Pull
from wslax.population.ring import ROWS, devices, everywhere, local
from wslax.typing import Array, Key, Params, Scalar, Where

NEVER = np.iinfo(np.int32).max


class State(NamedTuple):
    """The state of GENOME+: a `Swarm` that breeds.

    Attributes:
      members: a `Particles`.
      top: the best that was ever seen, of one member, and its fitness.
      bottom: the worst.
      step: length of a move.
      next_id: the id of the next child.
      parents: `[C, 2]`, ids of the parents of the new children last asked for.
      sigma: size of the mutations.
    """

    members: Particles
    top: tuple[Params, Array]
    bottom: tuple[Params, Array]
    step: Array
    next_id: Array
    parents: Array
    sigma: Array


def _ask(plan: Plan, pull: Pull, key: Key, state: State) -> tuple[Params, State]:
    # Ids of the moved come first.
    later = state._replace(next_id=state.next_id + np.uint32(state.members.ids.shape[0]))
    bred, after = generation.ask(plan, key, later)
    moved, state = swarm.ask(pull, key, state)
    both = lambda a, b: tree.cast_like(jnp.concatenate([a, b]), b)
    joined = local(functools.partial(jax.tree.map, both), ROWS)
    return joined(moved, bred), state._replace(parents=after.parents)


def _tell(
    plan: Plan,
    pull: Pull,
    key: Key,
    state: State,
    children: Params,
    evaluation: Array | Evaluation,
) -> tuple[State, Info]:
    before, parents = state.members.ids, state.parents
    n, total = before.shape[0], parents.shape[0]
    slots = room(total)
    tree.check_structure(children, state.members.params, "children", "the population")
    fitness = told(evaluation, n + slots).fitness
    fitness = jnp.asarray(fitness, state.members.fitness.dtype)
    moved, bred = _apart((children, fitness), n // devices())

    state, move = swarm.tell(pull, key, state, *moved)
    ids = state.next_id + jnp.arange(slots, dtype=jnp.uint32)
    born = Members(bred[0], everywhere(bred[1]), ids)
    new = Members(born.params, born.fitness[:total], ids[:total])
    state, now = swarm.seen(state, new), state.members
    every, every_id = both(now, new)
    # Parents were drawn by numbers below that of the children.
    order = roulette(key, every, 1, n + total, ids=every_id, first=total)[0]
    first = jnp.concatenate([ranked(every, every_id)[: generation.elites(plan, n)], order])
    alive = generation.alive(first, every, every_id, n)
    launched = _launched(plan, key, now, born, total)
    kept, taken = place(now, launched, jnp.pad(alive, (0, slots - total)))

    stayed = jnp.where(alive[:n], move.slots, -1)
    parents = jnp.concatenate([jnp.stack([before, before], 1), parents])
    info = report(
        Members(*kept[:3]),
        jnp.concatenate([move.ids, new.ids]),
        parents,
        jnp.concatenate([move.fitness, new.fitness]),
        jnp.concatenate([stayed, taken[:total]]),
    )
    return state._replace(members=kept, next_id=state.next_id + np.uint32(total)), info


def _apart(rows: Params, n: int) -> tuple[Params, Params]:
    """The first n rows of each device, and those behind them."""
    part = lambda rows: tuple(jax.tree.map(lambda x, s=s: x[s], rows) for s in np.s_[:n, n:])
    return local(part, ROWS)(rows)


def _launched(plan: Plan, key: Key, now: Particles, new: Members, count: int) -> Particles:
    """New members as particles, the first `count` on the way to members drawn at random."""
    slots, n = new.ids.shape[0], now.ids.shape[0]
    words = random.bits(key, "evolve/genome_plus/toward", count, xp=jnp)
    whom = ranked(now.fitness, now.ids)[(words % np.uint32(n)).astype(jnp.int32)]
    whom = jnp.pad(whom, (0, slots - count), constant_values=-1)
    mine = generation.owned(now.params, plan.where)
    velocity = swarm.toward(new.params, now.params, whom, mine)
    return Particles(*new[:3], velocity, new, jnp.zeros(slots, jnp.int32))


@functools.lru_cache(maxsize=128)
def _program(plan: Plan, pull: Pull) -> tuple[Callable[..., Any], Callable[..., Any]]:
    ask, tell = (functools.partial(fn, plan, pull) for fn in (_ask, _tell))
    return jax.jit(ask), jax.jit(tell)


def genome_plus(
    *,
    cross_rate: float = 0.8,
    mutation_rate: float = 0.3,
    gene_rate: float = 0.1,
    sigma: Scalar = 0.05,
    elite: float = 0.1,
    inertia: float = 0.2,
    cognitive: float = 0.2,
    social: float = 0.2,
    repel: float = 0.1,
    step: float = 0.5,
    decay: float = 0.95,
    crossover: Crossover = linear,
    where: Where = None,
    chunk: int = 4,
) -> Strategy:
    r"""GENOME+: every member moves as in `model_swarm`, and GENOME's children join them.

    `ask` holds the N moved members, then the merges and mutants that `genome` makes of the members
    as they were; one evaluation serves both. `tell` puts the moved members in their places; the
    elites of these and the children stay, then N are drawn by roulette without replacement from
    what is left. A new member starts on the way to a member drawn at random. Over devices, each has
    its own moved members before its own new ones in what `ask` returns, so that no moved member
    travels.

    It differs from the released code (ZhangYiqun018/GENOME) as `genome` does, and in this: the
    cognitive pull is to the member's own best and not to where it is; \(\lambda\) decays once a
    generation and not once a member; the four random numbers are drawn for each member and
    generation; each fitness is of the weights it stands with; no elite is there twice; parents are
    evaluated before they move, which saves an evaluation; the population does not grow. A
    member that fails returns to its own best.

    Args:
      cross_rate: as in `genome`, like all others up to `elite`; defaults are those of the authors'
        run script for GENOME+.
      mutation_rate: share of members and of children that get a mutant.
      gene_rate: share of a mutant's weights that change.
      sigma: absolute standard deviation of a change; in the state.
      elite: share of the population that stays by rank, at least one.
      inertia: \(\phi_v\), as in `model_swarm`, like all others up to `decay`.
      cognitive: \(\phi_p\).
      social: \(\phi_g\).
      repel: \(\phi_w\).
      step: \(\lambda\) of the first generation.
      decay: of \(\lambda\) from one generation to the next.
      crossover: `(key, pair, coef) -> params`.
      where: globs of the leaves that move, are crossed and mutated.
      chunk: how many children are made at a time.

    Returns:
      The strategy. `state.top` is the best ever seen: roulette keeps elites of a generation, but
      an elite moves on in the next.

    Raises:
      WeightSpaceError: as `genome` and `model_swarm`.

    References:
      Zhang et al. 2025, arXiv:2503.01155; Feng et al. 2024, arXiv:2410.11163.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> fitness = lambda population: jnp.square(population["w"] - 0.5).sum(1)
        >>> population = {"w": jax.random.normal(jax.random.key(1), (16, 5))}
        >>> end = ws.evolve.run(ws.evolve.genome_plus(), population, fitness,
        ...     key=0, generations=20, direction="minimize")
        >>> bool(-end.state.top[1] < fitness(population).min())
        True
    """
    plan = generation.planned(
        cross_rate=cross_rate,
        mutation_rate=mutation_rate,
        gene_rate=gene_rate,
        elite=elite,
        tournament=1,
        crossover=crossover,
        where=where,
        chunk=chunk,
    )
    pull = swarm.pulled(
        inertia=inertia,
        cognitive=cognitive,
        social=social,
        repel=repel,
        step=step,
        decay=decay,
        least=0.0,
        restart=NEVER,
        where=where,
    )

    def init(key: Key, population: Params, evaluation: Array | Evaluation) -> State:
        first = swarm.start(key, population, evaluation, step, plan.where)
        parents = generation.unborn(plan, population)
        return State(*first, parents, jnp.asarray(sigma, jnp.float32))

    return Strategy(init, *_program(plan, pull))
