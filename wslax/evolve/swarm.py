"""Model Swarms: particle swarms over whole models (Feng et al. 2024, arXiv:2410.11163)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.evolve.generation import following, owned
from wslax.evolve.leading import better, leader
from wslax.evolve.strategy import (
    Evaluation,
    Info,
    Members,
    Strategy,
    choose,
    members,
    report,
    told,
)
from wslax.globs import hashable
from wslax.population import fetch, size
from wslax.population.ring import row
from wslax.typing import Array, Key, Params, Population, Where


class Pull(NamedTuple):
    """What fixes the program of a swarm; hashable."""

    inertia: float
    cognitive: float
    social: float
    repel: float
    decay: float
    least: float
    restart: int
    where: Where


class Particles(NamedTuple):
    """Members that move; every leaf has the leading member axis.

    Attributes:
      params: where they are.
      fitness: as in `Members`.
      ids: as in `Members`.
      velocity: float32 for half types; zeros where a leaf does not move.
      own: where each was best, with its fitness and id then.
      waited: int32, generations since.
    """

    params: Population
    fitness: Array
    ids: Array
    velocity: Population
    own: Members
    waited: Array


class Swarm(NamedTuple):
    """The state of a swarm.

    Attributes:
      members: a `Particles`.
      top: the best that was ever seen, of one member, and its fitness.
      bottom: the worst.
      step: length of a move.
      next_id: the id of the next child.
    """

    members: Particles
    top: tuple[Params, Array]
    bottom: tuple[Params, Array]
    step: Array
    next_id: Array


def _extreme(seen: tuple[Params, Array], now: Any, sign: int) -> tuple[Params, Array]:
    """What was seen, or the best (worst, for -1) of the members where it goes further."""
    value = sign * now.fitness
    i = leader(value)
    params, level = better((seen[0], sign * seen[1]), row(now.params, i), value[i])
    return params, sign * level


def seen(state: Any, members: Any) -> Any:
    """The state after a look at members that may be the best or the worst ever."""
    top, bottom = (_extreme(state.top, members, 1), _extreme(state.bottom, members, -1))
    return state._replace(top=top, bottom=bottom)


def ask(pull: Pull, key: Key, state: Any) -> tuple[Population, Any]:
    """All members after a move; the state has the fields of a `Swarm`."""
    now = state.members
    mine = owned(now.params, pull.where)
    draw = lambda id_: random.uniform(random.bits(key, "evolve/swarm", 4, member=id_, xp=jnp))
    phi = np.array([pull.inertia, pull.cognitive, pull.social, pull.repel], np.float32)
    weight = jax.vmap(draw)(now.ids) * phi[None]
    total = weight.sum(1, keepdims=True)
    weight = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)

    def moved(x: Array, v: Array, p: Array, g: Array, w: Array, mine: bool) -> tuple[Array, Array]:
        if not mine:
            return x, v
        at, p, g, w = (y.astype(v.dtype) for y in (x, p, g, w))
        inert, own, up, away = (
            weight[:, k].astype(v.dtype).reshape(-1, *(1,) * (x.ndim - 1)) for k in range(4)
        )
        v = inert * v + own * (p - at) + up * (g[None] - at) - away * (w[None] - at)
        return tree.cast_like(at + state.step.astype(v.dtype) * v, x), v

    trees = (now.velocity, now.own.params, state.top[0], state.bottom[0], mine)
    structure = jax.tree.structure(now.params)
    rows = zip(jax.tree.leaves(now.params), *map(structure.flatten_up_to, trees), strict=True)
    children, velocity = zip(*(moved(*row) for row in rows), strict=True)
    now = now._replace(velocity=structure.unflatten(velocity))
    return structure.unflatten(children), state._replace(members=now)


def tell(
    pull: Pull, key: Key, state: Any, children: Population, evaluation: Array | Evaluation
) -> tuple[Any, Info]:
    """Moved members take their places; those that failed or waited too long go home."""
    old = state.members
    n = old.ids.shape[0]
    tree.check_structure(children, old.params, "children", "the population")
    fitness = jnp.asarray(told(evaluation, n).fitness, old.fitness.dtype)
    moved = Members(children, fitness, following(state.next_id, old.ids))
    lost, never = jnp.isnan(moved.fitness), jnp.isnan(old.own.fitness)
    better = (moved.fitness > old.own.fitness) | (never & ~lost)
    own = choose(better, moved, old.own)
    waited = jnp.where(better, 0, old.waited + 1)
    home = lost | (waited >= pull.restart)
    still = jax.tree.map(jnp.zeros_like, old.velocity)
    now = Particles(
        *choose(home, own, moved)[:3],
        velocity=choose(home, still, old.velocity),
        own=own,
        waited=jnp.where(home, 0, waited),
    )
    parents = jnp.stack([old.ids, old.ids], 1)
    slots = jnp.where(home, -1, jnp.arange(n, dtype=jnp.int32))
    info = report(Members(*now[:3]), moved.ids, parents, moved.fitness, slots)
    state = seen(state._replace(members=now), moved)
    return state._replace(
        step=jnp.maximum(state.step * np.float32(pull.decay), np.float32(pull.least)),
        next_id=state.next_id + np.uint32(n),
    ), info


@functools.lru_cache(maxsize=128)
def _program(pull: Pull) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return jax.jit(functools.partial(ask, pull)), jax.jit(functools.partial(tell, pull))


def toward(here: Params, there: Params, whom: Array, mine: Params) -> Population:
    """From each member to the one of `there` that `whom` names; a 0 where a leaf does not move."""

    def moving(population: Params) -> Params:
        none = jnp.zeros(size(population), jnp.float32)
        return jax.tree.map(lambda x, mine: x if mine else none, population, mine)

    here = moving(here)
    met = fetch(here, moving(there), whom)
    return jax.tree.map(lambda x, y: y.astype(tree.wide(x)) - x.astype(tree.wide(x)), here, met)


def start(
    key: Key, population: Params, evaluation: Array | Evaluation, step: Any, where: Where
) -> Swarm:
    """The first state: velocities lead to another member each.

    Raises:
      WeightSpaceError: for a population of one.
    """
    first = Members(*members(population, evaluation)[:3])
    n = size(population)
    if n < 2:
        raise WeightSpaceError(f"a swarm needs at least 2 members, got {n}")
    words = random.bits(key, "evolve/swarm/start", n, xp=jnp)
    further = (words % np.uint32(n - 1)).astype(jnp.int32)
    others = (jnp.arange(n, dtype=jnp.int32) + 1 + further) % n
    velocity = toward(first.params, first.params, others, owned(first.params, where))
    # Copies, so that a donated state holds no buffer twice.
    own = jax.tree.map(lambda x: x.copy(), first)
    now = Particles(*first[:3], velocity=velocity, own=own, waited=jnp.zeros(n, jnp.int32))
    none = (row(first.params, jnp.array(0)), jnp.full((), jnp.nan, first.fitness.dtype))
    top, bottom = (_extreme(none, first, sign) for sign in (1, -1))
    return Swarm(now, top, bottom, jnp.asarray(step, jnp.float32), jnp.asarray(n, jnp.uint32))


def pulled(*, step: float, restart: int, where: Where, **numbers: float) -> Pull:
    """A checked `Pull`.

    Raises:
      WeightSpaceError: for a number that is negative, all weights zero, or a restart below 1.
    """
    for what, value in (numbers | {"step": step}).items():
        if not value >= 0:
            raise WeightSpaceError(f"{what}: expected a number of at least 0, got {value}")
    if not any(numbers[what] for what in ("inertia", "cognitive", "social", "repel")):
        raise WeightSpaceError("a swarm: all weights are 0, so nothing would move")
    if restart < 1:
        raise WeightSpaceError(f"restart: expected at least 1, got {restart}")
    return Pull(**numbers, restart=restart, where=hashable(where))


def model_swarm(
    *,
    inertia: float = 0.4,
    cognitive: float = 0.3,
    social: float = 0.3,
    repel: float = 0.3,
    step: float = 1.0,
    decay: float = 0.95,
    least: float = 0.1,
    restart: int = 5,
    where: Where = None,
) -> Strategy:
    r"""Model Swarms: each model moves by inertia, to its own best, to the swarm's, from its worst.

    \[v_i \leftarrow \frac1C \big[r_v \phi_v v_i + r_p \phi_p (p_i - x_i) + r_g \phi_g (g - x_i)
      - r_w \phi_w (g_w - x_i)\big], \qquad x_i \leftarrow x_i + \lambda v_i\]

    with \(C = \sum r \phi\) and four \(r \sim U(0, 1)\) for each member and generation.
    \(p_i\) is the member's own best, \(g\) and \(g_w\) the best and the worst that were ever
    seen. First velocities lead to another member each. All members move in each generation. As only
    sums of members occur, a run on `span` coordinates is the same run.

    Args:
      inertia: \(\phi_v\); defaults are those of the authors' script.
      cognitive: \(\phi_p\).
      social: \(\phi_g\).
      repel: \(\phi_w\).
      step: \(\lambda\) of the first generation.
      decay: of \(\lambda\) from one generation to the next, once for all members.
      least: lowest \(\lambda\).
      restart: a member that was not better than ever for so many generations, or that failed,
        returns to its own best, with no velocity (half of the authors' patience of 10).
      where: globs of the leaves that move; others, and integer, bool and key leaves, stay the
        member's own.

    Returns:
      The strategy; its state is a `Swarm`, and holds the population, its bests and velocities.

    Raises:
      WeightSpaceError: for a weight that is negative, all of them zero, or a restart below 1; from
        `init`, for a population of one.

    References:
      Feng et al. 2024, Model Swarms: collaborative search to adapt LLM experts via swarm
      intelligence, arXiv:2410.11163.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> fitness = lambda population: -jnp.square(population["w"] - 0.5).sum(1)
        >>> population = {"w": jax.random.normal(jax.random.key(1), (16, 5))}
        >>> end = ws.evolve.run(ws.evolve.model_swarm(), population, fitness,
        ...     key=0, generations=30, direction="maximize")
        >>> bool(end.state.top[1] > fitness(population).max())
        True
    """
    pull = pulled(
        inertia=inertia,
        cognitive=cognitive,
        social=social,
        repel=repel,
        step=step,
        decay=decay,
        least=least,
        restart=restart,
        where=where,
    )

    def init(key: Key, population: Params, evaluation: Array | Evaluation) -> Swarm:
        return start(key, population, evaluation, step, pull.where)

    return Strategy(init, *_program(pull))
