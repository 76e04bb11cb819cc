"""Weights from which a few steps learn a new task: MAML, its first-order form, and Reptile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.typing import Array, Params, Scalar

Loss = Callable[[Any, Any], Any]
ORDERS = ("first", "second", "reptile")


def _check_steps(steps: int) -> None:
    if steps < 0:
        raise WeightSpaceError(f"steps: expected at least 0, got {steps}")


def _count(tasks: Any) -> int:
    """How many tasks there are."""
    count: int | None = None
    for name, leaf in tree.named_leaves(tasks).items():
        if jnp.ndim(leaf) == 0 or leaf.shape[0] == 0 or count not in (None, leaf.shape[0]):
            wanted = "T >= 1" if count is None else str(count)
            raise WeightSpaceError(
                f"tasks {name}: expected a leading axis of {wanted} tasks, got {tree.aval(leaf)}"
            )
        count = leaf.shape[0]
    if count is None:
        raise WeightSpaceError("tasks: expected at least one array; its leading axis is the tasks")
    return count


def adapt(loss: Loss, params: Params, support: Any, *, rate: Scalar, steps: int = 1) -> Params:
    r"""Plain gradient descent on the examples of one task.

    \[\theta_{k+1} = \theta_k - \alpha \nabla L(\theta_k; \text{support})\]

    Args:
      loss: `loss(params, batch) -> scalar`.
      params: where the descent begins. Integer, bool and key leaves stay.
      support: the task's examples; every step sees them all.
      rate: \(\alpha\); may be traced.
      steps: how many; static, default 1 (MAML's figures are for 1 to 5). 0 changes nothing.

    Returns:
      The adapted parameters. It can be differentiated, also in `rate`; a gradient through it keeps
      the parameters of every step.

    Raises:
      WeightSpaceError: if `steps` is negative.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> loss = lambda params, batch: jnp.mean((params["w"] - batch) ** 2) / 2
        >>> params = {"w": jnp.array(0.0)}
        >>> ws.contrib.maml.adapt(loss, params, jnp.array([1.0, 3.0]), rate=0.5, steps=2)
        {'w': Array(1.5, dtype=float32, weak_type=True)}
    """
    _check_steps(steps)

    def descend(params: Params, _: None) -> tuple[Params, None]:
        slope = jax.grad(loss, allow_int=True)(params, support)

        def moved(x: Array, g: Array) -> Array:
            if not tree.is_float(x):
                return x
            wide = tree.wide(x)
            return tree.cast_like(x.astype(wide) - rate * g.astype(wide), x)

        return jax.tree.map(moved, params, slope), None

    return jax.lax.scan(descend, jax.tree.map(jnp.asarray, params), None, length=steps)[0]


def meta_gradient(
    loss: Loss,
    params: Params,
    tasks: tuple[Any, Any],
    *,
    rate: Scalar,
    steps: int = 1,
    order: str = "first",
) -> tuple[Array, Params]:
    r"""The gradient that leads to weights which adapt well, for any Optax optimiser.

    With \(\theta'_t\) = `adapt` on the support of task t, the mean over tasks of

    \[\nabla_\theta L(\theta'_t(\theta); \text{query}_t) \ \text{(second)}, \qquad
      \nabla L(\theta'_t; \text{query}_t) \ \text{(first)}, \qquad
      \theta - \theta'_t \ \text{(reptile)}.\]

    The first is MAML. The next, FOMAML, takes \(\partial \theta' / \partial \theta\) for the
    identity. Reptile has no query; with `optax.sgd(eps)` its step is task arithmetic, base plus
    eps times the mean task vector. No steps at all make joint training of the first two. Tasks
    are taken one after another: in memory there are one adapted copy and one sum, which for half
    types is in float32.

    Args:
      loss: `loss(params, batch) -> scalar`.
      params: the weights; the gradient of leaves that are not floats is 0.
      tasks: `(support, query)`, two trees whose leaves all have a leading axis of T tasks.
      rate: of `adapt`.
      steps: of `adapt`; static.
      order: `"first"` (default, as in AdaptAgent), `"second"` or `"reptile"`.

    Returns:
      `(value, gradient)`: the mean loss of the queries after adaptation, and the gradient, like
      `params`. Under `jit` a value that nothing reads costs nothing.

    Raises:
      WeightSpaceError: if there are no tasks, leaves disagree on T, `steps` is negative or `order`
        is unknown.

    References:
      Finn et al. 2017, Model-agnostic meta-learning, arXiv:1703.03400, sections 2.2 and 5.2;
      Nichol et al. 2018, On first-order meta-learning algorithms (Reptile), arXiv:1803.02999;
      Verma et al. 2024, AdaptAgent, arXiv:2411.13451.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> loss = lambda params, batch: jnp.mean((params["w"] - batch) ** 2) / 2
        >>> tasks = jnp.array([[1.0], [3.0]]), jnp.array([[1.0], [3.0]])  # support, query
        >>> value, gradient = ws.contrib.maml.meta_gradient(
        ...     loss, {"w": jnp.array(0.0)}, tasks, rate=0.5)
        >>> float(value), float(gradient["w"])
        (0.625, -1.0)
    """
    count = _count(tasks)
    _check_steps(steps)
    if order not in ORDERS:
        raise WeightSpaceError(f"order: {order!r} is unknown.{did_you_mean(order, ORDERS)}")
    params = jax.tree.map(jnp.asarray, params)
    slope = functools.partial(jax.value_and_grad, allow_int=True)

    def after(params: Params, support: Any) -> Params:
        return adapt(loss, params, support, rate=rate, steps=steps)

    def one(support: Any, query: Any) -> tuple[Array, Params]:
        if order == "second":
            return slope(lambda p: loss(after(p, support), query))(params)
        adapted = after(params, support)
        if order == "first":
            return slope(loss)(adapted, query)
        return loss(adapted, query), jax.tree.map(_way, params, adapted)

    def turn(total: Any, task: Any) -> tuple[Any, None]:
        value, gradient = one(*task)
        gradient = jax.tree.map(_summand, params, gradient)
        return jax.tree.map(jnp.add, total, (value, gradient)), None

    value = jax.eval_shape(loss, params, jax.tree.map(lambda x: x[0], tasks[1]))
    nothing = jax.tree.map(lambda x: jnp.zeros_like(_summand(x, x)), params)
    begin = jnp.zeros((), tree.wide(value)), nothing
    (value, total), _ = jax.lax.scan(turn, begin, tasks)
    mean = lambda x, g: tree.cast_like(g / count, x) if tree.is_float(x) else jnp.zeros_like(x)
    return value / count, jax.tree.map(mean, params, total)


def _way(x: Array, y: Array) -> Array:
    return x.astype(tree.wide(x)) - y.astype(tree.wide(x)) if tree.is_float(x) else x


def _summand(x: Array, g: Array) -> Array:
    """The gradient of leaf x as it is summed."""
    return g.astype(tree.wide(x)) if tree.is_float(x) else jnp.zeros(())
