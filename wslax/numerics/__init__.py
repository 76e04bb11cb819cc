"""Numerics that several families need: thresholds, low rank, assignment, search, Fisher."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.numerics import assignment as assignment
    from wslax.numerics import fisher as fisher
    from wslax.numerics import lowrank as lowrank
    from wslax.numerics import proposals as proposals
    from wslax.numerics import streaming as streaming
    from wslax.numerics import threshold as threshold

_MODULES = ("assignment", "fisher", "lowrank", "proposals", "streaming", "threshold")

__getattr__, __all__ = attach(__name__, {name: f"{__name__}.{name}" for name in _MODULES})
