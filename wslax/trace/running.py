"""Running a model on leaves that are never written out."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.trace import jaxpr
from wslax.trace.jaxpr import Branches, Call, Program, Scan, While
from wslax.trace.leaves import Factored, is_factored


class View(NamedTuple):
    """A factored leaf inside a program, with its axes in some order."""

    leaf: Factored
    name: str
    order: tuple[int, ...]

    def dense(self) -> Any:
        """The array that it stands for."""
        return jnp.transpose(self.leaf.dense(), self.order)


class _Run(NamedTuple):
    """What to say when a leaf has to be written out."""

    on_dense: str

    def dense(self, value: Any, eqn: Any) -> Any:
        if not isinstance(value, View):
            return value
        said = (
            f"{value.name}: {eqn.primitive.name} at {jaxpr.source(eqn) or 'an unknown line'} needs "
            "the leaf written out"
        )
        if self.on_dense == "error":
            raise WeightSpaceError(f'{said}; `on_dense="warn"` does so and goes on')
        if self.on_dense == "warn":
            warnings.warn(f"{said}: this costs a dense copy a member", stacklevel=2)
        return value.dense()

    def program(self, program: Program, operands: Sequence[Any]) -> list[Any]:
        body = program.jaxpr
        known = dict(zip(body.constvars, program.consts, strict=True))
        known.update(zip(body.invars, operands, strict=True))

        def read(atom: Any) -> Any:
            return atom.val if jaxpr.is_literal(atom) else known[atom]

        for eqn in body.eqns:
            found = self.step(eqn, [read(atom) for atom in eqn.invars])
            known.update(zip(eqn.outvars, found, strict=True))
        return [read(atom) for atom in body.outvars]

    def step(self, eqn: Any, operands: list[Any]) -> list[Any]:
        if not any(isinstance(value, View) for value in operands):
            return jaxpr.bind(eqn, *operands)
        match jaxpr.nested(eqn):
            case Call(program):
                return self.program(program, operands)
            case Scan() as scan:
                return self.scan(eqn, scan, operands)
            case Branches(programs):
                index, *rest = operands
                run = lambda p: lambda: self.arrays(eqn, self.program(p, rest))
                return jax.lax.switch(index, [run(p) for p in programs])
            case While() as loop:
                return self.loop(eqn, loop, operands)
            case _:
                rule = RULES.get(eqn.primitive.name)
                found = None if rule is None else rule(eqn, *operands)
                if found is None:
                    found = jaxpr.bind(eqn, *(self.dense(value, eqn) for value in operands))
                return found

    def arrays(self, eqn: Any, values: Sequence[Any]) -> list[Any]:
        return [self.dense(value, eqn) for value in values]

    def scan(self, eqn: Any, scan: Scan, operands: list[Any]) -> list[Any]:
        consts = operands[: scan.consts]
        carry = self.arrays(eqn, operands[scan.consts : scan.consts + scan.carries])
        stacked = operands[scan.consts + scan.carries :]
        views = {i: v for i, v in enumerate(stacked) if isinstance(v, View)}
        fits = {i: v for i, v in views.items() if v.order[0] == 0}
        xs = [
            value.leaf if i in fits else self.dense(value, eqn) for i, value in enumerate(stacked)
        ]

        def body(carry: Any, xs: Any) -> Any:
            inner = [
                View(x, fits[i].name, tuple(axis - 1 for axis in fits[i].order[1:]))
                if i in fits
                else x
                for i, x in enumerate(xs)
            ]
            out = self.arrays(eqn, self.program(scan.program, [*consts, *carry, *inner]))
            return out[: scan.carries], out[scan.carries :]

        params = eqn.params
        carry, ys = jax.lax.scan(
            body, carry, xs, scan.length, reverse=params["reverse"], unroll=params["unroll"]
        )
        return [*carry, *ys]

    def loop(self, eqn: Any, loop: While, operands: list[Any]) -> list[Any]:
        split = loop.condition_consts + loop.body_consts
        condition, body = operands[: loop.condition_consts], operands[loop.condition_consts : split]
        return jax.lax.while_loop(
            lambda carry: self.program(loop.condition, [*condition, *carry])[0],
            lambda carry: self.arrays(eqn, self.program(loop.body, [*body, *carry])),
            self.arrays(eqn, operands[split:]),
        )


def _dot_general(eqn: Any, lhs: Any, rhs: Any) -> list[Any] | None:
    if isinstance(lhs, View) and isinstance(rhs, View):
        return None
    (contracted, batch) = eqn.params["dimension_numbers"]
    if any(batch):
        return None
    side = 1 if isinstance(rhs, View) else 0
    view, x = (rhs, lhs) if side else (lhs, rhs)
    met, from_x = contracted[side], contracted[1 - side]
    pairs = sorted((view.order[m], f) for m, f in zip(met, from_x, strict=True))
    axes = tuple(axis for axis, _ in pairs)
    free_x = [axis for axis in range(x.ndim) if axis not in from_x]
    x = jnp.transpose(x, (*free_x, *(f for _, f in pairs)))
    dtype = eqn.outvars[0].aval.dtype

    def dot(a: Any, b: Any, left: tuple[int, ...], right: tuple[int, ...]) -> Any:
        return jax.lax.dot_general(
            a, b, ((left, right), ((), ())), eqn.params["precision"], preferred_element_type=dtype
        )

    out = view.leaf.contract(x, axes, dot)
    if out is None:
        return None
    stored = [axis for axis in range(len(view.order)) if axis not in axes]
    wanted = [axis for axis in view.order if axis not in axes]
    n = len(free_x)
    mine, theirs = [n + stored.index(axis) for axis in wanted], list(range(n))
    return [jnp.transpose(out, [*theirs, *mine] if side else [*mine, *theirs]).astype(dtype)]


def _transpose(eqn: Any, view: View) -> list[Any]:
    return [view._replace(order=tuple(view.order[a] for a in eqn.params["permutation"]))]


def _convert(eqn: Any, view: View) -> list[Any]:
    new, old = eqn.params["new_dtype"], view.leaf.base.dtype
    cast = lambda x: x.astype(new) if getattr(x, "dtype", None) == old else x
    return [view._replace(leaf=jax.tree.map(cast, view.leaf))]


def _gather(eqn: Any, view: Any, index: Any) -> list[Any] | None:
    """Whole rows, as an embedding takes them."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    if not isinstance(view, View) or view.order != tuple(range(len(view.order))):
        return None
    shape, out = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
    rest = len(shape) - 1
    rows = (
        numbers.collapsed_slice_dims == (0,)
        and numbers.start_index_map == (0,)
        and tuple(sizes[1:]) == tuple(shape[1:])
        and numbers.offset_dims == tuple(range(len(out) - rest, len(out)))
    )
    if not rows:
        return None
    return [view.leaf.rows(index[..., 0]).astype(eqn.outvars[0].aval.dtype)]


