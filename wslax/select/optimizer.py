"""Optax transformations that train some weights and keep state for them alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wslax import random, tree
from wslax.errors import WeightSpaceError
from wslax.globs import hashable
from wslax.select import masks
from wslax.select.alike import each
from wslax.select.budget import Budget, Choice, at_least_one, checked, chosen
from wslax.select.following import followed
from wslax.select.places import gathered, places, put, total
from wslax.select.principal import Kind, kinds
from wslax.select.scores.weights import leaf_principal
from wslax.select.state import Selection, SparseState, known_to_flax
from wslax.symmetry.matrices import warn_left_out
from wslax.symmetry.types import Groups
from wslax.typing import Params, Where

Choices = list[Choice | None]


@jax.custom_batching.custom_vmap
def _any(due: Any) -> Any:
    return due


@_any.def_vmap
def _any_of_all(size: int, batched: Any, due: Any) -> tuple[Any, bool]:
    # Members refresh in step: one scalar for all keeps `cond` a branch under vmap, and under any
    # further vmap around it.
    return _any(jnp.any(due)), False


def _each(fn: Any, choices: Choices, *trees: Any) -> Any:
    """`fn(choice, *leaves)` of the leaves that are selected from, None in place of the others."""
    structure = jax.tree.structure(trees[0])
    columns = [structure.flatten_up_to(t) for t in trees]
    rows = zip(choices, *columns, strict=True)
    return structure.unflatten([None if row[0] is None else fn(*row) for row in rows])


def _values(choice: Choice, leaf: Any, at: Any) -> Any:
    return gathered(leaf, at).astype(tree.wide(leaf))


def _none_yet(choice: Choice, leaf: Any) -> Any:
    # The first update selects, so `init` only allocates.
    return leaf.size + jnp.arange(total(choice, leaf), dtype=jnp.int32)


def _check_inner(who: str, state: Any, compact: Any) -> None:
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
                f"{who}: the inner state {name} is {tree.aval(leaf)}, which is neither a scalar "
                "nor a vector over the selected weights, so it cannot follow a new selection; use "
                "an inner transformation that treats weights one by one, such as optax.adamw"
            )


def _check_shapes(this: str, trees: Params, params: Params) -> None:
    """Shapes that do not fit would be read out of bounds."""
    named = tree.named_leaves(params)
    for (name, leaf), other in zip(named.items(), jax.tree.leaves(trees), strict=True):
        if jnp.shape(other) != jnp.shape(leaf):
            raise WeightSpaceError(
                f"{name}: {this} is {tree.aval(other)}, the parameter {tree.aval(leaf)}"
            )


def _check_update(who: str, choices: Choices, updates: Params, params: Params, state: Any) -> None:
    tree.check_structure(updates, params, "updates", "params")
    _check_shapes("the update", updates, params)
    selected = _each(total, choices, params)
    tree.check_structure(state.indices, selected, "the state's indices", "the selection")
    rows = tree.named_leaves(selected).items(), jax.tree.leaves(state.indices)
    for (name, count), indices in zip(*rows, strict=True):
        if indices.shape != (count,):
            raise WeightSpaceError(
                f"{name}: the state is of {indices.size} selected weights, this {who} selects "
                f"{count}; begin with its own `init(params)`"
            )


def _selecting(
    who: str,
    inner: optax.GradientTransformation,
    select: Callable[[Params, Params, Choices], list[Any]],
    budget: Budget,
    refresh_every: int | None,
    where: Where,
    moments: str,
    groups: Groups | None,
) -> optax.GradientTransformationExtraArgs:
    """`sparse` of selected places in leaf order, None where nothing is selected."""
    budget, inner = checked(budget), optax.with_extra_args_support(inner)
    most = np.iinfo(np.int32).max
    every = most if refresh_every is None else at_least_one(who, "refresh_every", refresh_every)
    if moments not in ("carry", "reset"):
        raise WeightSpaceError(f"{who}: moments: expected 'carry' or 'reset', got {moments!r}")

    def init(params: Params) -> Any:
        known_to_flax()
        choices = chosen(params, budget, where, groups)
        warn_left_out(f"{who}: nothing is selected from", tree.named_leaves(params), where, groups)
        jax.eval_shape(lambda x: select(x, x, choices), params)
        indices = _each(_none_yet, choices, params)
        compact = _each(_values, choices, params, indices)
        state = inner.init(compact)
        _check_inner(who, state, compact)
        rows = zip(choices, jax.tree.leaves(params), strict=True)
        shapes = tuple(() if choice is None else leaf.shape for choice, leaf in rows)
        axes = tuple(None if choice is None else choice.axes for choice in choices)
        by = Selection(budget, hashable(where), shapes, axes)
        return SparseState(jnp.zeros((), jnp.int32), indices, state, by)

    def update(
        updates: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Any]:
        if params is None:
            raise WeightSpaceError(
                f"{who}: update needs the parameters: update(grads, state, params)"
            )
        choices = chosen(params, budget, where, groups)
        _check_update(who, choices, updates, params, state)
        due = state.count % np.int32(min(every, most)) == 0

        def refreshed(indices: Any, held: Any) -> Any:
            new = jax.tree.structure(params).unflatten(select(params, updates, choices))
            fresh = inner.init(_each(_values, choices, params, new))
            kept = followed(held, fresh, indices, new) if moments == "carry" else fresh
            return jax.tree.map(lambda a, b: jnp.where(due, a, b), (new, kept), (indices, held))

        indices, held = jax.lax.cond(
            _any(due), refreshed, lambda indices, held: (indices, held), state.indices, state.inner
        )
        gradients = _each(_values, choices, updates, indices)
        weights = _each(_values, choices, params, indices)
        steps, held = inner.update(gradients, held, weights, **extra)

        def placed(leaf: Any, at: Any, step: Any) -> Any:
            if at is None:
                return jnp.zeros_like(leaf)
            return put(jnp.zeros_like(leaf), at, step)

        structure = jax.tree.structure(updates)
        columns = [structure.flatten_up_to(t) for t in (updates, indices, steps)]
        out = [placed(*row) for row in zip(*columns, strict=True)]
        count = optax.safe_increment(state.count)
        return structure.unflatten(out), SparseState(count, indices, held, state.selection)

    return optax.GradientTransformationExtraArgs(init, update)


def _subtree(params: Params, choices: Choices) -> Params:
    return _each(lambda choice, leaf: leaf, choices, params)


def _highest(choice: Choice, scores: Any, *, sizes: bool = False) -> Any:
    return places(masks.of_matrices(scores, choice, sizes=sizes), total(choice, scores))


def _principal(kind: Kind, leaf: Any, key: Any) -> Any:
    return _highest(kind.choice, leaf_principal(kind.spectral, leaf, key), sizes=True)


def sparse(
    inner: optax.GradientTransformation,
    scores: Callable[[Params, Params], Params],
    *,
    density: Any = None,
    count: Any = None,
    lora_rank: Any = None,
    refresh_every: int | None = None,
    where: Where = None,
    moments: str = "carry",
    groups: Groups | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train only the weights of highest score, with optimizer state for them alone.

    Replaces `inner` where that stands, `optax.adamw(1e-4)` for one. Weights are selected by
    `scores(params, grads)` at updates number 0, `refresh_every`, `2 * refresh_every`, ...; `init`
    only allocates. In every matrix exactly k are, see `masks.top`. Their gradients go to `inner` as
    one float32 vector `[k]` a leaf, with the parameters' values beside them (for weight decay);
    what it returns is put in their places. All other updates are 0, also those of leaves that are
    not selected from, so the whole of the rest is frozen. With Adam at density 5% the state is
    about 7.5% of Adam's: two moments and an index a weight.

    At a new selection (`moments="carry"`, as in LIFT's code) a weight that stays keeps its moments,
    a new one begins as from `inner.init`, with 0, and step counts go on. A new weight's first step
    of Adam is then \((1-\beta_1)/\sqrt{1-\beta_2}\) learning rates: about 3 with
    \(\beta_2 = 0.999\), 0.45 with the 0.95 of LIFT's authors. `wslax.grow.scale_by_adam`, as
    inner, counts steps for each weight, and the first one is one learning rate. With
    `moments="reset"` all of `inner` begins anew, its step counts and schedules too.

    The state follows an `Edit` that grows the model (`edit.optimizer_state`): it selects as many
    weights as a selection does in the grown leaf, first those that were, at their new places, then
    their copies, with the moments of the edit's policy: were one of \(c\) copies trained alone, the
    unit would move by a \(c\)-th of what the old one did. With `"exact"` moments Adam moves each
    copy of an outgoing weight as far as the old one, as it does without a selection. Where
    copies are too few for the number to select, places stay empty until the next
    selection, and where they are too many, the last ones wait for it.

    Weights of half types lose small steps, as in Optax: of bfloat16 those below about 1/256 of a
    weight, most at the rates of fine-tuning. `master(inner)` keeps a float32 copy of the selected
    ones. Gradients of k batches add up inside,
    `optax.MultiSteps(inner, k).gradient_transformation()`: the sums are of the selected weights
    alone, where those of a `MultiSteps` around the whole are of all. Each batch counts for
    `refresh_every`, which is then a multiple of k.

    Under `vmap` over members, nested ones too, the selection is computed only in steps in which
    some member is due. A step that `optax.apply_if_finite` drops leaves the selection as it was,
    and one that was due is due again.

    Args:
      inner: an Optax transformation that treats weights one by one. What it learns of shapes is
        `[k]`.
      scores: `(params, grads) -> scores`, such as those of `wslax.select.scores`
        (`functools.partial` for their options). It gets the leaves that are selected from, None in
        place of the others, and this step's gradients.
      density: as in `masks.top`, for each matrix.
      count: as in `masks.top`.
      lora_rank: as in `masks.top`.
      refresh_every: updates between selections, at least 1; by default the first one stays.
      where: globs of the leaves to select from; by default all that are matrices of floats. Leave
        embeddings and heads out here.
      moments: `"carry"` or `"reset"`.
      groups: the model's symmetry, as in `principal_mask`. Without it leaves with two axes are
        selected from, and a warning names those with more, as the kernels of Flax's attention,
        which stay as they are.

    Returns:
      A gradient transformation; `update` needs `params`, and further arguments go to `inner`.

    Raises:
      WeightSpaceError: as `masks.top`; if `refresh_every` is no integer of at least 1; from
        `init`, if scores do not fit the parameters or the inner state is not made of scalars and
        vectors over the selected weights; from `update`, if `params` is missing, or updates,
        parameters and state do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> params = {"kernel": jnp.eye(10), "bias": jnp.zeros(10)}
        >>> optimizer = ws.select.sparse(
        ...     optax.adamw(1e-3), ws.select.scores.saliency, density=0.05, refresh_every=100)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        >>> [int((u != 0).sum()) for u in jax.tree.leaves(updates)]
        [0, 5]
    """

    def select(params: Params, grads: Params, choices: Choices) -> list[Any]:
        some = _subtree(params, choices)
        found = scores(some, _subtree(grads, choices))
        tree.check_structure(found, some, "the scores", "the selected leaves")
        _check_shapes("the score", found, some)
        return each(_highest, choices, jax.tree.structure(params).flatten_up_to(found))

    budget = Budget(density, count, lora_rank)
    return _selecting("sparse", inner, select, budget, refresh_every, where, moments, groups)


