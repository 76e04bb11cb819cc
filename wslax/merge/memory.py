"""Run a merging method on pytrees, under `jax.numpy`."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.merge.method import Gram, Kth, Leaf, Measure, Member, Method, Param, Total
from wslax.numerics.threshold import kth_largest
from wslax.random import bits

UNROLLED = 8  # members up to which a fold is unrolled; beyond, one scan


def _compute_dtype(dtype: Any) -> Any:
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def _is_concrete(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)


def _check_range(param: Param, value: Any) -> None:
    if not _is_concrete(value):
        return
    found = np.asarray(value, np.float64)
    low, high = param.low, param.high
    if not np.isfinite(found).all():
        raise WeightSpaceError(f"{param.name}: expected finite numbers, got {value}")
    if (low is not None and (found < low).any()) or (high is not None and (found > high).any()):
        raise WeightSpaceError(f"{param.name}: expected {low} to {high}, got {value}")


def _param_values(
    method: Method, given: Mapping[str, Any], names: tuple[str, ...], count: int
) -> list[dict[str, Any]]:
    """The parameters of each leaf, checked: numbers, or arrays `[N]` where per member."""
    rows: list[dict[str, Any]] = [{} for _ in names]
    for param in method.params:
        for row, value in zip(
            rows, tree.resolve(given[param.name], names, param.name), strict=True
        ):
            if param.kind is bool:
                if not isinstance(value, (bool, np.bool_)):
                    raise WeightSpaceError(f"{param.name}: expected True or False, got {value!r}")
                row[param.name] = bool(value)
                continue
            if value is None:
                raise WeightSpaceError(f"{method.name} needs {param.name}=: {param.about}")
            shape = np.shape(value)
            allowed = [(), (count,)] if param.per == "member" else [()]
            if shape not in allowed:
                raise WeightSpaceError(
                    f"{param.name}: expected a number"
                    + (f" or {count} numbers (one a member)" if param.per == "member" else "")
                    + f", got shape {list(shape)}"
                )
            _check_range(param, value)
            row[param.name] = value
    return rows


def _members(population: Any) -> int:
    leaves = tree.named_leaves(population)
    if not leaves:
        raise WeightSpaceError("the population has no leaves")
    sizes = {name: (leaf.shape[0] if leaf.ndim else None) for name, leaf in leaves.items()}
    first = next(iter(sizes.values()))
    for name, found in sizes.items():
        if found is None or found != first:
            raise WeightSpaceError(
                f"{name}: expected a leading axis of {first} members, got "
                f"{tree.aval(leaves[name])}; make a population with ws.population.stack([...])"
            )
    return int(first or 0)


def _check(method: Method, population: Any, base: Any, key: Any) -> int:
    count = _members(population)
    if count < method.least or (method.most is not None and count > method.most):
        wanted = method.least if method.most == method.least else f"at least {method.least}"
        if method.most is not None and method.most != method.least:
            wanted = f"{method.least} to {method.most}"
        raise WeightSpaceError(f"{method.name} takes {wanted} members, got {count}")
    if method.random and key is None:
        raise WeightSpaceError(f"{method.name} draws at random: pass key=jax.random.key(0)")
    if method.base == "required" and base is None:
        raise WeightSpaceError(f"{method.name} needs base=: the model that the members came from")
    if base is not None:
        tree.check_like(base, jax.eval_shape(_first, population), "base", "a member")
    return count


def _first(population: Any) -> Any:
    return jax.tree.map(lambda x: x[0], population)


def _kept(name: str, stack: Any, base: Any) -> Any:
    """A leaf that is not merged: the base's, or what all members agree on."""
    if base is not None:
        return base
    floats = tree.is_float(stack)
    if (
        not floats
        and _is_concrete(stack)
        and not jax.dtypes.issubdtype(stack.dtype, jax.dtypes.prng_key)
    ):
        host = np.asarray(stack)
        if (host != host[0]).any():
            raise WeightSpaceError(
                f"{name}: {stack.dtype} leaves are not averaged and the members differ; pass base= "
                "to keep the base's"
            )
    return stack[0]


