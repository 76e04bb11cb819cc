"""Embeddings that are forgotten while the body trains: active and temporary forgetting.

A body whose embeddings keep changing must solve its task by the structure of its input, and then
can do so for tokens that it never saw.

References:
  Chen et al. 2023, Improving language plasticity via pretraining with active forgetting,
  arXiv:2307.01163; Anand et al. 2024, Dual process learning: controlling use of in-context vs.
  in-weights strategies with weight forgetting, arXiv:2406.00053.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Key, Params, Scalar, Where

Init = Callable[[Any], Any]


def _key(key: Key) -> Any:
    return jr.key(key) if isinstance(key, int) else key


def _picked(params: Params, init: Init, key: Any, where: Where) -> Params:
    tree.check_like(jax.eval_shape(init, key), params, "what init gives", "params")
    return tree.picked(params, where)


def periodic(
    params: Params,
    state: Any,
    key: Key,
    step: Scalar,
    *,
    init: Init,
    where: Where,
    every: Scalar,
    until: Scalar | None = None,
) -> tuple[Params, Any]:
    r"""Some leaves drawn anew at every k-th step, with their optimizer state.

    To be called after each update, with the number of updates so far:

    \[(\theta_i, m_i, v_i) \leftarrow (\theta_i^{(0)} \text{ from } \mathrm{init}, 0, 0)
      \quad \text{if } t > 0, \; k \mid t, \; t < N.\]

    Without N this is active forgetting, with it temporary forgetting: afterwards embeddings train
    as usual, and N settles how much is learnt in context and how much in weights. An optimizer
    that counts steps for all weights alike makes the first steps after it too long;
    `wslax.grow.scale_by_adam` counts those of every weight, and its counts go to 0 too. The
    authors' code clears the moments of all leaves, and those only where there is an N.

    Args:
      params: the model.
      state: of any Optax optimizer. Every subtree like `params` is zeroed in these leaves; one that
        holds a part of them alone (`optax.masked`) stays.
      key: a JAX key or seed, the same at all steps: a draw depends on it and on the step.
      step: \(t\); may be traced.
      init: `key -> params`, as the model began. In a compiled step what is not picked costs
        nothing.
      where: globs of the leaves to forget.
      every: \(k\); may be traced. The authors' scripts take 1,000 without an end, and 10 where it
        ends after 500 to 2,000 steps.
      until: \(N\), the first step without; may be traced. None for no end.

    Returns:
      `(params, state)`, unchanged at other steps.

    Raises:
      WeightSpaceError: if `init` gives other leaves, or a glob picks nothing.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> init = lambda key: {"embed": jax.random.normal(key, (3,)), "body": jnp.zeros(2)}
        >>> params = jax.tree.map(jnp.ones_like, init(jax.random.key(0)))
        >>> state = optax.trace(0.9).init(params)._replace(trace=params)
        >>> params, state = ws.contrib.forgetting.periodic(
        ...     params, state, 0, 20, init=init, where="embed", every=10)
        >>> params["body"].tolist(), bool((params["embed"] == 1).any())
        ([1.0, 1.0], False)
        >>> state.trace["body"].tolist(), state.trace["embed"].tolist()
        ([1.0, 1.0], [0.0, 0.0, 0.0])
    """
    key = jr.fold_in(_key(key), step)
    mine = _picked(params, init, key, where)
    step = jnp.asarray(step)
    due = (step > 0) & (step % every == 0)
    if until is not None:
        due = due & (step < until)

    def fresh(now: tuple[Params, Any]) -> tuple[Params, Any]:
        params, state = now
        draw = lambda pick, new, x: tree.cast_like(new, x) if pick else x
        zero = lambda pick, x: tree.cast_like(jnp.zeros_like(x), x) if pick else x
        drawn = jax.tree.map(draw, mine, init(key), params)
        return drawn, tree.map_like(lambda part: jax.tree.map(zero, mine, part), state, params)

    now = jax.tree.map(jnp.asarray, (params, state))
    return jax.lax.cond(due, fresh, lambda now: now, now)


def probabilistic(
    params: Params, key: Key, *, init: Init, where: Where, rate: Scalar = 0.1
) -> Params:
    """A model some rows of whose embeddings are random, for one step of a pre-trained body.

    To be called inside the loss with another key at each step, so that the embeddings themselves
    stay: a row that was replaced gets no gradient. The authors train no embeddings at all then, and
    replace rows of tokens in the batch, which to the loss is the same.

    Args:
      params: the model.
      key: a JAX key or seed.
      init: `key -> params`, as the model began.
      where: globs of leaves whose first axis is tokens.
      rate: the chance of a row to be replaced; may be traced. Default 0.1, as in the authors' code.

    Returns:
      The model with other rows.

    Raises:
      WeightSpaceError: if `init` gives other leaves, a glob picks nothing, or a leaf has no rows.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> init = lambda key: {"embed": jnp.zeros((1000, 2)), "body": jnp.zeros(2)}
        >>> params = {"embed": jnp.ones((1000, 2)), "body": jnp.ones(2)}
        >>> found = ws.contrib.forgetting.probabilistic(params, 0, init=init, where="embed")
        >>> found["body"].tolist(), round(1 - float(found["embed"].mean()), 1)
        ([1.0, 1.0], 0.1)
    """
    key = _key(key)
    mine = _picked(params, init, key, where)
    fresh = init(jr.fold_in(key, 0))

    def swapped(name: str, x: Array, pick: bool, new: Array) -> Array:
        if not pick:
            return x
        if jnp.ndim(x) == 0:
            raise WeightSpaceError(f"{name}: expected a leaf of rows, got {tree.aval(x)}")
        # One draw for all leaves: a token's rows in several are replaced together.
        chosen = jr.bernoulli(jr.fold_in(key, 1), rate, x.shape[:1])
        return jnp.where(chosen.reshape(-1, *(1,) * (x.ndim - 1)), tree.cast_like(new, x), x)

    return tree.map_named(swapped, params, mine, fresh)
