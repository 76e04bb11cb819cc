"""Evolution of populations: a strategy is `init`, `ask`, `tell`; members are whole pytrees."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.evolve.archipelago import Archipelago as Archipelago
    from wslax.evolve.archipelago import islands as islands
    from wslax.evolve.cells import coverage as coverage
    from wslax.evolve.cells import grid as grid
    from wslax.evolve.cells import qd_score as qd_score
    from wslax.evolve.centre import Centre as Centre
    from wslax.evolve.composed import genetic_algorithm as genetic_algorithm
    from wslax.evolve.crossover import iso_line as iso_line
    from wslax.evolve.crossover import linear as linear
    from wslax.evolve.differential import differential_evolution as differential_evolution
    from wslax.evolve.directions import by_direction as by_direction
    from wslax.evolve.directions import by_term as by_term
    from wslax.evolve.exchange import by_layer as by_layer
    from wslax.evolve.exchange import by_unit as by_unit
    from wslax.evolve.exchange import of_task_vectors as of_task_vectors
    from wslax.evolve.exchange import uniform as uniform
    from wslax.evolve.foreign import External as External
    from wslax.evolve.foreign import external as external
    from wslax.evolve.gaussian_es import open_es as open_es
    from wslax.evolve.genetic import genome as genome
    from wslax.evolve.genetic import genome_init as genome_init
    from wslax.evolve.judging import each as each
    from wslax.evolve.lineage import Birth as Birth
    from wslax.evolve.lineage import ancestry as ancestry
    from wslax.evolve.lineage import births as births
    from wslax.evolve.moving import genome_plus as genome_plus
    from wslax.evolve.mutation import gaussian as gaussian
    from wslax.evolve.registry import STRATEGIES as STRATEGIES
    from wslax.evolve.repertoire import Repertoire as Repertoire
    from wslax.evolve.repertoire import map_elites as map_elites
    from wslax.evolve.runs import Founders as Founders
    from wslax.evolve.runs import Run as Run
    from wslax.evolve.runs import run as run
    from wslax.evolve.scales import rms as rms
    from wslax.evolve.scales import safe_scale as safe_scale
    from wslax.evolve.scored import attraction as attraction
    from wslax.evolve.scored import lexicase as lexicase
    from wslax.evolve.scored import niche_fitness as niche_fitness
    from wslax.evolve.scored import novelty as novelty
    from wslax.evolve.selection import elite as elite
    from wslax.evolve.selection import pairs as pairs
    from wslax.evolve.selection import rank_shares as rank_shares
    from wslax.evolve.selection import ranked as ranked
    from wslax.evolve.selection import roulette as roulette
    from wslax.evolve.selection import shares as shares
    from wslax.evolve.selection import tournament as tournament
    from wslax.evolve.shaping import centred_ranks as centred_ranks
    from wslax.evolve.shaping import z_scores as z_scores
    from wslax.evolve.spanning import Span as Span
    from wslax.evolve.spanning import span as span
    from wslax.evolve.strategy import Evaluation as Evaluation
    from wslax.evolve.strategy import Info as Info
    from wslax.evolve.strategy import Members as Members
    from wslax.evolve.strategy import Strategy as Strategy
    from wslax.evolve.succession import comma as comma
    from wslax.evolve.succession import crowding as crowding
    from wslax.evolve.succession import plus as plus
    from wslax.evolve.swarm import Swarm as Swarm
    from wslax.evolve.swarm import model_swarm as model_swarm
    from wslax.evolve.thin_es import low_rank_es as low_rank_es
    from wslax.evolve.training import population_based_training as population_based_training
    from wslax.evolve.variation import low_rank as low_rank
    from wslax.evolve.variation import reset as reset
    from wslax.evolve.variation import spectral as spectral

_NAMES = {
    "composed": ["genetic_algorithm"],
    "differential": ["differential_evolution"],
    "directions": ["by_direction", "by_term"],
    "cells": ["coverage", "grid", "qd_score"],
    "centre": ["Centre"],
    "crossover": ["iso_line", "linear"],
    "archipelago": ["Archipelago", "islands"],
    "exchange": ["by_layer", "by_unit", "of_task_vectors", "uniform"],
    "foreign": ["External", "external"],
    "gaussian_es": ["open_es"],
    "genetic": ["genome", "genome_init"],
    "judging": ["each"],
    "lineage": ["Birth", "ancestry", "births"],
    "moving": ["genome_plus"],
    "mutation": ["gaussian"],
    "registry": ["STRATEGIES"],
    "runs": ["Founders", "Run", "run"],
    "repertoire": ["Repertoire", "map_elites"],
    "scales": ["rms", "safe_scale"],
    "scored": ["attraction", "lexicase", "niche_fitness", "novelty"],
    "selection": ["elite", "pairs", "rank_shares", "ranked", "roulette", "shares", "tournament"],
    "shaping": ["centred_ranks", "z_scores"],
    "spanning": ["Span", "span"],
    "strategy": ["Evaluation", "Info", "Members", "Strategy"],
    "succession": ["comma", "crowding", "plus"],
    "swarm": ["Swarm", "model_swarm"],
    "training": ["population_based_training"],
    "thin_es": ["low_rank_es"],
    "variation": ["low_rank", "reset", "spectral"],
}

__getattr__, __all__ = attach(
    __name__, {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
)


def __dir__() -> list[str]:
    return list(__all__)
