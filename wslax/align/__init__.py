"""Aligning models: put the units of one in the order of another."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.align.correction import repair as repair
    from wslax.align.features import activation_matching as activation_matching
    from wslax.align.features import activations as activations
    from wslax.align.many import match_many as match_many
    from wslax.align.path import Barrier as Barrier
    from wslax.align.path import barrier as barrier
    from wslax.align.signed import signed_matching as signed_matching
    from wslax.align.straight import straight_through as straight_through
    from wslax.align.weights import weight_matching as weight_matching
    from wslax.align.zipping import Zipped as Zipped
    from wslax.align.zipping import zipit as zipit

__getattr__, __all__ = attach(
    __name__,
    {
        "Barrier": "wslax.align.path",
        "Zipped": "wslax.align.zipping",
        "barrier": "wslax.align.path",
        "activation_matching": "wslax.align.features",
        "activations": "wslax.align.features",
        "match_many": "wslax.align.many",
        "repair": "wslax.align.correction",
        "straight_through": "wslax.align.straight",
        "signed_matching": "wslax.align.signed",
        "weight_matching": "wslax.align.weights",
        "zipit": "wslax.align.zipping",
    },
)
