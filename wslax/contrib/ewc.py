r"""Elastic weight consolidation: weights that earlier tasks depend on move little.

A `Memory` is a Gaussian about the weights of the tasks so far. To learn a task beside it is to
minimise

\[L_\text{new}(\theta) + \lambda R(\theta), \qquad
  R(\theta) = \tfrac12 \sum_i F_i (\theta_i - \theta^*_i)^2.\]

After the first task it is `Memory(params, fisher)`. The paper of 2017 keeps a memory of every task
and adds their penalties; one memory for all of them, by `remember`, is the online variant.

References:
  Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796,
  equation 3; Schwarz et al. 2018, Progress and Compress, arXiv:1805.06370, online EWC.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Params, Scalar


class Memory(NamedTuple):
    r"""What a model is to keep.

    Attributes:
      params: \(\theta^*\), the weights after the last task.
      importance: \(F\), like them: the diagonal of the Fisher information on the task's data, as
        `wslax.numerics.fisher.fisher_information` has it, exact in the classes. Of leaves that are
        not floats it means nothing.
    """

    params: Params
    importance: Params


def _check(memory: Memory, params: Params) -> None:
    tree.check_like(params, memory.params, "params", "memory")
    _check_importance(memory.importance, params)


def _check_importance(importance: Params, params: Params) -> None:
    tree.check_structure(importance, params, "importance", "params")
    named = tree.named_leaves(importance)
    for name, x in tree.named_leaves(params).items():
        if tree.is_float(x) and jnp.shape(named[name]) != x.shape:
            raise WeightSpaceError(
                f"{name}: importance is {tree.aval(named[name])}, the weights {tree.aval(x)}"
            )


def penalty(params: Params, memory: Memory) -> Array:
    r"""How much is lost of earlier tasks, to second order, up to a factor.

    \[R(\theta) = \tfrac12 \sum_i F_i (\theta_i - \theta^*_i)^2\]

    Its factor \(\lambda\) is the user's. With a mean Fisher information and the mean loss of the
    new task, the number of examples of the old over that of the new is Laplace's approximation;
    published ones are often larger.

    Args:
      params: \(\theta\); gradients go to them.
      memory: what to keep.

    Returns:
      A float32 scalar (float64 for float64) of at least 0.

    Raises:
      WeightSpaceError: if the trees differ.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> memory = ws.contrib.ewc.Memory({"w": jnp.zeros(2)}, {"w": jnp.array([4.0, 0.0])})
        >>> float(ws.contrib.ewc.penalty({"w": jnp.array([1.0, 9.0])}, memory))
        2.0
    """
    _check(memory, params)

    def one(x: Array, before: Array, weight: Array) -> Array:
        if not tree.is_float(x):
            return jnp.zeros(())
        x, before, weight = (y.astype(tree.wide(x)) for y in (x, before, weight))
        return jnp.sum(weight * (x - before) ** 2) / 2

    parts = jax.tree.map(one, params, memory.params, memory.importance)
    return sum(jax.tree.leaves(parts), jnp.zeros(()))


def remember(memory: Memory, params: Params, importance: Params, *, decay: Scalar = 1.0) -> Memory:
    r"""One memory of all tasks so far (online EWC).

    \[F \leftarrow \gamma F + F_\text{new}, \qquad \theta^* \leftarrow \theta\]

    Args:
      memory: of the tasks before.
      params: \(\theta\), after the task that was just learnt.
      importance: \(F_\text{new}\), at these weights on this task's data.
      decay: \(\gamma\) of old tasks, 0 to 1. Default 1, all tasks alike; the authors take 0.95 and
        less where old tasks may go.

    Returns:
      The new memory.

    Raises:
      WeightSpaceError: if the trees differ.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> one = ws.contrib.ewc.Memory({"w": jnp.zeros(1)}, {"w": jnp.array([4.0])})
        >>> both = ws.contrib.ewc.remember(one, {"w": jnp.ones(1)}, {"w": jnp.ones(1)}, decay=0.5)
        >>> both.params["w"].tolist(), both.importance["w"].tolist()
        ([1.0], [3.0])
    """
    _check(memory, params)
    _check_importance(importance, params)

    def total(x: Array, old: Array, new: Array) -> Array:
        if not tree.is_float(x):
            return old
        wide = tree.wide(x)
        return tree.cast_like(decay * old.astype(wide) + new.astype(wide), old)

    return Memory(params, jax.tree.map(total, params, memory.importance, importance))
