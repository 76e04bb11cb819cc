"""Aligning models: put the units of one in the order of another."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.align.activations import activation_matching as activation_matching
    from wslax.align.many import match_many as match_many
    from wslax.align.path import Barrier as Barrier
    from wslax.align.path import barrier as barrier
    from wslax.align.signed import signed_matching as signed_matching
    from wslax.align.weights import weight_matching as weight_matching

__getattr__, __all__ = attach(
    __name__,
    {
        "Barrier": "wslax.align.path",
        "barrier": "wslax.align.path",
        "activation_matching": "wslax.align.activations",
        "match_many": "wslax.align.many",
        "signed_matching": "wslax.align.signed",
        "weight_matching": "wslax.align.weights",
    },
)
