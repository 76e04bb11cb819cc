"""Islands: populations that evolve apart and now and then send their best around a ring."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.selection import ranked
from wslax.evolve.strategy import Evaluation, Info, Strategy, report, told
from wslax.evolve.swarm import seen
from wslax.population import devices, size
from wslax.population.members import as_key
from wslax.population.ring import AXIS, ROWS, everywhere, local
from wslax.typing import Array, Key, Params


class Plan(NamedTuple):
    """What fixes the program; hashable."""

    strategy: Strategy
    count: int
    every: int
    migrants: int


class Archipelago(NamedTuple):
    """The state of islands.

    Attributes:
      each: the strategy's state on each island, leaves `[islands, ...]`.
      generation: how many there were.
    """

    each: Any
    generation: Array

    @property
    def members(self) -> Any:
        """All members, one island behind the other; ids are unique over all."""
        own = self.each.members
        count = own.ids.shape[0]
        numbers = jnp.arange(count, dtype=jnp.uint32)
        return _flat(own._replace(ids=_unique(own.ids, numbers, count)))


def _unique(ids: Array, numbers: Array, count: int) -> Array:
    """Ids on some islands, `[islands, ...]`, as ids over all: island i has i, i + count, ..."""
    return ids * np.uint32(count) + numbers.reshape(-1, *(1,) * (ids.ndim - 1))


def _flat(parts: Params) -> Params:
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)


def _split(whole: Params, count: int) -> Params:
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), whole)


def _apart(plan: Plan, fn: Callable[..., Any], key: Key, *args: Any) -> Any:
    """`fn(numbers, keys, *args)` on the islands of each device; args are `[islands, ...]`."""
    numbers = jnp.arange(plan.count, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(as_key(key), numbers)
    return local(fn, ROWS)(numbers, keys, *args)


def _onward(x: Array, ring: int) -> Array:
    """What each island has, on the next one."""
    last = x[-1:]
    if ring > 1:
        last = jax.lax.ppermute(last, AXIS, [(d, (d + 1) % ring) for d in range(ring)])
    return jnp.concatenate([last, x[:-1]])


def _best(members: Any, count: int) -> Any:
    order = ranked(members.fitness, members.ids)
    return jax.tree.map(lambda x: x[order[:count]], members)


def _ask(plan: Plan, key: Key, state: Archipelago) -> tuple[Params, Archipelago]:
    ask = lambda _, keys, each: jax.vmap(plan.strategy.ask)(keys, each)
    children, each = _apart(plan, ask, key, state.each)
    return _flat(children), state._replace(each=each)


def _tell(
    plan: Plan, key: Key, state: Archipelago, children: Params, evaluation: Array | Evaluation
) -> tuple[Archipelago, Info]:
    given = told(evaluation, size(children))
    ring, count = devices(), plan.count
    going = (state.generation + 1) % plan.every == 0

    def tell(numbers: Array, keys: Any, each: Any, children: Any, given: Any, going: Any) -> Any:
        each, info = jax.vmap(plan.strategy.tell)(keys, each, children, given)
        going, now = going[0], each.members
        n = now.ids.shape[1]
        sent = jax.vmap(lambda members: _best(members, plan.migrants))(now)
        parents = _onward(_unique(sent.ids, numbers, count), ring)
        came = jax.tree.map(lambda x: _onward(x, ring), sent)
        ids = each.next_id[:, None] + jnp.arange(plan.migrants, dtype=jnp.uint32)[None]
        came = came._replace(ids=ids)
        worst = jax.vmap(lambda now: ranked(now.fitness, now.ids)[n - plan.migrants :])(now)
        # Where nobody goes, the slots are past the end and nothing is written.
        slots = jnp.where(going, worst, n)
        put = lambda x, new, at: tree.cast_like(x.at[at].set(new, mode="drop"), x)
        now = jax.tree.map(lambda x, new: jax.vmap(put)(x, new, slots), now, came)
        lost = (info.slots[:, :, None] == slots[:, None]).any(2)
        taken = jnp.concatenate(
            [jnp.where(lost, -1, info.slots), jnp.where(going, worst, -1)], axis=1
        )
        first = numbers.astype(jnp.int32)[:, None] * n
        info = (
            _unique(jnp.concatenate([info.ids, ids], 1), numbers, count),
            jnp.concatenate(
                [_unique(info.parents, numbers, count), jnp.stack([parents] * 2, 2)], 1
            ),
            jnp.concatenate([info.fitness, came.fitness], 1),
            jnp.where(taken < 0, -1, taken + first),
        )
        next_id = each.next_id + np.uint32(plan.migrants)
        each = each._replace(members=now, next_id=next_id)
        if hasattr(each, "top"):
            met = came._replace(fitness=jnp.where(going, came.fitness, jnp.nan))
            each = jax.vmap(seen)(each, met)
        return each, info

    split = _split((children, given), count)
    each, info = _apart(plan, tell, key, state.each, *split, jnp.broadcast_to(going, (count,)))
    state = Archipelago(each, state.generation + 1)
    members = state.members
    whole = members._replace(fitness=everywhere(members.fitness), ids=everywhere(members.ids))
    return state, report(whole, *map(everywhere, _flat(info)))


@functools.lru_cache(maxsize=128)
def _program(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return jax.jit(functools.partial(_ask, plan)), jax.jit(functools.partial(_tell, plan))


def islands(strategy: Strategy, n: int, *, every: int = 10, migrants: int = 1) -> Strategy:
    """Islands: n populations under one strategy, each with keys of its own, and migration.

    A population of N members is cut into n islands of N / n. After every `every` generations copies
    of the best `migrants` of each island take the places of the worst of the next one, the last
    one's of the first. Under a mesh with an axis `population` each device has islands of its own,
    and only migrants travel.

    A migrant has an id of its own and its original as parent. `Info` lists each island's children
    with its migrants behind them; their slots are -1 in generations when nobody goes.

    Args:
      strategy: one whose state has `members` and `next_id`, as `genome()`.
      n: how many islands.
      every: generations between migrations.
      migrants: how many leave each island; at most half of its members.

    Returns:
      The strategy; its state is an `Archipelago`.

    Raises:
      WeightSpaceError: if a number is below 1; from `init`, if n does not divide the members, or
        islands are too small for so many migrants, or the devices do not divide n.

    References:
      Cohoon et al. 1987, Punctuated equilibria: a parallel genetic algorithm, ICGA 2.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> strategy = ws.evolve.islands(ws.evolve.genome(mutation_rate=0.5), 2, every=1)
        >>> end = ws.evolve.run(
        ...     strategy, {"w": jnp.arange(8.0)}, lambda p: p["w"], key=0, generations=1,
        ...     direction="maximize")
        >>> end.members.fitness.shape, len(set(end.members.ids.tolist()))
        ((8,), 8)
    """
    for what, value in {"n": n, "every": every, "migrants": migrants}.items():
        if value < 1:
            raise WeightSpaceError(f"islands: {what}: expected at least 1, got {value}")
    plan = Plan(strategy, n, every, migrants)

    def init(key: Key, population: Params, evaluation: Array | Evaluation) -> Archipelago:
        members = size(population)
        if members % n or 2 * migrants > members // n:
            raise WeightSpaceError(
                f"islands: expected {n} islands of at least {2 * migrants} members, got {members} "
                "members; give a multiple"
            )
        if n % devices():
            raise WeightSpaceError(f"islands: {n} do not divide over {devices()} devices")
        given = told(evaluation, members)
        start = lambda _, keys, *args: jax.vmap(strategy.init)(keys, *args)
        each = _apart(plan, start, key, *_split((population, given), n))
        if each.members.fitness.shape != (n, members // n):
            raise WeightSpaceError(
                "islands: expected a strategy with a slot a member, where migrants can live"
            )
        return Archipelago(each, jnp.zeros((), jnp.int32))

    return Strategy(init, *_program(plan))
