"""Generation: networks of any width from one network over the coordinates of weights."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.generate.losses import penalty as penalty
    from wslax.generate.losses import reconstruction as reconstruction
    from wslax.generate.manifold import average as average
    from wslax.generate.manifold import init as init
    from wslax.generate.manifold import materialise as materialise
    from wslax.generate.places import coordinates as coordinates
    from wslax.generate.smoothing import shortest_path as shortest_path
    from wslax.generate.smoothing import total_variation as total_variation

_NAMES = {
    "places": ["coordinates"],
    "losses": ["penalty", "reconstruction"],
    "manifold": ["average", "init", "materialise"],
    "smoothing": ["shortest_path", "total_variation"],
}

__getattr__, __all__ = attach(
    __name__, {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
)
