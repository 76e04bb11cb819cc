"""`schedule`: growth inside a training job, where each stage has programs of its own."""

import bisect
import collections
import functools
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from wslax import tree
from wslax.edit import Edit
from wslax.errors import WeightSpaceError
from wslax.typing import Params


class Stage(NamedTuple):
    """A part of a training job in which nothing changes its shape.

    Attributes:
      start: its first step.
      params: `jax.ShapeDtypeStruct`s.
      opt_state: the same of the optimizer's state.
      tracing: seconds to trace its training step and the growth that leads to it.
      compiling: seconds to compile both; None as long as the job has not come there.
      growing: seconds of the growth itself; None where the job has not grown into it.
    """

    start: int
    params: Any
    opt_state: Any
    tracing: float
    compiling: float | None = None
    growing: float | None = None


class Schedule(NamedTuple):
    """What `schedule` returns; print it for a table of the stages.

    Attributes:
      step: `(t, params, opt_state, *inputs) -> (params, opt_state, ...)`: step number t of the job,
        which grows first where the schedule says so. What it gets is given up.
      spec: `done -> (params, opt_state)`, the shapes after so many steps: what a checkpoint of then
        holds.
      stages: `() -> tuple of Stage`: shapes and seconds so far.
    """

    step: Callable[..., Any]
    spec: Callable[[int], tuple[Any, Any]]
    stages: Callable[[], tuple[Stage, ...]]

    def __str__(self) -> str:
        """Text for people: one line a stage."""
        rows = [("from step", "weights", "tracing", "compiling", "growing")]
        for stage in self.stages():
            seconds = (stage.tracing, stage.compiling, stage.growing)
            traced, compiled, grown = ("-" if s is None else f"{s:.2f} s" for s in seconds)
            weights = f"{tree.size(stage.params):,}"
            rows.append((f"{stage.start:,}", weights, traced, compiled, grown))
        return "\n".join("".join(f"{cell:>12}" for cell in row) for row in rows)


_PARTS = ("the model", "the optimizer's state")


def _check_steps(growths: Mapping[int, Any]) -> None:
    last = 0
    for step in growths:
        if isinstance(step, bool) or not isinstance(step, int) or step <= last:
            raise WeightSpaceError(
                f"growth at step {step!r}: expected integers from 1 on, in increasing order, got "
                f"{list(growths)}"
            )
        last = step


def _place(number: int, starts: list[int]) -> str:
    return f"stage {number} (from step {starts[number]})"


def _traced(program: Any, spec: Any, place: str, hint: str) -> tuple[Any, float]:
    """The shapes of what a program puts out, and the seconds of tracing it."""
    began = time.perf_counter()
    try:
        out = program.trace(*spec).out_info
    except Exception as error:
        raise WeightSpaceError(f"{place}: {hint}: {error}") from error
    return out, time.perf_counter() - began


def _growth(edit: Edit, policy: str) -> list[Any]:
    """A program for the weights and one for the state. What keeps its shape stays where it is."""
    maps = (edit.apply, functools.partial(edit.optimizer_state, policy=policy))
    return [jax.jit(move, donate_argnums=0) for move in maps]


def _compiled(program: Any, args: Any) -> tuple[Any, float]:
    began = time.perf_counter()
    with warnings.catch_warnings():  # what grows cannot be reused, which is what growth is
        warnings.filterwarnings("ignore", "Some donated buffers were not usable")
        lowered = program.lower(*args)
    return lowered.compile(), time.perf_counter() - began


def _free(old: Any) -> None:
    """Give back the buffers that donation could not reuse."""
    for leaf in jax.tree.leaves(old):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            leaf.delete()


def _plan(
    steps: list[Any], growths: list[Any], starts: list[int], spec: Any, inputs: Any
) -> list[Stage]:
    """All stages without data: whatever does not fit shows here, not at step 3000."""
    stages: list[Stage] = []
    for number, (step, growth) in enumerate(zip(steps, growths, strict=True)):
        place, seconds = _place(number, starts), 0.0
        if growth is not None:
            hint = "its edit does not fit the stage before"
            moved = [_traced(p, (old,), place, hint) for p, old in zip(growth, spec, strict=True)]
            spec, times = zip(*moved, strict=True)
            seconds = sum(times)
        hint = "its training step does not take the grown model, build it at the new sizes"
        out, more = _traced(
            step, (*spec, *inputs), place, hint if number else "its training step fails"
        )
        if not isinstance(out, tuple) or len(out) < 2:
            raise WeightSpaceError(
                f"{place}: the training step returns {type(out).__name__}, expected a tuple that "
                "begins with the parameters and the optimizer's state"
            )
        tree.check_like(out[:2], spec, f"{place}: what the training step returns", "what it got")
        stages.append(Stage(starts[number], spec[0], spec[1], seconds + more))
    return stages


