"""Scores of weights, `score(params, grads=None, *, key=None, ...) -> tree`: higher is kept."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.select.scores.activations import activity as activity
    from wslax.select.scores.activations import wanda as wanda
    from wslax.select.scores.attribution import wagle as wagle
    from wslax.select.scores.components import contributions as contributions
    from wslax.select.scores.components import fidelity as fidelity
    from wslax.select.scores.grouping import along as along

__getattr__, __all__ = attach(
    __name__,
    {
        "activity": "wslax.select.scores.activations",
        "along": "wslax.select.scores.grouping",
        "contributions": "wslax.select.scores.components",
        "fidelity": "wslax.select.scores.components",
        "wagle": "wslax.select.scores.attribution",
        "wanda": "wslax.select.scores.activations",
    },
)
