"""Train all members by compiled segments of steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.population.members import as_key, axis_of, row_spec, size
from wslax.population.steps import Step
from wslax.population.strategy import Strategy, choose_strategy
from wslax.typing import Key, Params


def _walk(step: Step, member: Any, batches: Any, key: Any, start: Any, i: Any) -> tuple[Any, Any]:
    """Member i through the steps of one segment."""

    def turn(member: Any, at: Any) -> tuple[Any, Any]:
        t, batch = at
        return step(member, batch, jax.random.fold_in(jax.random.fold_in(key, t), i))

    steps = jax.tree.leaves(batches)[0].shape[0]
    turns = jnp.arange(steps, dtype=jnp.uint32) + start
    if steps == 1:  # outside a loop XLA compiles convolutions better
        after, metrics = turn(member, jax.tree.map(lambda x: x[0], (turns, batches)))
        metrics = jax.tree.map(lambda x: x[None], metrics)
    else:
        after, metrics = jax.lax.scan(turn, member, (turns, batches))
    return jax.tree.map(tree.cast_like, after, member), metrics


@partial(jax.jit, static_argnames=("step", "per_member", "spread"), donate_argnames=("population",))
def _together(
    step: Step, population: Any, batches: Any, key: Any, start: Any, per_member: bool, spread: Any
) -> tuple[Any, Any]:
    """A segment of all members in one vectorised program, on each device its own members."""
    axes = (0, 1 if per_member else None, None, None, 0)
    run = jax.vmap(partial(_walk, step), axes, out_axes=(0, 1))
    ids = jnp.arange(jax.tree.leaves(population)[0].shape[0], dtype=jnp.uint32)
    if spread is not None:
        mesh, axis = spread
        rows, columns, whole = PartitionSpec(axis), PartitionSpec(None, axis), PartitionSpec()
        ids = jax.device_put(ids, NamedSharding(mesh, rows))
        if per_member:
            batches = jax.device_put(batches, NamedSharding(mesh, columns))
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(rows, columns if per_member else whole, whole, whole, rows),
            out_specs=(rows, columns),
            check_vma=False,
        )
    return run(population, batches, key, start, ids)


@partial(jax.jit, static_argnames=("step", "per_member"), donate_argnames=("population",))
def _alone(
    step: Step, population: Any, batches: Any, key: Any, start: Any, i: Any, per_member: bool
) -> tuple[Any, Any]:
    """A segment of member i, written back in place."""
    if per_member:
        batches = jax.tree.map(lambda x: x[:, i], batches)
    member, metrics = _walk(step, jax.tree.map(lambda x: x[i], population), batches, key, start, i)
    return jax.tree.map(lambda x, new: x.at[i].set(new), population, member), metrics


@jax.jit
def _copied(population: Any) -> Any:
    return jax.tree.map(jnp.copy, population)


@jax.jit
def _columns(rows: Any) -> Any:
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *rows)


def _in_turn(
    step: Step, population: Any, batches: Any, key: Any, start: int, per_member: bool, stride: int
) -> tuple[Any, Any]:
    """A segment of one member after another, `stride` steps a call."""
    steps = jax.tree.leaves(batches)[0].shape[0]
    parts = [
        (np.uint32(start + t), jax.tree.map(lambda x, t=t: x[t : t + stride], batches))
        for t in range(0, max(steps, 1), stride)
    ]
    rows = []
    for i in range(size(population)):
        found = []
        for t, part in parts:
            population, metrics = _alone(step, population, part, key, t, np.uint32(i), per_member)
            found.append(metrics)
        rows.append(_joined(found))
    return population, _columns(rows)


def _joined(parts: list[Any]) -> Any:
    """Metrics behind each other."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def _check_batches(batches: Any, n: int, per_member: bool) -> int:
    """The number of steps."""
    steps: int | None = None
    for name, leaf in tree.named_leaves(batches).items():
        wanted = ("T" if steps is None else steps, n) if per_member else ("T",)
        fits = np.ndim(leaf) >= len(wanted) and (not per_member or leaf.shape[1] == n)
        if not fits or leaf.shape[0] == 0 or steps not in (None, leaf.shape[0]):
            raise WeightSpaceError(
                f"batches {name}: expected [{', '.join(map(str, wanted))}, ...] with T >= 1 steps"
                f"{'' if steps is None else f' (T = {steps})'}, got {tree.aval(leaf)}"
            )
        steps = leaf.shape[0]
    if steps is None:
        raise WeightSpaceError(
            "batches: expected at least one array; its leading axis is the steps"
        )
    return steps


