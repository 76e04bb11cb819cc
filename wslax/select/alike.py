"""Work on one leaf, compiled once for all leaves that are alike."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.jit, static_argnums=(0, 1))
def _of_one_kind(
    fn: Callable[..., Any], kind: Any, leaves: list[Any], done: Any, shared: tuple[Any, ...]
) -> tuple[list[Any], Any]:
    def one(leaf: Any) -> tuple[Any, Any]:
        found = fn(kind, jnp.where(done, leaf, jnp.zeros_like(leaf)), *shared)
        return found, jnp.ravel(found)[0].astype(jnp.float32) != -1

    if len(leaves) == 1:
        found, done = one(leaves[0])
        return [found], done
    # Leaves are read one at a time and not stacked, which would hold all of them twice.
    read = [lambda leaf=leaf: leaf for leaf in leaves]
    found, done = jax.lax.map(lambda i: one(jax.lax.switch(i, read)), jnp.arange(len(leaves)))
    return list(found), jnp.all(done)


def each(
    fn: Callable[..., Any], kinds: Sequence[Any], leaves: Sequence[Any], *shared: Any
) -> list[Any]:
    """`fn(kind, leaf, *shared)` of each leaf, one after another; None where the kind is None.

    JAX's LAPACK kernels wait inside the thread pool that they need: as many at a time as it has
    threads wait for ever. So each call depends on the results before it, of which none is -1.

    Args:
      fn: a function at the top of a module, for arrays that are not negative.
      kinds: static, hashable.
      leaves: arrays.
      *shared: arrays.

    Example:
        >>> each(lambda kind, x: kind * x, [2, None], [jnp.ones(1), jnp.ones(1)])
        [Array([2.], dtype=float32), None]
    """
    alike: dict[Any, list[int]] = {}
    for i, (kind, leaf) in enumerate(zip(kinds, leaves, strict=True)):
        if kind is not None:
            alike.setdefault((kind, jax.typeof(leaf)), []).append(i)
    out, done = [None] * len(leaves), np.True_
    for (kind, _), members in alike.items():
        found, done = _of_one_kind(fn, kind, [leaves[i] for i in members], done, shared)
        for i, value in zip(members, found, strict=True):
            out[i] = value
    return out
