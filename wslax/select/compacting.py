"""Selected weights as an adapter: what trains is `[k]` a leaf, for any optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wslax import tree
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.select.following import followed
from wslax.select.places import carried, gathered, places, put
from wslax.trace import Sparse
from wslax.typing import Mask, Params


def _part(tree_: Params, fixed: Any) -> dict[str, Any]:
    named = tree.named_leaves(tree_)
    for name in fixed:
        if name not in named:
            raise WeightSpaceError(f"weights of {name!r} are selected, which the model lacks")
    return named


def _counted(name: str, leaf: Any, mask: Any) -> int:
    if isinstance(mask, jax.core.Tracer):
        raise WeightSpaceError(
            f"{name}: the number of selected weights fixes the program, so the mask is no traced "
            "one; make the adapter outside of jit, and `refresh` inside"
        )
    if jnp.shape(mask) != jnp.shape(leaf):
        raise WeightSpaceError(f"{name}: the mask is {tree.aval(mask)}, the leaf {tree.aval(leaf)}")
    count = int(np.sum(mask))
    if count and not tree.is_float(leaf):
        raise WeightSpaceError(f"{name}: expected floats to select from, got {tree.aval(leaf)}")
    return count


def _check(mask: Mask, params: Params, train: Any, fixed: Any) -> None:
    """Places in a leaf of another shape, and values at other places, would be written as well."""
    named, masks = _part(params, fixed), _part(mask, fixed)
    for name, part in fixed.items():
        leaf, shape = named[name], jnp.shape(masks[name])
        if jnp.shape(leaf) != shape:
            raise WeightSpaceError(
                f"{name}: places are of a leaf {list(shape)}, the model has {tree.aval(leaf)}"
            )
        count = part["index"].shape
        if name not in train or jnp.shape(train[name]["values"]) != count:
            got = tree.aval(train[name]["values"]) if name in train else "none"
            raise WeightSpaceError(f"{name}: expected values {list(count)}, one a place, got {got}")


def values_at(params: Params, fixed: Any) -> Any:
    """Values of a tree at selected places, as an adapter of `compact` trains them.

    Of gradients, inside `jit`, it leaves the dense ones to be freed leaf by leaf, each as soon as
    its backward step is done.

    Args:
      params: parameters, or gradients or updates like them.
      fixed: the adapter's fixed part.

    Returns:
      `{name: {"values": [k]}}`, float32 (float64 of float64).

    Raises:
      WeightSpaceError: if a leaf is missing.

    Example:
        >>> fixed = {"w": {"index": jnp.array([1, 3])}}
        >>> values_at({"w": jnp.array([[5.0, 6.0], [7.0, 8.0]])}, fixed)
        {'w': {'values': Array([6., 8.], dtype=float32)}}
    """
    named = _part(params, fixed)
    return {
        name: {"values": gathered(named[name], part["index"]).astype(tree.wide(named[name]))}
        for name, part in fixed.items()
    }


def compact(mask: Mask) -> Adapter:
    r"""Train the weights of a mask alone, by any Optax transformation, with nothing else in it.

    `train` holds the chosen values themselves, `{"values": [k]}` a leaf, in float32: a master copy,
    so that steps below the rounding of a bfloat16 leaf add up. Weight decay shrinks the weights.
    `fixed` holds their places, `{"index": [k]}`. `apply` gives `trace.Sparse` leaves, `fuse` writes
    the values into their places.

    Differentiated by `train`, as in other adapters, a step holds a fused copy of the parameters.
    Without one, keep fused parameters alone, take the gradient of those and its `values_at` in one
    jitted function, and write the trained values in another that is given the parameters to reuse
    (`donate_argnums`), as in the example: no dense gradient then outlives its backward step. A new
    selection is made outside of the step, by `refresh`.

    Args:
      mask: a tree of bools like the parameters, as of `masks.top`; leaves without a true one stay
        out of the adapter.

    Returns:
      The adapter; `init` needs no key.

    Raises:
      WeightSpaceError: from `init`, if the mask is traced, does not fit or is true at what is no
        float, or nothing is selected; from the others, if the model lacks a leaf or has it in
        another shape, or there is not one value for each place.

    Example:
        >>> import jax, jax.numpy as jnp, optax, wslax as ws
        >>> params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.zeros(3)}
        >>> mask = ws.select.masks.top(ws.select.scores.magnitude(params), count=2)
        >>> adapter, sgd = compact(mask), optax.sgd(0.5)
        >>> train, fixed = adapter.init(None, params)
        >>> train
        {'w': {'values': Array([4., 5.], dtype=float32)}}
        >>> @jax.jit
        ... def step(params, train, state):
        ...     grads = ws.select.values_at(jax.grad(lambda p: p["w"].sum())(params), fixed)
        ...     updates, state = sgd.update(grads, state, train)
        ...     return optax.apply_updates(train, updates), state
        >>> write = jax.jit(adapter.fuse, donate_argnums=0)
        >>> train, state = step(params, train, sgd.init(train))
        >>> write(params, train, fixed)["w"].tolist()
        [[0.0, 1.0, 2.0], [3.0, 3.5, 4.5]]
    """

    def init(key: Any, params: Params) -> tuple[Any, Any]:
        tree.check_structure(mask, params, "the mask", "the parameters")
        rows = zip(tree.named_leaves(params).items(), jax.tree.leaves(mask), strict=True)
        counts = [(name, m, _counted(name, leaf, m)) for (name, leaf), m in rows]
        fixed = {name: {"index": places(jnp.asarray(m), k)} for name, m, k in counts if k}
        if not fixed:
            raise WeightSpaceError("the mask selects nothing")
        return values_at(params, fixed), fixed

    def changed(one: Any, params: Params, train: Any, fixed: Any) -> Params:
        _check(mask, params, train, fixed)

        def of(name: str, leaf: Any) -> Any:
            if name not in fixed:
                return leaf
            return one(leaf, fixed[name]["index"], train[name]["values"])

        return tree.map_named(of, params)

    def sparse(leaf: Any, at: Any, values: Any) -> Sparse:
        return Sparse(leaf, at, values - gathered(leaf, at).astype(values.dtype))

    def apply(params: Params, train: Any, fixed: Any) -> Params:
        return changed(sparse, params, train, fixed)

    def fuse(params: Params, train: Any, fixed: Any) -> Params:
        return changed(put, params, train, fixed)

    return Adapter(init, apply, fuse)


def refresh(
    optimizer: optax.GradientTransformation,
    params: Params,
    train: Any,
    fixed: Any,
    state: Any,
    mask: Mask,
) -> tuple[Any, Any, Any]:
    """An adapter of `compact` and its optimizer's state on a new selection of the same size.

    A weight that stays keeps its value and moments; a new one begins with that of `params` and as
    from `optimizer.init`; step counts go on. For a traced mask too.

    Args:
      optimizer: what `state` is of.
      params: fused parameters, `adapter.fuse(params, train, fixed)`, so that weights that leave
        keep what they learned.
      train: the adapter's trained part.
      fixed: its fixed part.
      state: the optimizer's state over `train`.
      mask: the new selection, as many weights in each leaf as before.

    Returns:
      `(train, fixed, state)`.

    Raises:
      WeightSpaceError: if a leaf is missing or of another shape, or a mask that is not traced
        selects another number.

    Example:
        >>> import jax.numpy as jnp, optax, wslax as ws
        >>> params = {"w": jnp.arange(4.0)}
        >>> adam = optax.adam(0.1)
        >>> adapter = compact({"w": jnp.array([True, True, False, False])})
        >>> train, fixed = adapter.init(None, params)
        >>> mask = {"w": jnp.array([False, True, False, True])}
        >>> train, fixed, state = refresh(adam, params, train, fixed, adam.init(train), mask)
        >>> train["w"]["values"].tolist(), fixed["w"]["index"].tolist()
        ([1.0, 3.0], [1, 3])
    """
    _check(mask, params, train, fixed)
    named, new = _part(mask, fixed), {}
    for name, part in fixed.items():
        count, found = part["index"].size, named[name]
        if not isinstance(found, jax.core.Tracer) and int(np.sum(found)) != count:
            raise WeightSpaceError(
                f"{name}: the new mask selects {int(np.sum(found))} weights, the adapter has "
                f"{count}; give the mask the same density, or begin with `compact(mask)`"
            )
        new[name] = {"index": places(jnp.asarray(found), count)}
    old_at, new_at = ({n: {"values": p["index"]} for n, p in f.items()} for f in (fixed, new))
    begun = jax.tree.map(carried, old_at, new_at, train, values_at(params, new))
    return begun, new, followed(state, optimizer.init(begun), old_at, new_at)
