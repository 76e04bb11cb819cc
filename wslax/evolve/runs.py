"""Running a strategy: step by step or in compiled segments, resuming to the same bits."""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.evolve import checkpoint
from wslax.evolve.judging import Direction, inward, outward
from wslax.evolve.staging import Staged, check_form
from wslax.evolve.strategy import Evaluation, Info, Members, Strategy
from wslax.population import processes
from wslax.population.int8 import dequantize
from wslax.population.members import as_key, size
from wslax.population.offloading import Offloaded, offloaded, write
from wslax.population.ring import row
from wslax.typing import Array, Key, Params

Evaluate = Callable[[Params], Array | Evaluation]


class Founders(NamedTuple):
    """The first population's ids and fitness, as numpy arrays."""

    ids: Any
    fitness: Any


class Run(NamedTuple):
    """What a run ends with; fitness in the direction of the run.

    Attributes:
      members: the last population, its fitness and ids; a `Members`, or what begins like one.
      history: `Info` of every generation, those before a resume included: numpy arrays with a
        leading generation axis; None where there was no generation.
      founders: ids and fitness of the first population.
      direction: `"maximize"` or `"minimize"`.
      generation: how many generations the population has seen.
      evaluations: how many members were evaluated in this call.
      state: the strategy's own state (higher is better inside).
    """

    members: Members
    history: Info | None
    founders: Founders
    direction: str
    generation: int
    evaluations: int
    state: Any

    @property
    def best(self) -> Params:
        """The best member of the last population, or the best ever where the strategy keeps it."""
        if hasattr(self.state, "top"):
            return self.state.top[0]
        fitness = processes.host(self.members.fitness)
        pick = np.nanargmin if self.direction == "minimize" else np.nanargmax
        return dequantize(row(self.members.params, jnp.asarray(pick(fitness))))


