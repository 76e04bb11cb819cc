"""Evolution of populations: a strategy is `init`, `ask`, `tell`; members are whole pytrees."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.evolve.archipelago import Archipelago as Archipelago
    from wslax.evolve.archipelago import islands as islands
    from wslax.evolve.crossover import linear as linear
    from wslax.evolve.exchange import by_layer as by_layer
    from wslax.evolve.exchange import by_unit as by_unit
    from wslax.evolve.exchange import of_task_vectors as of_task_vectors
    from wslax.evolve.exchange import uniform as uniform
    from wslax.evolve.genetic import genome as genome
    from wslax.evolve.genetic import genome_init as genome_init
    from wslax.evolve.mutation import gaussian as gaussian
    from wslax.evolve.registry import STRATEGIES as STRATEGIES
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
    from wslax.evolve.spanning import Span as Span
    from wslax.evolve.spanning import span as span
    from wslax.evolve.strategy import Evaluation as Evaluation
    from wslax.evolve.strategy import Info as Info
    from wslax.evolve.strategy import Members as Members
    from wslax.evolve.strategy import Strategy as Strategy
    from wslax.evolve.swarm import Swarm as Swarm
    from wslax.evolve.swarm import model_swarm as model_swarm
    from wslax.evolve.variation import low_rank as low_rank
    from wslax.evolve.variation import reset as reset
    from wslax.evolve.variation import spectral as spectral

_NAMES = {
    "archipelago": ["Archipelago", "islands"],
    "crossover": ["linear"],
    "exchange": ["by_layer", "by_unit", "of_task_vectors", "uniform"],
    "genetic": ["genome", "genome_init"],
    "mutation": ["gaussian"],
    "registry": ["STRATEGIES"],
    "runs": ["Run", "run"],
    "scales": ["rms", "safe_scale"],
    "scored": ["attraction", "lexicase", "niche_fitness", "novelty"],
    "selection": ["elite", "pairs", "rank_shares", "ranked", "roulette", "shares", "tournament"],
    "spanning": ["Span", "span"],
    "strategy": ["Evaluation", "Info", "Members", "Strategy"],
    "swarm": ["Swarm", "model_swarm"],
    "variation": ["low_rank", "reset", "spectral"],
}

__getattr__, __all__ = attach(
    __name__, {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
)


def __dir__() -> list[str]:
    return list(__all__)
