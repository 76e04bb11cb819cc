"""MAP-Elites: the best member of every kind of behaviour (Mouret & Clune 2015)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.evolve.breeding import Make, breed, room
from wslax.evolve.cells import NOBODY, settle
from wslax.evolve.crossover import iso_line
from wslax.evolve.strategy import (
    Evaluation,
    Info,
    Members,
    Strategy,
    empty,
    members,
    report,
    told,
)
from wslax.population import devices, size
from wslax.population.members import as_key
from wslax.population.ring import row
from wslax.typing import Array, Key, Params, PerMember


class Repertoire(NamedTuple):
    """The state of `map_elites`.

    Attributes:
      members: `Members`, one slot a cell: with descriptors, and in empty cells a fitness of NaN.
      centroids: `[cells, features]`.
      parents: `[C, 2]`, ids of the parents of the children last asked for.
      next_id: the id of the next child.
    """

    members: Members
    centroids: Array
    parents: Array
    next_id: Array


Variation = Callable[..., Params]


class _Plan(NamedTuple):
    children: int
    variation: Variation


def _ask(plan: _Plan, key: Key, state: Repertoire) -> tuple[Params, Repertoire]:
    now = state.members
    filled = ~jnp.isnan(now.fitness)
    order = jnp.argsort(~filled, stable=True).astype(jnp.int32)
    count = jnp.maximum(filled.sum(dtype=jnp.uint32), np.uint32(1))
    ids = state.next_id + jnp.arange(plan.children, dtype=jnp.uint32)
    draw = lambda id_: random.bits(key, "evolve/elites", 2, member=id_, xp=jnp)
    parents = order[(jax.vmap(draw)(ids) % count).astype(jnp.int32)]
    children = empty(now.params, room(plan.children))
    make, shared = _varied(plan.variation), (as_key(key), ids)
    children = breed(children, 0, parents, plan.children, make, shared, now.params)
    return children, state._replace(parents=now.ids[parents])


def _varied(variation: Variation) -> Make:
    """`(slots, pairs, (key, ids)) -> children`."""

    def make(slots: Array, pairs: Params, shared: Any) -> Params:
        key, ids = shared

        def one(pair: Params, id_: Array) -> Params:
            child, parent = variation(key, pair, member=id_), jax.tree.map(lambda x: x[0], pair)
            tree.check_like(child, parent, "what variation gives", "a parent")
            return child

        return jax.vmap(one)(pairs, ids[slots])

    return make


def _evaluated(
    params: Params, evaluation: Array | Evaluation, ids: Array, features: int, like: Any
) -> Members:
    given = told(evaluation, ids.shape[0])
    if given.descriptors is None or jnp.shape(given.descriptors)[1] != features:
        got = "none" if given.descriptors is None else tree.aval(given.descriptors)
        raise WeightSpaceError(
            f"descriptors: expected [{ids.shape[0]}, {features}] as the cells have {features} "
            f"feature(s), got {got}; return Evaluation(fitness, descriptors=...)"
        )
    fitness = jnp.asarray(given.fitness, like)
    descriptors = jnp.asarray(given.descriptors, jnp.float32)
    return Members(params, fitness, ids, descriptors=descriptors)


def _tell(
    plan: _Plan, key: Key, state: Repertoire, children: Params, evaluation: Array | Evaluation
) -> tuple[Repertoire, Info]:
    old = state.members
    tree.check_structure(children, old.params, "children", "the population")
    ids = state.next_id + jnp.arange(room(plan.children), dtype=jnp.uint32)
    features = state.centroids.shape[1]
    new = _evaluated(children, evaluation, ids, features, old.fitness.dtype)
    # Who is there for the devices' sake enters no cell.
    there = jnp.arange(ids.shape[0]) < plan.children
    new = new._replace(fitness=jnp.where(there, new.fitness, jnp.nan))
    now, slots = settle(old, new, state.centroids)
    ids, fitness, slots = (x[: plan.children] for x in (ids, new.fitness, slots))
    info = report(now, ids, state.parents, fitness, slots)
    return state._replace(members=now, next_id=state.next_id + np.uint32(plan.children)), info


@jax.jit
def _founded(new: Members, centroids: Array) -> Members:
    """The first members in cells that were empty."""
    first, (n, _) = row(new.params, jnp.array(0)), centroids.shape
    nobody = Members(
        jax.tree.map(lambda x: jnp.repeat(x[None], n, axis=0), first),
        jnp.full(n, jnp.nan, new.fitness.dtype),
        jnp.full(n, NOBODY),
        descriptors=jnp.full_like(centroids, jnp.nan),
    )
    return settle(nobody, new, centroids)[0]


@functools.lru_cache(maxsize=128)
def _program(plan: _Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return jax.jit(functools.partial(_ask, plan)), jax.jit(functools.partial(_tell, plan))


def map_elites(*, cells: Array, children: int = 64, variation: Variation = iso_line) -> Strategy:
    r"""MAP-Elites: a cell for every kind of behaviour, and in each the best that was seen.

    Each generation draws two parents a child, uniformly among the filled cells, and varies them. A
    child belongs to the cell whose centroid is nearest to its descriptor, and takes it if the cell
    is empty or held by a lower fitness; of several children in one cell the best competes. The
    evaluation must be `Evaluation(fitness, descriptors=[members, features])`. A member with a NaN
    in either enters no cell.

    Args:
      cells: centroids `[cells, features]`, one slot of memory each: `grid(low, high, bins)`, or
        any points (CVT-MAP-Elites: those of k-means on points of the space of behaviour).
      children: how many a generation; static. No default is published.
      variation: `(key, pair, member=id) -> child`, of leaves `[2, ...]`; `iso_line` or
        `functools.partial(iso_line, iso=..., line=...)`. Pass the same object to compile once.

    Returns:
      The strategy; its state is a `Repertoire`, and holds as many members as there are cells,
      spread over the devices of a mesh with an axis `population`. `Info.slots`
      are cells, `mean` is over filled ones; see `coverage` and `qd_score`.

    Raises:
      WeightSpaceError: if `cells` is no matrix, or `children` below 1; from `init` and `tell`, if
        descriptors lack or have another number of features; from `init`, if the devices of a mesh
        do not divide the cells; from `ask`, if the variation changes a leaf's shape or dtype.

    References:
      Mouret & Clune 2015, Illuminating search spaces by mapping elites, arXiv:1504.04909.

    Example:
        >>> import functools, jax, jax.numpy as jnp, wslax as ws
        >>> def evaluate(population):
        ...     w = population["w"]
        ...     return ws.evolve.Evaluation(-jnp.square(w).sum(1), descriptors=w[:, :2])
        >>> population = {"w": 0.1 * jax.random.normal(jax.random.key(0), (16, 5))}
        >>> strategy = ws.evolve.map_elites(
        ...     cells=ws.evolve.grid([-1, -1], [1, 1], [5, 5]),
        ...     variation=functools.partial(ws.evolve.iso_line, iso=0.1))
        >>> end = ws.evolve.run(
        ...     strategy, population, evaluate, key=0, generations=50, direction="maximize")
        >>> bool(ws.evolve.coverage(end.members) > 0.5)
        True
    """
    cells = np.asarray(cells, np.float32)
    if cells.ndim != 2 or cells.size == 0:
        raise WeightSpaceError(f"cells: expected [cells, features], got {tree.aval(cells)}")
    if children < 1:
        raise WeightSpaceError(f"children: expected at least 1, got {children}")

    def init(key: Key, population: Params, evaluation: PerMember | Evaluation) -> Repertoire:
        """The first state, of those of the population that are the best of a cell."""
        n, features = cells.shape
        if n % devices():
            raise WeightSpaceError(f"cells: {n} do not divide over {devices()} devices")
        count = size(population)
        first = members(population, told(evaluation, count).fitness)
        new = _evaluated(first.params, evaluation, first.ids, features, first.fitness.dtype)
        centroids = jnp.asarray(cells)
        parents = jnp.zeros((children, 2), jnp.uint32)
        next_id = jnp.asarray(count, jnp.uint32)
        return Repertoire(_founded(new, centroids), centroids, parents, next_id)

    return Strategy(init, *_program(_Plan(children, variation)))
