"""The compiler's own sharding rules as an oracle: which axes correspond, operation by operation."""

import re

import jax
import jax.numpy as jnp
import pytest

from wslax.symmetry import infer

ir = pytest.importorskip("jaxlib.mlir.ir")
passmanager = pytest.importorskip("jaxlib.mlir.passmanager")
x = jax.ShapeDtypeStruct


def conv(groups):
    def fn(x, k):
        return jax.lax.conv_general_dilated(
            x,
            k,
            (1, 1),
            "SAME",
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    return fn


OPERATIONS = {
    "matmul": (jnp.matmul, (4, 3), (3, 8)),
    "batched": (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (2, 4, 3), (2, 3, 5)),
    "two contracted": (
        lambda a, b: jax.lax.dot_general(a, b, (((1, 2), (0, 1)), ((), ()))),
        (4, 3, 5),
        (3, 5, 2),
    ),
    "add": (jnp.add, (4, 3), (4, 3)),
    "select": (lambda a, b: jax.lax.select(a > 0, a, b), (4, 3), (4, 3)),
    "tanh": (jnp.tanh, (4, 3)),
    "transpose": (jnp.transpose, (4, 3, 2)),
    "sum": (lambda a: a.sum(1), (4, 3, 2)),
    "max": (lambda a: a.max((0, 2)), (4, 3, 2)),
    "broadcast": (lambda a: jax.lax.broadcast_in_dim(a, (5, 4), (1,)), (4,)),
    "conv": (conv(1), (2, 6, 6, 3), (3, 3, 3, 8)),
    "pointwise": (conv(1), (2, 6, 6, 3), (1, 1, 3, 8)),
    "embedding": (lambda e: e[jnp.array([1, 2, 0])], (7, 5)),
    "concatenate": (lambda a, b: jax.lax.concatenate([a, b], 1), (4, 3), (4, 5)),
    "reverse": (lambda a: jax.lax.rev(a, (1,)), (4, 3)),
    "sort": (lambda a: jax.lax.sort(a, dimension=1), (4, 3)),
    "cumsum": (lambda a: jax.lax.cumsum(a, 1), (4, 3)),
}


# Where an axis passes for us and not for the compiler: pieces each on their own, windows of one.
FINER = ("concatenate", "pointwise")


def shardy(fn, avals):
    """For each operand, the letters of each axis; the letters of the result; those reduced."""
    module = jax.jit(fn).lower(*avals).compiler_ir("stablehlo")
    with module.context:
        text = "builtin.module(func.func(sdy-populate-op-sharding-rules))"
        passmanager.PassManager.parse(text).run(module.operation)
    rules = re.findall(r"op_sharding_rule<\((.*?)\)->\((.*?)\) \{(.*?)\}(.*?)>", str(module))
    ranks = [len(a.shape) for a in avals]
    for operands, results, _, rest in rules:
        axes = [
            tuple(part.split(", ")) if part else () for part in re.findall(r"\[(.*?)\]", operands)
        ]
        if [len(a) for a in axes][: len(ranks)] == ranks:
            named = dict(re.findall(r"(\w+)=\{(.*?)\}", rest))
            blocked = {
                letter
                for kind in ("need_replication", "permutation")
                for letter in named.get(kind, "").split(", ")
                if letter
            }
            reduced = set(named.get("reduction", "").split(", "))
            return axes[: len(ranks)], set(re.findall(r"\w+", results)), reduced, blocked
    raise AssertionError(f"no rule over {ranks} in\n{module}")


@pytest.mark.parametrize("name", OPERATIONS)
def test_agreement_with_the_compiler(name):
    fn, *dims = OPERATIONS[name]
    avals = [x(shape, jnp.float32) for shape in dims]
    try:
        axes, results, reduced, blocked = shardy(fn, avals)
    except AssertionError:
        assert name in ("cumsum", "sort")  # lowered to several operations, or without a rule
        return
    groups = infer(lambda p: fn(*p), avals)
    where = {}
    for i, letters in enumerate(axes):
        for axis, letter in enumerate(letters):
            if avals[i].shape[axis] == 1:
                continue
            (group,) = groups.at(str(i), axis) or (None,)
            assert group is not None
            where.setdefault(letter, set()).add(group.id)
            ours = group.frozen_by or ""
            if letter in blocked and name not in FINER:
                assert ours, (name, letter)
                assert not ours.startswith("the output"), (name, letter)
            elif letter in reduced:
                assert ours == "" or "window" in ours or "gather" in ours, (name, letter)
            elif letter in results:
                assert ours.startswith("the output"), (name, letter, ours)
    assert name == "concatenate" or all(len(ids) == 1 for ids in where.values())
    ids = [id for ids in where.values() for id in ids]
    assert len(ids) == len(set(ids))
