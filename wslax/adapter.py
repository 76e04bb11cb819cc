"""`Adapter`: a frozen base and a small part to train."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax import random, tree
from wslax.edit import Edit, from_map
from wslax.errors import WeightSpaceError
from wslax.trace.leaves import is_factored
from wslax.typing import Key, Params


class Adapter(NamedTuple):
    """A small change of a model as pure functions.

    `train` and `fixed` map names of leaves to what is theirs, a dict of arrays. Only `train` gets
    gradients and an optimizer; a population of adapters is one whose leaves are `[N, ...]`, and
    the base is held once.

    Attributes:
      init: `(key, params) -> (train, fixed)`: the change that begins as none. `fixed` is what the
        change is made of and does not train (random projections, places, initial factors).
      apply: `(params, train, fixed) -> params`: changed leaves may be factored (`wslax.trace`), so
        that `trace.factored` of the model never writes them out.
      fuse: `(params, train, fixed) -> params`: the same as arrays, in the base's dtypes.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> params = {"w": jnp.ones((6, 4)), "b": jnp.zeros(4)}
        >>> adapter = ws.adapt.lora(2)
        >>> train, fixed = adapter.init(jax.random.key(0), params)
        >>> model = ws.trace.factored(lambda p, x: x @ p["w"] + p["b"])
        >>> loss = lambda train, x: (model(adapter.apply(params, train, fixed), x) ** 2).sum()
        >>> jax.tree.map(jnp.shape, jax.grad(loss)(train, jnp.ones(6)))
        {'w': {'down': (6, 2), 'up': (2, 4)}}
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., Params]
    fuse: Callable[..., Params]


def from_apply(init: Callable[..., tuple[Any, Any]], apply: Callable[..., Params]) -> Adapter:
    """An adapter whose `fuse` writes out what `apply` leaves factored, rounded once."""

    def fuse(params: Params, train: Any, fixed: Any) -> Params:
        write = lambda new, old: tree.cast_like(new.dense(), old) if is_factored(new) else new
        return jax.tree.map(write, apply(params, train, fixed), params, is_leaf=is_factored)

    return Adapter(init, apply, fuse)


def chain(*adapters: Adapter) -> Adapter:
    """Several adapters as one, each with the one before as its base.

    Args:
      *adapters: at least one; such as LoRA of the matrices and `whole` of the norms.

    Returns:
      An adapter whose `train` and `fixed` are tuples, one entry an adapter. Each begins from the
      model itself, with random numbers of its own.

    Raises:
      WeightSpaceError: if there is none.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> params = {"w": jnp.ones((6, 4)), "bias": jnp.ones(4)}
        >>> adapter = ws.adapt.chain(ws.adapt.lora(2), ws.adapt.whole(where="bias"))
        >>> train, fixed = adapter.init(0, params)
        >>> [list(part) for part in train]
        [['w'], ['bias']]
    """
    if not adapters:
        raise WeightSpaceError("chain() needs at least one adapter")

    def init(key: Key, params: Params) -> tuple[Any, Any]:
        keys = [random.bits(key, f"adapt/chain/{i}", 2, xp=jnp) for i in range(len(adapters))]
        parts = [a.init(k, params) for a, k in zip(adapters, keys, strict=True)]
        train, fixed = zip(*parts, strict=True)
        return train, fixed

    def apply(params: Params, train: Any, fixed: Any) -> Params:
        for adapter, *parts in zip(adapters, train, fixed, strict=True):
            params = adapter.apply(params, *parts)
        return params

    return from_apply(init, apply)


def fused(adapter: Adapter, train: Any, fixed: Any) -> Edit:
    """The trained change as an `Edit`, to be applied and composed like any other.

    Args:
      adapter: the adapter.
      train: its trained part.
      fixed: its fixed part.

    Returns:
      An edit whose `apply` is `fuse`. It has no map for optimizer states: what was trained is gone.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> params = {"w": jnp.ones((6, 4))}
        >>> adapter = ws.adapt.lora(2)
        >>> edit = fused(adapter, *adapter.init(jax.random.key(0), params))
        >>> bool((edit.apply(params)["w"] == params["w"]).all())
        True
    """
    return from_map(lambda params: adapter.fuse(params, train, fixed))
