"""Methods that work and are tested, and may change from one release to the next."""

from wslax._lazy import attach

_MODULES = [
    "bandit", "bilevel", "binary", "ensemble", "ewc", "forgetting", "key_value", "maml", "reweight",
    "weights",
]  # fmt: skip

__getattr__, __all__ = attach(__name__, {name: f"{__name__}.{name}" for name in _MODULES})


def __dir__() -> list[str]:
    return list(__all__)
