"""Coefficients of task vectors learned from data, with and without labels."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wslax.errors import WeightSpaceError
from wslax.merge.coefficients import Learned, learn, of_task_vectors, parted, start_at
from wslax.merge.leaves import Leaves
from wslax.merge.parameters import is_concrete
from wslax.numerics.threshold import kth_largest
from wslax.typing import Array, Key, Params, Population, Where


def entropy(logits: Any) -> Array:
    r"""The mean entropy of predictions, \(-\sum_y p_y \log p_y\) with \(p\) the softmax.

    Args:
      logits: an array `[..., classes]`, or a tree of them, one a task: means are added up. Half
        types are taken in float32.

    Returns:
      A number, in nats.

    References:
      Yang et al. 2024, AdaMerging, arXiv:2310.02575, equation 5.

    Example:
        >>> import jax.numpy as jnp
        >>> round(float(entropy(jnp.zeros((3, 2)))), 4)
        0.6931
    """

    def mean(x: Any) -> Any:
        log = jax.nn.log_softmax(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
        return -(jnp.exp(log) * log).sum(-1).mean()

    return sum(map(mean, jax.tree.leaves(logits)), jnp.zeros(()))


def _trimmed(vectors: Leaves, density: Any) -> Leaves:
    """TIES up to its mean: the largest entries over the model, where they have the elected sign."""
    count = len(next(iter(vectors.values())))
    flat = jnp.concatenate([d.reshape(count, -1) for d in vectors.values()], 1)
    rank = jnp.maximum(jnp.floor(density * flat.shape[1]).astype(jnp.int32), 1)
    least = jax.lax.map(lambda d: kth_largest(jnp.abs(d), rank), flat)
    trim = lambda d: jnp.where(jnp.abs(d) >= _over(least, d), d, 0)
    votes = {n: jnp.sign(trim(d).sum(0)) for n, d in vectors.items()}
    majority = jnp.sign(sum(s.sum() for s in votes.values()))

    def elected(name: str, d: Any) -> Any:
        sign = jnp.where(votes[name] == 0, majority, votes[name])
        return jnp.where(trim(d) * sign[None] > 0, d, 0)

    return {n: elected(n, d) for n, d in vectors.items()}


def _over(numbers: Any, d: Any) -> Any:
    return numbers.reshape(-1, *(1,) * (d.ndim - 1)).astype(d.dtype)


_trim = jax.jit(_trimmed)


def _unit(coef: Any) -> Any:
    return jax.tree.map(lambda c: jnp.clip(c, 0, 1), coef)


@functools.cache
def _adam() -> Any:
    import optax

    return optax.adam(1e-3)


@functools.cache
def _unsure(apply: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda params, batch: entropy(apply(params, batch))


def adamerging(
    population: Population,
    base: Params,
    apply: Callable[[Params, Any], Any],
    batches: Any,
    *,
    per_leaf: bool = True,
    density: Any = None,
    start: float = 0.3,
    optimizer: Any = None,
    stacked: Where = None,
    where: Where = None,
) -> Learned:
    r"""Task vectors weighed so that the merged model is sure of its predictions; no labels.

    \[y_l = b_l + \sum_i \mathrm{clip}(\lambda_{li}, 0, 1) \, d_{li}, \qquad
    \min_\lambda \sum_t \frac{1}{E} \sum_x H(\mathrm{softmax} f_t(x; y))\]

    for each leaf l, or with one \(\lambda_i\) for the whole model. With a density it is
    AdaMerging++: task vectors keep the largest share of their entries, over the whole model, and
    of these the ones with the sign that TIES elects.

    Args:
      population: N members.
      base: the model they came from.
      apply: `(params, batch) -> logits`, an array `[..., classes]` or a tree of them, one a task,
        so that tasks may have heads of their own. Keep one function object: the compiled program
        belongs to it.
      batches: a tree of arrays `[T, ...]`: one step a row. The authors take 500 steps of 16
        unlabelled test images a task.
      per_leaf: False is the paper's task-wise form.
      density: None for whole task vectors; the paper's ++ is 0.2.
      start: first value of all \(\lambda\); the paper's 0.3.
      optimizer: an Optax transformation; Adam at 1e-3 as in the paper by default. Keep one object.
      stacked: globs of leaves that stack layers along their first axis, as a scan does: each layer
        then has coefficients of its own.
      where: globs of the leaves to merge; the others (heads) are the base's.

    Returns:
      `Learned(params, coef, losses)`; coefficients after clipping, `[N]`, or leaf name to `[N]`
      (`[N, layers]` where stacked).

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, or a density is out of range.

    References:
      Yang et al. 2024, AdaMerging: adaptive model merging for multi-task learning,
      arXiv:2310.02575, section 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[4.0, 0.0], [0.0, 1.0]])}
        >>> apply = lambda p, x: x * p["w"]
        >>> batches = jnp.ones((100, 2))
        >>> found = ws.merge.adamerging(experts, {"w": jnp.zeros(2)}, apply, batches)
        >>> bool(found.coef["w"][0] > 0.3 > found.coef["w"][1]), found.losses.shape
        (True, (100,))
    """
    if density is not None and is_concrete(density) and not 0 <= density <= 1:
        raise WeightSpaceError(f"density: expected 0 to 1, got {density}")
    change = None if density is None else functools.partial(_trim, density=density)
    mixing = of_task_vectors(population, base, where, change)
    coef = start_at(start, mixing, stacked, per_leaf)
    return learn(_unsure(apply), optimizer or _adam(), coef, mixing, batches, _unit)


@functools.cache
def _adamw() -> Any:
    import optax

    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3, weight_decay=0.1))


def atlas(
    population: Population,
    base: Params,
    loss: Callable[[Params, Any], Any],
    batches: Any,
    *,
    parts: int | None = None,
    key: Key | None = None,
    penalty: Callable[[Any], Any] | None = None,
    optimizer: Any = None,
    stacked: Where = None,
    where: Where = None,
) -> Learned:
    r"""aTLAS: any loss descended in one coefficient for each task vector and block.

    \[y_l = b_l + \sum_i \Lambda_{li} \, d_{li}, \qquad \min_\Lambda \ell(y)\]

    from \(\Lambda = 0\), the base. A block l is a leaf; a layer of a leaf in `stacked`; with
    `parts` one of K random parts of a matrix (the paper's aTLAS x K), where other leaves keep one
    coefficient each (the authors' code leaves those at the base). The paper's settings are losses:

    - addition, few shots: `cross_entropy(params, batch)` on labelled examples;
    - negation: `cross_entropy(params, control) - cross_entropy(params, target)`;
    - test time: `entropy(apply(params, images))`.

    Args:
      population: N members.
      base: the model they came from.
      loss: `(params, batch) -> number`. Keep one function object: the compiled program belongs to
        it.
      batches: a tree of arrays `[T, ...]`: one step a row.
      parts: K, or None.
      key: for the parts.
      penalty: a function of the coefficients that is added to the loss, such as
        `lambda coef: 0.01 * optax.tree.norm(coef, ord=1)`.
      optimizer: an Optax transformation; by default AdamW at 1e-3 with a decay of 0.1 behind a clip
        of the gradient's norm at 1, as the authors' code has it (their scripts raise the rate by 2
        to 10 a data set). Keep one object.
      stacked: globs of leaves that stack layers along their first axis, as a scan does.
      where: globs of the leaves to merge.

    Returns:
      `Learned(params, coef, losses)`; coefficients are leaf name to `[N]`, `[N, layers]` or
      `[N, parts]`.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, there is no part, or parts come
        without a key or beside `stacked`.

    References:
      Zhang et al. 2024, Knowledge composition using task vectors with learned anisotropic scaling,
      arXiv:2407.02880, equations 4 to 8.

    Example:
        >>> import jax.numpy as jnp, optax, wslax as ws
        >>> experts = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
        >>> loss = lambda p, target: ((p["w"] - target) ** 2).sum()
        >>> target = jnp.tile(jnp.array([0.5, -2.0]), (100, 1))
        >>> found = ws.merge.atlas(
        ...     experts, {"w": jnp.zeros(2)}, loss, target, optimizer=optax.sgd(0.2)
        ... )
        >>> found.coef["w"].round(3).tolist()
        [0.5, -2.0]
    """
    if parts is not None and (parts < 1 or key is None or stacked is not None):
        raise WeightSpaceError(
            f"parts: expected a number above 0, with key= and without stacked=, got {parts}"
        )
    mixing = of_task_vectors(population, base, where)
    if parts is not None:
        mixing = parted(mixing, parts, key)
    coef = start_at(0.0, mixing, stacked)
    return learn(loss, optimizer or _adamw(), coef, mixing, batches, penalty=penalty)
