"""Strategies of evosax under the contract of `Strategy`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.leading import better, leader
from wslax.evolve.shaping import settled
from wslax.evolve.strategy import Evaluation, Info, Members, Strategy, members, report, told
from wslax.population import size
from wslax.population.members import as_key, row_spec
from wslax.typing import Array, Key, Params, PerMember, Population


class External(NamedTuple):
    """The state of an `external` strategy.

    Attributes:
      members: the n members told of last. At first: the population, or copies of the mean.
      top: the best that was ever seen, without a member axis, and its fitness.
      inner: the state of the algorithm; it minimises.
      params: its hyper-parameters; may be replaced between generations.
      next_id: the id of the next child.
    """

    members: Members
    top: tuple[Params, Array]
    inner: Any
    params: Any
    next_id: Array


class _Plan(NamedTuple):
    algorithm: Callable[..., Any]
    n: int


def _floats(population: Population) -> Params:
    """What the algorithm sees: leaves of floats, half types in float32, None for others."""
    return jax.tree.map(lambda x: x.astype(tree.wide(x)) if tree.is_float(x) else None, population)


def _made(plan: _Plan, population: Population) -> Any:
    """The algorithm for members like these; evosax compiles by object, so one for each kind."""
    leaves, structure = jax.tree.flatten(row_spec(jax.eval_shape(_floats, population)))
    return _instance(plan, structure, tuple((x.shape, x.dtype) for x in leaves))


@functools.lru_cache(maxsize=128)
def _instance(plan: _Plan, structure: Any, leaves: tuple[Any, ...]) -> Any:
    with jax.ensure_compile_time_eval():
        solution = structure.unflatten([np.zeros(*leaf) for leaf in leaves])
        return plan.algorithm(population_size=plan.n, solution=solution)


def _foreign(fn: Callable[..., Any], *args: Any) -> Any:
    """A call of an algorithm, which need not keep to strict types and shapes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return fn(*args)


def _like(new: Any, old: Any) -> Any:
    """With the dtypes and weak types of the last state, so that loops type."""
    return jax.tree.map(tree.cast_like, new, old)


def _ask(plan: _Plan, key: Key, state: External) -> tuple[Params, External]:
    now = state.members.params
    made = _made(plan, now)
    children, inner = _foreign(made.ask, as_key(key), state.inner, state.params)
    mine = jax.tree.map(tree.is_float, now)
    children = jax.tree.map(
        lambda m, x, old: tree.cast_like(x, old) if m else old, mine, children, now
    )
    return children, state._replace(inner=_like(inner, state.inner))


def _is_distribution(made: Any) -> bool:
    return hasattr(made, "get_mean")


def _cost(made: Any, fitness: Array) -> Array:
    """What the algorithm minimises; it knows no NaN.

    A distribution computes with the numbers, so a member that failed counts as the worst of its
    generation. A population compares them with those that it holds, so it counts as infinite.
    """
    if _is_distribution(made):
        return -settled(fitness)
    return jnp.where(jnp.isnan(fitness), jnp.inf, -fitness)


def _tell(
    plan: _Plan, key: Key, state: External, children: Params, evaluation: Array | Evaluation
) -> tuple[External, Info]:
    old = state.members
    tree.check_structure(children, old.params, "children", "the population")
    fitness = jnp.asarray(told(evaluation, plan.n).fitness, old.fitness.dtype)
    made = _made(plan, old.params)
    cost = _cost(made, fitness)
    inner, _ = _foreign(made.tell, as_key(key), _floats(children), cost, state.inner, state.params)
    ids = state.next_id + jnp.arange(plan.n, dtype=jnp.uint32)
    now = Members(jax.tree.map(tree.cast_like, children, old.params), fitness, ids)
    # Nobody's child: what an algorithm makes it of is its own affair.
    info = report(now, ids, jnp.stack([ids, ids], 1), fitness, jnp.arange(plan.n, dtype=jnp.int32))
    return External(
        now,
        _best(state.top, now),
        _like(inner, state.inner),
        state.params,
        state.next_id + np.uint32(plan.n),
    ), info


