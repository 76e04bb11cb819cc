"""Members that travel between devices: of a population spread over a mesh only chosen rows move.

Who wants which row is a vector of indices that every device holds, so all know the whole plan. For
each distance around the ring a loop of `ppermute` carries a few rows at a time, as often as the
device that wants most from that distance needs, and not at all where none does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.population.members import size
from wslax.population.offloading import offloaded
from wslax.typing import Array, Params

AXIS = "population"
ROWS, WHOLE = PartitionSpec(AXIS), PartitionSpec()


def devices() -> int:
    """Over how many devices the mesh in use spreads members: the size of its axis `population`.

    A mesh is in use inside `with jax.set_mesh(mesh):`. It is 1 without one, and inside a
    `shard_map` over that axis.

    Raises:
      WeightSpaceError: if the axis is explicit.

    Example:
        >>> import jax, wslax as ws
        >>> mesh = jax.make_mesh((1,), ("population",), axis_types=(jax.sharding.AxisType.Auto,))
        >>> with jax.set_mesh(mesh):
        ...     ws.population.devices()
        1
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or AXIS not in mesh.shape:
        return 1
    kind = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))[AXIS]
    if kind == AxisType.Explicit:
        raise WeightSpaceError(
            f"the mesh's axis {AXIS!r} is explicit; make it with "
            "axis_types=(jax.sharding.AxisType.Auto,) for each axis"
        )
    return 1 if kind == AxisType.Manual else mesh.shape[AXIS]


def local(fn: Callable[..., Any], specs: Any, out: Any = ROWS) -> Callable[..., Any]:
    """`fn` on each device's own rows; other axes of the mesh stay the compiler's.

    Without a mesh in use it is `fn` itself.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> mesh = jax.make_mesh((1,), ("population",), axis_types=(AxisType.Auto,))
        >>> with jax.set_mesh(mesh):
        ...     local(lambda x: x.sum(keepdims=True), ROWS)(jnp.ones(3))
        Array([3.], dtype=float32)
    """
    if devices() == 1:
        return fn
    mapped = jax.shard_map(fn, in_specs=specs, out_specs=out, axis_names={AXIS}, check_vma=False)
    return jax.jit(mapped)


def everywhere(x: Array) -> Array:
    """A small array, whole on each device of the mesh in use.

    Example:
        >>> import jax.numpy as jnp
        >>> everywhere(jnp.ones(2)).shape
        (2,)
    """
    return jax.lax.with_sharding_constraint(x, WHOLE) if devices() > 1 else x


def fetch(into: Params, population: Params, index: Array) -> Params:
    r"""Rows of one population in place of rows of another, wherever they are.

    \[y_i = x_{k_i} \text{ where } k_i \ge 0, \text{ else } y_i\]

    Under a mesh with an axis `population` of D devices, both populations are spread over it in
    order, and rows go to the devices that want them, a few at a time: peak memory is both
    populations' shards and those rows. What moves in a device's link is `moved` rows at most, where
    a gather would bring it all N. Other axes of the mesh may carry other axes of the leaves.

    Args:
      into: \(y\), leaves `[M, ...]`.
      population: \(x\), leaves `[N, ...]` of the same kind: any dtype, JAX keys too.
      index: int32 `[M]`, the same on every device.

    Returns:
      Leaves `[M, ...]`, the same bits on any number of devices.

    Raises:
      WeightSpaceError: if D does not divide N or M.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.population.fetch(jnp.zeros(3), jnp.array([5.0, 6.0]), jnp.array([1, -1, 0]))
        Array([6., 0., 5.], dtype=float32)
    """
    index = jnp.asarray(index, jnp.int32)
    ring = devices()
    for what, n in {"index": index.shape[0], "population": size(population)}.items():
        if n % ring:
            raise WeightSpaceError(
                f"{what}: {n} rows do not divide over the {ring} devices of {AXIS!r}; pad them or "
                "use a smaller mesh"
            )
    if ring == 1:

        def here(y: Array, x: Array) -> Array:
            stays = (index < 0).reshape(-1, *(1,) * (y.ndim - 1))
            return tree.cast_like(jnp.where(stays, y, x[jnp.maximum(index, 0)]), y)

        return jax.tree.map(here, into, population)
    return _fetch(into, population, index)


