"""Selection: the few weights that matter, as a mask, and training of those alone."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.select.optimizer import lift as lift
    from wslax.select.principal import principal_mask as principal_mask
    from wslax.select.state import LiftState as LiftState

__getattr__, __all__ = attach(
    __name__,
    {
        "LiftState": "wslax.select.state",
        "lift": "wslax.select.optimizer",
        "principal_mask": "wslax.select.principal",
    },
)
