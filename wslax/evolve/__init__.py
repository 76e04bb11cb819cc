"""Evolution of populations: a strategy is `init`, `ask`, `tell`; members are whole pytrees."""

from typing import TYPE_CHECKING

from wslax._lazy import attach

if TYPE_CHECKING:
    from wslax.evolve.crossover import linear as linear
    from wslax.evolve.genetic import genome as genome
    from wslax.evolve.genetic import genome_init as genome_init
    from wslax.evolve.mutation import gaussian as gaussian
    from wslax.evolve.registry import STRATEGIES as STRATEGIES
    from wslax.evolve.runs import Run as Run
    from wslax.evolve.runs import run as run
    from wslax.evolve.selection import elite as elite
    from wslax.evolve.selection import pairs as pairs
    from wslax.evolve.selection import ranked as ranked
    from wslax.evolve.selection import roulette as roulette
    from wslax.evolve.selection import shares as shares
    from wslax.evolve.selection import tournament as tournament
    from wslax.evolve.strategy import Info as Info
    from wslax.evolve.strategy import Members as Members
    from wslax.evolve.strategy import Strategy as Strategy

_NAMES = {
    "crossover": ["linear"],
    "genetic": ["genome", "genome_init"],
    "mutation": ["gaussian"],
    "registry": ["STRATEGIES"],
    "runs": ["Run", "run"],
    "selection": ["elite", "pairs", "ranked", "roulette", "shares", "tournament"],
    "strategy": ["Info", "Members", "Strategy"],
}

__getattr__, __all__ = attach(
    __name__, {name: f"{__name__}.{module}" for module, names in _NAMES.items() for name in names}
)


def __dir__() -> list[str]:
    return list(__all__)
