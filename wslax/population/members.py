"""Populations as pytrees with a leading member axis: make, take apart, choose, spread.

Arguments are annotated `Params`: `size` names the leaf that lacks the member axis.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.population.int8 import dequantize
from wslax.population.offloading import offloaded, stream
from wslax.trace.leaves import is_factored, own
from wslax.typing import Array, Key, Params, Scalar


def size(population: Params) -> int:
    """The number of members.

    Args:
      population: every leaf has the leading member axis; of leaves kept as a base and a change
        (`trace.LowRank` and its like), the change.

    Returns:
      N, a Python int.

    Raises:
      WeightSpaceError: naming the leaf that has no axis or another length; if there is no member.

    Example:
        >>> import jax.numpy as jnp
        >>> size({"w": jnp.zeros((3, 2)), "b": jnp.zeros(3)})
        3
    """
    found: int | None = None
    each = jax.tree.map(own, population, is_leaf=is_factored)
    for name, leaf in tree.named_leaves(each).items():
        length = leaf.shape[0] if getattr(leaf, "ndim", 0) else None
        if length is None or (found is not None and length != found):
            wanted = "a leading member axis" if found is None else f"{found} members"
            raise WeightSpaceError(
                f"{name}: expected {wanted}, got {tree.aval(leaf)}; "
                "make a population with ws.population.stack([params, ...])"
            )
        found = length
    if not found:
        raise WeightSpaceError("a population needs at least one leaf and one member")
    return found


def row_spec(population: Params, axes: int = 1) -> Params:
    """What one member looks like: shapes without the leading axes, dtypes, weak types.

    Example:
        >>> import jax.numpy as jnp
        >>> row_spec({"w": jnp.zeros((3, 2))})
        {'w': ShapeDtypeStruct(shape=(2,), dtype=float32)}
    """

    def row(x: Any) -> Any:
        x = jax.typeof(x)
        return jax.ShapeDtypeStruct(x.shape[axes:], x.dtype, weak_type=x.weak_type)

    return jax.tree.map(row, population)


def stack(members: Sequence[Params]) -> Params:
    """One population from models of one architecture.

    Args:
      members: trees that agree in structure, shapes and dtypes. Integer, bool and key leaves are
        stacked like any other; `None` and empty nodes stay.

    Returns:
      The tree with leaves `[N, ...]`.

    Raises:
      WeightSpaceError: if there is none, a leaf is no array, or a member differs from the first;
        leaf and both shapes are named.

    Example:
        >>> import jax.numpy as jnp
        >>> stack([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}])["w"].shape
        (2, 2)
    """
    if not members:
        raise WeightSpaceError("stack() needs at least one member")
    for name, leaf in tree.named_leaves(members[0]).items():
        if not hasattr(leaf, "dtype") and not isinstance(leaf, (int, float, complex)):
            raise WeightSpaceError(
                f"{name}: expected an array, got {type(leaf).__name__}; of an Equinox module stack "
                "`eqx.filter(model, eqx.is_array)`"
            )
    for i, member_ in enumerate(members[1:], 1):
        tree.check_like(member_, members[0], f"member {i}", "member 0")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def unstack(population: Params) -> list[Params]:
    """The members as a list of trees; the inverse of `stack`.

    Example:
        >>> import jax.numpy as jnp
        >>> unstack({"w": jnp.array([1.0, 2.0])})
        [{'w': Array(1., dtype=float32)}, {'w': Array(2., dtype=float32)}]
    """
    return [jax.tree.map(lambda x, i=i: x[i], population) for i in range(size(population))]


def member(population: Params, index: Scalar) -> Params:
    """One member.

    Args:
      population: N members.
      index: which, from the end where negative; may be traced (then clipped to the range).

    Returns:
      Its tree.

    Raises:
      WeightSpaceError: if a concrete index is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> member({"w": jnp.array([1.0, 2.0])}, -1)
        {'w': Array(2., dtype=float32)}
    """
    _check_indices(index, size(population), 0)
    return jax.tree.map(lambda x: x[index], population)


def take(population: Params, indices: Array | Sequence[int]) -> Params:
    """Choose members by an index vector; repeats are allowed.

    Args:
      population: N members.
      indices: integers `[M]`, from the end where negative; may be traced (then clipped to the
        range).

    Returns:
      A population of M members.

    Raises:
      WeightSpaceError: if `indices` is no vector of integers, is empty, or a concrete index is out
        of range.

    Example:
        >>> import jax.numpy as jnp
        >>> take({"w": jnp.array([1.0, 2.0, 3.0])}, [2, 0])
        {'w': Array([3., 1.], dtype=float32)}
    """
    n = size(population)
    _check_indices(indices, n, 1)
    chosen = jnp.asarray(indices).astype(jnp.int32)
    chosen = jnp.where(chosen < 0, chosen + n, chosen)
    return jax.tree.map(lambda x: jnp.take(x, chosen, axis=0, mode="clip"), population)


def concat(populations: Sequence[Params]) -> Params:
    """One population of all members, in order.

    Args:
      populations: of one architecture.

    Returns:
      Their members behind each other.

    Raises:
      WeightSpaceError: if there is none, or they differ in more than the number of members.

    Example:
        >>> import jax.numpy as jnp
        >>> concat([{"w": jnp.array([1.0])}, {"w": jnp.array([2.0, 3.0])}])
        {'w': Array([1., 2., 3.], dtype=float32)}
    """
    if not populations:
        raise WeightSpaceError("concat() needs at least one population")
    shapes = [row_spec(population) for population in populations]
    for i, found in enumerate(shapes[1:], 1):
        tree.check_like(found, shapes[0], f"population {i}", "population 0")
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *populations)


def words(values: Any) -> Any:
    """A tree whose JAX keys are their words.

    Example:
        >>> import jax
        >>> words({"key": jax.random.key(3)})["key"].tolist()
        [0, 3]
    """
    return jax.tree.map(lambda x: jax.random.key_data(x) if tree.is_key(x) else x, values)


def as_key(key: Key) -> Any:
    """A JAX key from one, or from an integer seed.

    Example:
        >>> import jax
        >>> bool(as_key(3) == jax.random.key(3))
        True
    """
    return jax.random.key(int(key)) if isinstance(key, (int, np.integer)) else key


def init(init_fn: Callable[[Any], Params], key: Key, n: int) -> Params:
    """N members from one initialiser, in one vectorised program.

    Member i is `init_fn(jax.random.fold_in(key, i))`, whatever n.

    Args:
      init_fn: `key -> params`. Keep one function object: the compiled program belongs to it.
      key: a JAX key or an integer seed.
      n: how many members, at least 1.

    Returns:
      The population.

    Raises:
      WeightSpaceError: if n is below 1.

    Example:
        >>> import jax
        >>> init(lambda key: {"w": jax.random.normal(key, 2)}, jax.random.key(0), 3)["w"].shape
        (3, 2)
    """
    if n < 1:
        raise WeightSpaceError(f"init() needs n >= 1, got {n}")
    return _init(init_fn, as_key(key), n)


@partial(jax.jit, static_argnames=("init_fn", "n"))
def _init(init_fn: Callable[[Any], Params], key: Any, n: int) -> Params:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n, dtype=jnp.uint32))
    return jax.vmap(init_fn)(keys)


def evaluate(
    fn: Callable[..., Any], population: Params, *args: Any, chunk: int | None = None
) -> Any:
    """`fn(member, *args)` for every member, compiled; on each device for its own members.

    Args:
      fn: `(params, *args) -> outputs`, traceable. Keep one function object: the compiled program
        belongs to it.
      population: N members; offloaded ones go to the device chunk by chunk, and `fn` gets quantized
        ones in float32.
      *args: arrays shared by all members (data, labels, a key).
      chunk: how many members at a time; None for all at once. Memory is that of one chunk.
        Elementwise results are the same bits, matrix products agree within rounding. On a CPU
        `chunk=1` is the quickest for convolutions.

    Returns:
      `fn`'s outputs with a leading member axis.

    Raises:
      WeightSpaceError: if the chunk is below 1, or None where the population is offloaded; if the
        population has no member axis.

    Example:
        >>> import jax.numpy as jnp
        >>> evaluate(lambda p, x: p["w"] * x, {"w": jnp.array([1.0, 2.0])}, 10.0, chunk=1)
        Array([10., 20.], dtype=float32)
    """
    size(population)
    if chunk is not None and chunk < 1:
        raise WeightSpaceError(f"chunk: expected at least 1, got {chunk}")
    if offloaded(population):
        return _streamed(fn, population, args, chunk)

    return _evaluate(fn, population, args, chunk, axis_of(population))


@partial(jax.jit, static_argnames=("fn", "chunk", "spread"))
def _evaluate(
    fn: Callable[..., Any], population: Any, args: Any, chunk: int | None, spread: Any
) -> Any:
    def each(population: Any, args: Any) -> Any:
        one = lambda member: fn(dequantize(member), *args)
        if chunk is None:
            return jax.vmap(one)(population)
        return jax.lax.map(one, population, batch_size=min(chunk, size(population)))

    if spread is None:
        return each(population, args)
    mesh, axis = spread
    rows = PartitionSpec(axis)
    specs = (rows, PartitionSpec())
    each = jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)
    return each(population, args)


def _streamed(fn: Callable[..., Any], population: Any, args: Any, chunk: int | None) -> Any:
    """`evaluate` where the population is offloaded; what `fn` gives stays on the device."""
    if chunk is None:
        raise WeightSpaceError(
            "chunk: an offloaded population needs it: how many members are on the device at a time"
        )
    n, parts = size(population), []

    def take(first: int, found: Any) -> None:
        again = len(parts) * min(chunk, n) - first  # the last chunk starts early
        parts.append(jax.tree.map(lambda x: x[again:], found))

    stream(
        lambda _, rows: _evaluate(fn, rows, args, None, None), population, np.arange(n), chunk, take
    )
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def axis_of(population: Params) -> tuple[Any, Any] | None:
    """The mesh and its axis that carry the members, or None where they are on one device.

    Inside `jax.jit` only axes of explicit meshes are known.

    Example:
        >>> import jax.numpy as jnp
        >>> axis_of({"w": jnp.zeros((4, 2))}) is None
        True
    """
    for leaf in jax.tree.leaves(population):
        typed = jax.typeof(leaf) if isinstance(leaf, jax.core.Tracer) else leaf
        sharding = getattr(typed, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.spec and sharding.spec[0] is not None:
            return sharding.mesh, sharding.spec[0]
    return None


def shard(population: Params, mesh: Mesh, axis: str = "population") -> Params:
    """Spread the members over one axis of a mesh.

    Args:
      population: N members.
      mesh: a device mesh; its axes may be `Auto` or `Explicit`, say which with `axis_types=`.
      axis: the mesh axis that carries the members; others replicate.

    Returns:
      The same population, placed.

    Raises:
      WeightSpaceError: if the mesh has no such axis, or its size does not divide N.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> auto = (jax.sharding.AxisType.Auto,)
        >>> mesh = jax.make_mesh((1,), ("population",), axis_types=auto)
        >>> shard({"w": jnp.zeros((4, 2))}, mesh)["w"].sharding.spec
        P('population',)
    """
    n = size(population)
    if axis not in mesh.shape:
        raise WeightSpaceError(f"the mesh has axes {list(mesh.shape)}, not {axis!r}")
    if n % mesh.shape[axis]:
        raise WeightSpaceError(
            f"{n} members do not divide over the {mesh.shape[axis]} devices of {axis!r}; "
            "pad the population or use a smaller mesh"
        )
    spread = NamedSharding(mesh, PartitionSpec(axis))

    def put(leaf: Any) -> Any:
        if not tree.is_key(leaf):
            return jax.device_put(leaf, spread)
        # Over several processes JAX puts words, but no keys.
        words = jax.device_put(jax.random.key_data(leaf), spread)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))

    return jax.tree.map(put, population)


def _check_indices(indices: Any, n: int, ndim: int) -> None:
    found = indices if isinstance(indices, jax.core.Tracer) else np.asarray(indices)
    if found.dtype.kind not in "iu" or found.ndim != ndim or found.size == 0:
        wanted = ("one integer", "a vector of at least one integer")[ndim]
        raise WeightSpaceError(f"member indices: expected {wanted}, got {tree.aval(found)}")
    if isinstance(found, np.ndarray) and (found.min() < -n or found.max() >= n):
        wrong = found.max() if found.max() >= n else found.min()
        raise WeightSpaceError(f"member {wrong}: the population has {n}, 0 to {n - 1}")
