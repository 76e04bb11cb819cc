"""Growth: a wider network that computes what the narrow one did, with its optimizer state."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.grow import stages as stages
    from wslax.grow.method import Method as Method
    from wslax.grow.method import WidthMap as WidthMap
    from wslax.grow.optimizer import MOMENTS as MOMENTS
    from wslax.grow.optimizer import POLICIES as POLICIES
    from wslax.grow.registry import METHODS as METHODS
    from wslax.grow.templates import CHOICES as CHOICES
    from wslax.grow.templates import Mixture as Mixture
    from wslax.grow.templates import Templates as Templates
    from wslax.grow.templates import mixture as mixture
    from wslax.grow.width import widen as widen

__getattr__, __all__ = attach(
    __name__,
    {
        "CHOICES": "wslax.grow.templates",
        "METHODS": "wslax.grow.registry",
        "MOMENTS": "wslax.grow.optimizer",
        "Method": "wslax.grow.method",
        "Mixture": "wslax.grow.templates",
        "POLICIES": "wslax.grow.optimizer",
        "Templates": "wslax.grow.templates",
        "WidthMap": "wslax.grow.method",
        "mixture": "wslax.grow.templates",
        "stages": "wslax.grow.stages",
        "widen": "wslax.grow.width",
    },
)