class _Fold:
    """Members of one leaf, folded: unrolled when few, a scan when many."""

    def __init__(
        self, name: str, stack: Any, base: Any, params: Mapping[str, Any], per: set[str],
        key: Any, ids: Any,
    ) -> None:  # fmt: skip
        self.dtype = _compute_dtype(stack.dtype)
        self.name, self.stack, self.key, self.ids = name, stack, key, ids
        self.count, self.shape = stack.shape[0], stack.shape[1:]
        self.size = int(np.prod(self.shape))
        self.base = None if base is None else base.astype(self.dtype)
        self.shared = {k: self._number(v) for k, v in params.items() if k not in per}
        self.per = {k: self._column(v) for k, v in params.items() if k in per}
        self.measured: dict[str, Any] = {}

    def _number(self, value: Any) -> Any:
        # Python numbers stay: counts derived from them are exact, and they promote weakly.
        if isinstance(value, (bool, int, float)):
            return value
        return jnp.asarray(value).astype(self.dtype)

    def _column(self, value: Any) -> Any:
        if isinstance(value, (int, float)):
            return (value,) * self.count
        if _is_concrete(value) and not isinstance(value, jax.Array) and np.ndim(value) == 1:
            return tuple(float(v) for v in value)
        value = jnp.asarray(value).astype(self.dtype)
        return value if value.ndim else jnp.broadcast_to(value, (self.count,))

    def member(self, index: Any) -> Member:
        static = isinstance(index, int)
        params = dict(self.shared)
        for name, column in self.per.items():
            if isinstance(column, tuple):
                same = all(v == column[0] for v in column)
                params[name] = (
                    column[index if static else 0]
                    if static or same
                    else jnp.array(column, self.dtype)[index]
                )
            else:
                params[name] = column[index]

        def words(label: str) -> Any:
            drawn = bits(
                self.key, f"{self.name}#{label}", self.size, member=self.ids[index], xp=jnp
            )
            return drawn.reshape(self.shape)

        measured = {k: jax.tree.map(lambda v: v[index], v) for k, v in self.measured.items()}
        x = self.stack[index].astype(self.dtype)
        return Member(x, self.base, index, params, measured, words)

    def sum(self, fn: Any) -> Any:
        if self.count <= UNROLLED:
            total = fn(self.member(0))
            for i in range(1, self.count):
                total = jax.tree.map(jnp.add, total, fn(self.member(i)))
            return total

        def step(total: Any, index: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, fn(self.member(index))), None

        shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, fn(self.member(0))))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(step, zeros, jnp.arange(self.count))[0]

    def each(self, fn: Any) -> Any:
        """`fn` of every member, stacked."""
        if self.count <= UNROLLED:
            rows = [fn(self.member(i)) for i in range(self.count)]
            return jax.tree.map(lambda *row: jnp.stack([jnp.asarray(v) for v in row]), *rows)
        return jax.lax.map(lambda i: fn(self.member(i)), jnp.arange(self.count))

    def leaf(self) -> Leaf:
        return Leaf(jnp, self.count, self.size, self.base, self.shared, self.measured, self.sum)

    def measure(self, measure: Measure) -> Any:
        match measure:
            case Total(terms=terms):
                return self.each(lambda m: tuple(jnp.sum(t) for t in terms(jnp, m)))
            case Kth(values=values, count=count):
                return self.each(lambda m: kth_largest(values(jnp, m), count(jnp, m, self.size)))
            case Gram(vector=vector):
                rows = self.each(lambda m: vector(jnp, m).reshape(-1))
                return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)


def _merge_leaf(method: Method, fold: _Fold, params: Mapping[str, Any]) -> Any:
    for round_name, measure in method.rounds(params).items():
        fold.measured[round_name] = fold.measure(measure)
    return method.combine(fold.leaf())


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

    Args:
      method: from `wslax.merge.METHODS`.
      population: members along the leading axis.
      base: a tree of one member, or None.
      params: a value for every declared parameter: a number, an array `[N]` where it is per
        member, or `wslax.by_leaf` of either. Numbers may be traced; bools are static.
      key: for random methods.
      ids: `[N]` member ids for the random stream, 0 to N - 1 by default; they make a random merge
        independent of the order of the members.
      where: globs of the leaves to merge. Others, and leaves that hold no floats, come from the
        base, or without one from member 0 (integer and bool leaves must then agree).

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
    rows = _param_values(method, params, names, count)
    chosen = tree.pick(names, where)
    per = {param.name for param in method.params if param.per == "member"}
    ids = jnp.arange(count, dtype=jnp.uint32) if ids is None else jnp.asarray(ids)
    stacks = jax.tree.leaves(population)
    bases = jax.tree.leaves(base) if base is not None else [None] * len(stacks)
    out = []
    for name, stack, origin, row, pick in zip(names, stacks, bases, rows, chosen, strict=True):
        if not pick or not tree.is_float(stack):
            out.append(_kept(name, stack, origin))
            continue
        use = origin if method.base == "required" else None
        fold = _Fold(name, stack, use, row, per, key, ids)
        out.append(tree.cast_like(_merge_leaf(method, fold, row), stack))
    return jax.tree.unflatten(jax.tree.structure(population), out)
