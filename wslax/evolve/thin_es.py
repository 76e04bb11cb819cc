"""EGGROLL: evolution strategies whose children are never written out (arXiv:2511.16652)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.evolve.centre import ADAM, Noise, around
from wslax.evolve.shaping import z_scores
from wslax.evolve.strategy import Strategy
from wslax.evolve.variation import factors, noise
from wslax.trace import LowRank
from wslax.typing import Array, Key, Params, Scalar, Where


def _child(rank: int, key: Key, centre: Params, sigma: Scalar, id_: Scalar) -> Params:
    """A child written out."""

    def change(name: str, x: Array) -> Array:
        size, wide = jnp.asarray(sigma, tree.wide(x)), x.astype(tree.wide(x))
        if x.ndim != 2:
            return tree.cast_like(wide + size * noise(key, name, x, id_), x)
        a, b = factors(key, name, x, rank, id_)
        return tree.cast_like(wide + size * (a @ b.T), x)

    return tree.map_named(change, centre)


def _children(rank: int, key: Key, centre: Params, sigma: Array, ids: Array) -> Params:
    def around(name: str, x: Array) -> Any:
        if x.ndim != 2:
            one = lambda s, i: _child(rank, key, {name: x}, s, i)[name]
            return jax.vmap(one)(sigma, ids)
        a, b = jax.vmap(lambda i: factors(key, name, x, rank, i))(ids)
        a = sigma.astype(a.dtype)[:, None, None] * a
        return LowRank(x, a.astype(x.dtype), jnp.swapaxes(b, 1, 2).astype(x.dtype))

    return tree.map_named(around, centre)


def _total(rank: int, key: Key, centre: Params, weights: Array, ids: Array) -> Params:
    def total(name: str, x: Array) -> Array:
        w = weights.astype(tree.wide(x))
        if x.ndim != 2:
            drawn = jax.vmap(lambda i: noise(key, name, x, i))(ids)
            return (w.reshape(-1, *(1,) * x.ndim) * drawn).sum(0)
        a, b = jax.vmap(lambda i: factors(key, name, x, rank, i))(ids)
        return jnp.einsum("nir,njr->ij", w[:, None, None] * a, b, precision="highest")

    return tree.map_named(total, centre)


@functools.cache
def thin(rank: int) -> Noise:
    """Noise of low rank in matrices.

    Example:
        >>> thin(1) is thin(1)
        True
    """
    return Noise(*(functools.partial(fn, rank) for fn in (_child, _children, _total)))


def low_rank_es(
    *,
    n: int = 64,
    sigma: Scalar = 0.02,
    rank: int = 1,
    optimizer: optax.GradientTransformation = ADAM,
    antithetic: bool = True,
    shaping: Callable[[Array], Array] = z_scores,
    where: Where = None,
) -> Strategy:
    r"""EGGROLL: an evolution strategy with noise of low rank, whose children share the centre.

    `open_es` with, for leaves of two axes,

    \[\epsilon_i = A_i B_i^T / \sqrt r, \qquad
      g = \frac{1}{n \sigma} \sum_i w_i\, A_i B_i^T / \sqrt r,\]

    normal \(A_i\) and \(B_i\) of r columns. Children come as one tree with `trace.LowRank` in the
    place of matrices: one base, and \(r(a + b)\) numbers a child instead of \(ab\). Other leaves
    (vectors, convolutions, stacks) have plain noise and are written out, `[n, ...]`. Evaluate with

        `jax.vmap(trace.factored(apply), in_axes=(trace.over_members(children, dense=0), None))`

    where each layer is one product for all children and a thin one for each. The same line takes a
    population that is written out, as the centre at the beginning is. The update is a product of
    the factors of all, \(\sum_i w_i A_i B_i^T\), of rank up to nr. Over devices it is as `open_es`:
    factors are spread, the centre is whole on each.

    Args:
      n: children a generation; static.
      sigma: as in `open_es`.
      rank: r; static. 1 is the authors' default.
      optimizer: as in `open_es`.
      antithetic: as in `open_es`, and as the authors do.
      shaping: as in `open_es`; z-scores as the authors do.
      where: as in `open_es`.

    Returns:
      The strategy; its state is a `Centre`.

    Raises:
      WeightSpaceError: as from `open_es`, or if `rank` is below 1.

    References:
      Sarkar et al. 2025, Evolution strategies at the hyperscale, arXiv:2511.16652. Their code
      multiplies the mean over children by \(\sqrt n\) and not by \(1/\sigma\): another step of
      the optimizer, which Adam does not notice.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> x, y = jnp.eye(3), jnp.array([1.0, 0.0, 2.0])[:, None]
        >>> model = ws.trace.factored(lambda params, x: x @ params["w"])
        >>> def fitness(children):
        ...     axes = ws.trace.over_members(children, dense=0)
        ...     outputs = jax.vmap(model, in_axes=(axes, None))(children, x)
        ...     return -jnp.square(outputs - y[None]).sum((1, 2))
        >>> centre = ws.population.stack([{"w": jnp.zeros((3, 1))}])
        >>> end = ws.evolve.run(ws.evolve.low_rank_es(), centre, fitness,
        ...     key=0, generations=300, direction="maximize")
        >>> bool(abs(end.members.params["w"][0] - y).max() < 0.2)
        True
    """
    if rank < 1:
        raise WeightSpaceError(f"rank: expected at least 1, got {rank}")
    return around(
        thin(rank),
        sigma,
        n=n,
        antithetic=antithetic,
        optimizer=optimizer,
        shaping=shaping,
        where=where,
    )
