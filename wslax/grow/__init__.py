"""Growth: a wider network that computes what the narrow one did, with its optimizer state."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.grow import supernet as supernet
    from wslax.grow.method import Method as Method
    from wslax.grow.method import WidthMap as WidthMap
    from wslax.grow.optimizer import MOMENTS as MOMENTS
    from wslax.grow.optimizer import POLICIES as POLICIES
    from wslax.grow.registry import METHODS as METHODS
    from wslax.grow.width import widen as widen

__getattr__, __all__ = attach(
    __name__,
    {
        "METHODS": "wslax.grow.registry",
        "MOMENTS": "wslax.grow.optimizer",
        "Method": "wslax.grow.method",
        "POLICIES": "wslax.grow.optimizer",
        "WidthMap": "wslax.grow.method",
        "supernet": "wslax.grow.supernet",
        "widen": "wslax.grow.width",
    },
)
