"""Selection: the few weights that matter by a score, as a mask, and training of those alone."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.select import masks as masks
    from wslax.select import scores as scores
    from wslax.select.compacting import compact as compact
    from wslax.select.compacting import refresh as refresh
    from wslax.select.compacting import values_at as values_at
    from wslax.select.holding import hold as hold
    from wslax.select.layers import inputs as inputs
    from wslax.select.optimizer import lift as lift
    from wslax.select.optimizer import sparse as sparse
    from wslax.select.principal import principal_mask as principal_mask
    from wslax.select.pruning import prune as prune
    from wslax.select.pruning import units as units
    from wslax.select.reconstruction import sparsegpt as sparsegpt
    from wslax.select.refitting import gate as gate
    from wslax.select.refitting import refit as refit
    from wslax.select.rounding import MasterState as MasterState
    from wslax.select.rounding import master as master
    from wslax.select.state import SparseState as SparseState

__getattr__, __all__ = attach(
    __name__,
    {
        "compact": "wslax.select.compacting",
        "gate": "wslax.select.refitting",
        "hold": "wslax.select.holding",
        "inputs": "wslax.select.layers",
        "lift": "wslax.select.optimizer",
        "masks": "wslax.select.masks",
        "master": "wslax.select.rounding",
        "MasterState": "wslax.select.rounding",
        "principal_mask": "wslax.select.principal",
        "prune": "wslax.select.pruning",
        "refit": "wslax.select.refitting",
        "refresh": "wslax.select.compacting",
        "scores": "wslax.select.scores",
        "sparse": "wslax.select.optimizer",
        "sparsegpt": "wslax.select.reconstruction",
        "SparseState": "wslax.select.state",
        "units": "wslax.select.pruning",
        "values_at": "wslax.select.compacting",
    },
)
