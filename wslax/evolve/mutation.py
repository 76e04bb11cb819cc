"""Mutation: noise of absolute size on some of a member's weights."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Key, Mask, Params, Scalar

# Up to this rate the hits are scattered; above it every weight is visited.
SPARSE = 0.125


def gaussian(
    key: Key,
    params: Params,
    *,
    sigma: Scalar,
    rate: float,
    member: Scalar = 0,
    owned: Mask | None = None,
) -> Params:
    r"""Gaussian mutation of one member: \(y = x + m\,\sigma\,\epsilon\), \(\epsilon \sim N(0, 1)\).

    Every weight is hit with probability exactly `rate`, as in GENOME, where \(m\) is Bernoulli.
    Up to a rate of 1/8 the leaf is cut into blocks of \(L = \lfloor 1/r \rfloor\) weights and each
    block has one hit at a uniform place, kept with probability \(rL\): the same mean, no repeats,
    a count that varies less than Bernoulli's, and random words for the hits only. Above, each
    weight decides for itself; at rate 1 its one word is the noise.

    Words are a function of key, leaf name, member id and position alone. A weight that is not hit
    keeps its bits.

    Args:
      key: a JAX key or seed.
      params: one member. Integer, bool and key leaves pass unchanged.
      sigma: standard deviation, the same for all leaves; may be traced.
      rate: share of weights hit, 0 to 1; static.
      member: the member's id; may be traced.
      owned: a tree of Python bools: which leaves may change (default: the floating ones).

    Returns:
      The mutant. Half types are added in float32 and cast back.

    Raises:
      WeightSpaceError: if `rate` is outside [0, 1].

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> mutant = ws.evolve.gaussian(0, {"w": jnp.zeros(1000)}, sigma=1.0, rate=0.01)
        >>> int((mutant["w"] != 0).sum())
        10
    """
    check_rate("rate", rate)
    if owned is None:
        owned = jax.tree.map(tree.is_float, params)
    form = _scattered if rate <= SPARSE else _dense

    def mutate(name: str, leaf: Array, mine: bool) -> Array:
        if not mine or rate == 0 or leaf.size == 0:
            return leaf
        noise = _Noise(key, f"evolve/mutation/{name}", member, sigma)
        return form(noise, leaf.reshape(-1), rate).reshape(leaf.shape)

    return tree.map_named(mutate, params, owned)


def check_rate(what: str, rate: float) -> None:
    """Raise unless a rate is a share.

    Example:
        >>> check_rate("gene_rate", 1.5)
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: gene_rate: expected a number in [0, 1], got 1.5
    """
    if not 0 <= rate <= 1:
        raise WeightSpaceError(f"{what}: expected a number in [0, 1], got {rate}")


class _Noise:
    """The words of one member's leaf: the k-th stream of `size` words."""
