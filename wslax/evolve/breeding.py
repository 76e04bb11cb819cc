"""Children from chosen parents: first the rows are fetched, then each device makes its own."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.evolve.strategy import empty, fill
from wslax.population import size
from wslax.population.int8 import in_float32, quantized
from wslax.population.offloading import offloaded, stream, write
from wslax.population.ring import AXIS, ROWS, WHOLE, devices, fetch, local
from wslax.typing import Array, Params

# `(slots int32[chunk], rows [chunk, k, ...], shared) -> children [chunk, ...]`.
Make = Callable[[Array, Params, Any], Params]


def room(children: int) -> int:
    """Slots for so many children: filled up to a multiple of the devices of the mesh in use.

    What lies in the slots behind the children is evaluated with them and thrown away.

    Example:
        >>> room(5)
        5
    """
    ring = devices()
    return -(-children // ring) * ring


def breed(
    buffer: Params,
    start: int,
    parents: Array,
    chunk: int,
    make: Make,
    shared: Any,
    source: Params | None = None,
) -> Params:
    """Write children of chosen parents into slots of a buffer, a few at a time and in place.

    Under a mesh with an axis `population` each device makes the children of its own slots, and only
    their parents travel (`ws.population.fetch`). In an offloaded buffer each chunk is a program of
    its own, and the device holds no more than two. The bits do not depend on it.
    Quantized rows are float32 for `make`.

    Args:
      buffer: leaves `[C, ...]`.
      start: slot of the first child; static.
      parents: int32 `[children, k]`, rows of `source`.
      chunk: how many children a step; static.
      make: `(slots int32[chunk], rows [chunk, k, ...], shared) -> leaves [chunk, ...]`; what it
        gives for a slot must not depend on the chunk. Keep one function object: of an offloaded
        buffer the compiled program belongs to it.
      shared: all other arrays that `make` reads, whole on every device; what it closes over must be
        no tracer.
      source: leaves `[N, ...]`; default the buffer itself.

    Returns:
      The buffer with the children.

    Example:
        >>> import jax.numpy as jnp
        >>> parents = jnp.array([[0, 1], [1, 1]])
        >>> total = lambda slots, rows, more: rows.sum(1) + more
        >>> breed(jnp.zeros(3), 1, parents, 8, total, 0.5, jnp.array([1.0, 5.0]))
        Array([ 0. ,  6.5, 10.5], dtype=float32)
    """
    count, arity = parents.shape
    stop = start + count
    if count == 0:
        return buffer
    if quantized(buffer):
        make = in_float32(make)
    if offloaded(buffer):
        program = lambda at, rows: _made(make, start + at, rows, shared)
        held = buffer if source is None else source
        stream(program, held, parents, chunk, lambda at, born: write(buffer, start + at, born))
        return buffer
    if devices() == 1:

        def of_rows(slots: Array, buffer: Params) -> Params:
            chosen = parents[slots - start]
            held = buffer if source is None else source
            # A gather for each parent: of pairs gathered as one, XLA compiles slow loops for CPU.
            rows = lambda x: jnp.stack([x[chosen[:, j]] for j in range(arity)], 1)
            return make(slots, jax.tree.map(rows, held), shared)

        return fill(buffer, start, stop, chunk, of_rows)

    held = buffer if source is None else source
    slots = size(buffer)
    wanted = jnp.full((slots, arity), -1, jnp.int32).at[start:stop].set(parents).reshape(-1)
    rows = fetch(empty(held, slots * arity), held, wanted)

    def own(buffer: Params, rows: Params, shared: Any) -> Params:
        """The children of this device's slots; those outside of `start` to `stop` stay."""
        most = size(buffer)
        first = jax.lax.axis_index(AXIS) * most
        low, high = (jnp.clip(x - first, 0, most) for x in (start, stop))
        step = min(chunk, most)
        rows = jax.tree.map(lambda x: x.reshape(most, arity, *x.shape[1:]), rows)

        def some(i: Array, buffer: Params) -> Params:
            at = jnp.clip(low + i * step, 0, most - step)
            here = at + jnp.arange(step, dtype=jnp.int32)
            mine = (here >= low) & (here < high)
            part = lambda x: jax.lax.dynamic_slice_in_dim(x, at, step)

            def written(x: Array, new: Array) -> Array:
                kept = jnp.where(mine.reshape(-1, *(1,) * (x.ndim - 1)), new, part(x))
                return tree.cast_like(jax.lax.dynamic_update_slice_in_dim(x, kept, at, 0), x)

            born = make(jnp.clip(first + here, start, stop - 1), jax.tree.map(part, rows), shared)
            return jax.tree.map(written, buffer, born)

        return jax.lax.fori_loop(0, -(-(high - low) // step), some, buffer)

    return local(own, (ROWS, ROWS, WHOLE))(buffer, rows, shared)


@functools.partial(jax.jit, static_argnames="make")
def _made(make: Make, slots: Any, rows: Params, shared: Any) -> Params:
    return make(slots, rows, shared)
