"""The strategies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from wslax.evolve.breeding import genetic_algorithm
from wslax.evolve.genetic import genome
from wslax.evolve.strategy import Strategy
from wslax.evolve.swarm import model_swarm

STRATEGIES: Mapping[str, Callable[..., Strategy]] = MappingProxyType(
    {
        "genetic_algorithm": genetic_algorithm,
        "genome": genome,
        "model_swarm": model_swarm,
    }
)
"""Name to the function that makes the strategy; all of its arguments have defaults."""
