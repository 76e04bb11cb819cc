"""The strategies by name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from wslax.evolve.composed import genetic_algorithm
from wslax.evolve.differential import differential_evolution
from wslax.evolve.gaussian_es import open_es
from wslax.evolve.genetic import genome
from wslax.evolve.moving import genome_plus
from wslax.evolve.repertoire import map_elites
from wslax.evolve.strategy import Strategy
from wslax.evolve.swarm import model_swarm
from wslax.evolve.thin_es import low_rank_es
from wslax.evolve.training import population_based_training

STRATEGIES: Mapping[str, Callable[..., Strategy]] = MappingProxyType(
    {
        "differential_evolution": differential_evolution,
        "genetic_algorithm": genetic_algorithm,
        "genome": genome,
        "genome_plus": genome_plus,
        "low_rank_es": low_rank_es,
        "map_elites": map_elites,
        "model_swarm": model_swarm,
        "open_es": open_es,
        "population_based_training": population_based_training,
    }
)
"""Name to the function that makes the strategy."""
