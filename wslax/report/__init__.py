"""One self-contained HTML page, with its plots, from a recipe's `Result`."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.report.html import page as page
    from wslax.report.plots import svg as svg

__getattr__, __all__ = attach(__name__, {"page": "wslax.report.html", "svg": "wslax.report.plots"})
