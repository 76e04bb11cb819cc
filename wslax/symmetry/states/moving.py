"""Optax states through an edit: which fields hold which power of the gradient."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wslax import tree
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.symmetry.find import ends
from wslax.symmetry.states import moments
from wslax.symmetry.states.moments import MOMENTS, Stage
from wslax.symmetry.states.moves import Moves

POLICIES = ("exact", "trajectory", "zero_pad", "reset")


class _Masked:
    """Stands for an `optax.MaskedNode` as a leaf, so that it keeps its name."""

    def __init__(self, node: Any) -> None:
        self.node = node


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _carried(values: Any, moves: Moves, **options: Any) -> Any:
    """`moves.carry` of a tree of which parts may be masked out."""
    leaves = jax.tree.map(lambda x: _Masked(x) if _is_masked(x) else x, values, is_leaf=_is_masked)
    if all(isinstance(leaf, _Masked) for leaf in jax.tree.leaves(leaves)):
        return values
    grown = moves.carry(leaves, **options)
    return jax.tree.map(lambda x: x.node if isinstance(x, _Masked) else x, grown)


def _zeros(values: Any) -> Any:
    return jax.tree.map(lambda x: tree.cast_like(jnp.zeros(x.shape, x.dtype), x), values)


def _refuse_unknown(node: Any, names: frozenset[str], owner: str) -> None:
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


def _check_policy(state: Any, policy: str, stage: Stage) -> None:
    """Raise where a policy cannot do what it says for a state of `MOMENTS`."""
    name = type(state).__name__
    if policy == "trajectory" and isinstance(state, moments.FIXED_STEP) and not stage.before:
        raise WeightSpaceError(
            f"{name}: policy 'trajectory' would shorten the steps of copies, and no moment changes "
            "the length of a step of this optimizer; use 'exact'"
        )
    if policy == "zero_pad" and moments.one_count(state):
        raise WeightSpaceError(
            f"{name}: policy 'zero_pad' would multiply the first updates of new weights by up to "
            "(1 - b1**k) / sqrt(1 - b2**k), as one step count stands for old and new weights; "
            "train with `grow.scale_by_adam`, which counts for each weight, or use 'exact'"
        )
    if policy in ("zero_pad", "reset") and isinstance(state, moments.NONZERO_START):
        raise WeightSpaceError(
            f"{name}: policy {policy!r} begins with zeros, and this state begins with other values;"
            " use 'exact', or start afresh with `optimizer.init(edit.apply(params))`"
        )


def _of_some(state: Any, moves: Moves, policy: str, stage: Stage) -> Any:
    """A state that holds values of some entries alone, by way of whole leaves: `SparseState`."""
    selected, inner = state.dense()
    inner = _walk(inner, moves, policy, stage, f"{type(state).__name__}.inner")
    first = _carried(selected, moves, old_only=True)
    grown = state.compact(first, _carried(selected, moves), inner)
    return grown._replace(count=_zeros(grown.count)) if policy == "reset" else grown


def _named(state: Any, moves: Moves, policy: str, stage: Stage) -> Any:
    """A NamedTuple of Optax: its moments by the table, its other fields on their own."""
    known, copies = MOMENTS.get(type(state), {}), moments.WEIGHTS.get(type(state), ())
    if known:
        _check_policy(state, policy, stage)
    name, fields = type(state).__name__, {}
    # First what is refused: beside a state over other shapes stands often what makes them.
    for field in set(state._fields) - set(known) - set(copies):
        if not _has_parts(getattr(state, field)):
            _refuse_unknown(getattr(state, field), moves.names, f"{name}.{field}")
    for field, value in zip(state._fields, state, strict=True):
        if field in known:
            options = moments.powers(state, field, policy, stage)
            value = _carried(value, moves, old_only=policy == "zero_pad", **options)
            fields[field] = _zeros(value) if policy == "reset" else value
        elif field in copies:
            fields[field] = _carried(value, moves, weight=1)
        elif known and policy == "reset" and field in moments.COUNTS:
            fields[field] = _zeros(value)
        else:
            fields[field] = _walk(value, moves, policy, stage, f"{name}.{field}")
    return type(state)(**fields)


def _has_parts(node: Any) -> bool:
    """Whether a node of a state is made of states."""
    parts = node.values() if isinstance(node, dict) else [node]
    return any(isinstance(part, (tuple, list)) for part in parts)


def _walk(state: Any, moves: Moves, policy: str, stage: Stage, owner: str) -> Any:
    if hasattr(state, "dense"):
        return _of_some(state, moves, policy, stage)
    if hasattr(state, "_fields"):
        return _named(state, moves, policy, stage)
    if isinstance(state, (tuple, list)):
        normalising = [moments.normalises(part) for part in state]
        parts = []
        for i, part in enumerate(state):
            here = Stage(
                stage.after or any(normalising[:i]), stage.before or any(normalising[i + 1 :])
            )
            parts.append(_walk(part, moves, policy, here, owner))
        return type(state)(parts)
    if isinstance(state, dict) and _has_parts(state):
        return {k: _walk(part, moves, policy, stage, owner) for k, part in state.items()}
    _refuse_unknown(state, moves.names, owner)
    return state


def move_state(state: Any, moves: Moves, policy: str = "exact") -> Any:
    r"""An Optax state of the old model as one of the new model.

    Fields that hold moments are found by the type of their state (`MOMENTS`), at any depth of
    `chain`, `masked`, `multi_transform`, `inject_hyperparams`, `MultiSteps` and `select.lift`.
    Schedules and hyper-parameters pass unchanged, and so do step counts but for `"reset"`.

    Where the edit makes a weight \(w' = s\,w\), its gradient is \(g' = t\,g\): with \(c\) copies of
    a unit \(s = 1, t = 1/c\) at incoming weights and \(s = 1/c, t = 1\) at outgoing ones.

    - `"exact"`: what the state would hold had the new model seen the same batches: \(m' = t\,m\),
      \(v' = t^2 v\). Adam's steps do not scale with the gradient, so all \(c\) outgoing copies go
      as far as the old one did, together \(c\) times too far.
    - `"trajectory"`: the new model goes on as the old one would have. Where a step is normalised
      \(m' = t\,m\), \(v' = (t/s)^2 v\), so that it is \(s\) times the old one; this fades as
      new gradients replace \(v\), in about \(1/(1-\beta_2)\) steps. Where it is not (momentum
      SGD), or is accumulated after that, the accumulated step moves like the weight, \(m' = s\,m\);
      new gradients still come with \(t\). Copies that move alike learn nothing that the old model
      would not have.
    - `"zero_pad"`: as `"exact"` for old units and zero for all entries of new ones, copies too, in
      the step counts of `scale_by_adam` as well. A state with one step count and a second moment
      is refused.
    - `"reset"`: zero moments, and a zero step count in the states that own them, as after
      `optimizer.init`; schedules go on. Adam's first steps are then long everywhere: warm up for
      50 to 100 steps, with
      `optax.chain(optimizer, optax.scale_by_schedule(optax.linear_schedule(0, 1, 50)))`.

    Entries that no policy gives a value, as those of units that come from no old one, are zero.

    Args:
      state: the state of any Optax transformation over the parameters or a collection of them.
      moves: the edit.
      policy: one of `POLICIES`.

    Returns:
      The state, of the same types.

    Raises:
      WeightSpaceError: for an unknown policy, a state of a type that is not known, or one for which
        the policy cannot do what it says.
    """
    if policy not in POLICIES:
        raise WeightSpaceError(f"policy {policy!r} is unknown.{did_you_mean(policy, POLICIES)}")
    return _walk(state, moves, policy, Stage(False, False), type(state).__name__)
