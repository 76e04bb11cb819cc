"""Run a merging method on pytrees, under `jax.numpy`."""

import functools
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import population as populations
from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.leaves import check_base, kept
from wslax.merge.method import (
    Across,
    Each,
    Gram,
    Kth,
    Leaf,
    Made,
    Member,
    Method,
    Scope,
    Total,
    matrix_of,
)
from wslax.merge.parameters import is_concrete, resolved
from wslax.numerics.threshold import kth_largest
from wslax.random import bits, key_words

UNROLLED = 8  # members up to which a fold is unrolled; beyond, one scan


def _each(rows: Any, fn: Callable[[Any], Any]) -> Any:
    """`fn` of every row, stacked."""
    count = rows["index"].shape[0]
    if count > UNROLLED:
        return jax.lax.map(fn, rows)
    found = [fn(jax.tree.map(lambda x, i=i: x[i], rows)) for i in range(count)]
    return jax.tree.map(lambda *row: jnp.stack(row), *found)


def _total(rows: Any, fn: Callable[[Any], Any]) -> Any:
    """The sum over the rows of `fn`, in their order."""
    count = rows["index"].shape[0]
    first, rest = (jax.tree.map(lambda x, s=s: x[s], rows) for s in (0, slice(1, None)))
    total = fn(first)
    if count > UNROLLED:

        def step(total: Any, row: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, fn(row)), None

        return jax.lax.scan(step, total, rest)[0]
    for i in range(count - 1):
        total = jax.tree.map(jnp.add, total, fn(jax.tree.map(lambda x, i=i: x[i], rest)))
    return total


def _repeat(times: int, step: Callable[[Any], Any], state: Any) -> Any:
    return jax.lax.scan(lambda state, _: (step(state), None), state, length=times)[0]


def _gram(vectors: Any, scope: Scope) -> Any:
    """`[N, N]` over whole leaves, or over an axis of matrices that is kept as 1."""
    if scope == "leaf":
        flat = vectors.reshape(vectors.shape[0], -1)
        return jnp.matmul(flat, flat.T, precision="highest")
    found = jnp.einsum(
        "irc,jrc->ijr" if scope == "row" else "irc,jrc->ijc", vectors, vectors, precision="highest"
    )
    return jnp.expand_dims(found, 3 if scope == "row" else 2)


def _flat_words(key: Any, name: str, member: Any, shape: tuple[int, ...]) -> Callable[[str], Any]:
    size = int(np.prod(shape))
    return lambda label: bits(key, f"{name}#{label}", size, member=member, xp=jnp).reshape(shape)


@functools.partial(jax.jit, static_argnames=("method", "name", "flags"))
def _merge_leaf(
    method: Method, name: str, flags: tuple[tuple[str, int], ...],
    stack: Any, base: Any, numbers: Any, counts: Any, ids: Any, key: Any,
) -> Any:  # fmt: skip
    """One leaf, merged. Compiled once for a method, shapes and dtype: numbers are arguments."""
    dtype, like = tree.wide(stack), stack
    scope = method.scope(dict(flags))
    shape = matrix_of(stack.shape[1:], scope)
    size = int(np.prod(shape))
    base = None if base is None else base.astype(dtype).reshape(shape)
    stack = stack.reshape(-1, *shape)
    numbers = {name: jnp.asarray(value).astype(dtype) for name, value in numbers.items()}
    per_member = {param.name for param in method.params if param.per == "member"}
    shared = dict(flags) | {k: v for k, v in numbers.items() if k not in per_member}
    columns = {
        k: jnp.broadcast_to(v, (stack.shape[0],)) for k, v in numbers.items() if k in per_member
    }
    of_members: dict[str, Any] = {}
    of_leaf: dict[str, Any] = {}
    eaches: dict[str, Each] = {}

    def rows() -> Any:
        index = jnp.arange(stack.shape[0])
        return {
            "index": index, "x": stack, "id": ids, "params": columns, "measured": of_members,
            "counts": counts,
        }  # fmt: skip

    def member(row: Any) -> Member:
        words = _flat_words(key, name, row["id"], shape)
        params, x = shared | row["params"], row["x"].astype(dtype)
        made = Made({name: lambda f=each.values: f(jnp, m) for name, each in eaches.items()})
        measured = ChainMap(row["measured"], of_leaf, made)
        m = Member(x, base, row["index"], params, measured, words)
        return m

    def arrays(value: Any) -> Any:
        return jax.tree.map(lambda v: v if hasattr(v, "dtype") else jnp.asarray(v, dtype), value)

    def of_member(measure: Total | Kth, round_name: str, row: Any) -> Any:
        m = member(row)
        if isinstance(measure, Total):
            return tuple(map(jnp.sum, measure.terms(jnp, m)))
        values = measure.values(jnp, m)
        known = row["counts"].get(round_name)
        count = jnp.sum(values > 0, dtype=jnp.int32) if measure.positive else size
        ranks = measure.ranks(jnp, m, count) if known is None else tuple(known)
        return tuple(kth_largest(values, k) for k in ranks)

    def total(fn: Callable[[Member], Any]) -> Any:
        return _total(rows(), lambda row: arrays(fn(member(row))))

    def stacked(fn: Callable[[Member], Any]) -> Any:
        return _each(rows(), lambda row: fn(member(row)))

    count = stack.shape[0]
    leaf = Leaf(jnp, name, count, size, base, shared, of_leaf, total, stacked, _repeat)
    for round_name, measure in method.rounds(dict(flags)).items():
        match measure:
            case Gram(vector=vector):
                vectors = _each(rows(), lambda row, f=vector: f(jnp, member(row)))
                of_leaf[round_name] = _gram(vectors, scope)
            case Each():
                eaches[round_name] = measure
            case Across(values=values):
                of_leaf[round_name] = values(leaf)
            case Total(per="leaf") | Kth(per="leaf"):
                first = jax.tree.map(lambda x: x[0], rows())
                of_leaf[round_name] = of_member(measure, round_name, first)
            case _:
                one = functools.partial(of_member, measure, round_name)
                of_members[round_name] = _each(rows(), one)
    return tree.cast_like(method.combine(leaf).reshape(like.shape[1:]), like)


