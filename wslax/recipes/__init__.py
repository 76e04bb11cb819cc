"""Whole jobs: each a pure `run(config, progress) -> Result` that CLI, notebooks and CI call."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.recipes import tour as tour
    from wslax.recipes.result import Card as Card
    from wslax.recipes.result import Column as Column
    from wslax.recipes.result import Estimate as Estimate
    from wslax.recipes.result import Figure as Figure
    from wslax.recipes.result import Result as Result
    from wslax.recipes.result import Section as Section
    from wslax.recipes.result import Series as Series
    from wslax.recipes.result import Table as Table

_RESULT = ("Card", "Column", "Estimate", "Figure", "Result", "Section", "Series", "Table")

__getattr__, __all__ = attach(
    __name__,
    {"tour": "wslax.recipes.tour"} | {name: "wslax.recipes.result" for name in _RESULT},
)
