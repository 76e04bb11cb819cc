"""What a strategy is, and how survivors and children become one population.

Higher fitness is better everywhere; NaN means *not evaluated or failed* and is worse than any
number. A per-member datum is a leaf of `Members` with a leading axis, so it moves with its member.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.leading import leader
from wslax.evolve.staging import check_form
from wslax.population import devices, fetch, offload, size
from wslax.population.offloading import Offloaded, offloaded, write
from wslax.population.ring import everywhere
from wslax.typing import Array, Params, PerMember, Population


class Strategy(NamedTuple):
    """An evolutionary strategy as three pure functions, jitted where that pays.

    They go under `jax.jit`, `jax.vmap` (over runs) and `jax.lax.scan` (over generations): what
    `tell` returns has the shapes and dtypes of the state that `init` made. The key of generation
    `g` is `jax.random.fold_in(run_key, g)`, the same for `ask` and `tell`.

    Attributes:
      init: `(key, population, evaluation) -> state`, evaluation as for `tell`; `state.members`
        is a `Members`, or begins like one.
      ask: `(key, state) -> (children, state)`: a population to evaluate, of a static size. Moved
        members and new ones alike are children. Nothing that `ask` returns has a fitness.
      tell: `(key, state, children, evaluation) -> (state, info)`: one fitness a child, or
        an `Evaluation` for a strategy that needs more. Survivors stay in their slots; children take
        the losers'.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> init, ask, tell = ws.evolve.genome()
        >>> population = {"w": jnp.arange(8.0)}
        >>> state = init(jax.random.key(0), population, -population["w"])
        >>> key = jax.random.fold_in(jax.random.key(0), 0)
        >>> children, state = ask(key, state)
        >>> state, info = tell(key, state, children, -children["w"])
        >>> float(state.members.fitness.max())
        -0.0
    """

    init: Callable[..., Any]
    ask: Callable[..., tuple[Params, Any]]
    tell: Callable[..., tuple[Any, Any]]


class Evaluation(NamedTuple):
    """What is known of C members, for strategies that want more than a fitness.

    Attributes:
      fitness: `[C]`, NaN where a member failed.
      scores: `[C, items]`, as for `lexicase` and `niche_fitness`.
      descriptors: `[C, features]` of behaviour, as for `novelty` and `map_elites`.

    Example:
        >>> import jax.numpy as jnp
        >>> Evaluation(jnp.zeros(2), descriptors=jnp.zeros((2, 3))).scores is None
        True
    """

    fitness: Array
    scores: Array | None = None
    descriptors: Array | None = None


class Members(NamedTuple):
    """A population with what belongs to each member; every leaf has the leading member axis.

    Attributes:
      params: the parameters, and anything else a member owns.
      fitness: higher is better, NaN where unevaluated.
      ids: uint32, unique over a run and never reused.
      scores: as told in an `Evaluation`, or None.
      descriptors: likewise.
    """

    params: Population
    fitness: PerMember
    ids: PerMember
    scores: Array | None = None
    descriptors: Array | None = None


class Info(NamedTuple):
    """What happened in a generation.

    Attributes:
      ids: `[C]`, the children's ids.
      parents: `[C, 2]`, their parents' ids; a mutant has the same parent twice.
      fitness: `[C]`, the children's fitness as told.
      slots: `[C]`, the slot each took in the population, or -1.
      best: the best fitness in the population after the generation.
      best_id: whose it is.
      mean: mean over the members that have a fitness.
      failed: how many children came with NaN.
    """

    ids: Array
    parents: Array
    fitness: Array
    slots: Array
    best: Array
    best_id: Array
    mean: Array
    failed: Array


def members(population: Params, evaluation: Array | Evaluation, served: bool = False) -> Members:
    """A checked population with ids 0 to N - 1.

    Args:
      population: leaves `[N, ...]`.
      evaluation: a fitness `[N]`, or an `Evaluation`; integers and half types become float32.
      served: whether the strategy serves offloaded and quantized populations.

    Raises:
      WeightSpaceError: if a leaf has another leading size, or there is no leaf or member; if the
        population is offloaded or quantized and the strategy does not serve it.

    Example:
        >>> import jax.numpy as jnp
        >>> members({"w": jnp.zeros((2, 3))}, jnp.array([1, 2])).fitness.dtype
        dtype('float32')
    """
    n = size(population)
    fitness, scores, descriptors = told(evaluation, n)
    fitness = jnp.asarray(fitness)
    fitness = fitness.astype(tree.wide(fitness))
    ids = jnp.arange(n, dtype=jnp.uint32)
    check_form(population, served)
    if offloaded(population):
        population = offload(population)
    else:
        population = jax.tree.map(jnp.asarray, population)
    return Members(population, everywhere(fitness), everywhere(ids), scores, descriptors)


def told(evaluation: Array | Evaluation, n: int) -> Evaluation:
    """What was told of `n` members, checked: a fitness alone, or an `Evaluation`.

    Raises:
      WeightSpaceError: if a part has another leading size.

    Example:
        >>> import jax.numpy as jnp
        >>> told(jnp.zeros(3), 3).fitness.shape
        (3,)
    """
    given = evaluation if isinstance(evaluation, Evaluation) else Evaluation(evaluation)
    for what, value in given._asdict().items():
        if value is None:
            continue
        rank = 1 if what == "fitness" else 2
        if jnp.ndim(value) != rank or jnp.shape(value)[0] != n:
            wanted = f"one {'number' if rank == 1 else 'row'} a member"
            raise WeightSpaceError(f"{what}: expected {wanted}, [{n}], got {tree.aval(value)}")
    return jax.tree.map(everywhere, given)


def newborn(
    old: Members, children: Params, evaluation: Array | Evaluation, ids: PerMember
) -> Members:
    """Evaluated children as members like the old ones.

    Raises:
      WeightSpaceError: if the trees differ, or scores or descriptors are known of one side alone.

    Example:
        >>> import jax.numpy as jnp
        >>> old = members(jnp.zeros(2), Evaluation(jnp.zeros(2), scores=jnp.zeros((2, 5))))
        >>> newborn(old, jnp.zeros(1), jnp.zeros(1), jnp.array([2]))
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: scores: known of the population, not of the children
    """
    tree.check_structure(children, old.params, "children", "the population")
    given = told(evaluation, ids.shape[0])
    for what, value in given._asdict().items():
        known = getattr(old, what)
        if (value is None) != (known is None):
            here, there = ("population", "children")[:: 1 if value is None else -1]
            raise WeightSpaceError(f"{what}: known of the {here}, not of the {there}")
        if value is not None and jnp.shape(value)[1:] != known.shape[1:]:
            raise WeightSpaceError(
                f"{what}: the population has {tree.aval(known)}, the children {tree.aval(value)}"
            )
    fitness, *more = (
        None if value is None else jnp.asarray(value, getattr(old, what).dtype)
        for what, value in given._asdict().items()
    )
    return Members(children, fitness, ids, *more)


def empty(population: Population, n: int) -> Params:
    """Slots for n members like those of a population.

    Example:
        >>> import jax.numpy as jnp
        >>> empty({"w": jnp.ones((3, 2))}, 4)["w"].shape
        (4, 2)
    """

    def slots(x: Array) -> Array:
        if isinstance(x, Offloaded):
            return np.zeros((n, *x.shape[1:]), x.dtype).view(Offloaded)
        if tree.is_key(x):
            return jnp.repeat(x[:1], n, axis=0)
        return jax.lax.full_like(x, 0, shape=(n, *x.shape[1:]))

    return jax.tree.map(slots, population)


def fill(
    buffer: Params,
    start: int,
    stop: int,
    chunk: int,
    make: Callable[[Array, Params], Params],
) -> Params:
    """Write `make(index)` into slots `start` to `stop` of a buffer, a few at a time and in place.

    The last chunk starts early rather than being short, so one body is compiled; what `make` gives
    for an index must not depend on the chunk.

    Args:
      buffer: leaves `[C, ...]`.
      start: first slot; static.
      stop: end; static.
      chunk: how many slots a step; static.
      make: `(int32[chunk], buffer) -> leaves [chunk, ...]`.

    Returns:
      The filled buffer.

    Example:
        >>> import jax.numpy as jnp
        >>> fill(jnp.zeros(5), 1, 4, 2, lambda index, buffer: index * 10.0)
        Array([ 0., 10., 20., 30.,  0.], dtype=float32)
    """
    size = min(chunk, stop - start)
    if size <= 0:
        return buffer

    def step(i: Array, buffer: Params) -> Params:
        first = jnp.minimum(start + i * size, stop - size)
        made = make(first + jnp.arange(size, dtype=jnp.int32), buffer)
        return jax.tree.map(lambda b, m: _write(b, m, first), buffer, made)

    return jax.lax.fori_loop(0, -(-(stop - start) // size), step, buffer)


def _write(rows: Array, new: Array, start: Array) -> Array:
    """New rows in place of old ones; weak types stay, so that loops type."""
    return tree.cast_like(jax.lax.dynamic_update_slice_in_dim(rows, new, start, 0), rows)


def place(old: Any, children: Any, alive: Array) -> tuple[Any, Array]:
    """Write the surviving children into the slots of the members that did not survive.

    In place, so that a donated population is never held twice: one member at a time, or under a
    mesh with an axis `population` by `ws.population.fetch`. Offloaded members are overwritten.

    Args:
      old: N members: `Members`, or another tuple with `ids` and `params`.
      children: C members of the same kind.
      alive: bool `[N + C]`, exactly N of them True: who survives, members first.

    Returns:
      The N survivors, and the slot each child took (-1 for none), int32 `[C]`.

    Example:
        >>> import jax.numpy as jnp
        >>> old = members(jnp.arange(3.0), jnp.arange(3.0))
        >>> new = Members(jnp.array([7.0]), jnp.array([7.0]), jnp.array([3], jnp.uint32))
        >>> kept, slots = place(old, new, jnp.array([True, False, True, True]))
        >>> kept.params.tolist(), kept.ids.tolist(), slots.tolist()
        ([0.0, 7.0, 2.0], [0, 3, 2], [1])
    """
    if not offloaded(old.params):
        return _place(old, children, alive)
    thin = (x._replace(params=()) for x in (old, children))
    now, taken = _place(*thin, alive)
    for c, slot in enumerate(np.asarray(taken).tolist()):
        if slot >= 0:
            write(old.params, slot, jax.tree.map(lambda x, c=c: x[c : c + 1], children.params))
    return now._replace(params=old.params), taken


@jax.jit
def _place(old: Any, children: Any, alive: Array) -> tuple[Any, Array]:
    n = old.ids.shape[0]
    losers = jnp.argsort(alive[:n], stable=True).astype(jnp.int32)
    born = alive[n:]
    slots = losers[jnp.cumsum(born, dtype=jnp.int32) - 1]
    taken = jnp.where(born, slots, jnp.int32(-1))
    if devices() > 1:
        return carried(old, children, taken), taken

    def step(c: Array, now: Any) -> Any:
        def write(leaf: Array, child: Array) -> Array:
            row = jax.lax.dynamic_index_in_dim(leaf, slots[c], 0)
            new = jax.lax.dynamic_index_in_dim(child, c, 0)
            # A dead child writes back what is there: under `vmap` a branch would do both anyway.
            kept = jnp.where(born[c], new, row)
            return _write(leaf, kept, slots[c])

        return jax.tree.map(write, now, children)

    now = jax.lax.fori_loop(0, born.shape[0], step, old)
    return now, taken


def carried(old: Any, children: Any, slots: Array) -> Any:
    """Children in the slots that they took (-1 for none), wherever these lie.

    Example:
        >>> import jax.numpy as jnp
        >>> old, new = (members(x, x) for x in (jnp.arange(3.0), jnp.array([7.0, 8.0])))
        >>> carried(old, new, jnp.array([2, -1])).params.tolist()
        [0.0, 1.0, 7.0]
    """
    n, numbers = old.ids.shape[0], jnp.arange(slots.shape[0], dtype=jnp.int32)
    slots = jnp.where(slots < 0, n, slots)
    source = jnp.full(n, -1, jnp.int32).at[slots].set(numbers, mode="drop")
    now = fetch(old, children, source)
    return now._replace(fitness=everywhere(now.fitness), ids=everywhere(now.ids))


def choose(rows: Array, new: Population, old: Population) -> Population:
    """The new members where a row is True, with the dtypes and weak types of the old.

    Example:
        >>> import jax.numpy as jnp
        >>> choose(jnp.array([True, False]), jnp.ones((2, 1)), jnp.zeros((2, 1))).tolist()
        [[1.0], [0.0]]
    """

    def of(a: Array, b: Array) -> Array:
        along = rows.reshape(-1, *(1,) * (a.ndim - 1))
        return tree.cast_like(jnp.where(along, a, b), b)

    return jax.tree.map(of, new, old)


@jax.jit
def report(now: Members, ids: Array, parents: Array, fitness: Array, slots: Array) -> Info:
    """The `Info` of a generation that ended in `now`.

    Example:
        >>> import jax.numpy as jnp
        >>> now = members(jnp.zeros(2), jnp.array([3.0, jnp.nan]))
        >>> none = jnp.zeros((0, 2), jnp.uint32)
        >>> float(report(now, none[:, 0], none, jnp.zeros(0), none[:, 0]).mean)
        3.0
    """
    known = ~jnp.isnan(now.fitness)
    best = leader(now.fitness)
    return Info(
        ids,
        parents,
        fitness,
        slots,
        best=now.fitness[best],
        best_id=now.ids[best],
        mean=now.fitness.mean(where=known),
        failed=jnp.isnan(fitness).sum(dtype=jnp.int32),
    )
