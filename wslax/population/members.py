"""Populations as pytrees with a leading member axis: make, take apart, choose, spread."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.typing import Array, Key, Params, Population, Scalar


def size(population: Population) -> int:
    """The number of members.

    Args:
      population: every leaf has the leading member axis.

    Returns:
      N, a Python int.

    Raises:
      WeightSpaceError: naming the leaf that has no axis or another length.

    Example:
        >>> import jax.numpy as jnp
        >>> size({"w": jnp.zeros((3, 2)), "b": jnp.zeros(3)})
        3
    """
    found: int | None = None
    for name, leaf in tree.named_leaves(population).items():
        length = leaf.shape[0] if getattr(leaf, "ndim", 0) else None
        if length is None or (found is not None and length != found):
            wanted = "a leading member axis" if found is None else f"{found} members"
            raise WeightSpaceError(
                f"{name}: expected {wanted}, got {tree.aval(leaf)}; "
                "make a population with ws.population.stack([params, ...])"
            )
        found = length
    if found is None:
        raise WeightSpaceError("a population needs at least one leaf")
    return found


def stack(members: Sequence[Params]) -> Population:
    """One population from models of one architecture.

    Args:
      members: trees that agree in structure, shapes and dtypes. Integer, bool and key leaves are
        stacked like any other; `None` and empty nodes stay.

    Returns:
      The tree with leaves `[N, ...]`.

    Raises:
      WeightSpaceError: if there is none, or a member differs from the first; leaf and both shapes
        are named.

    Example:
        >>> import jax.numpy as jnp
        >>> stack([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}])["w"].shape
        (2, 2)
    """
    if not members:
        raise WeightSpaceError("stack() needs at least one member")
    for i, member_ in enumerate(members[1:], 1):
        tree.check_like(member_, members[0], f"member {i}", "member 0")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def unstack(population: Population) -> list[Params]:
    """The members as a list of trees; the inverse of `stack`.

    Example:
        >>> import jax.numpy as jnp
        >>> unstack({"w": jnp.array([1.0, 2.0])})
        [{'w': Array(1., dtype=float32)}, {'w': Array(2., dtype=float32)}]
    """
    return [jax.tree.map(lambda x, i=i: x[i], population) for i in range(size(population))]


def member(population: Population, index: Scalar) -> Params:
    """One member.

    Args:
      population: N members.
      index: which; may be traced.

    Returns:
      Its tree.

    Raises:
      WeightSpaceError: if a concrete index is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> member({"w": jnp.array([1.0, 2.0])}, -1)
        {'w': Array(2., dtype=float32)}
    """
    _check_indices(index, size(population))
    return jax.tree.map(lambda x: x[index], population)


def take(population: Population, indices: Array | Sequence[int]) -> Population:
    """Choose members by an index vector; repeats are allowed.

    Args:
      population: N members.
      indices: integers `[M]`; may be traced (then clipped to the range).

    Returns:
      A population of M members.

    Raises:
      WeightSpaceError: if a concrete index is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> take({"w": jnp.array([1.0, 2.0, 3.0])}, [2, 0])
        {'w': Array([3., 1.], dtype=float32)}
    """
    _check_indices(indices, size(population))
    chosen = jnp.asarray(indices)
    return jax.tree.map(lambda x: jnp.take(x, chosen, axis=0, mode="clip"), population)


def concat(populations: Sequence[Population]) -> Population:
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
    shapes = [jax.eval_shape(lambda p: jax.tree.map(lambda x: x[0], p), p) for p in populations]
    for i, found in enumerate(shapes[1:], 1):
        tree.check_like(found, shapes[0], f"population {i}", "population 0")
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *populations)


def init(init_fn: Callable[[Any], Params], key: Key, n: int) -> Population:
    """N members from one initialiser, in one vectorised program.

    Member i is `init_fn(jax.random.fold_in(key, i))`, whatever n.

    Args:
      init_fn: `key -> params`.
      key: a JAX key.
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
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n, dtype=jnp.uint32))
    return jax.vmap(init_fn)(keys)


def evaluate(
    fn: Callable[..., Any], population: Population, *args: Any, chunk: int | None = None
) -> Any:
    """`fn(member, *args)` for every member.

    Args:
      fn: `(params, *args) -> outputs`, traceable.
      population: N members.
      *args: shared by all members (data, labels, a key).
      chunk: how many members at a time; None for all at once. Results agree within rounding; memory
        is that of one chunk.

    Returns:
      `fn`'s outputs with a leading member axis.

    Raises:
      WeightSpaceError: if the chunk is below 1 or the population has no member axis.

    Example:
        >>> import jax.numpy as jnp
        >>> evaluate(lambda p, x: p["w"] * x, {"w": jnp.array([1.0, 2.0])}, 10.0, chunk=1)
        Array([10., 20.], dtype=float32)
    """
    n = size(population)
    if chunk is None:
        return jax.vmap(lambda p: fn(p, *args))(population)
    if chunk < 1:
        raise WeightSpaceError(f"chunk: expected at least 1, got {chunk}")
    return jax.lax.map(lambda p: fn(p, *args), population, batch_size=min(chunk, n))


def shard(population: Population, mesh: Mesh, axis: str = "population") -> Population:
    """Spread the members over one axis of a mesh.

    Args:
      population: N members.
      mesh: a device mesh; make it with `axis_types=(jax.sharding.AxisType.Auto,)`.
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
    return jax.device_put(population, NamedSharding(mesh, PartitionSpec(axis)))


def _check_indices(indices: Any, n: int) -> None:
    if isinstance(indices, jax.core.Tracer):
        return
    found = np.asarray(indices)
    if found.dtype.kind not in "iu" or found.size == 0:
        raise WeightSpaceError(f"expected integer member indices, got {indices!r}")
    if found.min() < -n or found.max() >= n:
        raise WeightSpaceError(f"member {found.max()} of a population of {n}")
