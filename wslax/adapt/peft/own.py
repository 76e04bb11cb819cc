"""Adapters as PEFT stores them where ours are made of other parts."""

from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.adapt.leafwise import Parts, leafwise
from wslax.adapt.scaling import ia3
from wslax.adapter import Adapter, from_apply
from wslax.symmetry.types import Groups
from wslax.trace import LowRank, Scaled, Sparse
from wslax.trace.leaves import is_factored, wide
from wslax.typing import Key, Params, Where


def projected(rank: int, *, where: Where = None, groups: Groups | None = None) -> Adapter:
    """`vera` whose projections are in `fixed`, as `down` and `up`, and not drawn from a key."""

    def start(_: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        (rows, columns), dtype = leaf.shape, tree.wide(leaf)
        zeros = lambda *shape: jnp.zeros(shape, dtype)
        vectors = {"b": zeros(columns), "d": zeros(rank)}
        return vectors, {"down": zeros(rows, rank), "up": zeros(rank, columns)}

    def change(leaf: Any, parts: Parts) -> LowRank:
        up = Scaled(Scaled(parts["up"], parts["d"][:, None]), parts["b"][None])
        return LowRank(leaf, parts["down"], up)

    return leafwise(start, change, where, groups)


def sparse(count: int, *, where: Where = None, groups: Groups | None = None) -> Adapter:
    """SHiRA: `values` that are added at the places `index` of `[in, out]`, flattened."""

    def start(_: Key, name: str, leaf: Any) -> tuple[Parts, Parts]:
        return {"values": jnp.zeros(count, tree.wide(leaf))}, {"index": jnp.zeros(count, jnp.int32)}

    def change(leaf: Any, parts: Parts) -> Sparse:
        return Sparse(leaf, parts["index"], parts["values"])

    return leafwise(start, change, where, groups)


def ia3_of_modules(
    biases: tuple[tuple[str, str], ...], *, where: Where = None, groups: Groups | None = None
) -> Adapter:
    """`ia3` of modules' outputs: each bias `(matrix, bias)` times the factors of its matrix."""
    adapter = ia3(where=where, groups=groups)
    matrix_of = {bias: matrix for matrix, bias in biases}

    def apply(params: Params, train: Any, fixed: Any) -> Params:
        leaves, structure = jax.tree.flatten(params, is_leaf=is_factored)
        names = tree.leaf_names(structure.unflatten(range(len(leaves))))

        def scaled(name: str, x: Any) -> Any:
            if name not in matrix_of:
                return x
            return tree.cast_like(wide(x) * train[matrix_of[name]]["outputs"], x)

        found = map(scaled, names, leaves)
        return adapter.apply(structure.unflatten(found), train, fixed)

    return from_apply(adapter.init, apply)
