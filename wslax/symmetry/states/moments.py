"""What Optax's states hold: which power of the gradient each field is."""

from typing import Any, NamedTuple

import jax
import optax
from optax import contrib

from wslax.symmetry.states.adam import CountedAdamState


def _type(optimizer: optax.GradientTransformation) -> type:
    """The type of a state that Optax does not name in public."""
    return type(jax.eval_shape(optimizer.init, ()))


_RMS = _type(optax.scale_by_rms(bias_correction=True))
_STDDEV = _type(optax.scale_by_stddev(bias_correction=True))
_OPTIMISTIC = _type(optax.scale_by_optimistic_gradient())

# State type to {field: how it scales with the gradient}. What shares a type cannot be told apart:
# Adamax (a nu of power 1) and ADOPT (a mu of power 0) have Adam's. Not here, as no factor an entry
# carries them: what is factored or one number a leaf (Adafactor, SM3, NovoGrad, GaLore), a Hessian
# (Sophia, L-BFGS), distances from the first weights (DoG, Prodigy, MADGRAD, COCOB, Mechanic).
MOMENTS: dict[type, dict[str, int]] = {
    optax.ScaleByAdamState: {"mu": 1, "nu": 2},
    CountedAdamState: {"count": 0, "mu": 1, "nu": 2},
    optax.ScaleByAmsgradState: {"mu": 1, "nu": 2, "nu_max": 2},
    optax.ScaleByBeliefState: {"mu": 1, "nu": 2},
    optax.ScaleByAdanState: {"m": 1, "v": 1, "n": 2, "g": 1},
    contrib.ScaleByAdemamixState: {"m1": 1, "m2": 1, "nu": 2},
    contrib.ScaleBySimplifiedAdEMAMixState: {"m": 1, "n": 2},
    optax.ScaleByRmsState: {"nu": 2},
    _RMS: {"nu": 2},
    optax.ScaleByRStdDevState: {"mu": 1, "nu": 2},
    _STDDEV: {"mu": 1, "nu": 2},
    optax.ScaleByRssState: {"sum_of_squares": 2},
    optax.ScaleByAdaDeltaState: {"e_g": 2, "e_x": 0},
    optax.ScaleByLionState: {"mu": 1},
    optax.ScaleByRpropState: {"step_sizes": 0, "prev_updates": 0},
    contrib.MuonState: {"mu": 1},
    optax.TraceState: {"trace": 1},
    optax.EmaState: {"ema": 1},
    optax.MultiStepsState: {"acc_grads": 1},
    _OPTIMISTIC: {"previous_gradient": 1},
}
# Fields by whose root a gradient is divided. What they put out does not scale with the gradient, so
# neither does an accumulator after them.
_DIVISORS: dict[type, tuple[str, ...]] = {
    optax.ScaleByAdamState: ("nu",),
    CountedAdamState: ("nu",),
    optax.ScaleByAmsgradState: ("nu", "nu_max"),
    optax.ScaleByBeliefState: ("nu",),
    optax.ScaleByAdanState: ("n",),
    contrib.ScaleByAdemamixState: ("nu",),
    contrib.ScaleBySimplifiedAdEMAMixState: ("n",),
    optax.ScaleByRmsState: ("nu",),
    _RMS: ("nu",),
    optax.ScaleByRStdDevState: ("mu", "nu"),  # the variance is nu - mu**2
    _STDDEV: ("mu", "nu"),
    optax.ScaleByRssState: ("sum_of_squares",),
    optax.ScaleByAdaDeltaState: ("e_g",),
}
# No moment changes how long a step of these is.
FIXED_STEP = (optax.ScaleByLionState, optax.ScaleByRpropState, contrib.MuonState)
NORMALISING = (*_DIVISORS, *FIXED_STEP)
# What they put out is their moment, so it moves the weights on.
_ACCUMULATING = (optax.TraceState, optax.EmaState)
# Copies of the weights.
WEIGHTS: dict[type, tuple[str, ...]] = {contrib.ScheduleFreeState: ("z",)}
# A start of zeros is not theirs: Adagrad's sums and Rprop's steps begin at a value that the state
# does not hold, and a first gradient stands in for the one before it.
NONZERO_START = (optax.ScaleByRssState, optax.ScaleByRpropState, _OPTIMISTIC)
COUNTS = ("count", "count_m2", "t", "mini_step")


class Stage(NamedTuple):
    """Where in a chain a state stands.

    Attributes:
      after: whether what comes in no longer scales with the gradient.
      before: whether what goes out is normalised later.
    """

    after: bool
    before: bool


def normalises(state: Any) -> bool:
    """Whether some part of a state divides by the gradient's scale."""

    def known(node: Any) -> bool:
        return isinstance(node, NORMALISING)

    return any(map(known, jax.tree.leaves(state, is_leaf=known)))


def one_count(state: Any) -> bool:
    """Whether new weights would be corrected by the step count of the old ones."""
    counts = {"count", "t"} & set(state._fields) - set(MOMENTS[type(state)])
    return type(state) in _DIVISORS and bool(counts)


def powers(state: Any, field: str, policy: str, stage: Stage) -> dict[str, int]:
    """The arguments of `Moves.carry` for a field of a state in `MOMENTS`."""
    kind = type(state)
    gradient = 0 if stage.after else MOMENTS[kind][field]
    if policy != "trajectory" or stage.before:
        return {"gradient": gradient}
    if kind in _ACCUMULATING:
        return {"weight": 1}
    divides = field in _DIVISORS.get(kind, ())
    return {"gradient": gradient, "weight": -MOMENTS[kind][field] * divides}
