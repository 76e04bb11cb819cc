"""Selection: the few weights that matter, as a mask, and training of those alone."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.select import masks as masks
    from wslax.select import scores as scores
    from wslax.select.optimizer import lift as lift
    from wslax.select.optimizer import sparse as sparse
    from wslax.select.principal import principal_mask as principal_mask
    from wslax.select.state import SparseState as SparseState

__getattr__, __all__ = attach(
    __name__,
    {
        "SparseState": "wslax.select.state",
        "masks": "wslax.select.masks",
        "lift": "wslax.select.optimizer",
        "principal_mask": "wslax.select.principal",
        "sparse": "wslax.select.optimizer",
        "scores": "wslax.select.scores",
    },
)