RULES: dict[str, Callable[..., list[Any] | None]] = {
    "dot_general": _dot_general,
    "transpose": _transpose,
    "convert_element_type": _convert,
    "gather": _gather,
}


def factored(
    apply: Callable[..., Any], *, on_dense: Literal["warn", "error", "allow"] = "warn"
) -> Callable[..., Any]:
    r"""A model that runs on leaves kept as base and change, without writing them out.

    `apply` is traced on the shapes of the bases and its program run again, where a factored leaf
    meets a product: \(x(W + sDU) = xW + s(xD)U\). Members of a population that share a base
    then share its product too; only the thin factors are a member's own. Embeddings take rows of
    base and factors; scans over stacked layers scan the factors.

    Args:
      apply: any traceable `(params, *inputs) -> outputs`.
      on_dense: what to do where an operation needs the leaf written out (a convolution, an
        elementwise product): `"warn"` and go on, raise an `"error"`, or `"allow"` it.

    Returns:
      The same function over trees whose leaves may be `LowRank`, `Mix` or `Sparse`. Works under
      `jax.jit`, `jax.grad` (with respect to the factors) and `jax.vmap` (`over_members`).

    Raises:
      WeightSpaceError: from the call, with `on_dense="error"`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from wslax.trace import LowRank, over_members
        >>> run = factored(lambda p, x: jnp.tanh(x @ p["w"]))
        >>> ones = lambda *shape: jnp.ones(shape)
        >>> params = {"w": LowRank(ones(4, 3), ones(8, 4, 2), ones(8, 2, 3))}  # 8 members
        >>> many = jax.vmap(run, in_axes=(over_members(params), None))
        >>> many(params, ones(5, 4)).shape
        (8, 5, 3)
    """

    def run(params: Any, *inputs: Any) -> Any:
        leaves, structure = jax.tree.flatten(params, is_leaf=is_factored)
        names = _names(params)
        shapes = [
            jax.ShapeDtypeStruct(x.base.shape, x.base.dtype) if is_factored(x) else x
            for x in leaves
        ]

        def flat(leaves: list[Any], *inputs: Any) -> Any:
            return apply(jax.tree.unflatten(structure, leaves), *inputs)

        program, out = jaxpr.trace(flat, shapes, *inputs)
        values = [
            View(x, name, tuple(range(x.base.ndim))) if is_factored(x) else x
            for x, name in zip(leaves, names, strict=True)
        ]
        found = _Run(on_dense).program(program, [*values, *jax.tree.leaves(inputs)])
        found = [v.dense() if isinstance(v, View) else v for v in found]
        return jax.tree.unflatten(jax.tree.structure(out), found)

    return run


def _names(params: Any) -> list[str]:
    marks = jax.tree.map(lambda x: 0, params, is_leaf=is_factored)
    return list(tree.leaf_names(marks))
