r"""Binary weights, learnt as distributions, task after task.

Each weight \(w_i \in \{-1, 1\}\) has a field \(\theta_i\), and any tree of floats can be fields:

\[q(w_i) = e^{\theta_i w_i} / (2 \cosh \theta_i), \qquad m_i = \tanh \theta_i.\]

Fields are trained by any Optax optimiser. Of task after task, each minimises

\[-\sum_\mu \log p(y^\mu | x^\mu; \theta) + \mathrm{KL}(q_\theta \| q_{\theta'})\]

where \(\theta'\) are the fields after the task before, and zeros before the first. A weight that is
sure of its sign then moves little.

References:
  Li, Huang, Zou and Huang 2023, Statistical mechanics of continual learning: variational principle
  and mean-field potential, Phys. Rev. E 108, 014309, arXiv:2212.02846.
"""

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Key, Params, Population


def moments(fields: Params) -> tuple[Params, Params]:
    r"""Means \(\tanh \theta\) and variances \(1 - \tanh^2 \theta\) of the weights.

    Args:
      fields: a tree of floats.

    Returns:
      `(mean, variance)`, two trees like it.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> mean, variance = ws.contrib.binary.moments({"w": jnp.zeros(2)})
        >>> mean["w"].tolist(), variance["w"].tolist()
        ([0.0, 0.0], [1.0, 1.0])
    """
    # 1 - tanh^2 would cancel where a weight is sure.
    spread = lambda x: 4 * jax.nn.sigmoid(2 * x) * jax.nn.sigmoid(-2 * x)
    return jax.tree.map(jnp.tanh, fields), jax.tree.map(spread, fields)


def _log_cosh(x: Array) -> Array:
    """And log 2 more."""
    return jnp.logaddexp(x, -x)


def kl(fields: Params, prior: Params) -> Array:
    r"""How far the weights' distribution is from another one, in nats.

    \[\mathrm{KL}(q_\theta \| q_{\theta'}) = \sum_i m_i (\theta_i - \theta'_i)
      - \log \cosh \theta_i + \log \cosh \theta'_i,\]

    near \(\theta'\) half the sum of \((1 - m_i^2)(\theta_i - \theta'_i)^2\): the penalty of EWC.

    Args:
      fields: \(\theta\), a tree of floats.
      prior: \(\theta'\), another one; zeros for weights of either sign alike.

    Returns:
      A scalar of at least 0.

    Raises:
      WeightSpaceError: if the trees differ.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> sure, unsure = {"w": jnp.full(3, 9.0)}, {"w": jnp.zeros(3)}
        >>> round(float(ws.contrib.binary.kl(sure, unsure)), 3)  # a bit each
        2.079
    """
    tree.check_like(prior, fields, "prior", "fields")

    def one(x: Array, before: Array) -> Array:
        x, before = (y.astype(tree.wide(y)) for y in (x, before))
        return jnp.sum(jnp.tanh(x) * (x - before) - _log_cosh(x) + _log_cosh(before))

    return sum(jax.tree.leaves(jax.tree.map(one, fields, prior)), jnp.zeros(()))


def sample(key: Key, fields: Params, count: int) -> Population:
    """Draw nets with binary weights.

    Args:
      key: a JAX key or seed. Member i is the same whatever the count.
      fields: a tree of floats.
      count: how many; static.

    Returns:
      A population of so many members, leaves of -1 and 1 in the dtypes of `fields`.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> fields = {"w": jnp.array([-9.0, 9.0])}
        >>> ws.contrib.binary.sample(0, fields, 3)["w"].tolist()
        [[-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0]]
    """

    def member(i: Array) -> Params:
        def leaf(name: str, x: Array) -> Array:
            words = random.bits(key, f"binary/{name}", x.size, member=i, xp=jnp)
            up = random.uniform(words).reshape(x.shape) < jax.nn.sigmoid(2 * x.astype(tree.wide(x)))
            return jnp.where(up, 1, -1).astype(x.dtype)

        return tree.map_named(leaf, fields)

    return jax.vmap(member)(jnp.arange(count, dtype=jnp.uint32))


def mode(fields: Params) -> Params:
    """The most probable net: the sign of each field, 1 for zeros.

    Args:
      fields: a tree of floats.

    Returns:
      -1 and 1 in the dtypes of `fields`.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.contrib.binary.mode({"w": jnp.array([-0.5, 0.0])})
        {'w': Array([-1.,  1.], dtype=float32)}
    """
    return jax.tree.map(lambda x: jnp.where(x >= 0, 1, -1).astype(x.dtype), fields)


def preactivation(fields: Array, mean: Array, variance: Array | None = None) -> tuple[Array, Array]:
    r"""Mean and variance of what a layer of binary weights gives, over \(\sqrt N\).

    \[\mu = \frac{1}{\sqrt N} \sum_i m_i x_i, \qquad
      V = \frac1N \sum_i \big[x_i^2 + v_i - m_i^2 x_i^2\big]\]

    By the central limit theorem it is nearly Gaussian with these.

    Args:
      fields: of one leaf, `[N, ...]`.
      mean: inputs `[B, N]`, or their means.
      variance: of the inputs, `[B, N]`; None where they are known.

    Returns:
      `(mean, variance)`, each `[B, ...]`.

    Raises:
      WeightSpaceError: if inputs do not have N features.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> mean, variance = ws.contrib.binary.preactivation(jnp.zeros(4), jnp.ones((1, 4)))
        >>> mean.tolist(), variance.tolist()
        ([0.0], [1.0])
    """
    n = fields.shape[0]
    if mean.ndim != 2 or mean.shape[1] != n:
        raise WeightSpaceError(f"mean: expected [B, {n}] for these fields, got {tree.aval(mean)}")
    m, spread = moments(fields)
    total = jnp.tensordot(mean**2, spread, 1)
    if variance is not None:
        total = total + jnp.tensordot(variance, jnp.ones_like(m), 1)
    return jnp.tensordot(mean, m, 1) / np.float32(n) ** 0.5, total / n


def signed(mean: Array, variance: Array) -> tuple[Array, Array]:
    r"""Mean and variance of the sign of Gaussians, to pass on to the next layer.

    \[\mu' = 2 \Phi(\mu / \sqrt V) - 1, \qquad V' = 1 - \mu'^2\]

    Args:
      mean: any shape.
      variance: the same.

    Returns:
      `(mean, variance)`.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> mean, variance = ws.contrib.binary.signed(jnp.zeros(1), jnp.ones(1))
        >>> mean.tolist(), variance.tolist()
        ([0.0], [1.0])
    """
    up = jax.scipy.special.ndtr(_ratio(mean, variance))
    return 2 * up - 1, 4 * up * (1 - up)


def log_likelihood(mean: Array, variance: Array, labels: Array) -> Array:
    r"""Log-probability of labels, \(\log \Phi(y \mu / \sqrt V)\).

    Args:
      mean: of the pre-activation, any shape.
      variance: the same.
      labels: -1 and 1, the same.

    Returns:
      One a label.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> one = jnp.ones(1)
        >>> round(float(ws.contrib.binary.log_likelihood(0 * one, one, one)[0]), 4)
        -0.6931
    """
    return jax.scipy.special.log_ndtr(labels * _ratio(mean, variance))


def _ratio(mean: Array, variance: Array) -> Array:
    """Finite, also where all weights are sure."""
    return mean / jnp.sqrt(jnp.maximum(variance, 1e-12))
