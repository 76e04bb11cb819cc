r"""What merging functions share: which leaves they work on, and what becomes of the others."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import population as populations
from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.parameters import is_concrete

Leaves = dict[str, Any]


def _equal_in_all(stack: Any) -> bool:
    if jax.dtypes.issubdtype(stack.dtype, jax.dtypes.prng_key):
        stack = jax.random.key_data(stack)
    host = np.asarray(stack)
    return bool((host == host[0]).all())


def kept(name: str, stack: Any, base: Any) -> Any:
    """A leaf that is not merged: the base's, or what all members agree on.

    Example:
        >>> import numpy as np
        >>> int(kept("step", np.array([3, 3]), None))
        3
    """
    if base is not None:
        return base
    if not tree.is_float(stack) and is_concrete(stack) and not _equal_in_all(stack):
        raise WeightSpaceError(
            f"{name}: {stack.dtype} leaves are not averaged and the members differ; pass base= "
            "to keep the base's"
        )
    return stack[0]


def check_base(population: Any, base: Any) -> int:
    """The number of members; an error if there is none, or the base is unlike a member.

    Example:
        >>> import numpy as np
        >>> check_base({"w": np.zeros((3, 2))}, {"w": np.zeros(2)})
        3
    """
    count = populations.size(population)
    if base is not None:
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), population)
        tree.check_like(base, one, "base", "a member")
    return count


def check_coef(name: str, value: Any, count: int) -> None:
    """Raise unless a coefficient is a number, or one a member.

    Example:
        >>> check_coef("lam", 0.5, 3)
    """
    if np.shape(value) not in ((), (count,)):
        raise WeightSpaceError(
            f"{name}: expected a number or {count} numbers (one a member), got {tree.aval(value)}"
        )


def float_names(tree_: Any, where: Any) -> list[str]:
    """The names of the leaves of floats that `where` picks.

    Example:
        >>> import numpy as np
        >>> float_names({"w": np.zeros(2), "b": np.zeros(2), "step": np.int32(0)}, ["w", "step"])
        ['w']
    """
    named = tree.named_leaves(tree_)
    picks = tree.pick(tuple(named), where)
    return [
        n for (n, x), pick in zip(named.items(), picks, strict=True) if pick and tree.is_float(x)
    ]


def merge_leaves(
    fn: Callable[[Leaves, Leaves | None], Leaves], population: Any, base: Any, where: Any
) -> Any:
    """Merge the leaves of floats that `where` picks; the others are kept.

    Args:
      fn: `(stacks, bases) -> merged`, dicts by leaf name; bases is None without a base.
      population: N members.
      base: one member's tree, or None.
      where: globs.

    Returns:
      One member's tree, each leaf in its shape, dtype and weak type.

    Example:
        >>> import jax.numpy as jnp
        >>> mean = lambda stacks, bases: {name: x.mean(0) for name, x in stacks.items()}
        >>> merge_leaves(mean, {"w": jnp.array([1.0, 3.0])}, None, None)
        {'w': Array(2., dtype=float32)}
    """
    check_base(population, base)
    named, bases = tree.named_leaves(population), None if base is None else tree.named_leaves(base)
    mine = float_names(population, where)
    out = {n: kept(n, x, bases and bases[n]) for n, x in named.items() if n not in mine}
    merged = fn({n: named[n] for n in mine}, bases and {n: bases[n] for n in mine}) if mine else {}
    out |= {n: tree.cast_like(merged[n], jnp.asarray(named[n])) for n in mine}
    return jax.tree.unflatten(jax.tree.structure(population), [out[n] for n in named])


def task_vectors(stacks: Leaves, bases: Leaves) -> Leaves:
    r"""\(d_i = x_i - b\) in float32, or float64 for float64.

    Example:
        >>> import jax.numpy as jnp
        >>> task_vectors({"w": jnp.array([1.0, 3.0])}, {"w": jnp.array(1.0)})["w"].tolist()
        [0.0, 2.0]
    """
    return {
        n: x.astype(tree.wide(x)) - bases[n][None].astype(tree.wide(x)) for n, x in stacks.items()
    }


def add_merged(
    fn: Callable[..., Leaves],
    population: Any,
    base: Any,
    lam: Any,
    where: Any,
    *,
    static: tuple[Any, ...] = (),
    args: tuple[Any, ...] = (),
) -> Any:
    r"""\(b + \lambda F(d_1, \ldots, d_N)\), in one compiled call.

    Args:
      fn: F: `(task vectors, *static, *args) -> one vector a leaf`, dicts by leaf name. A function
        at module level: the compiled program belongs to it.
      population: N members.
      base: the model they came from.
      lam: \(\lambda\), a number or `wslax.by_leaf` of it.
      where: globs.
      static: hashable arguments of F.
      args: arrays for F.

    Example:
        >>> import jax.numpy as jnp
        >>> mean = lambda vectors: {name: d.mean(0) for name, d in vectors.items()}
        >>> add_merged(mean, {"w": jnp.array([1.0, 3.0])}, {"w": jnp.array(1.0)}, 0.5, None)
        {'w': Array(1.5, dtype=float32)}
    """
    names = tree.leaf_names(population)
    lams = dict(zip(names, tree.resolve(lam, names, "lam"), strict=True))
    for name, value in lams.items():
        if np.shape(value) != ():
            raise WeightSpaceError(f"{name}: lam: expected a number, got {tree.aval(value)}")

    def merged(stacks: Leaves, bases: Leaves | None) -> Leaves:
        return _added(fn, static, stacks, bases, {n: lams[n] for n in stacks}, args)

    if base is None:
        raise WeightSpaceError("base: expected the model that the members came from, got None")
    return merge_leaves(merged, population, base, where)


@functools.partial(jax.jit, static_argnames=("fn", "static"))
def _added(fn: Any, static: Any, stacks: Any, bases: Any, lams: Any, args: Any) -> Leaves:
    with jax.default_matmul_precision("float32"):
        vectors = fn(task_vectors(stacks, bases), *static, *args)

    def add(name: str, vector: Any) -> Any:
        base, lam = bases[name].astype(vector.dtype), jnp.asarray(lams[name], vector.dtype)
        return base + lam * vector

    return {name: add(name, vector) for name, vector in vectors.items()}