def lift(
    inner: optax.GradientTransformation,
    rank: Any,
    *,
    density: Any = None,
    count: Any = None,
    lora_rank: Any = None,
    refresh_every: int | None = 400,
    where: Where = None,
    moments: str = "carry",
    groups: Groups | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Train only the principal weights, with optimizer state for them alone (LIFT).

    `sparse` by `scores.principal`: the selection is `principal_mask` of the parameters. The paper
    finds it better than full fine-tuning on language models; on the small models of
    `benchmarks/papers/lift` a random selection (`sparse` by `scores.random`) learns and keeps as
    much, so try both.

    Args:
      inner: as in `sparse`.
      rank: as in `principal_mask`.
      density: as in `principal_mask`; the paper's 0.05, for instance.
      count: as in `principal_mask`.
      lora_rank: as in `principal_mask`; the budget of the authors' code.
      refresh_every: as in `sparse`; the authors use 10 to 2000, 400 for most models.
      where: as in `sparse`; the authors leave out head and embeddings.
      moments: as in `sparse`.
      groups: as in `sparse`.

    Returns:
      A gradient transformation; `update` needs `params`, and further arguments go to `inner`.

    Raises:
      WeightSpaceError: as `principal_mask` and `sparse`.

    References:
      Liu et al. 2025, arXiv:2506.00772, section 4.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> params = {"kernel": jnp.eye(10), "bias": jnp.zeros(10)}
        >>> optimizer = ws.select.lift(optax.adamw(1e-4, b2=0.95), rank=2, density=0.05)
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        >>> [int((u != 0).sum()) for u in jax.tree.leaves(updates)]
        [0, 5]
    """
    budget = Budget(density, count, lora_rank)

    def select(params: Params, grads: Params, choices: Choices) -> list[Any]:
        found = kinds(params, budget, rank, where, groups)
        return each(_principal, found, jax.tree.leaves(params), jnp.stack(random.key_words(0)))

    return _selecting("lift", inner, select, budget, refresh_every, where, moments, groups)