def run(
    strategy: Strategy,
    population: Params,
    evaluate: Evaluate,
    *,
    key: Key,
    generations: int,
    direction: Direction,
    fitness: Array | Evaluation | None = None,
    segment: int = 1,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_segment: Callable[[int, Any, Info], None] | None = None,
) -> Run:
    """Evolve a population.

    Only children are evaluated after the first population, and `tell` reuses the memory of the last
    generation. Generation `g` uses the key `fold_in(key, g)`. With a folder the state is saved
    after each segment, so a run that was killed goes on from there and ends in the same bits; a
    fitness that raises stops the run and loses nothing but its generation.

    Args:
      strategy: as `ws.evolve.genome()`.
      population: leaves `[N, ...]`; copied, so it stays usable. One that `ws.population.offload`
        made is not copied: the run goes on in its memory.
      evaluate: `population -> [members]` or an `Evaluation`; called with N members at the beginning
        and with the children of each generation. Any Python function: wrap it in `jax.jit` if it
        can be, in `each` if it takes one member. What is not finite marks a member that failed.
      key: a JAX key or seed; the same one to resume.
      generations: how many generations the population shall have seen at the end.
      direction: whether `evaluate` is to be maximized or minimized.
      fitness: what `evaluate` would give for the population, if that is known.
      segment: how many generations are one compiled program. Above 1 `evaluate` is traced, so it
        must be made of JAX, and the program belongs to it: keep one function object. Small
        populations gain most.
      folder: where the last generation is kept, `evolution.safetensors`; new or empty, unless
        `resume`. Of a population that is spread over devices the state lies beside it as an Orbax
        checkpoint, written shard by shard.
      resume: go on with the run in the folder, if there is one. Weights and the numbers of the
        strategy's state (`sigma`) are then those that were saved.
      on_segment: `(generation, state, info)` after each segment, for progress; `generation` counts
        from 1, `info` has the segment's generations as leading axis and is in numpy and in the
        direction of the run. The state's memory is reused afterwards: copy what you keep.

    Returns:
      The last population with its history.

    Raises:
      WeightSpaceError: if `direction` is neither, `segment` is below 1, `evaluate` returns another
        shape than one number a member, no member of the first population has a fitness, the folder
        holds something else, or its run was begun with another key or direction, or with a
        population or strategy of other shapes; if the population is offloaded or quantized and
        the strategy does not serve it, or offloaded and `segment` is above 1.

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
    if not isinstance(strategy, Strategy):
        raise WeightSpaceError(f"strategy: expected one, as genome() gives it, got {strategy!r}")
    if generations < 0:
        raise WeightSpaceError(f"generations: expected at least 0, got {generations}")
    if segment < 1:
        raise WeightSpaceError(f"segment: expected at least 1 generation, got {segment}")
    if resume and folder is None:
        raise WeightSpaceError("resume: name the folder of the run to go on with")
    check_form(population, isinstance(strategy.ask, Staged))
    if offloaded(population) and segment > 1:
        raise WeightSpaceError(f"segment: of an offloaded population only 1, got {segment}")
    with processes.over(population):
        return _run(
            strategy, population, evaluate, as_key(key), generations, direction, fitness, segment,
            None if folder is None else checkpoint.claim(folder, resume), on_segment,
        )  # fmt: skip


def _run(
    strategy: Strategy, population: Params, evaluate: Evaluate, key: Any, generations: int,
    direction: Direction, fitness: Any, segment: int, file: Any, on_segment: Any,
) -> Run:  # fmt: skip
    n, evaluations = size(population), 0
    notes: dict[str, Any]
    about = {"direction": direction, "key": np.asarray(jax.random.key_data(key)).tolist()}
    if file is not None and file.exists():
        state, parts, notes = _resumed(file, about, strategy, key, population)
    else:
        if fitness is None:
            fitness, evaluations = evaluate(population), n
        first = inward(direction, processes.host(fitness), n)
        if n > 1 and bool(jnp.isnan(first.fitness).all()):
            raise WeightSpaceError("evaluate: no member of the first population has a fitness")
        state = _copied(strategy.init(key, population, _plain(first)))
        founders = {"ids": state.members.ids, "fitness": state.members.fitness}
        parts = {"founders": processes.host(founders), "history": {}}
        notes = {**about, "generation": 0, "first": _avals(first)}
        if file is not None:
            checkpoint.write(file, state, parts, notes)

    one = _step if segment == 1 else _segment
    advance = functools.partial(one, strategy.ask, strategy.tell, evaluate, direction)
    history = [Info(**parts["history"])] if parts["history"] else []
    start = notes["generation"]
    for begin in range(start, generations, segment):
        end = min(begin + segment, generations)
        state, info = advance(key, state, np.arange(begin, end, dtype=np.uint32))
        history.append(processes.host(info))
        evaluations += info.fitness.size
        if file is not None:
            parts["history"] = _joined(history)._asdict()
            checkpoint.write(file, state, parts, {**notes, "generation": end})
        if on_segment is not None:
            on_segment(end, state, _outward(direction, history[-1]))
    founders = Founders(**parts["founders"])
    return Run(
        _seen(direction, state.members),
        _outward(direction, _joined(history)) if history else None,
        founders._replace(fitness=outward(direction, founders.fitness)),
        direction,
        max(start, generations),
        evaluations,
        state,
    )


@functools.partial(jax.jit, static_argnames="ask", donate_argnames="state")
def _asked(ask: Any, key: Any, state: Any) -> tuple[Any, Params]:
    # The state comes first, so that it gets the donated memory, which children would fit into too.
    return ask(key, state)[::-1]


@functools.partial(jax.jit, static_argnames="tell", donate_argnames="state")
def _told(tell: Any, key: Any, state: Any, children: Params, found: Any) -> tuple[Any, Info]:
    return tell(key, state, children, found)


def _step(
    ask: Any, tell: Any, evaluate: Evaluate, direction: Direction, key: Any, state: Any,
    numbers: Any,
) -> tuple[Any, Info]:  # fmt: skip
    """One generation from Python."""
    now, streams = jax.random.fold_in(key, numbers[0]), offloaded(state)
    state, children = ask(now, state)[::-1] if streams else _asked(ask, now, state)
    found = _plain(inward(direction, processes.host(evaluate(children)), size(children)))
    after = (now, state, children, found)
    state, info = tell(*after) if streams else _told(tell, *after)
    return state, jax.tree.map(lambda x: x[None], processes.host(info))


@functools.partial(
    jax.jit, static_argnames=("ask", "tell", "evaluate", "direction"), donate_argnames="state"
)
def _segment(
    ask: Any, tell: Any, evaluate: Evaluate, direction: Direction, key: Any, state: Any,
    numbers: Any,
) -> tuple[Any, Info]:  # fmt: skip
    """Several generations as one program, which belongs to strategy and fitness."""

    def turn(state: Any, number: Any) -> tuple[Any, Info]:
        now = jax.random.fold_in(key, number)
        children, state = ask(now, state)
        found = inward(direction, evaluate(children), size(children))
        return tell(now, state, children, _plain(found))

    return jax.lax.scan(turn, state, numbers)


@jax.jit
def _copy(state: Any) -> Any:
    return jax.tree.map(jnp.copy, state)


def _copied(state: Any) -> Any:
    """A copy that may be overwritten; under a mesh all of it lies there."""
    return state if offloaded(state) else _copy(state)


def _plain(evaluation: Evaluation) -> Array | Evaluation:
    """The fitness alone where nothing else is known."""
    alone = evaluation.scores is None and evaluation.descriptors is None
    return evaluation.fitness if alone else evaluation


def _avals(evaluation: Evaluation) -> dict[str, Any]:
    known = {k: v for k, v in evaluation._asdict().items() if v is not None}
    return {k: [list(v.shape), str(v.dtype)] for k, v in known.items()}


def _resumed(
    file: Any, about: dict[str, Any], strategy: Strategy, key: Any, population: Params
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """State, founders with history, and notes of a run that began with the same settings."""
    notes = checkpoint.notes(file)
    for what, value in about.items():
        if notes.get(what) != value:
            raise WeightSpaceError(
                f"{file}: was begun with {what}={notes.get(what)}, this run has {value}; resume "
                "with what it was begun with, or name another folder"
            )
    try:
        first = Evaluation(**{k: jnp.zeros(*aval) for k, aval in notes["first"].items()})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightSpaceError(f"{file}: its notes do not say what the founders got") from error
    # What runs lies where `_copied` puts it; only its shapes and places are held while it is read.
    start = strategy.init(key, population, _plain(first))
    like = jax.tree.map(_placed, _copied(start))
    founders = {k: _zeros(getattr(like.members, k)) for k in Founders._fields}
    state, parts = checkpoint.read(file, notes["generation"], like, {"founders": founders})
    history = parts.get("history", {})
    if set(history) != set(Info._fields if notes["generation"] else ()):
        raise WeightSpaceError(f"{file}: its history is not whole")
    if offloaded(start):
        write(start.members.params, 0, state.members.params)
        state = state._replace(members=state.members._replace(params=start.members.params))
    # Copied once more: what was read may share its memory, and a run overwrites its state.
    return _copied(state), {"history": history, **parts}, notes


def _placed(leaf: Any) -> Any:
    if isinstance(leaf, Offloaded):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _zeros(leaf: Any) -> np.ndarray:
    return np.zeros(leaf.shape, leaf.dtype)


def _seen(direction: Direction, members: Any) -> Any:
    """Members with fitness and scores in the direction of the run."""
    told = {"fitness": outward(direction, members.fitness)}
    if getattr(members, "scores", None) is not None:
        told["scores"] = outward(direction, members.scores)
    return members._replace(**told)


def _joined(parts: list[Info]) -> Info:
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _outward(direction: Direction, info: Info) -> Info:
    """Info with its fitness in the direction of the run."""
    return info._replace(
        fitness=outward(direction, info.fitness),
        best=outward(direction, info.best),
        mean=outward(direction, info.mean),
    )
