"""Coefficients of members or task vectors, learned by gradients: one loop for all who do it.

A *block* is what has coefficients of its own: a leaf, a layer of a leaf that stacks them, or a
random part of a matrix.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.leaves import Leaves, check_base, float_names, kept
from wslax.random import bits, key_words


class Learned(NamedTuple):
    """A merged model and how it came about.

    Attributes:
      params: the merged parameters.
      coef: the coefficients, `[N]`, or leaf name to `[N, *blocks]`.
      losses: `[T]`, before each step.
    """

    params: Any
    coef: Any
    losses: Any


class Mixing(NamedTuple):
    """What coefficients are multiplied with.

    Attributes:
      like: one member's tree; leaves that are not mixed stay as they are here.
      origin: leaf name to what is added, of the leaf's shape or 0.
      vectors: leaf name to `[N, *blocks, ...]`, in float32 or wider.
      order: leaf name to where each entry lies among the random parts, for leaves so divided.
    """

    like: Any
    origin: Leaves
    vectors: Leaves
    order: Leaves


def _weighed(coef: Any, vectors: Any) -> Any:
    r"""\(\sum_i c_{ik} v_{ik}\) for every block k."""
    fold = functools.partial(jnp.tensordot, axes=1, precision="highest")
    for _ in range(coef.ndim - 1):
        fold = jax.vmap(fold, (1, 1))
    return fold(coef, vectors)


def mixed(coef: Any, mixing: Mixing) -> Any:
    """The model of some coefficients, each leaf in its own dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zero = jnp.ones((2, 3)), {"w": jnp.zeros(3)}
        >>> mixed(jnp.array([1.0, 2.0]), Mixing(zero, zero, {"w": ones}, {}))
        {'w': Array([3., 3., 3.], dtype=float32)}
    """
    named = tree.named_leaves(mixing.like)
    for name, vectors in mixing.vectors.items():
        mine = coef[name] if isinstance(coef, dict) else coef
        found, like = _weighed(mine.astype(vectors.dtype), vectors), named[name]
        if name in mixing.order:
            found = found.reshape(-1).at[mixing.order[name]].get(unique_indices=True)
        found = mixing.origin[name] + found.reshape(jnp.shape(like))
        named[name] = tree.cast_like(found, jnp.asarray(like))
    return jax.tree.unflatten(jax.tree.structure(mixing.like), list(named.values()))


def of_members(population: Any, where: Any = None) -> Mixing:
    """Members themselves, to be averaged.

    Example:
        >>> import jax.numpy as jnp
        >>> mixed(jnp.array([0.5, 0.5]), of_members({"w": jnp.array([1.0, 3.0])}))
        {'w': Array(2., dtype=float32)}
    """
    check_base(population, None)
    named, mine = tree.named_leaves(population), float_names(population, where)
    like = {n: x[0] if n in mine else kept(n, x, None) for n, x in named.items()}
    vectors = {n: jnp.asarray(named[n], tree.wide(named[n])) for n in mine}
    origin = {n: jnp.zeros((), x.dtype) for n, x in vectors.items()}
    like = jax.tree.unflatten(jax.tree.structure(population), list(like.values()))
    return Mixing(like, origin, vectors, {})


def of_task_vectors(
    population: Any, base: Any, where: Any = None, change: Callable[[Leaves], Leaves] | None = None
) -> Mixing:
    """Task vectors, to be added to the base; `change` is made to them first.

    Example:
        >>> import jax.numpy as jnp
        >>> mixing = of_task_vectors({"w": jnp.array([1.0, 3.0])}, {"w": jnp.array(1.0)})
        >>> mixed(jnp.array([0.5, 0.5]), mixing)
        {'w': Array(2., dtype=float32)}
    """
    check_base(population, base)
    if base is None:
        raise WeightSpaceError("base: expected the model that the members came from, got None")
    named, bases = tree.named_leaves(population), tree.named_leaves(base)
    origin = {n: jnp.asarray(bases[n], tree.wide(bases[n])) for n in float_names(population, where)}
    vectors = {n: jnp.asarray(named[n], b.dtype) - b[None] for n, b in origin.items()}
    like = [named[n][0] if n in origin else b for n, b in bases.items()]
    like = jax.tree.unflatten(jax.tree.structure(base), like)
    return Mixing(like, origin, change(vectors) if change else vectors, {})


def parted(mixing: Mixing, parts: int, key: Any) -> Mixing:
    """Every matrix split at random into parts of equal size, the same for all members.

    Example:
        >>> import jax.numpy as jnp
        >>> zero = {"w": jnp.zeros((2, 2))}
        >>> mixing = Mixing(zero, zero, {"w": jnp.arange(12.0).reshape(3, 2, 2)}, {})
        >>> found = parted(mixing, 2, 0)
        >>> found.vectors["w"].shape, mixed({"w": jnp.ones((3, 2))}, found)["w"].tolist()
        ((3, 2, 2), [[12.0, 15.0], [18.0, 21.0]])
    """
    words, vectors, order = jnp.stack(key_words(key)), dict(mixing.vectors), {}
    for name, d in mixing.vectors.items():
        if d.ndim != 3:
            continue
        size = d[0].size
        shuffled = jnp.argsort(bits(words, f"{name}#parts", size, member=0, xp=jnp))
        flat = jnp.pad(d.reshape(len(d), size)[:, shuffled], ((0, 0), (0, -size % parts)))
        vectors[name] = flat.reshape(len(d), parts, -1)
        order[name] = jnp.argsort(shuffled)
    return mixing._replace(vectors=vectors, order=order)


def start_at(value: float, mixing: Mixing, stacked: Any = None, per_leaf: bool = True) -> Any:
    """Equal coefficients for all blocks.

    Args:
      value: of each.
      mixing: says which leaves there are.
      stacked: globs of leaves whose first axis runs over layers, each of them a block.
      per_leaf: whether leaves have coefficients of their own; otherwise they are `[N]`.

    Example:
        >>> import jax.numpy as jnp
        >>> zero = {"w": jnp.zeros((3, 2))}
        >>> start_at(0.3, Mixing(zero, zero, {"w": jnp.ones((2, 3, 2))}, {}), "w")["w"].shape
        (2, 3)
    """
    count = len(next(iter(mixing.vectors.values())))
    if not per_leaf:
        return jnp.full(count, value)
    names = tuple(mixing.vectors)
    picks = (False,) * len(names) if stacked is None else tree.pick(names, stacked)
    depth = {n: 1 + (pick or n in mixing.order) for n, pick in zip(names, picks, strict=True)}
    return {n: jnp.full(d.shape[: depth[n]], value) for n, d in mixing.vectors.items()}


def as_they_are(coef: Any) -> Any:
    """Coefficients without bounds.

    Example:
        >>> as_they_are(0.3)
        0.3
    """
    return coef


@functools.partial(jax.jit, static_argnames=("loss", "optimizer", "bound", "penalty"))
def learn(
    loss: Callable[[Any, Any], Any],
    optimizer: Any,
    start: Any,
    mixing: Mixing,
    batches: Any,
    bound: Callable[[Any], Any] = as_they_are,
    penalty: Callable[[Any], Any] | None = None,
) -> Learned:
    """Descend on `loss(model, batch)` in the coefficients, one step a batch, in one program.

    Args:
      loss: `(params, batch) -> number`.
      optimizer: an Optax transformation.
      start: coefficients to begin with, a tree for `bound`.
      mixing: what they are multiplied with.
      batches: a tree of arrays `[T, ...]`.
      bound: from what is learned to coefficients.
      penalty: of the coefficients, added to the loss.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> mixing = of_members({"w": jnp.array([0.0, 4.0])})
        >>> loss = lambda p, target: (p["w"] - target) ** 2
        >>> found = learn(loss, optax.sgd(0.02), jnp.zeros(2), mixing, jnp.full(50, 2.0))
        >>> found.coef.round(3).tolist(), round(float(found.params["w"]), 3)
        ([0.0, 0.5], 2.0)
    """
    import optax

    def value(held: Any, batch: Any) -> Any:
        coef = bound(held)
        found = loss(mixed(coef, mixing), batch)
        return found if penalty is None else found + penalty(coef)

    def step(held: Any, batch: Any) -> tuple[Any, Any]:
        coef, state = held
        found, slope = jax.value_and_grad(value)(coef, batch)
        updates, state = optimizer.update(slope, state, coef)
        return (optax.apply_updates(coef, updates), state), found

    (held, _), losses = jax.lax.scan(step, (start, optimizer.init(start)), batches)
    coef = bound(held)
    return Learned(mixed(coef, mixing), coef, losses)
