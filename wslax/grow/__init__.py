"""Growth: a wider network that computes what the narrow one did, with its optimizer state."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.grow.adam import CountedAdamState as CountedAdamState
    from wslax.grow.adam import scale_by_adam as scale_by_adam
    from wslax.grow.checking import Checked as Checked
    from wslax.grow.checking import check as check
    from wslax.grow.method import Method as Method
    from wslax.grow.method import WidthMap as WidthMap
    from wslax.grow.moments import MOMENTS as MOMENTS
    from wslax.grow.optimizer import POLICIES as POLICIES
    from wslax.grow.registry import METHODS as METHODS
    from wslax.grow.width import widen as widen

__getattr__, __all__ = attach(
    __name__,
    {
        "Checked": "wslax.grow.checking",
        "CountedAdamState": "wslax.grow.adam",
        "METHODS": "wslax.grow.registry",
        "MOMENTS": "wslax.grow.moments",
        "Method": "wslax.grow.method",
        "POLICIES": "wslax.grow.optimizer",
        "WidthMap": "wslax.grow.method",
        "check": "wslax.grow.checking",
        "scale_by_adam": "wslax.grow.adam",
        "widen": "wslax.grow.width",
    },
)
