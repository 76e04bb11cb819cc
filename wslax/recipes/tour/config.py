"""Settings of the tour."""

import dataclasses
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Len

_Count = Annotated[int, Ge(1)]
_Rate = Annotated[float, Gt(0), Le(1)]
_Grid = Annotated[tuple[_Rate, ...], Len(1)]
_STRICT = {"extra": "forbid"}


@dataclasses.dataclass(frozen=True)
class Experts:
    """The nets and their training.

    Attributes:
      hidden: widths of the hidden layers, one or more.
      base_steps: Adam steps of the common base, on upright digits.
      steps: Adam steps of each expert, from the base.
      rate: learning rate of both.
      batch: images a step.
      rotation: degrees that the tilted conditions are turned.
      noise: standard deviation of the noisy condition.
    """

    __pydantic_config__ = _STRICT
    hidden: Annotated[tuple[_Count, ...], Len(1)] = (256, 128)
    base_steps: _Count = 300
    steps: _Count = 200
    rate: _Rate = 1e-3
    batch: _Count = 64
    rotation: Annotated[float, Ge(0), Le(180)] = 40.0
    noise: Annotated[float, Ge(0)] = 0.4


@dataclasses.dataclass(frozen=True)
class Merge:
    """Values tried for the parameters of merging methods.

    Attributes:
      lam: factors of the merged task vector.
      density: shares of each task vector kept.
      t: positions between two experts.
    """

    __pydantic_config__ = _STRICT
    lam: _Grid = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    density: _Grid = (0.2, 0.5, 0.9)
    t: _Grid = (0.25, 0.5, 0.75)


@dataclasses.dataclass(frozen=True)
class Evolve:
    """GENOME.

    Attributes:
      population: members.
      generations: how many.
      sigma: size of a mutation.
      voters: members of the majority vote.
    """

    __pydantic_config__ = _STRICT
    population: Annotated[int, Ge(6)] = 24
    generations: _Count = 30
    sigma: Annotated[float, Ge(0)] = 0.01
    voters: _Count = 5


@dataclasses.dataclass(frozen=True)
class Grow:
    """Widening.

    Attributes:
      factor: times as many units in each hidden layer.
      noise: relative noise on new units before training, to tell copies apart.
      steps: Adam steps of training on.
      rate: learning rate.
    """

    __pydantic_config__ = _STRICT
    factor: Annotated[float, Gt(1)] = 2.0
    noise: Annotated[float, Ge(0)] = 0.05
    steps: _Count = 200
    rate: _Rate = 1e-3


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Adaptation to the new condition.

    Attributes:
      images: labelled images of the new condition.
      steps: Adam steps.
      batch: images a step.
      rates: learning rates of full fine-tuning.
      sparse_rates: learning rates of the sparse ones, which need larger steps.
      density: share of each kernel that LIFT and the random mask train.
      rank: of the approximation that LIFT reads.
      refresh: steps between LIFT's choices.
    """

    __pydantic_config__ = _STRICT
    images: _Count = 200
    steps: _Count = 100
    batch: _Count = 32
    rates: _Grid = (1e-4, 3e-4, 1e-3, 3e-3)
    sparse_rates: _Grid = (1e-3, 3e-3, 1e-2, 3e-2)
    density: _Rate = 0.05
    rank: _Count = 16
    refresh: _Count = 50


@dataclasses.dataclass(frozen=True)
class TourConfig:
    """All settings of the tour.

    Attributes:
      seed: of every random draw.
      seeds: repeats where growth and adaptation are compared.
      samples: validation images that merging, evolution and all choices may look at.
      segment: training steps between two checkpoints.
      experts: see `Experts`.
      merge: see `Merge`.
      evolve: see `Evolve`.
      grow: see `Grow`.
      adapt: see `Adapt`.

    Example:
        >>> TourConfig(seed=3).evolve.population
        24
    """

    __pydantic_config__ = _STRICT
    seed: Annotated[int, Ge(0)] = 0
    seeds: Annotated[int, Ge(2)] = 5
    samples: Annotated[int, Ge(10)] = 200
    segment: _Count = 50
    experts: Experts = Experts()
    merge: Merge = Merge()
    evolve: Evolve = Evolve()
    grow: Grow = Grow()
    adapt: Adapt = Adapt()


STAGES = ("experts", "merge", "align", "evolve", "grow", "adapt")

# A smaller tour, and one that only shows that everything runs.
QUICK: dict[str, Any] = {
    "seeds": 3,
    "experts": {"hidden": [192], "base_steps": 150, "steps": 150},
    "merge": {"lam": [0.2, 0.4, 0.6, 1.0], "density": [0.2, 0.9], "t": [0.5]},
    "evolve": {"population": 16, "generations": 10},
    "grow": {"steps": 100},
    "adapt": {"steps": 50, "rates": [3e-4, 1e-3, 3e-3], "sparse_rates": [3e-3, 1e-2, 3e-2]},
}
TINY: dict[str, Any] = {
    "segment": 4,
    "samples": 40,
    "seeds": 2,
    "experts": {"hidden": [8], "base_steps": 8, "steps": 8, "batch": 16},
    "merge": {"lam": [0.5], "density": [0.5], "t": [0.5]},
    "evolve": {"population": 6, "generations": 4, "voters": 3},
    "grow": {"steps": 8},
    "adapt": {"images": 20, "steps": 8, "batch": 8, "rates": [1e-3, 1e-2],
              "sparse_rates": [1e-2, 3e-2], "rank": 2, "refresh": 4},
}  # fmt: skip
PRESETS = {"quick": QUICK, "tiny": TINY}
