"""What a member is while it is trained, and its step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wslax.typing import Params

Step = Callable[[Any, Any, Any], tuple[Any, Any]]


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
    """Put the hyper-parameters into every state of `optax.inject_hyperparams`, chained or not."""

    def injected(node: Any) -> bool:
        return hasattr(node, "hyperparams")

    def place(node: Any) -> Any:
        if not injected(node):
            return node
        known = node.hyperparams
        given = {k: jnp.asarray(v, known[k].dtype) for k, v in hyper.items() if k in known}
        return node._replace(hyperparams={**known, **given})

    return jax.tree.map(place, opt_state, is_leaf=injected)
