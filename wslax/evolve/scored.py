"""Selection by more than one number a member: scores of items, descriptors of behaviour."""

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.evolve.selection import roulette
from wslax.typing import Array, Key, PerMember


def _known(scores: Array | None) -> Array:
    if scores is None:
        raise WeightSpaceError(
            "scores: unknown; let evaluate return Evaluation(fitness, scores=...), [N, items]"
        )
    return scores


def _shared(scores: Array | None, alpha: float) -> Array:
    """What each member gets of each item, `[N, items]`."""
    scores = _known(scores)
    scores = scores.astype(tree.wide(scores))
    scores = jnp.where(jnp.isnan(scores), 0, scores)
    total = scores.sum(0, keepdims=True)
    return jnp.where(total > 0, scores / jnp.where(total > 0, total, 1) ** alpha, 0)


def niche_fitness(scores: Array | None, *, alpha: float = 1.0) -> Array:
    r"""Fitness by competition for items: what many solve is worth less to each.

    \[f_i = \sum_j S_{ij} / z_j, \qquad z_j = \big(\sum_i S_{ij}\big)^\alpha\]

    Args:
      scores: `[N, items]`, bool or not negative (so of a run that maximizes); NaN counts as 0.
      alpha: 1 (default, the paper's) shares each item, 0 is the plain sum.

    Returns:
      `[N]`.

    References:
      Abrantes et al. 2025, Competition and attraction improve model fusion (M2N2),
      arXiv:2508.16204.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> scores = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
        >>> ws.evolve.niche_fitness(scores).tolist()
        [1.0, 1.0, 1.0]
    """
    return _shared(scores, alpha).sum(1)


def attraction(key: Key, scores: Array | None, first: Array, *, alpha: float = 1.0) -> Array:
    r"""Second parents: those that are strong where the first are weak.

    The mate of k is drawn in proportion to \(\sum_j \max(0, F_{ij} - F_{kj})\) with
    \(F_{ij} = S_{ij} / z_j\), never k itself; from all others alike where nobody is stronger
    anywhere.

    Args:
      key: a JAX key or seed.
      scores: `[N, items]`, as for `niche_fitness`; N at least 2.
      first: int `[draws]`, the first parents.
      alpha: as for `niche_fitness`.

    Returns:
      int32 `[draws]`.

    References:
      Abrantes et al. 2025, arXiv:2508.16204.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> scores = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
        >>> ws.evolve.attraction(0, scores, jnp.array([0, 1])).tolist()
        [2, 2]
    """
    if _known(scores).shape[0] < 2:
        raise WeightSpaceError("attraction: expected at least 2 members, got one")
    each = _shared(scores, alpha)

    def mate(number: Array, k: Array) -> Array:
        pull = jnp.maximum(each - each[k][None], 0).sum(1)
        pull = jnp.where(pull.sum() > 0, pull, jnp.ones_like(pull))
        others = jnp.where(jnp.arange(len(pull)) == k, jnp.nan, pull)
        return roulette(key, others, 1, first=number)[0, 0]

    return jax.vmap(mate)(jnp.arange(len(first), dtype=jnp.uint32), first)


def lexicase(key: Key, scores: Array | None, draws: int, *, epsilon: Array | float = 0.0) -> Array:
    """Lexicase selection: items in random order, each leaves only the best so far in the race.

    Args:
      key: a JAX key or seed.
      scores: `[N, items]`, higher is better; NaN is worst.
      draws: how many winners; static.
      epsilon: how far below the best a member may be to stay: a number, or `[items]` (epsilon
        lexicase takes the median absolute deviation of each item).

    Returns:
      int32 `[draws]`; those still in the race after the last item win with equal chance.

    References:
      Spector 2012, Assessment of problem modality by differential performance of lexicase
      selection; La Cava et al. 2016, Epsilon-lexicase selection for regression, arXiv:1905.13266.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> scores = jnp.array([[9.0, 0.0], [0.0, 1.0], [8.0, 0.9]])
        >>> sorted(set(ws.evolve.lexicase(0, scores, 50).tolist()))
        [0, 1]
    """
    scores = jnp.asarray(_known(scores))
    n, items = scores.shape
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    margin = jnp.broadcast_to(jnp.asarray(epsilon, scores.dtype), (items,))

    def draw(number: Array) -> Array:
        order = jnp.argsort(random.bits(key, "evolve/lexicase", items, member=number, xp=jnp))

        def step(i: Array, still: Array) -> Array:
            column = scores[:, order[i]]
            best = jnp.max(column, where=still, initial=-jnp.inf)
            return still & (column >= best - margin[order[i]])

        still = jax.lax.fori_loop(0, items, step, jnp.ones(n, bool))
        words = random.bits(key, "evolve/lexicase/last", n, member=number, xp=jnp)
        return jnp.argmax(jnp.where(still, words >> np.uint32(1), 0) + still).astype(jnp.int32)

    return jax.vmap(draw)(jnp.arange(draws, dtype=jnp.uint32))


def novelty(descriptors: Array, archive: Array | None = None, *, nearest: int = 15) -> PerMember:
    r"""How far each member's behaviour is from that of others: the mean distance to its nearest.

    \[\rho_i = \frac1k \sum_{j \in N_k(i)} \lVert d_i - d_j \rVert_2\]

    over the k nearest other members and entries of the archive.

    Args:
      descriptors: `[N, features]`.
      archive: `[M, features]` of earlier behaviours; default none.
      nearest: k, 15 as in the literature; fewer where there are fewer.

    Returns:
      `[N]`, a fitness for any selection.

    References:
      Lehman and Stanley 2011, Abandoning objectives: evolution through the search for novelty
      alone, Evolutionary Computation 19(2).

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.evolve.novelty(jnp.array([[0.0], [1.0], [5.0]]), nearest=1).tolist()
        [1.0, 1.0, 4.0]
    """
    n = descriptors.shape[0]
    every = descriptors if archive is None else jnp.concatenate([descriptors, archive])
    k = min(nearest, every.shape[0] - 1)
    if k < 1:
        raise WeightSpaceError("novelty: expected another member or an archive to be distant from")
    gap = jnp.linalg.norm(descriptors[:, None] - every[None], axis=-1)
    gap = jnp.where(jnp.arange(n)[:, None] == jnp.arange(every.shape[0])[None], jnp.inf, gap)
    return -jax.lax.top_k(-gap, k)[0].mean(1)