def _best(top: tuple[Params, Array], now: Members) -> tuple[Params, Array]:
    i = leader(now.fitness)
    return better(top, jax.tree.map(lambda x: x[i], now.params), now.fitness[i])


@functools.lru_cache(maxsize=128)
def _program(plan: _Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return jax.jit(functools.partial(_ask, plan)), jax.jit(functools.partial(_tell, plan))


def external(algorithm: Callable[..., Any], *, n: int) -> Strategy:
    r"""An algorithm of evosax (0.3) as a strategy: on trees, maximising, and typing under `scan`.

    For spaces of few numbers: coefficients of a merge, adapters, coordinates of a `span`. evosax
    flattens a member into one vector; it gets the leaves of floats, half types in float32, and
    children have the members' own dtypes again. Other leaves never change. It is told \(-f\), and
    what it returns is cast to the dtypes of its first state: a run is the one made with it by hand
    and the same keys, and `jax.lax.scan` over generations types.

    Algorithms around a distribution begin with a population of one, their mean; those with a
    population with `n` members. A member that failed counts as the worst of its generation for a
    distribution, and as infinitely bad for a population. `members` are the last children.

    Args:
      algorithm: `(population_size=, solution=) -> algorithm`: a class such as
        `evosax.algorithms.CMA_ES`, or a `functools.partial` of one. The package is no dependency of
        this one. Pass the same object again to compile once.
      n: children a generation; static.

    Returns:
      The strategy; its state is an `External`. Its `params` are the algorithm's defaults;
      `state._replace(params=state.params.replace(...))` sets others.

    Raises:
      WeightSpaceError: if `n` is below 2; from `init`, for a population of another size, or one
        without floats.

    References:
      Lange 2022, evosax: JAX-based evolution strategies, arXiv:2212.04180.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> class Halves:  # the surface of evosax: goes half way to the best
        ...     default_params = None
        ...     def __init__(self, population_size, solution):
        ...         self.n = population_size
        ...     def get_mean(self, state):
        ...         return state
        ...     def init(self, key, mean, params):
        ...         return mean
        ...     def ask(self, key, state, params):
        ...         return state[None] + jnp.linspace(-1, 1, self.n)[:, None], state
        ...     def tell(self, key, children, cost, state, params):
        ...         return (state + children[cost.argmin()]) / 2, {}
        >>> end = ws.evolve.run(
        ...     ws.evolve.external(Halves, n=11), jnp.zeros((1, 3)),
        ...     lambda c: -jnp.square(c - 2).sum(1), key=0, generations=12, direction="maximize")
        >>> end.state.top[0].round(1).tolist()
        [2.0, 2.0, 2.0]
    """
    if n < 2:
        raise WeightSpaceError(f"n: expected at least 2 children, got {n}")
    plan = _Plan(algorithm, n)

    def init(key: Key, population: Params, fitness: PerMember | Evaluation) -> External:
        count = size(population)
        first = members(population, told(fitness, count).fitness)
        floats = _floats(first.params)
        if not jax.tree.leaves(floats):
            raise WeightSpaceError("external: the population has no leaf of floats to search in")
        made = _made(plan, first.params)
        params = jax.tree.map(jnp.asarray, _foreign(lambda: made.default_params))
        wanted = 1 if _is_distribution(made) else n
        if count != wanted:
            raise WeightSpaceError(
                f"external: {type(made).__name__} begins with {wanted} member(s), got {count}"
            )
        if _is_distribution(made):
            mean = jax.tree.map(lambda x: x[0], floats)
            inner = _foreign(made.init, as_key(key), mean, params)
        else:
            cost = _cost(made, first.fitness)
            inner = _foreign(made.init, as_key(key), floats, cost, params)
        row = jax.tree.map(lambda x: x[0], (first.params, first.fitness))
        shown = jax.tree.map(lambda x: jnp.repeat(x, n // count, axis=0), first)
        return External(
            shown._replace(ids=jnp.arange(n, dtype=jnp.uint32)),
            _best(row, first),
            jax.tree.map(jnp.asarray, inner),
            params,
            jnp.asarray(n, jnp.uint32),
        )

    return Strategy(init, *_program(plan))
