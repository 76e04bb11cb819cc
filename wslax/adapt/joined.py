"""Several adapters of one model, each of leaves of its own."""

from collections.abc import Sequence
from typing import Any

from wslax.adapter import Adapter
from wslax.typing import Key, Params


def joined(adapters: Sequence[tuple[Adapter, Sequence[str]]]) -> Adapter:
    """One adapter from several that change different leaves.

    Args:
      adapters: each with the names of its leaves.

    Returns:
      The adapter; its `train` and `fixed` hold what is theirs, by name of leaf as ever.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> params = {"a": jnp.ones((6, 4)), "b": jnp.ones((4, 2))}
        >>> wide, thin = ws.adapt.lora(3, where="a"), ws.adapt.lora(1, where="b")
        >>> train, _ = joined([(wide, ["a"]), (thin, ["b"])]).init(jax.random.key(0), params)
        >>> train["a"]["down"].shape, train["b"]["down"].shape
        ((6, 3), (4, 1))
    """

    def init(key: Key, params: Params) -> tuple[Any, Any]:
        made = [adapter.init(key, params) for adapter, _ in adapters]
        train, fixed = ({name: p for m in made for name, p in m[i].items()} for i in (0, 1))
        return train, fixed

    def each(way: str, params: Params, train: Any, fixed: Any) -> Params:
        for adapter, names in adapters:
            mine = [{name: parts[name] for name in names} for parts in (train, fixed)]
            params = getattr(adapter, way)(params, *mine)
        return params

    return Adapter(
        init,
        lambda params, train, fixed: each("apply", params, train, fixed),
        lambda params, train, fixed: each("fuse", params, train, fixed),
    )
