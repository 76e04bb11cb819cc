"""The strategies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from wslax.evolve.gaussian_es import open_es
from wslax.evolve.genetic import genome
from wslax.evolve.repertoire import map_elites
from wslax.evolve.strategy import Strategy
from wslax.evolve.swarm import model_swarm
from wslax.evolve.thin_es import low_rank_es

STRATEGIES: Mapping[str, Callable[..., Strategy]] = MappingProxyType(
    {
        "genome": genome,
        "low_rank_es": low_rank_es,
        "map_elites": map_elites,
        "model_swarm": model_swarm,
        "open_es": open_es,
    }
)
"""Name to the function that makes the strategy; all of its arguments have defaults, but for the
`cells` of `map_elites`."""
