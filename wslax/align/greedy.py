"""The greedy matching of ZipIt: features of several models become as many as one model has."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax.typing import Array, Scalar

BANNED = 4.0  # more than correlations can differ by: such pairs merge only where no others are left


class State(NamedTuple):
    """Clusters on the way; one is named by its lowest feature.

    Attributes:
      similar: `[n, n]` between clusters, -inf on the diagonal; old where one is no cluster now.
      top: `[n]` the largest score of each, or a bound above it where `at` is -1.
      at: `[n]` with which one.
      home: `[n]` the cluster of each feature.
      barred: `[n, N]` whether a cluster holds one of a model whose budget is spent.
      budget: `[N]` merges left within each model.
    """

    similar: jax.Array
    top: jax.Array
    at: jax.Array
    home: jax.Array
    barred: jax.Array
    budget: jax.Array


def _score(state: State, i: Array) -> Array:
    """How good it is to merge a cluster with each other one."""
    clash = (state.barred & state.barred[i][None]).any(-1)
    alive = state.home == np.arange(len(state.home))
    return jnp.where(alive, state.similar[i] - jnp.where(clash, BANNED, 0), -jnp.inf)


def _renewed(state: State) -> State:
    """The largest score known exactly: rows are looked through anew while a bound is on top."""

    def renew(state: State) -> State:
        i = jnp.argmax(state.top)
        row = _score(state, i)
        at = jnp.argmax(row).astype(jnp.int32)
        return state._replace(top=state.top.at[i].set(row[at]), at=state.at.at[i].set(at))

    return jax.lax.while_loop(lambda s: s.at[jnp.argmax(s.top)] < 0, renew, state)


def _merged(state: State, models: Array, alpha: Scalar) -> State:
    """The two clusters of largest score made one; `models` is `[n, N]`, the model of each."""
    one = jnp.argmax(state.top).astype(jnp.int32)
    i, j = jnp.minimum(one, state.at[one]), jnp.maximum(one, state.at[one])
    row = jnp.minimum(state.similar[i], state.similar[j])
    row = jnp.where(jnp.isinf(row), row, alpha * row)
    row = jax.lax.optimization_barrier(row)  # read before it is written: the matrix is not copied
    similar = state.similar.at[i].set(row).at[:, i].set(row)
    within = models[i] & models[j]
    budget = state.budget - within
    spent = (budget <= 0) & (state.budget > 0)
    barred = state.barred.at[i].set(state.barred[i] | state.barred[j]) | (spent[None] & models)
    home = jnp.where(state.home == j, i, state.home)
    state = State(similar, state.top, state.at, home, barred, budget)
    new = _score(state, i)
    clash = (barred & barred[state.at] & spent[None]).any(-1)
    at = jnp.where((state.at == i) | (state.at == j) | clash, -1, state.at)
    better = (new > state.top) | ((new == state.top) & (i < at))
    best = jnp.argmax(new).astype(jnp.int32)
    return state._replace(
        top=jnp.where(better, new, state.top).at[i].set(new[best]).at[j].set(-jnp.inf),
        at=jnp.where(better, i, at).at[i].set(best).at[j].set(0),
    )


def zip_labels(similar: Array, models: int, *, alpha: Scalar, beta: Scalar) -> Array:
    r"""Which features of several models are merged into which feature of one.

    Stoica et al., arXiv:2305.03053, section 4.3: the two clusters of features that are most similar
    become one, until there are as many as one model has features. The merged one is as similar to
    another as the lesser of its two, times `alpha`. After \\(\\lfloor \\beta\\,\\text{merges} / N
    \\rfloor\\) merges within one model no two clusters that hold its features merge. A cluster
    counts for the model of its first feature, as in the official code.

    Args:
      similar: `[n, n]` symmetric, features of model after model.
      models: N, of which n is a multiple.
      alpha: 0 to 1.
      beta: 0 to 1.

    Returns:
      int32 `[n]` from 0 to n / N, clusters in the order of their first features.
    """
    n = len(similar)
    size = n // models
    merges = n - size
    origin = jnp.asarray(np.arange(n)[:, None] // size == np.arange(models))
    budget = jnp.floor(merges // models * jnp.float32(beta) + 1e-4).astype(jnp.int32)
    budget = jnp.full(models, budget)
    state = State(
        similar=jnp.where(np.eye(n, dtype=bool), -jnp.inf, similar),
        top=jnp.full(n, jnp.inf, similar.dtype),
        at=jnp.full(n, -1, jnp.int32),
        home=jnp.arange(n, dtype=jnp.int32),
        barred=(budget <= 0)[None] & origin,
        budget=budget,
    )
    step = lambda _, state: _merged(_renewed(state), origin, alpha)
    home = jax.lax.fori_loop(0, merges, step, state).home
    first = home == np.arange(n)
    return (jnp.cumsum(first) - 1)[home].astype(jnp.int32)
