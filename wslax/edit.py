"""`Edit`: one change of one model, and the same change of everything shaped like it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from wslax.errors import WeightSpaceError
from wslax.typing import Params


class Edit(NamedTuple):
    """A change of a model as pure functions.

    Attributes:
      apply: `params -> params`; also right for EMA copies and statistics trees. Traceable, so it
        goes under `jax.jit`, and under `jax.vmap` over a population.
      optimizer_state: `(state, policy=...) -> state`: the same map for an Optax state.
      spec: `tree of ShapeDtypeStruct -> tree of ShapeDtypeStruct`: plans the edit without data.
      groups: the symmetry groups after the edit, or None where it has none.

    Example:
        >>> import jax, wslax as ws
        >>> double = ws.edit.from_map(lambda p: jax.tree.map(lambda x: 2 * x, p))
        >>> ws.chain(double, double).apply({"w": 1.0})
        {'w': 4.0}
    """

    apply: Callable[[Params], Params]
    optimizer_state: Callable[..., Any]
    spec: Callable[[Params], Params]
    groups: Any = None


def _no_state(state: Any, policy: str = "reset") -> Any:
    raise WeightSpaceError(
        "this edit has no map for optimizer states; start afresh with `optimizer.init(new_params)`"
    )


def from_map(
    apply: Callable[[Params], Params],
    optimizer_state: Callable[..., Any] = _no_state,
    groups: Any = None,
) -> Edit:
    """An `Edit` from its `apply`; the spec is `apply` under `jax.eval_shape`.

    Args:
      apply: a traceable `params -> params`.
      optimizer_state: the map for Optax states; without one, using it is an error that says what
        to do instead.
      groups: the symmetry groups after the edit.

    Returns:
      The edit.

    Example:
        >>> edit = from_map(lambda params: {"w": params["w"][:2]})
        >>> import jax
        >>> edit.spec({"w": jax.ShapeDtypeStruct((5,), "float32")})
        {'w': ShapeDtypeStruct(shape=(2,), dtype=float32)}
    """
    return Edit(apply, optimizer_state, lambda spec: jax.eval_shape(apply, spec), groups)


def chain(*edits: Edit) -> Edit:
    """Compose edits, first applied first, into one.

    Args:
      *edits: at least one; each made for the model that the one before it leaves.

    Returns:
      An edit of the same type; its groups are the last edit's. A `policy` goes to every edit.

    Raises:
      WeightSpaceError: if there is none.

    Example:
        >>> import wslax as ws
        >>> add = ws.edit.from_map(lambda p: {"w": p["w"] + 1})
        >>> times = ws.edit.from_map(lambda p: {"w": p["w"] * 3})
        >>> ws.chain(add, times).apply({"w": 1})
        {'w': 6}
    """
    if not edits:
        raise WeightSpaceError("chain() needs at least one edit")

    def composed(field: str) -> Callable[..., Any]:
        def run(tree: Any, **options: Any) -> Any:
            for edit in edits:
                tree = getattr(edit, field)(tree, **options)
            return tree

        return run

    return Edit(composed("apply"), composed("optimizer_state"), composed("spec"), edits[-1].groups)