@jax.jit
def _fetch(into: Params, population: Params, index: Array) -> Params:
    return local(partial(_arrive, devices()), (ROWS, ROWS, WHOLE))(into, population, index)


def row(population: Params, i: Array) -> Params:
    """One member, on every device.

    Example:
        >>> import jax.numpy as jnp
        >>> row({"w": jnp.array([1.0, 2.0])}, jnp.array(1))
        {'w': Array(2., dtype=float32)}
    """
    if offloaded(population):
        return jax.tree.map(lambda x: jnp.array(x[int(i)]), population)
    return _row(population, jnp.asarray(i, jnp.int32))


@jax.jit
def _row(population: Params, i: Array) -> Params:
    ring = devices()
    if ring == 1:
        return _rows(population, i)

    def to_all(population: Params, i: Array) -> Params:
        first = _rows(population, jnp.zeros(1, jnp.int32))
        return _rows(_arrive(ring, first, population, jnp.broadcast_to(i, (ring,))), 0)

    return local(to_all, (ROWS, WHOLE), WHOLE)(population, i)


def stride(wanted: int, ring: int) -> int:
    """Rows in a message, where each of `ring` devices wants `wanted`: half of an even share.

    Example:
        >>> stride(52, 4)
        6
    """
    return max(1, wanted // (2 * ring))


def moved(index: Any, n: int, ring: int) -> int:
    """How many rows `fetch` sends through each device's links, filling up of messages included.

    Args:
      index: `[M]`, as for `fetch`; concrete.
      n: rows of the population.
      ring: number of devices.

    Example:
        >>> moved([0, 1, 2, 3], 4, 2), moved([2, 3, 0, 1], 4, 2)
        (0, 2)
    """
    wanted = jnp.asarray(index).reshape(ring, -1)
    most = stride(wanted.shape[1], ring)
    trips = [_trips(_wants(wanted, n // ring, s, ring), most) for s in range(1, ring)]
    return most * sum(map(int, trips))


def _wants(wanted: Array, held: int, distance: Any, ring: int) -> Array:
    """Which slots `[ring, slots]` of each device want a row from so far up the ring."""
    source = (jnp.arange(ring, dtype=jnp.int32) + distance) % ring
    return (wanted >= 0) & (wanted // held == source[:, None])


def _trips(wants: Array, most: int) -> Array:
    return -(-wants.sum(1, dtype=jnp.int32).max() // most)


def _rows(population: Params, index: Any) -> Params:
    return jax.tree.map(lambda x: x[index], population)


def _put(into: Params, slots: Array, rows: Params) -> Params:
    """Rows into slots; slots past the end are none."""
    put = lambda x, new: tree.cast_like(x.at[slots].set(new, mode="drop"), x)
    return jax.tree.map(put, into, rows)


def _arrive(ring: int, into: Params, population: Params, index: Array) -> Params:
    """`fetch` on one device: its shards, and what all devices want."""
    me = jax.lax.axis_index(AXIS)
    wanted = index.reshape(ring, -1)
    slots, held = wanted.shape[1], size(population)
    most = stride(slots, ring)
    room = -(-slots // most) * most

    def way(distance: int) -> Callable[[Params], Params]:
        to = [(d, (d - distance) % ring) for d in range(ring)]
        return lambda rows: jax.tree.map(lambda x: jax.lax.ppermute(x, AXIS, to), rows)

    ways = [lambda rows: rows, *map(way, range(1, ring))]

    def across(distance: Array, into: Params) -> Params:
        wants = _wants(wanted, held, distance, ring)
        receiver = (me - distance) % ring
        places = lambda d: jnp.nonzero(wants[d], size=room, fill_value=slots)[0]
        arriving = places(me)
        leaving = wanted[receiver].at[places(receiver)].get(mode="fill", fill_value=0) - me * held

        def step(t: Array, into: Params) -> Params:
            part = lambda x: jax.lax.dynamic_slice_in_dim(x, t * most, most)
            rows = _rows(population, jnp.clip(part(leaving), 0, held - 1))
            # A branch a distance holds the messages alone, so that programs stay small.
            return _put(into, part(arriving), jax.lax.switch(distance, ways, rows))

        return jax.lax.fori_loop(0, _trips(wants, most), step, into)

    return jax.lax.fori_loop(0, ring, across, into)
