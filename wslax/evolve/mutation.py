"""Mutation: noise of absolute size on some of a member's weights."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Key, Params, Scalar

# Up to this rate the hits are scattered; above it every weight is visited.
SPARSE = 0.125


def gaussian(
    key: Key,
    params: Params,
    *,
    sigma: Scalar,
    rate: float,
    member: Scalar = 0,
    scale: Params | None = None,
    owned: Params | None = None,
) -> Params:
    r"""Gaussian mutation of one member: \(y = x + m\,s\,\sigma\,\epsilon\).

    \(\epsilon \sim N(0, 1)\). Every weight is hit with probability exactly `rate`, as in GENOME,
    where \(m\) is Bernoulli.
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
      scale: \(s\), a tree like `params` of scalars or arrays of the leaves' shapes, by which each
        deviation is multiplied: `rms(params)` makes sigma relative, 0 and 1 are a mask,
        `safe_scale` spares the weights that outputs depend on. Default 1.
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
    if scale is None:
        scale = jax.tree.map(lambda _: 1.0, params)
    form = _scattered if rate <= SPARSE else _dense

    def mutate(name: str, leaf: jax.Array, mine: bool, by: Any) -> jax.Array:
        if not mine or rate == 0 or leaf.size == 0:
            return leaf

        def words(what: str, size: int) -> Array:
            return random.bits(key, f"evolve/{what}/{name}", size, member=member, xp=jnp)

        deviation = jnp.asarray(sigma * by)
        if deviation.shape not in ((), leaf.shape):
            raise WeightSpaceError(
                f"{name}: scale: expected a number or the shape {list(leaf.shape)}, got "
                f"{list(deviation.shape)}"
            )
        return form(words, leaf.reshape(-1), deviation.reshape(-1), rate).reshape(leaf.shape)

    return tree.map_named(mutate, params, owned, scale)


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


Words = Callable[[str, int], Array]


def _noise(words: Words, size: int, sigma: jax.Array, kind: Any) -> jax.Array:
    """One word each; `sigma` has one number, or one an element."""
    return jnp.asarray(sigma, kind) * random.normal(words("noise", size)).astype(kind)


def _kept(words: Words, size: int, chance: float) -> Array | bool:
    return random.uniform(words("hit", size)) < np.float32(chance) if chance < 1 else True


def _dense(words: Words, x: jax.Array, sigma: jax.Array, rate: float) -> jax.Array:
    kind = tree.wide(x)
    moved = (x.astype(kind) + _noise(words, x.size, sigma, kind)).astype(x.dtype)
    return jnp.where(_kept(words, x.size, rate), moved, x)


def _scattered(words: Words, x: jax.Array, sigma: jax.Array, rate: float) -> jax.Array:
    length = math.floor(1 / rate + 1e-9)
    blocks, kind = -(-x.size // length), tree.wide(x)
    inside = (words("place", blocks) % np.uint32(length)).astype(jnp.int32)
    # The last block may point past the end: those hits are dropped.
    place = jnp.arange(blocks, dtype=jnp.int32) * length + inside
    if sigma.size > 1:
        sigma = sigma.at[place].get(mode="fill", fill_value=0)
    # Adding -0 keeps every bit. And a sum reads the leaf once, which a child being made likes.
    noise = jnp.where(_kept(words, blocks, rate * length), _noise(words, blocks, sigma, kind), -0.0)
    hit = x.astype(kind).at[place]
    return hit.add(noise, mode="drop", unique_indices=True, indices_are_sorted=True).astype(x.dtype)
