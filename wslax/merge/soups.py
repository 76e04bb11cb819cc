r"""Soups: means of members that a score, a loss or a few examples choose the weights of.

The uniform soup is `linear`. Members share an initialisation, or are aligned first.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import population as populations
from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.coefficients import as_they_are, learn, of_members, start_at
from wslax.merge.functions.averages import linear
from wslax.merge.functions.spherical import slerp
from wslax.merge.functions.task_vectors import task_arithmetic
from wslax.merge.leaves import Leaves, add_merged
from wslax.typing import Array, Params, Population, Where


class Soup(NamedTuple):
    """A mean and its weights.

    Attributes:
      params: the mean.
      coef: `[N]`, the weight of each member; leaf name to `[N]` where each leaf has its own.
    """

    params: Any
    coef: Any


class _Pot(NamedTuple):
    total: Any  # float leaves summed in float32 or wider, others the best member's
    chosen: Any
    best: Any


def _wide(member: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(tree.wide(x)) if tree.is_float(x) else x, member)


def _served(pot: _Pot, like: Any) -> Any:
    def mean(total: Any, x: Any) -> Any:
        if not tree.is_float(x):
            return total
        return tree.cast_like(total / pot.chosen.sum().astype(total.dtype), x)

    return jax.tree.map(mean, pot.total, like)


def _begin(population: Any, scores: Any) -> tuple[_Pot, Any]:
    order = jnp.argsort(-scores)  # NaN comes last
    first = order[0]
    member = populations.member(population, first)
    return _Pot(_wide(member), jnp.arange(len(scores)) == first, scores[first]), order


def _taste(score: Callable[[Any], Any], population: Any, pot: _Pot, i: Any) -> _Pot:
    """The pot with member i, if that is no worse."""
    member = populations.member(population, i)
    total = jax.tree.map(lambda t, x: t + x if tree.is_float(x) else t, pot.total, _wide(member))
    more = _Pot(total, pot.chosen.at[i].set(True), pot.best)
    value = jnp.asarray(score(_served(more, member)), pot.best.dtype)
    keep = value >= pot.best
    return jax.tree.map(lambda new, old: jnp.where(keep, new, old), more._replace(best=value), pot)


@functools.partial(jax.jit, static_argnames="score")
def _greedy(score: Callable[[Any], Any], population: Any) -> _Pot:
    pot, order = _begin(population, jax.lax.map(score, population))
    turn = lambda i, pot: _taste(score, population, pot, order[i])
    return jax.lax.fori_loop(1, len(order), turn, pot)


def greedy_soup(
    population: Population, score: Callable[[Params], Any], *, compiled: bool = True
) -> Soup:
    r"""The mean of the members that do not make it worse, tried from the best on.

    Members are sorted by their score. The soup begins as the best; each next one is put in, and
    stays if the mean with it scores at least as high (the paper's rule; the authors' code wants
    more). So the soup scores at least as high as the best member.

    Args:
      population: N members.
      score: `params -> number`, higher is better, on data held out from training. NaN never wins.
        Keep one function object: the compiled program belongs to it.
      compiled: whether `score` can be traced; all 2 N - 1 scores are then one compiled loop. False
        for a score in plain Python, which is called with concrete parameters.

    Returns:
      `Soup(params, coef)`; weights are 1 over the number of members in it, or 0. Integer, bool and
      key leaves are the best member's.

    Raises:
      WeightSpaceError: if the leaves do not share a member axis.

    References:
      Wortsman et al. 2022, Model soups, arXiv:2203.05482, recipe 1.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([0.0, 1.6, 9.0])}
        >>> soup = ws.merge.greedy_soup(experts, lambda p: -(p["w"] - 1.0) ** 2)
        >>> soup.coef.tolist(), round(float(soup.params["w"]), 3)
        ([0.5, 0.5, 0.0], 0.8)
    """
    count = populations.size(population)
    if compiled:
        pot = _greedy(score, population)
    else:
        members = [populations.member(population, i) for i in range(count)]
        pot, order = _begin(population, jnp.asarray([float(score(m)) for m in members]))
        for i in np.asarray(order)[1:].tolist():
            pot = _taste(score, population, pot, i)
    coef = pot.chosen / pot.chosen.sum()
    return Soup(_served(pot, populations.member(population, 0)), coef)


@functools.cache
def _adam() -> Any:
    import optax

    return optax.adam(0.05)


def _softmax(weights: Any) -> Any:
    return jax.tree.map(jax.nn.softmax, weights)


def learned_soup(
    population: Population,
    loss: Callable[[Params, Any], Any],
    batches: Any,
    *,
    per_leaf: bool = False,
    softmax: bool = True,
    optimizer: Any = None,
) -> Soup:
    r"""The weighted mean whose weights minimise a loss on held-out data.

    \[\min_\alpha \ell\Big(\sum_i \mathrm{softmax}(\alpha)_i \, x_i\Big)\]

    by stochastic gradients from equal weights. The paper learns a factor of the logits beside; put
    one into the loss if its scale matters.

    Args:
      population: N members, all in memory at once.
      loss: `(params, batch) -> number`. Keep one function object: the compiled program belongs to
        it.
      batches: a tree of arrays `[T, ...]`: one step a row. The authors go over their 26k held-out
        images five times.
      per_leaf: weights for each leaf on its own (the paper's soup by layer).
      softmax: weights are positive and add up to 1; False leaves them free, from 1 / N.
      optimizer: an Optax transformation; Adam at 0.05 as in the authors' code by default.

    Returns:
      `Soup(params, coef)`.

    Raises:
      WeightSpaceError: if the leaves do not share a member axis, or integer leaves differ.

    References:
      Wortsman et al. 2022, arXiv:2203.05482, appendix I.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([0.0, 4.0])}
        >>> loss = lambda p, target: (p["w"] - target) ** 2
        >>> soup = ws.merge.learned_soup(experts, loss, jnp.full(200, 1.0))
        >>> soup.coef.round(2).tolist(), round(float(soup.params["w"]), 2)
        ([0.75, 0.25], 1.0)
    """
    mixing, count = of_members(population), populations.size(population)
    start = start_at(0.0 if softmax else 1 / count, mixing, per_leaf=per_leaf)
    bound = _softmax if softmax else as_they_are
    found = learn(loss, optimizer or _adam(), start, mixing, batches, bound)
    return Soup(found.params, found.coef)


def lm_cocktail(
    population: Population, losses: Array, *, temperature: Any = 5.0, where: Where = None
) -> Params:
    r"""The mean weighed by how well each member does on a few examples.

    \[y = \sum_i \mathrm{softmax}(-\ell / \tau)_i \, x_i\]

    Args:
      population: N members; to keep general abilities the base model is one of them.
      losses: \(\ell\), `[N]`: each member's mean loss on about five examples, from
        `population.evaluate`.
      temperature: \(\tau\); the authors' 5. Near 0 the best member alone counts.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if there is not one loss a member.

    References:
      Xiao et al. 2023, LM-Cocktail: resilient tuning of language models via model merging,
      arXiv:2311.13534, equation 2.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([0.0, 1.0])}
        >>> ws.merge.lm_cocktail(experts, jnp.array([2.0, 2.0]))
        {'w': Array(0.5, dtype=float32)}
    """
    count = populations.size(population)
    if np.shape(losses) != (count,):
        raise WeightSpaceError(
            f"losses: expected {count} numbers (one a member), got {tree.aval(losses)}"
        )
    return linear(population, coef=jax.nn.softmax(-jnp.asarray(losses) / temperature), where=where)


def _along_the_sphere(vectors: Leaves) -> Leaves:
    count = len(next(iter(vectors.values())))

    def step(i: Any, merged: Leaves) -> Leaves:
        pair = {n: jnp.stack([merged[n], d[i]]) for n, d in vectors.items()}
        return slerp(pair, t=1 / (i + 1))

    return jax.lax.fori_loop(1, count, step, {n: d[0] for n, d in vectors.items()})


def warp_slerp(
    population: Population, base: Params, *, lam: Any = 1.0, where: Where = None
) -> Params:
    r"""WARP's second stage: spherical interpolation of all task vectors, leaf by leaf.

    \[v_1 = d_1, \qquad v_m = \mathrm{slerp}(v_{m-1}, d_m; t = 1/m), \qquad y = b + \lambda v_N\]

    with the thresholds of `slerp`. Unlike the mean it keeps the norm of vectors that point apart.
    The result depends, a little, on the order of the members.

    WARP's first stage, an average of the policy's weights as the anchor of its KL penalty, is
    `ema(0.99)`; the third is `liti`, whose result is the base of the next round.

    Args:
      population: N members, trained apart from the base.
      base: the model they came from.
      lam: \(\lambda\), 1.
      where: globs of the leaves to merge.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member.

    References:
      Ramé et al. 2024, WARP: on the benefits of weight averaged rewarded policies,
      arXiv:2406.16768, section 3.2.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
        >>> ws.merge.warp_slerp(experts, {"w": jnp.zeros(2)})["w"].round(3).tolist()
        [0.707..., 0.707...]
    """
    return add_merged(_along_the_sphere, population, base, lam, where)


def liti(params: Params, base: Params, *, eta: Any = 0.3, where: Where = None) -> Params:
    r"""Linear interpolation towards the initialisation, \(y = b + \eta (x - b)\).

    WARP's third stage, and WiSE-FT: from \(\eta = 1\) to 0 it traces what is gained on the task
    against what of the base is lost.

    Args:
      params: x, one model.
      base: the model it came from.
      eta: \(\eta\); WARP's 0.3.
      where: globs of the leaves to interpolate; others are the base's.

    Returns:
      The parameters.

    Raises:
      WeightSpaceError: if the two are unlike.

    References:
      Ramé et al. 2024, arXiv:2406.16768, section 3.3; Wortsman et al. 2022, Robust fine-tuning of
      zero-shot models, arXiv:2109.01903.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.merge.liti({"w": jnp.array([3.0])}, {"w": jnp.array([1.0])}, eta=0.5)
        {'w': Array([2.], dtype=float32)}
    """
    one = jax.tree.map(lambda x: x[None], params)
    return task_arithmetic(one, base, lam=eta, where=where)