def _exact_counts(
    method: Method, flags: Mapping[str, int], numbers: Mapping[str, Any], count: int, size: int
) -> dict[str, Any]:
    """Ranks of `Kth` rounds from concrete parameters, in Python's float64 as on disk.

    From traced parameters they are computed under the trace, in the leaf's compute dtype.
    """
    rounds = {
        name: r for name, r in method.rounds(flags).items()
        if isinstance(r, Kth) and not r.positive
    }  # fmt: skip
    if not rounds or not all(map(is_concrete, numbers.values())):
        return {}
    columns = {k: np.broadcast_to(np.asarray(v, float), count) for k, v in numbers.items()}

    def ranks(measure: Kth, i: int) -> list[int]:  # reads parameters alone
        params = dict(flags) | {k: float(v[i]) for k, v in columns.items()}
        return list(map(int, measure.ranks(np, Member(None, None, i, params, {}, str), size)))

    return {
        name: np.array([ranks(measure, i) for i in range(count)], np.int32)
        for name, measure in rounds.items()
    }


def _check(method: Method, population: Any, base: Any, key: Any) -> int:
    count = populations.size(population)
    if count < method.least or (method.most is not None and count > method.most):
        wanted = f"at least {method.least}" if method.most is None else f"{method.most}"
        raise WeightSpaceError(f"{method.name} takes {wanted} members, got {count}")
    if method.random and key is None:
        raise WeightSpaceError(f"{method.name} draws at random: pass key=jax.random.key(0)")
    if method.base == "required" and base is None:
        raise WeightSpaceError(f"{method.name} needs base=: the model that the members came from")
    check_base(population, base)
    return count


def _checked_ids(ids: Any, count: int) -> Any:
    if ids is None:
        return np.arange(count, dtype=np.uint32)
    if np.shape(ids) != (count,) or jnp.result_type(ids).kind not in "iu":
        raise WeightSpaceError(
            f"ids: expected {count} integers (one a member), got {tree.aval(ids)}"
        )
    return ids


def run(
    method: Method,
    population: Any,
    base: Any,
    params: Mapping[str, Any],
    *,
    key: Any = None,
    ids: Any = None,
    where: Any = None,
) -> Any:
    """Merge a population by a method; the public functions of `wslax.merge` are thin over this.

    Each leaf is one compiled call, so a sweep over numbers compiles nothing, with or without a
    `jax.jit` around it.

    Args:
      method: from `wslax.merge.METHODS`.
      population: members along the leading axis.
      base: a tree of one member, or None.
      params: a value for every declared parameter: a number, an array `[N]` where it is per
        member, or `wslax.by_leaf` of either. Numbers may be traced; bools and whole numbers are
        static. The rank
        that a density stands for is computed in float64 from a concrete density and in float32
        (float64 for float64 leaves) from a traced one; next to an integer they may differ by 1.
      key: for random methods.
      ids: `[N]` member ids for the random stream, 0 to N - 1 by default; they make a random merge
        independent of the order of the members.
      where: globs of the leaves to merge. Others, and leaves that hold no floats, come from the
        base, or without one from member 0. Integer, bool and key leaves must then agree, which is
        checked where they are concrete; under `jit` member 0's are taken.

    Returns:
      One member's tree; shape, dtype and weak type of every leaf as in the population.

    Raises:
      WeightSpaceError: naming the leaf or parameter that is wrong, before any work.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> population = {"w": jnp.array([[0.0, 2.0], [2.0, 4.0]])}
        >>> run(ws.merge.METHODS["linear"], population, None, {"coef": 1.0, "normalize": True})
        {'w': Array([1., 3.], dtype=float32)}
    """
    count = _check(method, population, base, key)
    names = tree.leaf_names(population)
    rows = resolved(method, params, names, count)
    chosen = tree.pick(names, where)
    ids = _checked_ids(ids, count)
    words = jnp.stack(key_words(key)) if method.random else None
    stacks = jax.tree.leaves(population)
    bases = jax.tree.leaves(base) if base is not None else [None] * len(stacks)
    merged = [
        pick and tree.is_float(stack) and stack.size > 0
        for pick, stack in zip(chosen, stacks, strict=True)
    ]
    fixed = {param.name for param in method.params if param.kind is not float}
    held = {i: kept(names[i], stacks[i], bases[i]) for i, merge in enumerate(merged) if not merge}
    out = []
    for i, (name, stack, row) in enumerate(zip(names, stacks, rows, strict=True)):
        if not merged[i]:
            out.append(held[i])
            continue
        flags = {k: v for k, v in row.items() if k in fixed}
        numbers = {k: v for k, v in row.items() if k not in fixed}
        counts = _exact_counts(method, flags, numbers, count, int(np.prod(stack.shape[1:])))
        origin = bases[i] if method.base in ("required", "optional") else None
        # The name goes in only where it matters, so that equal shapes share a program.
        label, static = name if method.random else "", tuple(flags.items())
        out.append(_merge_leaf(method, label, static, stack, origin, numbers, counts, ids, words))
    return jax.tree.unflatten(jax.tree.structure(population), out)
