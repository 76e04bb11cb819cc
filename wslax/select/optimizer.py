"""LIFT: an Optax transformation that trains the principal weights and keeps state for them only."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.globs import hashable
from wslax.select.principal import Chosen, chosen, leaf_masks, static_number
from wslax.select.state import LiftState, Selection, gathered, spread, total
from wslax.typing import Params, Where


@jax.custom_batching.custom_vmap
def _any(due: Any) -> Any:
    return due


@_any.def_vmap
def _any_of_all(size: int, batched: Any, due: Any) -> tuple[Any, bool]:
    # Members refresh in step: one scalar for all keeps `cond` a branch under vmap, and under any
    # further vmap around it.
    return _any(jnp.any(due)), False


def _each(fn: Any, found: list[Chosen | None], *trees: Any) -> Any:
    """`fn(what, *leaves)` of the leaves that are selected from, None in place of the others."""
    structure = jax.tree.structure(trees[0])
    columns = [structure.flatten_up_to(t) for t in trees]
    rows = zip(found, *columns, strict=True)
    return structure.unflatten([None if row[0] is None else fn(*row) for row in rows])


def _indices(found: list[Chosen | None], params: Params) -> Any:
    leaves, structure = jax.tree.flatten(params)

    def places(what: Chosen | None, leaf: Any, mask: Any) -> Any:
        if what is None:
            return None
        return jnp.nonzero(mask.reshape(-1), size=total(what, leaf))[0].astype(jnp.int32)

    rows = zip(found, leaves, leaf_masks(leaves, found, 0), strict=True)
    return structure.unflatten([places(*row) for row in rows])


def _compact(what: Chosen, leaf: Any, indices: Any) -> Any:
    return gathered(leaf, indices).astype(tree.wide(leaf))


def _carried(what: Chosen, leaf: Any, old: Any, new: Any, moment: Any) -> Any:
    """A moment on the new selection: kept where a weight stays, 0 where it is new."""
    if moment.ndim == 0:
        return moment
    return gathered(spread(old, moment, leaf.shape), new)


def _check_inner(state: Any, compact: Any) -> None:
    """Every array of the state must be a scalar or belong to one compact leaf."""

    def fits(subtree: Any) -> Any:
        return jax.tree.map(
            lambda leaf, mine: leaf.ndim == 0 or leaf.shape == mine.shape, subtree, compact
        )

    def scalar(leaf: Any) -> bool:
        return jnp.ndim(leaf) == 0

    mapped = tree.map_like(fits, state, compact)
    verdicts = jax.tree.map(lambda x: x if isinstance(x, bool) else scalar(x), mapped)
    for name, fine in tree.named_leaves(verdicts).items():
        if not fine:
            leaf = tree.named_leaves(state)[name]
            raise WeightSpaceError(
                f"lift: the inner state {name} is {tree.aval(leaf)}, which is neither a scalar nor "
                "a vector over the selected weights, so it cannot follow a new selection; use an "
                "inner transformation that treats weights one by one, such as optax.scale_by_adam"
            )


def _check_update(found: list[Chosen | None], updates: Params, params: Params, state: Any) -> None:
    """Shapes that do not fit would be read out of bounds."""
    tree.check_structure(updates, params, "updates", "params")
    named = tree.named_leaves(params)
    for (name, leaf), update in zip(named.items(), jax.tree.leaves(updates), strict=True):
        if jnp.shape(update) != jnp.shape(leaf):
            raise WeightSpaceError(
                f"{name}: the update is {tree.aval(update)}, the parameter {tree.aval(leaf)}"
            )
    selected = _each(total, found, params)
    tree.check_structure(state.indices, selected, "the state's indices", "the selection")
    rows = tree.named_leaves(selected).items(), jax.tree.leaves(state.indices)
    for (name, count), indices in zip(*rows, strict=True):
        if indices.shape != (count,):
            raise WeightSpaceError(
                f"{name}: the state is of {indices.size} selected weights, this lift selects "
                f"{count}; begin with its own `init(params)`"
            )


def lift(
    inner: optax.GradientTransformation,
    *,
    rank: Any,
    density: Any,
    refresh_every: int,
    where: Where = None,
) -> optax.GradientTransformation:
    r"""Train only the principal weights, with optimizer state for them alone (LIFT).

    The selection is `principal_mask` of the parameters at updates number 0, `refresh_every`,
    `2 * refresh_every`, ...; `init` only allocates. Gradients of selected weights go to
    `inner` as one float32 vector `[k]` a leaf, with the parameters' values beside them (for weight
    decay); what it returns is put in their places. All other updates are 0, also those of leaves
    that are not selected from, so the whole of the rest is frozen.

    At a new selection a weight that stays keeps its moments, a new one begins with 0, and step
    counts go on, as in the authors' code. With Adam at density 5% the state is about 7.5% of
    Adam's: two moments and an index a weight. With \(\beta_2 = 0.999\) a new weight's first step
    is long, \((1-\beta_1)/\sqrt{1-\beta_2} \approx 3\) learning rates; the authors use 0.95.

    The state follows an `Edit` that grows the model (`edit.optimizer_state`): it selects as many
    weights as this `lift` does in the grown leaf, first those that were, at their new places, then
    their copies, with the moments of the edit's policy: were one of \(c\) copies trained alone, the
    unit would move by a \(c\)-th of what the old one did. With `"exact"` moments Adam moves each
    copy of an outgoing weight as far as the old one, as it does without `lift`. Where
    copies are too few for the number to select, places stay empty until the next
    selection, and where they are too many, the last ones wait for it.

    Under `vmap` over members, nested ones too, the selection is computed only in steps in which
    some member is due.

    Args:
      inner: an Optax transformation that treats weights one by one. What it learns of shapes is
        `[k]`.
      rank: as in `principal_mask`.
      density: as in `principal_mask`.
      refresh_every: updates between selections, at least 1; the authors use 10 to 2000.
      where: globs of the leaves to select from; by default all that are matrices of floats.

    Returns:
      A gradient transformation; `update` needs `params`.

    Raises:
      WeightSpaceError: as `principal_mask`; if `refresh_every` is no integer of at least 1; from
        `init`, if the inner state is not made of scalars and vectors over the selected weights;
        from `update`, if `params` is missing, or updates, parameters and state do not fit.

    References:
      Liu et al. 2025, arXiv:2506.00772, section 4.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> params = {"kernel": jnp.eye(10), "bias": jnp.zeros(10)}
        >>> adam = optax.scale_by_adam(b2=0.95)
        >>> optimizer = optax.chain(
        ...     ws.select.lift(adam, rank=2, density=0.05, refresh_every=400),
        ...     optax.scale_by_learning_rate(1e-4))
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        >>> [int((u != 0).sum()) for u in jax.tree.leaves(updates)]
        [0, 5]
    """
    every = static_number("lift", "refresh_every", refresh_every, int)
    if every < 1:
        raise WeightSpaceError(f"lift: refresh_every: expected at least 1, got {every}")

    def init(params: Params) -> Any:
        found = chosen(params, rank, density, where)
        # Places that stand for none yet: the first update selects, so `init` only allocates.
        indices = _each(lambda what, x: jnp.arange(total(what, x), dtype=jnp.int32), found, params)
        compact = _each(_compact, found, params, indices)
        state = inner.init(compact)
        _check_inner(state, compact)
        rows = zip(found, jax.tree.leaves(params), strict=True)
        shapes = tuple(() if what is None else leaf.shape for what, leaf in rows)
        by = Selection(rank, density, hashable(where), shapes)
        return LiftState(jnp.zeros((), jnp.int32), indices, state, by)

    def refreshed(found: Any, params: Params, due: Any, indices: Any, state: Any) -> Any:
        new = _indices(found, params)
        new = jax.tree.map(lambda a, b: jnp.where(due, a, b), new, indices)

        def carry(moments: Any) -> Any:
            return _each(_carried, found, params, indices, new, moments)

        return new, tree.map_like(carry, state, indices)

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        if params is None:
            raise WeightSpaceError(
                "lift: update needs the parameters: update(grads, state, params)"
            )
        found = chosen(params, rank, density, where)
        _check_update(found, updates, params, state)
        due = state.count % np.int32(min(every, np.iinfo(np.int32).max)) == 0
        indices, held = jax.lax.cond(
            _any(due),
            functools.partial(refreshed, found, params, due),
            lambda indices, held: (indices, held),
            state.indices, state.inner,
        )  # fmt: skip
        gradients = _each(_compact, found, updates, indices)
        weights = _each(_compact, found, params, indices)
        steps, held = inner.update(gradients, held, weights)

        def placed(what: Chosen | None, leaf: Any, at: Any, step: Any) -> Any:
            if what is None:
                return jnp.zeros_like(leaf)
            return spread(at, step.astype(leaf.dtype), leaf.shape)

        structure = jax.tree.structure(updates)
        columns = [structure.flatten_up_to(t) for t in (updates, indices, steps)]
        out = [placed(*row) for row in zip(found, *columns, strict=True)]
        count = optax.safe_increment(state.count)
        return structure.unflatten(out), LiftState(count, indices, held, state.selection)

    return optax.GradientTransformation(init, update)
