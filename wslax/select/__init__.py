"""Selection: the few weights that matter by a score, as a mask, and training of those alone."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.select import masks as masks
    from wslax.select import scores as scores
    from wslax.select.compacting import compact as compact
    from wslax.select.compacting import refresh as refresh
    from wslax.select.compacting import values_at as values_at
    from wslax.select.optimizer import lift as lift
    from wslax.select.optimizer import sparse as sparse
    from wslax.select.principal import principal_mask as principal_mask
    from wslax.select.rounding import MasterState as MasterState
    from wslax.select.rounding import master as master
    from wslax.select.state import SparseState as SparseState

__getattr__, __all__ = attach(
    __name__,
    {
        "MasterState": "wslax.select.rounding",
        "SparseState": "wslax.select.state",
        "compact": "wslax.select.compacting",
        "lift": "wslax.select.optimizer",
        "master": "wslax.select.rounding",
        "masks": "wslax.select.masks",
        "principal_mask": "wslax.select.principal",
        "refresh": "wslax.select.compacting",
        "scores": "wslax.select.scores",
        "sparse": "wslax.select.optimizer",
        "values_at": "wslax.select.compacting",
    },
)
