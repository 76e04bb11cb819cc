"""The core of evolution strategies: a centre, its children, and a step towards the better ones.

A child is the centre plus noise that is a function of the key, the leaf's name and the child's id,
so `tell` draws it again instead of keeping it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.breeding import room
from wslax.evolve.generation import owned
from wslax.evolve.leading import better, leader
from wslax.evolve.shaping import settled
from wslax.evolve.strategy import Evaluation, Info, Members, Strategy, members, report, told
from wslax.globs import hashable
from wslax.population import devices
from wslax.population import size as population_size
from wslax.population.members import as_key
from wslax.population.ring import AXIS, ROWS, WHOLE, local
from wslax.trace import over_members
from wslax.typing import Array, Key, Params, PerMember, Scalar, Where

ADAM = optax.adam(0.01)
"""Adam with the step of the released configurations of OpenAI's evolution strategies."""


# Over devices: key and centre are whole, what is one number a child is spread.
SPECS = WHOLE, WHOLE, ROWS, ROWS


class Noise(NamedTuple):
    """How a child differs from the centre; only leaves of floats come here, without a member axis.

    Attributes:
      child: `(key, centre, sigma, id) -> child`.
      children: `(key, centre, sigma [n], ids [n]) -> n children`.
      total: `(key, centre, weights [k], ids [k]) -> ` the sum of the weights times the noise.
    """

    child: Callable[..., Params]
    children: Callable[..., Params]
    total: Callable[..., Params]


class Plan(NamedTuple):
    """What fixes the program; hashable, so equal plans share what is compiled."""

    noise: Noise
    n: int
    antithetic: bool
    optimizer: optax.GradientTransformation
    shaping: Callable[[Array], Array]
    where: Where


class Centre(NamedTuple):
    """The state of an evolution strategy.

    Attributes:
      members: the centre, a population of one with the id 0. It moves and is not evaluated: NaN.
      top: the best that was ever seen, centre at the start or child, without a member axis, and
        its fitness.
      optimizer: the optimizer's state.
      next_id: the id of the next child.
      sigma: size of the noise; may be replaced between generations.
    """

    members: Members
    top: tuple[Params, Array]
    optimizer: Any
    next_id: Array
    sigma: Array


def _floats(plan: Plan, centre: Params) -> tuple[Params, Params]:
    """The leaves that move, None for others, without the member axis; and which these are."""
    mine = owned(centre, plan.where)
    return jax.tree.map(lambda m, x: x[0] if m else None, mine, centre), mine


def _with_rest(mine: Params, floats: Params, rest: Params) -> Params:
    return jax.tree.map(lambda m, x, other: x if m else other, mine, floats, rest)


