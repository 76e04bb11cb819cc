"""Optax states through a width map: which fields hold which power of the gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.grow.moves import Moves
from wslax.symmetry.find import ends

POLICIES = ("exact", "reset")

# State type to {field: how it scales with the gradient}. Adamax shares Adam's type, with a nu of
# power 1: nothing in its state tells the two apart.
MOMENTS: dict[type, dict[str, int]] = {
    optax.ScaleByAdamState: {"mu": 1, "nu": 2},
    optax.ScaleByAmsgradState: {"mu": 1, "nu": 2, "nu_max": 2},
    optax.ScaleByLionState: {"mu": 1},
    optax.ScaleByRmsState: {"nu": 2},
    optax.TraceState: {"trace": 1},
    optax.EmaState: {"ema": 1},
    optax.MultiStepsState: {"acc_grads": 1},
}
# What these put out no longer scales with the gradient, so neither does an accumulator after them.
_NORMALISING = (
    optax.ScaleByAdamState,
    optax.ScaleByAmsgradState,
    optax.ScaleByLionState,
    optax.ScaleByRmsState,
)
_ACCUMULATING = (optax.TraceState, optax.EmaState)


class _Masked:
    """Stands for an `optax.MaskedNode` as a leaf, so that it keeps its name."""


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _moment(values: Any, moves: Moves, power: int, policy: str) -> Any:
    leaves = jax.tree.map(lambda x: _Masked() if _is_masked(x) else x, values, is_leaf=_is_masked)
    if all(isinstance(leaf, _Masked) for leaf in jax.tree.leaves(leaves)):
        return values
    grown = moves.carry(leaves, gradient=power)
    if policy == "reset":
        grown = jax.tree.map(lambda x: x if isinstance(x, _Masked) else _zeros(x), grown)
    return jax.tree.map(lambda x: optax.MaskedNode() if isinstance(x, _Masked) else x, grown)


def _zeros(leaf: Any) -> Any:
    return tree.cast_like(jnp.zeros(leaf.shape, leaf.dtype), leaf)


def _refuse(node: Any, names: frozenset[str], owner: str) -> None:
    """Raise if a part of the state that no table knows holds a value per leaf that changes."""
    wanted = names | {name.partition("/")[2] for name in names}
    if not hasattr(node, "shape"):
        for name in tree.leaf_names(node):
            if not wanted.isdisjoint(ends(name)):
                known = ", ".join(sorted(t.__name__ for t in MOMENTS))
                raise WeightSpaceError(
                    f"{name}: {owner} holds values for this leaf, and how they scale with the "
                    f"gradient is not known (known: {known}); start afresh with "
                    "`optimizer.init(edit.apply(params))`"
                )


def _named(state: Any, moves: Moves, policy: str, normalised: bool) -> Any:
    """A NamedTuple of Optax: its moments by the table, its other fields on their own."""
    powers = MOMENTS.get(type(state), {})
    fields = {}
    for field, value in zip(state._fields, state, strict=True):
        if field in powers:
            power = 0 if normalised and isinstance(state, _ACCUMULATING) else powers[field]
            fields[field] = _moment(value, moves, power, policy)
        elif powers and field == "count" and policy == "reset":
            fields[field] = _zeros(value)
        else:
            owner = f"{type(state).__name__}.{field}"
            fields[field], normalised = _walk(value, moves, policy, normalised, owner)
    return type(state)(**fields), normalised or isinstance(state, _NORMALISING)


def _walk(state: Any, moves: Moves, policy: str, normalised: bool, owner: str) -> tuple[Any, bool]:
    """A state, and whether what comes after it in the chain is free of the gradient's scale."""
    if hasattr(state, "_fields"):
        return _named(state, moves, policy, normalised)
    if isinstance(state, (tuple, list)):
        parts = []
        for part in state:
            new, normalised = _walk(part, moves, policy, normalised, owner)
            parts.append(new)
        return type(state)(parts), normalised
    if isinstance(state, dict) and any(map(_holds_states, state.values())):
        new = {k: _walk(v, moves, policy, normalised, owner)[0] for k, v in state.items()}
        return new, normalised
    _refuse(state, moves.names, owner)
    return state, normalised


def _holds_states(node: Any) -> bool:
    return isinstance(node, tuple)


def grow_state(state: Any, moves: Moves, policy: str = "exact") -> Any:
    r"""An Optax state of the narrow model as one of the wide model.

    Fields that hold moments are found by the type of their state (`MOMENTS`), at any depth of
    `chain`, `masked`, `multi_transform`, `inject_hyperparams` and `MultiSteps`. Counts, schedules
    and hyper-parameters pass unchanged.

    With \(c\) copies of a unit:

    - `"exact"`: what the state would hold had the wide model seen the same batches. Incoming
      \(m / c\) and \(v / c^2\), outgoing \(m\) and \(v\) as they are: the moments of the wide
      model's own gradients.
    - `"reset"`: zero moments, and a zero step count in the states that own them, as after
      `optimizer.init`; schedules go on. Warm the learning rate up again.

    A trace or average that stands after Adam, AMSGrad, Lion or RMSProp in a chain accumulates
    updates that no longer scale with the gradient: it is copied without a factor.

    Args:
      state: the state of any Optax transformation over the parameters or a collection of them.
      moves: the edit.
      policy: one of `POLICIES`.

    Returns:
      The state, of the same types.

    Raises:
      WeightSpaceError: for an unknown policy, or a state of a type that is not known.
    """
    if policy not in POLICIES:
        raise WeightSpaceError(f"policy {policy!r} is unknown.{did_you_mean(policy, POLICIES)}")
    return _walk(state, moves, policy, False, type(state).__name__)[0]
