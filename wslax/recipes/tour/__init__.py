"""The tour: train, merge, evolve, widen and adapt small nets on real digits."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.recipes.tour.config import PRESETS as PRESETS
    from wslax.recipes.tour.config import STAGES as STAGES
    from wslax.recipes.tour.config import TourConfig as TourConfig
    from wslax.recipes.tour.recipe import run as run

_CONFIG = ("PRESETS", "STAGES", "TourConfig")

__getattr__, __all__ = attach(
    __name__,
    {"run": "wslax.recipes.tour.recipe"} | {name: "wslax.recipes.tour.config" for name in _CONFIG},
)