def _drawn(plan: Plan, state: Centre) -> tuple[Array, Array, Array]:
    """Ids of the children, whose noise each has, and its signed size; a pair shares its noise."""
    ids = state.next_id + jnp.arange(plan.n, dtype=jnp.uint32)
    if not plan.antithetic:
        return ids, ids, jnp.repeat(state.sigma, plan.n)
    sign = np.tile(np.array([1, -1], np.float32), plan.n // 2)
    return ids, jnp.repeat(ids[::2], 2), state.sigma * sign


def _filled(x: Array) -> Array:
    """One number a child, with zeros behind them for the devices' sake."""
    return jnp.pad(x, (0, room(x.shape[0]) - x.shape[0]))


def _ask(plan: Plan, key: Key, state: Centre) -> tuple[Params, Centre]:
    """The children, on each device those of its own slots; fillers are the centre itself."""

    def born(key: Key, centre: Params, sigma: Array, source: Array) -> Params:
        floats, mine = _floats(plan, centre)
        rest = jax.tree.map(lambda x: jnp.repeat(x, sigma.shape[0], axis=0), centre)
        return _with_rest(mine, plan.noise.children(key, floats, sigma, source), rest)

    _, source, sigma = _drawn(plan, state)
    given = as_key(key), state.members.params, _filled(sigma), _filled(source)
    if devices() == 1:
        return born(*given), state
    axes = over_members(jax.eval_shape(born, *given), dense=0)
    spec = lambda axis: WHOLE if axis is None else ROWS
    specs = jax.tree.map(spec, axes, is_leaf=lambda axis: axis is None)
    return local(born, SPECS, specs)(*given), state


def _total(noise: Noise, key: Key, centre: Params, weights: Array, ids: Array) -> Params:
    """`noise.total`, on each device of its share, and then the sum over devices."""
    if devices() == 1:
        return noise.total(key, centre, weights, ids)
    own = lambda *given: jax.lax.psum(noise.total(*given), AXIS)
    return local(own, SPECS, WHOLE)(as_key(key), centre, _filled(weights), _filled(ids))


def _tell(
    plan: Plan, key: Key, state: Centre, children: Params, evaluation: Array | Evaluation
) -> tuple[Centre, Info]:
    old = state.members
    spec, _ = jax.eval_shape(functools.partial(_ask, plan), key, state)
    tree.check_structure(children, spec, "children", "what ask gave")
    fitness = told(evaluation, room(plan.n)).fitness[: plan.n]
    fitness = jnp.asarray(fitness, old.fitness.dtype)
    ids, source, sigma = _drawn(plan, state)
    floats, mine = _floats(plan, old.params)

    i = leader(fitness)
    best = plan.noise.child(key, floats, sigma[i], source[i])
    best = _with_rest(mine, best, jax.tree.map(lambda x: x[0], old.params))
    top = better(state.top, best, fitness[i])

    weights = plan.shaping(settled(fitness))
    if plan.antithetic:
        pairs, source = weights.reshape(-1, 2), source[::2]
        weights = pairs[:, 0] - pairs[:, 1]
    total = _total(plan.noise, key, floats, weights, source)
    down = jax.tree.map(lambda t: t / (-plan.n * state.sigma.astype(t.dtype)), total)
    wide = jax.tree.map(lambda x: x.astype(tree.wide(x)), floats)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes integers and floats
        updates, optimizer = plan.optimizer.update(down, state.optimizer, wide)
    moved = jax.tree.map(lambda x, u: x + u.astype(x.dtype), wide, updates)
    centre = jax.tree.map(
        lambda m, x, old: tree.cast_like(x[None], old) if m else old, mine, moved, old.params
    )
    parents = jnp.full((plan.n, 2), old.ids[0])
    slots = jnp.full(plan.n, -1, jnp.int32)
    info = report(Members(children, fitness, ids), ids, parents, fitness, slots)
    return Centre(
        Members(centre, jnp.full_like(old.fitness, jnp.nan), old.ids),
        top,
        jax.tree.map(tree.cast_like, optimizer, state.optimizer),
        state.next_id + np.uint32(plan.n),
        state.sigma,
    ), info


@functools.lru_cache(maxsize=128)
def _program(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return jax.jit(functools.partial(_ask, plan)), jax.jit(functools.partial(_tell, plan))


def around(noise: Noise, sigma: Scalar, **options: Any) -> Strategy:
    """The strategy of a noise; the other arguments are those of `open_es`.

    Example:
        >>> from wslax.evolve.gaussian_es import DENSE
        >>> strategy = around(DENSE, 0.1, n=8, antithetic=True, optimizer=ADAM, where=None,
        ...     shaping=lambda fitness: fitness)
    """
    plan = Plan(noise, **options)
    plan = plan._replace(where=hashable(plan.where))
    if plan.n < 2 or (plan.antithetic and plan.n % 2):
        raise WeightSpaceError(
            f"n: expected {'an even number of' if plan.antithetic else 'at least 2'} children, "
            f"got {plan.n}"
        )

    def init(key: Key, population: Params, evaluation: PerMember | Evaluation) -> Centre:
        """The first state; draws nothing."""
        if population_size(population) != 1:
            raise WeightSpaceError(
                "an evolution strategy begins with one member, the centre: "
                f"population.stack([params]); got {population_size(population)}"
            )
        first = members(population, told(evaluation, 1).fitness)
        floats, _ = _floats(plan, first.params)
        wide = jax.tree.map(lambda x: x.astype(tree.wide(x)), floats)
        return Centre(
            first,
            jax.tree.map(lambda x: x[0], (first.params, first.fitness)),
            plan.optimizer.init(wide),
            jnp.asarray(1, jnp.uint32),
            jnp.asarray(sigma, jnp.float32),
        )

    return Strategy(init, *_program(plan))
