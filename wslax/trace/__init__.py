"""Tracing a model: its program, what reaches its leaves, and running it on factored leaves."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.trace.forward import factored as factored
    from wslax.trace.kinds import LowRank as LowRank
    from wslax.trace.kinds import Matrices as Matrices
    from wslax.trace.kinds import Mix as Mix
    from wslax.trace.kinds import Scaled as Scaled
    from wslax.trace.kinds import Sparse as Sparse
    from wslax.trace.leaves import Factored as Factored
    from wslax.trace.leaves import over_members as over_members
    from wslax.trace.structured import BlockAffine as BlockAffine
    from wslax.trace.structured import Kronecker as Kronecker
    from wslax.trace.structured import Turned as Turned
    from wslax.trace.tapping import taps as taps

__getattr__, __all__ = attach(
    __name__,
    {name: "wslax.trace.kinds" for name in ("LowRank", "Matrices", "Mix", "Scaled", "Sparse")}
    | {name: "wslax.trace.leaves" for name in ("Factored", "over_members")}
    | {name: "wslax.trace.structured" for name in ("BlockAffine", "Kronecker", "Turned")}
    | {"factored": "wslax.trace.forward", "taps": "wslax.trace.tapping"},
)
