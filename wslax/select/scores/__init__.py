"""Scores of weights, `score(params, grads=None, *, key=None, ...) -> tree`: higher is kept."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.select.scores.activations import activity as activity
    from wslax.select.scores.activations import wanda as wanda
    from wslax.select.scores.attribution import wagle as wagle
    from wslax.select.scores.components import contributions as contributions
    from wslax.select.scores.components import fidelity as fidelity
    from wslax.select.scores.gradients import fisher as fisher
    from wslax.select.scores.gradients import gradient as gradient
    from wslax.select.scores.gradients import movement as movement
    from wslax.select.scores.gradients import saliency as saliency
    from wslax.select.scores.grouping import along as along
    from wslax.select.scores.weights import magnitude as magnitude
    from wslax.select.scores.weights import principal as principal
    from wslax.select.scores.weights import random as random

__getattr__, __all__ = attach(
    __name__,
    {
        "activity": "wslax.select.scores.activations",
        "along": "wslax.select.scores.grouping",
        "contributions": "wslax.select.scores.components",
        "fidelity": "wslax.select.scores.components",
        "fisher": "wslax.select.scores.gradients",
        "gradient": "wslax.select.scores.gradients",
        "magnitude": "wslax.select.scores.weights",
        "movement": "wslax.select.scores.gradients",
        "principal": "wslax.select.scores.weights",
        "random": "wslax.select.scores.weights",
        "saliency": "wslax.select.scores.gradients",
        "wagle": "wslax.select.scores.attribution",
        "wanda": "wslax.select.scores.activations",
    },
)
