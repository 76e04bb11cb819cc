"""Train all members as one program."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.population.members import size
from wslax.typing import Key, Params, Population

Step = Callable[[Any, Any, Any], tuple[Any, Any]]
Strategy = Literal["vmap", "map"]


class Member(NamedTuple):
    """What a member is made of while it is trained by `step_from_loss`.

    Attributes:
      params: what the optimiser changes.
      opt_state: the Optax state.
      stats: running statistics (BatchNorm), or None.
      hyper: per-member numbers; those that `optax.inject_hyperparams` knows replace its values, the
        loss may read all.
    """

    params: Params
    opt_state: Any
    stats: Any
    hyper: dict[str, Any]


class Trainer(NamedTuple):
    """A member's beginning and its step.

    Attributes:
      init: `init(params, stats=None, hyper=None) -> Member`; `jax.vmap` it over a population.
      step: `step(member, batch, key) -> (member, metrics)` for `train`.
    """

    init: Callable[..., Member]
    step: Step


def step_from_loss(loss: Callable[..., Any], optimizer: optax.GradientTransformation) -> Trainer:
    """A training step from a loss and any Optax optimiser.

    Args:
      loss: `loss(params, batch, key, member) -> value` or `(value, aux)`; `member` is the `Member`
        (its `stats` and `hyper` are what a loss may need). `aux` is a dict of metrics; an entry
        `"stats"` becomes the member's new statistics.
      optimizer: for per-member hyper-parameters wrap it in `optax.inject_hyperparams`.

    Returns:
      `Trainer(init, step)`; the step's metrics are `{"loss": value, **aux}`.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> def loss(params, batch, key, member):
        ...     return (params["w"] - batch) ** 2
        >>> adapt = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
        >>> trainer = ws.population.step_from_loss(loss, adapt)
        >>> rates = {"learning_rate": jnp.array([0.0, 0.5])}
        >>> population = jax.vmap(trainer.init)({"w": jnp.zeros(2)}, None, rates)
        >>> targets = jnp.ones(3)  # three steps
        >>> key = jax.random.key(0)
        >>> population, metrics = ws.population.train(trainer.step, population, targets, key=key)
        >>> population.params["w"], metrics["loss"].shape
        (Array([0., 1.], dtype=float32), (3, 2))
    """

    def init(params: Params, stats: Any = None, hyper: dict[str, Any] | None = None) -> Member:
        hyper = hyper or {}
        return Member(params, _with_hyper(optimizer.init(params), hyper), stats, hyper)

    def value(params: Params, member: Member, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        found = loss(params, batch, key, member)
        return found if isinstance(found, tuple) else (found, {})

    def step(member: Member, batch: Any, key: Any) -> tuple[Member, dict[str, Any]]:
        grad = jax.value_and_grad(value, has_aux=True)
        (loss_, aux), grads = grad(member.params, member, batch, key)
        stats = aux.pop("stats", member.stats)
        updates, opt_state = optimizer.update(grads, member.opt_state, member.params)
        params = optax.apply_updates(member.params, updates)
        return Member(params, opt_state, stats, member.hyper), {"loss": loss_, **aux}

    return Trainer(init, step)


def _with_hyper(opt_state: Any, hyper: dict[str, Any]) -> Any:
    known = getattr(opt_state, "hyperparams", None)
    if known is None:
        return opt_state
    given = {k: jnp.asarray(v, known[k].dtype) for k, v in hyper.items() if k in known}
    return opt_state._replace(hyperparams={**known, **given})


def _primitives(jaxpr: Any) -> set[str]:
    """Names of all primitives in a jaxpr and the jaxprs inside it."""
    found: set[str] = set()
    for eqn in jaxpr.eqns:
        found.add(eqn.primitive.name)
        for value in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                found |= _primitives(inner)
    return found


def choose_strategy(step: Step, member: Any, batch: Any, key: Any) -> Strategy:
    """How `train` maps a step over members when it is not told.

    On CPU a step that convolves is mapped one member at a time: XLA turns a vectorised convolution
    gradient into a grouped one, far slower than the loop. Everything else, and every accelerator,
    takes `vmap`. The rule reads the step's jaxpr only, so a resumed run takes the same path.

    Args:
      step: the step.
      member: one member (arrays or `jax.ShapeDtypeStruct`s).
      batch: one batch, likewise.
      key: a JAX key.

    Returns:
      `"vmap"` or `"map"`.

    Example:
        >>> import jax
        >>> choose_strategy(lambda m, b, k: (m + b, {}), 1.0, 1.0, jax.random.key(0))
        'vmap'
    """
    if jax.default_backend() != "cpu":
        return "vmap"
    jaxpr = jax.make_jaxpr(step)(member, batch, key)
    return "map" if "conv_general_dilated" in _primitives(jaxpr.jaxpr) else "vmap"


@partial(
    jax.jit, static_argnames=("step", "strategy", "per_member"), donate_argnames=("population",)
)
def _segment(
    step: Step, population: Any, batches: Any, key: Any, start: Any, strategy: Strategy,
    per_member: bool,
) -> tuple[Any, Any]:  # fmt: skip
    n = jax.tree.leaves(population)[0].shape[0]
    ids = jnp.arange(n, dtype=jnp.uint32)

    def one(member: Any, batch: Any, key: Any, i: Any) -> tuple[Any, Any]:
        return step(member, batch, jax.random.fold_in(key, i))

    def all_members(population: Any, turn: Any) -> tuple[Any, Any]:
        t, batch = turn
        key_t = jax.random.fold_in(key, t)
        if strategy == "vmap":
            mapped = jax.vmap(one, (0, 0 if per_member else None, None, 0))
            return mapped(population, batch, key_t, ids)
        rows = (population, batch, ids) if per_member else (population, ids)

        def row(args: Any) -> tuple[Any, Any]:
            return one(args[0], args[1] if per_member else batch, key_t, args[-1])

        return jax.lax.map(row, rows)

    steps = jax.tree.leaves(batches)[0].shape[0]
    turns = jnp.arange(steps, dtype=jnp.uint32) + start
    return jax.lax.scan(all_members, population, (turns, batches))


def train(
    step: Step,
    population: Population,
    batches: Any,
    *,
    key: Key,
    start: int = 0,
    segment: int = 100,
    per_member: bool = False,
    strategy: Strategy | None = None,
    on_segment: Callable[[int, Population, Any], None] | None = None,
) -> tuple[Population, Any]:
    """Train every member, as one compiled program over members and steps.

    Step t gives member i the key `fold_in(fold_in(key, t), i)`. Steps run in segments: between them
    `on_segment` may save the population, and a run that starts again from what was saved, with
    `start`, gives the same bits as one that was never stopped.

    Args:
      step: `step(member, batch, key) -> (member, metrics)`, see `step_from_loss`. Keep one function
        object: the compiled program belongs to it.
      population: N members: any tree (parameters, optimiser state, statistics, hyper-parameters).
        It is copied once and then updated in place.
      batches: a tree with a leading axis of all T steps; each step's slice goes to all members.
      key: a JAX key.
      start: the first step to do; a multiple of `segment` where a run is taken up again.
      segment: steps per compiled call. A shorter last segment compiles once more.
      per_member: batches are `[T, N, ...]` and each member gets its own.
      strategy: `"vmap"` (all members in one program), `"map"` (one after another in one program),
        or None for `choose_strategy`.
      on_segment: `on_segment(steps done, population, metrics of the segment)`; the population's
        buffers are reused afterwards, so copy what you keep.

    Returns:
      `(population, metrics)` with metrics `[T - start, N, ...]`.

    Raises:
      WeightSpaceError: if there are no steps, `start` is out of range, or batches disagree.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def step(member, batch, key):
        ...     return {"w": member["w"] + batch}, {"w": member["w"]}
        >>> population, metrics = train(
        ...     step, {"w": jnp.zeros(3)}, jnp.ones(5), key=jax.random.key(0), segment=2)
        >>> population["w"], metrics["w"].shape
        (Array([5., 5., 5.], dtype=float32), (5, 3))
    """
    n = size(population)
    steps = size(batches)
    if not 0 <= start < steps:
        raise WeightSpaceError(f"start: expected 0 to {steps - 1}, got {start}")
    if segment < 1:
        raise WeightSpaceError(f"segment: expected at least 1, got {segment}")
    for name, leaf in tree.named_leaves(batches).items() if per_member else ():
        if leaf.ndim < 2 or leaf.shape[1] != n:
            raise WeightSpaceError(
                f"batches {name}: expected [{steps}, {n}, ...] under per_member, got {leaf.shape}"
            )
    if strategy is None:
        first = jax.eval_shape(lambda p: jax.tree.map(lambda x: x[0], p), population)
        index = (0, 0) if per_member else (0,)
        batch = jax.eval_shape(lambda b: jax.tree.map(lambda x: x[index], b), batches)
        strategy = choose_strategy(step, first, batch, key)
    population = jax.tree.map(jnp.copy, population)
    found = []
    for begin in range(start, steps, segment):
        end = min(begin + segment, steps)
        part = jax.tree.map(lambda x, b=begin, e=end: x[b:e], batches)
        population, metrics = _segment(
            step, population, part, key, jnp.uint32(begin), strategy, per_member
        )
        found.append(metrics)
        if on_segment is not None:
            on_segment(end, population, metrics)
    return population, jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)
