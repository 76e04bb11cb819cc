r"""Merging by competition: how large an entry is in its task vector, and who agrees with it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.leaves import Leaves, add_merged, check_base, check_coef, float_names
from wslax.merge.parameters import is_concrete
from wslax.numerics.threshold import kth_largest
from wslax.typing import Params, Population, Where


def _floor(x: Any) -> Any:
    """`int(x)`, in float64 where it is concrete."""
    return int(x) if is_concrete(x) else jnp.floor(x).astype(jnp.int32)


def _kth(x: Any, k: Any) -> Any:
    """The k-th largest of numbers of either sign."""
    above = kth_largest(jnp.maximum(x, 0), k)
    below = -kth_largest(jnp.minimum(x, 0), x.size - k + 1)
    return jnp.where((x > 0).sum() >= k, above, below)


def _to_one(x: Any, low: Any) -> Any:
    """From `low` (and below) to the largest, onto 0 to 1; 0 where they are one."""
    span = x.max() - low
    return jnp.maximum(x - low, 0) / jnp.where(span > 0, span, 1)


def _pcb(vectors: Leaves, lam: Any, low: Any, high: Any, keep: Any) -> Leaves:
    """The merged vector from ranks: of the clips' two ends, and of the last entry with a score."""
    count, dtype = len(next(iter(vectors.values()))), jnp.result_type(*vectors.values())
    d = jnp.concatenate([x.reshape(count, -1).astype(dtype) for x in vectors.values()], axis=1)

    def clipped(row: Any) -> Any:
        magnitude = jnp.abs(row)
        return jnp.clip(magnitude, kth_largest(magnitude, low), kth_largest(magnitude, high))

    magnitude = jax.lax.map(clipped, d)
    unit = jax.lax.map(lambda row: _to_one(row, row.min()), magnitude)
    signed = jnp.sign(d) * unit

    def turn(total: Any, row: Any) -> Any:
        own, mine, vector, factor = row
        agree = jnp.tanh(mine[None] * signed).sum(0)
        balance = jnp.exp(count * own * own) * agree
        score = _to_one(balance, _kth(balance, keep))
        return (total[0] + factor * score * vector, total[1] + score), None

    factors = jnp.broadcast_to(jnp.asarray(lam, dtype), (count,))
    rows = (unit, signed, jnp.sign(d) * magnitude, factors)
    nothing = jnp.zeros_like(d[0])
    total, scores = jax.lax.scan(turn, (nothing, nothing), rows)[0]
    merged = total / jnp.maximum(scores, jnp.asarray(1e-12, dtype))
    ends = np.cumsum([math.prod(x.shape[1:]) for x in vectors.values()])[:-1]
    parts = zip(vectors.items(), jnp.split(merged, ends), strict=True)
    return {name: part.reshape(x.shape[1:]).astype(x.dtype) for (name, x), part in parts}


def pcb(
    population: Population,
    base: Params,
    *,
    lam: Any = 1.2,
    density: Any = 0.05,
    clip: Any = 0.01,
    where: Where = None,
) -> Params:
    r"""Parameter competition balancing: entries weighed by their size and by their agreement.

    Over the flat model, with \(|d_i|\) clipped at its `clip` and 1 - `clip` quantiles, and
    \(z_i = \mathrm{sign}(d_i) \,\mathrm{minmax}|d_i|\):

    \[\beta_i = e^{N z_i^2} \sum_j \tanh(z_i z_j), \qquad
    s_i = \mathrm{minmax}\,\max(\beta_i, \tau_i), \qquad
    y = b + \frac{\sum_i \lambda_i s_i d_i}{\sum_i s_i},\]

    \(\tau_i\) such that the share `density` of the entries reaches it; where all scores are 0 the
    base stays. This is the authors' code for vision models; the paper has softmax in place of both
    activations, and their short version clips at 1e-4 and puts \(\tanh(d_i \sum_j d_j)\).

    Args:
      population: N members.
      base: the model they came from.
      lam: \(\lambda\), a number or `[N]`; 1.2 in their script, which then searches 0.8 to 1.3.
      density: share of entries with a score; 0.05 in their script, 0.1 in the paper.
      clip: share clipped at either end of \(|d_i|\).
      where: globs of the leaves to merge, which are then the whole model.

    Returns:
      The merged parameters.

    Raises:
      WeightSpaceError: if the base is missing or unlike a member, `lam` has another shape, or a
        share is out of range.

    References:
      Du et al. 2024, Parameter competition balancing for model merging, arXiv:2410.02396,
      section 3.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[4.0, 1.0, 2.0, 0.0], [4.0, -1.0, 0.0, 3.0]])}
        >>> ws.merge.pcb(experts, {"w": jnp.zeros(4)}, lam=1.0, density=0.5, clip=0.0)["w"].tolist()
        [4.0, 0.0, 0.0, 0.0]
    """
    count = check_base(population, base)
    check_coef("lam", lam, count)
    for name, share, most in (("density", density, 1.0), ("clip", clip, 0.5)):
        if is_concrete(share) and not 0 <= share <= most:
            raise WeightSpaceError(f"{name}: expected 0 to {most:g}, got {share}")

    named = tree.named_leaves(population)
    size = sum(math.prod(named[n].shape[1:]) for n in float_names(population, where))
    low, high = size - _floor(size * clip), size - _floor(size * (1 - clip) - 1)
    ranks = (low, high, size - _floor(size * (1 - density)))
    return add_merged(_pcb, population, base, 1.0, where, args=(lam, *ranks))