def _check_step(step: Step, member: Any, batch: Any, key: Any) -> None:
    after, _ = jax.eval_shape(step, member, batch, key)
    tree.check_like(after, member, "the step's member", "the member it got")


def train(
    step: Step,
    population: Params,
    batches: Any,
    *,
    key: Key,
    start: int = 0,
    segment: int = 100,
    per_member: bool = False,
    strategy: Strategy | None = None,
    on_segment: Callable[[int, Params, Any], None] | None = None,
) -> tuple[Params, Any]:
    """Train every member, in compiled segments of steps.

    Step t gives member i the key `fold_in(fold_in(key, t), i)`. Steps run in segments that end at
    multiples of `segment`: between them `on_segment` may save the population, and a run that starts
    again from what was saved, with `start`, gives the same bits as one that was never stopped.

    Args:
      step: `step(member, batch, key) -> (member, metrics)`, see `step_from_loss`. Keep one function
        object: the compiled program belongs to it.
      population: N members: any tree (parameters, optimiser state, statistics, hyper-parameters).
        It is copied once, and the copy is updated in place. Members that `shard` has spread stay on
        their devices.
      batches: a tree with a leading axis of all T steps; each step's slice goes to all members.
      key: a JAX key or an integer seed.
      start: the first step to do; T where a finished run is taken up again.
      segment: steps per compiled call. A shorter last segment compiles once more.
      per_member: batches are `[T, N, ...]` and each member gets its own.
      strategy: `"vmap"` (all members in one vectorised program), `"map"` (a program of one member,
        run for one after another), `"step"` (a program of one step of one member; neither is for
        members spread over devices), or None for `choose_strategy`. They agree within rounding.
      on_segment: `on_segment(steps done, population, metrics of the segment)`; the population's
        buffers are reused afterwards, so copy what you keep.

    Returns:
      `(population, metrics)` with metrics `[T - start, N, ...]`; every leaf of the population keeps
      its shape, dtype and weak type.

    Raises:
      WeightSpaceError: if there are no steps, `start` is out of range, batches disagree, or the
        step changes a leaf's shape or dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def step(member, batch, key):
        ...     return {"w": member["w"] + batch}, {"w": member["w"]}
        >>> population, metrics = train(
        ...     step, {"w": jnp.zeros(3)}, jnp.ones(5), key=jax.random.key(0), segment=2)
        >>> population["w"], metrics["w"].shape
        (Array([5., 5., 5.], dtype=float32), (5, 3))
    """
    steps = _check_batches(batches, size(population), per_member)
    if not 0 <= start <= steps:
        raise WeightSpaceError(f"start: expected 0 to {steps}, got {start}")
    if segment < 1:
        raise WeightSpaceError(f"segment: expected at least 1, got {segment}")
    key, spread = as_key(key), axis_of(population)
    slices = (row_spec(population), row_spec(batches, 2 if per_member else 1), key)
    _check_step(step, *slices)
    if strategy is None:
        strategy = "vmap" if spread else choose_strategy(step, *slices)
    if strategy != "vmap" and spread:
        raise WeightSpaceError(
            f'strategy: members spread over devices need "vmap", got "{strategy}"'
        )
    population = _copied(population)
    found = []
    begin = start
    while begin < steps or not found:
        end = min(begin - begin % segment + segment, steps)
        part = jax.tree.map(lambda x, b=begin, e=end: x[b:e], batches)
        if strategy == "vmap":
            at = (step, population, part, key, np.uint32(begin), per_member, spread)
            population, metrics = _together(*at)
        else:
            stride = 1 if strategy == "step" else segment
            at = (step, population, part, key, begin, per_member, stride)
            population, metrics = _in_turn(*at)
        found.append(metrics)
        if on_segment is not None and end > begin:
            on_segment(end, population, metrics)
        begin = end
    return population, _joined(found)
