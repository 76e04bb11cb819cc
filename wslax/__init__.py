"""wslax: transforms of neural-network weights, as Optax has transforms of gradients.

`import wslax as ws`, then `ws.merge`, `ws.grow`, `ws.evolve`, `ws.select`, `ws.population`,
`ws.io`, `ws.tree`, ... Sub-packages import on first use.
"""

from typing import TYPE_CHECKING

from wslax._lazy import attach
from wslax.errors import WeightSpaceError as WeightSpaceError

if TYPE_CHECKING:
    from wslax import adapt as adapt
    from wslax import align as align
    from wslax import contrib as contrib
    from wslax import data as data
    from wslax import edit as edit
    from wslax import evolve as evolve
    from wslax import generate as generate
    from wslax import grow as grow
    from wslax import io as io
    from wslax import merge as merge
    from wslax import nets as nets
    from wslax import numerics as numerics
    from wslax import population as population
    from wslax import random as random
    from wslax import select as select
    from wslax import symmetry as symmetry
    from wslax import trace as trace
    from wslax import tree as tree
    from wslax.edit import Edit as Edit
    from wslax.edit import chain as chain
    from wslax.tree import by_leaf as by_leaf

__version__ = "0.1.0"

_MODULES = [
    "adapt", "align", "contrib", "data", "edit", "evolve", "generate", "grow", "io", "merge",
    "nets", "numerics", "population", "random", "select", "symmetry", "trace", "tree",
]  # fmt: skip
_NAMES = {module: f"wslax.{module}" for module in _MODULES}
_NAMES |= {"Edit": "wslax.edit", "chain": "wslax.edit", "by_leaf": "wslax.tree"}

__getattr__, _public = attach(__name__, _NAMES)
__all__ = ["WeightSpaceError", *_public]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
