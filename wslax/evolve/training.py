"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.evolve.breeding import Make, breed
from wslax.evolve.generation import duel, following
from wslax.evolve.mutation import check_rate
from wslax.evolve.selection import ranked
from wslax.evolve.strategy import Evaluation, Info, Members, Strategy, empty, members
from wslax.globs import hashable
from wslax.population import size
from wslax.population.members import as_key
from wslax.typing import Array, Key, Params, Where

# As Jaderberg's: how often a hyper-parameter is drawn anew rather than perturbed.
RESAMPLED = np.float32(0.25)


class Plan(NamedTuple):
    """What fixes the program; hashable."""

    train: Callable[[Key, Params], Params]
    hyper: Where
    share: float
    factors: tuple[float, float]
    resample: Callable[[Key, Params], Params] | None
    chunk: int


class State(NamedTuple):
    """The state of population-based training.

    Attributes:
      members: the population: weights, optimizer states and hyper-parameters alike.
      parents: `[N, 2]`, the id of the member that each child last asked for began as, twice.
      next_id: the id of the next child.
    """

    members: Members
    parents: Array
    next_id: Array


def _sources(plan: Plan, key: Key, now: Members) -> Array:
    """Whom each member goes on as: itself, or one of the top for the bottom."""
    n = now.ids.shape[0]
    count = min(max(1, int(plan.share * n + 0.5)), n // 2) if plan.share else 0
    order = ranked(now.fitness, now.ids)
    worst = order[n - count :]
    draw = lambda id_: random.bits(key, "evolve/exploit", 1, member=id_, xp=jnp)[0]
    top = (jax.vmap(draw)(now.ids[worst]) % np.uint32(max(count, 1))).astype(jnp.int32)
    return jnp.arange(n, dtype=jnp.int32).at[worst].set(order[top])


def _explored(plan: Plan, key: Key, member: Params, id_: Array, copied: Array) -> Params:
    """The member, with other hyper-parameters where it was copied."""
    low, high = (np.float32(factor) for factor in plan.factors)
    fresh = member
    if plan.resample is not None:
        fresh = plan.resample(jax.random.fold_in(key, id_), member)
        tree.check_like(fresh, member, "what resample gives", "the member")

    def of(name: str, x: Array, new: Array, mine: bool) -> Array:
        if not mine:
            return x
        words = random.bits(key, f"evolve/explore/{name}", 2 * x.size, member=id_, xp=jnp)
        u = random.uniform(words).reshape(2, *x.shape)
        factor = jnp.where(u[0] < 0.5, low, high).astype(tree.wide(x))
        other = (x.astype(tree.wide(x)) * factor).astype(x.dtype)
        if plan.resample is not None:
            other = jnp.where(u[1] < RESAMPLED, new, other)
        return jnp.where(copied, other, x)

    return tree.map_named(of, member, fresh, tree.picked(member, plan.hyper))


def _made(plan: Plan) -> Make:
    """`(slots, [source], (key, ids, copied)) -> trained`."""

    def make(slots: Array, rows: Params, shared: Any) -> Params:
        key, ids, copied = shared

        def one(row: Params, id_: Array, copied: Array) -> Params:
            member = _explored(plan, key, _only(row), id_, copied)
            # `_explored` hands ids on to `resample` under this key.
            return plan.train(jax.random.fold_in(jax.random.fold_in(key, 0), id_), member)

        made = jax.vmap(one)(rows, ids[slots], copied[slots])
        tree.check_like(_only(made), _only(_only(rows)), "what train gives", "the member")
        return made

    return make


def _only(rows: Params) -> Params:
    return jax.tree.map(lambda x: x[0], rows)


def _ask(plan: Plan, key: Key, state: State) -> tuple[Params, State]:
    now = state.members
    n = now.ids.shape[0]
    key = as_key(key)
    source = _sources(plan, key, now)
    ids = following(state.next_id, now.ids)

    copied = source != jnp.arange(n, dtype=jnp.int32)
    shared = key, ids, copied
    children = empty(now.params, n)
    children = breed(children, 0, source[:, None], plan.chunk, _made(plan), shared, now.params)
    return children, state._replace(parents=jnp.stack([now.ids[source]] * 2, 1))


def _tell(
    plan: Plan, key: Key, state: State, children: Params, evaluation: Array | Evaluation
) -> tuple[State, Info]:
    return duel(lambda new, old: ~jnp.isnan(new), state, children, evaluation)


@functools.lru_cache(maxsize=128)
def _program(plan: Plan) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return jax.jit(functools.partial(_ask, plan)), jax.jit(functools.partial(_tell, plan))


def population_based_training(
    train: Callable[[Key, Params], Params],
    *,
    hyper: Where,
    share: float = 0.2,
    factors: tuple[float, float] = (0.8, 1.2),
    resample: Callable[[Key, Params], Params] | None = None,
    chunk: int = 4,
) -> Strategy:
    """Population-based training: members train, the worst go on as the best, with other settings.

    A member is all that its training needs: weights, optimizer state, and hyper-parameters as
    leaves. `ask` copies over each of the worst `share` a member drawn uniformly from the best
    `share` (exploit; one gather of everything), perturbs the copies' hyper-parameters (explore) and
    trains all members; what it returns is what to evaluate. `tell` puts every trained member in its
    place; one that failed (NaN) stays what it was before.

    Args:
      train: `(key, member) -> member`, some steps of training; under `vmap`.
      hyper: globs of the floating leaves that are hyper-parameters.
      share: share of members at either end, 0.2 as in the paper; rounded, at least one (0: none).
      factors: by one of which each number is multiplied, by the toss of a coin.
      resample: `(key, member) -> member` with hyper-parameters drawn anew, of which each number is
        taken with probability 0.25, the paper's, instead of being multiplied.
      chunk: how many members are trained at a time.

    Returns:
      The strategy; its state has `members`, `parents` and `next_id`.

    Raises:
      WeightSpaceError: if the share is above 1/2; from `init`, for fewer than 2 members, globs that
        pick nothing or a leaf that holds no floats; from `ask`, if `train` or `resample` gives
        another tree.

    References:
      Jaderberg et al. 2017, Population based training of neural networks, arXiv:1711.09846.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> def train(key, member):  # one step down (w - 1)^2
        ...     return member | {"w": member["w"] - member["rate"] * 2 * (member["w"] - 1)}
        >>> population = {"w": jnp.zeros(8), "rate": jnp.geomspace(1e-4, 1e-2, 8)}
        >>> end = ws.evolve.run(
        ...     ws.evolve.population_based_training(train, hyper="rate"), population,
        ...     lambda p: jnp.square(p["w"] - 1), key=0, generations=20, direction="minimize")
        >>> bool(end.members.params["rate"].min() > 1e-3)
        True
    """
    check_rate("share", 2 * share)
    if chunk < 1:
        raise WeightSpaceError(f"chunk: expected at least 1, got {chunk}")
    plan = Plan(train, hashable(hyper), share, factors, resample, chunk)

    def init(key: Key, population: Params, evaluation: Array | Evaluation) -> State:
        first = members(population, evaluation)
        n = size(population)
        if n < 2:
            raise WeightSpaceError(f"population-based training needs 2 members or more, got {n}")
        picked = tree.picked(population, plan.hyper)
        for (name, leaf), mine in zip(
            tree.named_leaves(population).items(), jax.tree.leaves(picked), strict=True
        ):
            if mine and not tree.is_float(leaf):
                raise WeightSpaceError(
                    f"{name}: a hyper-parameter must be floating to be perturbed, got "
                    f"{tree.aval(leaf)}; narrow hyper={hyper!r}"
                )
        return State(first, jnp.zeros((n, 2), jnp.uint32), jnp.asarray(np.uint32(n)))

    return Strategy(init, *_program(plan))
