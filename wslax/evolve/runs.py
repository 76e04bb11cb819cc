"""Running a strategy: generation by generation, with a callback and resuming to the same bits."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.strategy import Info, Members, Strategy
from wslax.population import processes
from wslax.population.members import as_key, size
from wslax.typing import Array, Key, Params

Direction = Literal["maximize", "minimize"]


class Run(NamedTuple):
    """What a run ends with; fitness in the direction of the run.

    Attributes:
      members: the last population, its fitness and ids.
      history: `Info` of every generation, numpy arrays with a leading generation axis; None where
        no generation was run.
      direction: `"maximize"` or `"minimize"`.
      generation: how many generations the population has seen, those before a resume included.
      evaluations: how many members were evaluated in this call.
      state: the strategy's own state (higher is better inside), to resume from.
    """

    members: Members
    history: Info | None
    direction: str
    generation: int
    evaluations: int
    state: Any


def run(
    strategy: Strategy,
    population: Params | None,
    evaluate: Callable[[Params], Array],
    *,
    key: Key,
    generations: int,
    direction: Direction,
    fitness: Array | None = None,
    state: Any = None,
    start: int = 0,
    on_generation: Callable[[int, Any, Info], None] | None = None,
) -> Run:
    """Evolve a population.

    `ask` and `tell` are jitted, and `tell` reuses the memory of the last generation. Only children
    are evaluated after the first population. Generation `g` uses the key `fold_in(key, g)`, so a
    run of `start` generations, continued from its state, ends in the same bits as one run.

    Args:
      strategy: as `ws.evolve.genome()`.
      population: leaves `[N, ...]`; copied, so it stays usable. None where `state` is given.
      evaluate: `population -> [members]`; called with N members at the beginning and with the
        children of each generation. Any Python function: wrap it in `jax.jit` if it can be. NaN
        marks a member that failed.
      key: a JAX key or seed; the same one to resume.
      generations: how many generations the population shall have seen at the end.
      direction: whether `evaluate` is to be maximized or minimized.
      fitness: `[N]`, if the population is evaluated already, as `evaluate` would give it.
      state: the state to resume from (`Run.state`, or a copy that `on_generation` made).
      start: how many generations that state has seen.
      on_generation: `(generation, state, info)`, after each; for progress and checkpoints.
        `generation` counts from 1: it is the `start` of a resume. `info` is in numpy and in the
        direction of the run. The state's memory is reused afterwards: copy or save what you keep.

    Returns:
      The last population with its history.

    Raises:
      WeightSpaceError: if `direction` is neither, both or none of `population` and `state` are
        given, or `evaluate` returns another shape than one number a member.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> end = ws.evolve.run(
        ...     ws.evolve.genome(), {"w": jnp.arange(8.0)}, lambda p: jnp.square(p["w"]),
        ...     key=0, generations=3, direction="minimize")
        >>> end.direction, float(end.members.fitness.min()), end.history.best.shape
        ('minimize', 0.0, (3,))
    """
    if direction not in ("maximize", "minimize"):
        raise WeightSpaceError(f'direction: expected "maximize" or "minimize", got {direction!r}')
    if (population is None) == (state is None):
        raise WeightSpaceError(
            "give a population to begin with, or the state (and start=) to resume from, not both"
        )
    with processes.over(population if state is None else state.members.params):
        return _generations(
            strategy, population, evaluate, as_key(key), generations, direction, fitness, state,
            start, on_generation,
        )  # fmt: skip


def _generations(
    strategy: Strategy, population: Any, evaluate: Any, key: Any, generations: int,
    direction: Direction, fitness: Any, state: Any, start: int, on_generation: Any,
) -> Run:  # fmt: skip
    evaluations = 0

    def judge(population: Params) -> Array:
        nonlocal evaluations
        evaluations += size(population)
        return _towards(direction, _checked(evaluate(population), population))

    if state is None:
        if fitness is None:
            told = judge(population)
        else:
            told = _towards(direction, _checked(fitness, population))
        state = strategy.init(key, population, told)
    # `ask` passes the population through: donated, it is neither copied nor held twice.
    ask, tell = (jax.jit(fn, donate_argnums=1) for fn in (strategy.ask, strategy.tell))
    state = _copied(state)
    history = []
    for generation in range(start, generations):
        now = jax.random.fold_in(key, generation)
        children, state = ask(now, state)
        state, info = tell(now, state, children, judge(children))
        info = processes.host(_outward(direction, info))
        history.append(info)
        if on_generation is not None:
            on_generation(generation + 1, state, info)
    members = state.members
    return Run(
        members._replace(fitness=_towards(direction, members.fitness)),
        jax.tree.map(lambda *x: np.stack(x), *history) if history else None,
        direction,
        max(start, generations),
        evaluations,
        state,
    )


@jax.jit
def _copied(state: Any) -> Any:
    """A copy that `tell` may overwrite; under a mesh all of it lies there."""
    return jax.tree.map(jnp.copy, state)


def _checked(fitness: Any, population: Params) -> Array:
    n = size(population)
    fitness = np.asarray(processes.host(fitness))
    if fitness.shape != (n,):
        raise WeightSpaceError(
            f"evaluate: expected one number a member, [{n}], got {tree.aval(fitness)}"
        )
    return fitness.astype(tree.wide(fitness))


def _towards(direction: str, fitness: Array) -> Array:
    return -fitness if direction == "minimize" else fitness


def _outward(direction: str, info: Info) -> Info:
    """Info with its fitness in the direction of the run."""
    return info._replace(
        fitness=_towards(direction, info.fitness),
        best=_towards(direction, info.best),
        mean=_towards(direction, info.mean),
    )
