"""`Adapter`: a frozen base and a small part to train."""

from collections.abc import Callable
from typing import Any, NamedTuple

from wslax.edit import Edit, from_map
from wslax.typing import Params


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