def schedule(
    step: Callable[..., Any],
    growths: Mapping[int, tuple[Edit, Callable[..., Any]]],
    params: Params,
    opt_state: Any,
    *inputs: Any,
    policy: str = "exact",
) -> Schedule:
    """Grow at given steps of a training job.

    A grown model is another program: its training step compiles anew. All stages are planned and
    traced at once, on shapes, so that a model built at a wrong size is found before the first step
    and not at the thousandth. A stage compiles when the job comes to it; `print(job)` says how long
    that took.

    Step t is a pure function of t and what it gets: where `growths` has t it grows, then it trains.
    A job that is killed after `done` steps restores its checkpoint like `job.spec(done)`, goes on
    with step `done`, and ends with the same bits as one that was never stopped. Edits depend on
    shapes and keys alone, so a resumed job builds the same schedule.

    Buffers of parameters and state are donated to each step. Growth takes the parameters first and
    gives the old ones back before the state: no more is held than old and new, and a few leaves.

    Args:
      step: the training step of the model as it is, `(params, opt_state, *inputs) -> (params,
        opt_state, ...)`; compiled here. It may be a scan over a segment of steps: then t counts
        on by the length of a segment, and growths stand at the beginning of one.
      growths: step to `(edit, training step of the grown model)`, steps in increasing order. Each
        edit is made for the model that the one before it leaves (`edit.groups`). What is read off
        the weights of its step (`gradmax`) cannot be planned: grow by hand there.
      params: at step 0; arrays or `jax.ShapeDtypeStruct`s.
      opt_state: of the optimizer at step 0, the same.
      *inputs: of a training step, the same: those of all steps have these shapes.
      policy: how growth treats the optimizer's state, see `widen`.

    Returns:
      `Schedule(step, spec, stages)`.

    Raises:
      WeightSpaceError: if the steps do not increase, an edit does not fit the stage before it, or a
        training step does not take or does not return the shapes of its stage; from `step`, if what
        it gets belongs to another stage.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> optimizer, x = optax.adam(1e-3), jnp.ones((2, 4))
        >>> def train(net):
        ...     def step(params, state, x):
        ...         loss = lambda params: (net.apply(params, x) ** 2).mean()
        ...         value, slope = jax.value_and_grad(loss)(params)
        ...         updates, state = optimizer.update(slope, state, params)
        ...         return optax.apply_updates(params, updates), state, value
        ...     return step
        >>> net, wide = ws.nets.mlp(4, [8], 3), ws.nets.mlp(4, [12], 3)
        >>> params = net.init(jax.random.key(0))
        >>> state = optimizer.init(params)
        >>> groups = ws.symmetry.infer(net.apply, params, x)
        >>> edit = ws.grow.widen(groups, {groups.free[0].id: 12}, key=1)
        >>> job = ws.grow.schedule(train(net), {2: (edit, train(wide))}, params, state, x)
        >>> for t in range(4):
        ...     params, state, loss = job.step(t, params, state, x)
        >>> [stage.params["hidden_0"]["kernel"].shape for stage in job.stages()]
        [(4, 8), (4, 12)]
    """
    _check_steps(growths)
    starts = [0, *growths]
    trainings = [step, *(training for _, training in growths.values())]
    steps = [jax.jit(training, donate_argnums=(0, 1)) for training in trainings]
    moves = [None, *(_growth(edit, policy) for edit, _ in growths.values())]
    first = jax.eval_shape(lambda *args: args, params, opt_state, *inputs)
    planned = _plan(steps, moves, starts, first[:2], first[2:])
    spent: list[Any] = [collections.Counter() for _ in starts]
    programs: dict[int, Any] = {}

    def number(t: int) -> int:
        if t < 0:
            raise WeightSpaceError(f"step: expected a number from 0 on, got {t}")
        return bisect.bisect_right(starts, t) - 1

    def check(given: Any, stage: int, t: int) -> None:
        _, params, opt_state, *_ = planned[stage]
        for what, got, wanted in zip(_PARTS, given, (params, opt_state), strict=True):
            tree.check_like(got, wanted, f"{what} at step {t}", f"that of {_place(stage, starts)}")

    def grown(stage: int, t: int, params: Params, opt_state: Any) -> list[Any]:
        check((params, opt_state), stage - 1, t)
        new = []
        # One after the other: the state is not yet grown when the old weights are given back.
        for program, old in zip(moves[stage] or (), (params, opt_state), strict=True):
            compiled, compiling = _compiled(program, (old,))
            began = time.perf_counter()
            new.append(jax.block_until_ready(compiled(old)))
            spent[stage].update(compiling=compiling, growing=time.perf_counter() - began)
            _free(old)
        return new

    def run(t: int, params: Params, opt_state: Any, *inputs: Any) -> Any:
        stage = number(t)
        if stage and t == starts[stage]:
            params, opt_state = grown(stage, t, params, opt_state)
        if stage not in programs:
            check((params, opt_state), stage, t)
            programs.clear()  # of the stage before
            programs[stage], compiling = _compiled(steps[stage], (params, opt_state, *inputs))
            spent[stage].update(compiling=compiling)
        try:
            return programs[stage](params, opt_state, *inputs)
        except TypeError:
            check((params, opt_state), stage, t)
            raise

    def spec(done: int) -> tuple[Any, Any]:
        stage = planned[number(max(done - 1, 0))]
        return stage.params, stage.opt_state

    def stages() -> tuple[Stage, ...]:
        rows = zip(planned, spent, strict=True)
        return tuple(
            stage._replace(compiling=seconds.get("compiling"), growing=seconds.get("growing"))
            for stage, seconds in rows
        )

    return Schedule(run, spec, stages)
