"""Selection: the few weights that matter, as a mask, and training of those alone."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.select.optimizer import LiftState as LiftState
    from wslax.select.optimizer import lift as lift
    from wslax.select.principal import principal_mask as principal_mask

__getattr__, __all__ = attach(
    __name__,
    {
        "LiftState": "wslax.select.optimizer",
        "lift": "wslax.select.optimizer",
        "principal_mask": "wslax.select.principal",
    },
)
