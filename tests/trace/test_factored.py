"""Factored leaves: the same numbers as written out, and never written out."""

import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from wslax import WeightSpaceError, nets
from wslax.trace import (
    BlockAffine,
    Kronecker,
    LowRank,
    Matrices,
    Mix,
    Scaled,
    Sparse,
    Turned,
    factored,
    jaxpr,
    over_members,
)
from wslax.trace.leaves import is_factored

KEY = jr.key(0)


def draw(i, *shape):
    """By numpy: what jax would compile for each shape takes longer than the tests."""
    return jnp.asarray(np.random.default_rng(i).normal(size=shape) / 2, jnp.float32)


def low_rank(i, left, right, members=(), rank=2):
    return LowRank(
        draw(i, *left, *right), draw(i + 1, *members, *left, rank),
        draw(i + 2, *members, rank, *right), 0.5,
    )  # fmt: skip


def mix(i, left, right, members=()):
    return Mix(draw(i, *left, *right), draw(i + 1, 3, *left, *right), draw(i + 2, *members, 3))


def sparse(i, left, right, members=()):
    size = int(np.prod([*left, *right]))
    index = np.random.default_rng(i + 5).permutation(size)[:4].astype(np.int32)
    index = jnp.asarray(np.broadcast_to(index, (*members, 4)))
    return Sparse(draw(i, *left, *right), index, draw(i + 1, *members, 4))


def kronecker(i, left, right, members=()):
    n, m = *left, *right
    shapes = (2, 2, 3), (2, -(-n // 2), -(-m // 3))
    return Kronecker(draw(i, n, m), *(draw(i + j, *members, *s) for j, s in enumerate(shapes, 1)))


def turned(i, left, right, members=()):
    levels = 2 if left == (4,) else 1
    return Turned(draw(i, *left, *right), draw(i + 1, *members, levels, left[0] // 2, 2, 2))


def block_affine(i, left, right, members=()):
    return BlockAffine(draw(i, *left, *right), draw(i + 1, *members, right[0] // 2, 2, 2))


def scaled(i, left, right, members=()):
    """By columns, on a leaf of low rank that members share."""
    return Scaled(low_rank(i, left, right), draw(i + 7, *members, 1, *right))


def matrices(i, left, right, members=()):
    """As one matrix, whose second factor is one that members share, scaled."""
    up = Scaled(draw(i + 2, 2, *right), draw(i + 7, *members, 2, 1))
    made = LowRank(draw(i, *left, *right), draw(i + 1, *members, *left, 2), up, 0.5)
    return Matrices(made, (*left, *right), (0,), (1,))


MAKE = {
    "low rank": low_rank, "mix": mix, "sparse": sparse, "kronecker": kronecker, "turned": turned,
    "block affine": block_affine, "scaled": scaled, "matrices": matrices,
}  # fmt: skip


def written_out(params):
    return jax.tree.map(lambda x: x.dense() if is_factored(x) else x, params, is_leaf=is_factored)


def mlp(p, x):
    h = jax.nn.relu(x @ p["a"] + p["bias"][None])
    return jnp.tanh(h @ p["b"]) @ p["a"].T


def mlp_params(kind, members=()):
    make = MAKE[kind]
    return {
        "a": make(0, (4,), (6,), members), "b": make(10, (6,), (6,), members), "bias": draw(20, 6),
    }  # fmt: skip


@pytest.mark.parametrize("kind", MAKE)
def test_the_same_as_written_out(kind):
    params, x = mlp_params(kind), draw(30, 5, 4)
    run = lambda p, x: (factored(mlp, on_dense="error")(p, x), mlp(written_out(p), x))
    assert np.allclose(*jax.jit(run)(params, x), atol=1e-5)


@pytest.mark.parametrize("kind", MAKE)
def test_gradients_of_the_change(kind):
    params, x = mlp_params(kind), draw(30, 5, 4)
    pick = lambda tree: [g for g in jax.tree.leaves(tree) if g.dtype != jax.dtypes.float0]

    def slopes(run):
        loss = lambda p: (run(p, x) ** 2).sum()
        return lambda p: pick(jax.grad(loss, allow_int=True)(p))

    dense = lambda p, x: mlp(written_out(p), x)
    both = jax.jit(lambda p: (slopes(factored(mlp))(p), slopes(dense)(p)))
    for a, b in zip(*both(params), strict=True):
        assert np.allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("kind", MAKE)
def test_members_share_their_base_and_no_leaf_is_written_out(kind):
    params, x = mlp_params(kind, (7,)), draw(30, 5, 4)
    axes = over_members(params)
    many = jax.vmap(factored(mlp, on_dense="error"), in_axes=(axes, None))
    dense = jax.vmap(lambda p, x: mlp(written_out(p), x), in_axes=(axes, None))
    assert np.allclose(*jax.jit(lambda *a: (many(*a), dense(*a)))(params, x), atol=1e-5)
    program, _ = jaxpr.trace(many, params, x)
    shapes = {v.aval.shape for e in program.jaxpr.eqns for v in e.outvars}
    assert not shapes & {(7, 4, 6), (7, 6, 4), (7, 6, 6)}


def test_a_transformer_with_a_tied_embedding():
    net = nets.transformer(11, 6, width=8, heads=2, depth=1)
    params = net.init(KEY)
    tokens = jnp.array([[1, 4, 10, 0, 3]])

    def lora(path, leaf):
        split = 2 if path[-2].key == "out" and leaf.ndim == 3 else 1
        if leaf.ndim < 2 or path[-1].key == "bias":
            return leaf
        left, right = leaf.shape[:split], leaf.shape[split:]
        return LowRank(leaf, draw(leaf.size, *left, 2), draw(leaf.size + 1, 2, *right))

    params = jax.tree_util.tree_map_with_path(lora, params)
    run = factored(net.apply, on_dense="error")
    both = jax.jit(lambda p: (run(p, tokens), net.apply(written_out(p), tokens)))
    assert np.allclose(*both(params), atol=1e-4)


def test_layers_stacked_under_scan():
    def apply(p, x):
        step = jax.checkpoint(lambda h, w: (jnp.tanh(h @ w["a"]) @ w["b"], h.sum()))
        return jax.lax.scan(step, x, p)

    stack = lambda leaves: jax.tree.map(lambda *x: jnp.stack(x), *leaves)
    make = lambda i: {"a": low_rank(i, (4,), (6,)), "b": low_rank(i + 3, (6,), (4,))}
    layers = [make(i) for i in (0, 40, 80)]
    params = stack(layers)
    run = factored(apply, on_dense="error")
    dense = stack([written_out(layer) for layer in layers])
    both = jax.jit(lambda p, dense, x: (run(p, x), apply(dense, x)))
    for a, b in zip(*both(params, dense, draw(30, 5, 4)), strict=True):
        assert np.allclose(a, b, atol=1e-4)


def in_stacks(i, *shape, rows, columns):
    """A leaf of matrices in a layout, each of low rank with factors of its own."""
    batch = [n for axis, n in enumerate(shape) if axis not in (*rows, *columns)]
    n, m = (int(np.prod([shape[axis] for axis in axes])) for axes in (rows, columns))
    scale = jnp.full(batch, 0.5)
    made = LowRank(
        draw(i, *batch, n, m), draw(i + 1, *batch, n, 2), draw(i + 2, *batch, 2, m), scale
    )
    return Matrices(made, shape, rows, columns)


def test_stacks_of_matrices_in_any_layout():
    def apply(p, x):
        both = lambda h: jnp.broadcast_to(h, (2, *h.shape))
        step = lambda h, w: (jnp.tanh(jnp.einsum("ebi,eoi->ebo", both(h), w)).sum(0), None)
        h, _ = jax.lax.scan(step, x, p["layers"])
        heads = jnp.einsum("hbd,hdk->bhk", both(h), p["heads"])
        return jnp.einsum("bhk,hkd->hbd", heads, p["out"])

    params = {
        "layers": in_stacks(0, 3, 2, 4, 4, rows=(3,), columns=(2,)),
        "heads": in_stacks(10, 2, 4, 5, rows=(1,), columns=(2,)),
        "out": in_stacks(20, 2, 5, 4, rows=(1,), columns=(2,)),
    }
    base = params["heads"].base
    by_hand = [base.base[i] + 0.5 * base.down[i] @ base.up[i] for i in range(2)]
    assert np.allclose(params["heads"].dense(), jnp.stack(by_hand), atol=1e-5)
    layers = params["layers"].base
    by_hand = layers.base[1, 1] + 0.5 * layers.down[1, 1] @ layers.up[1, 1]
    assert np.allclose(params["layers"].dense()[1, 1], by_hand.T, atol=1e-5)
    run = jax.jit(lambda p, x: (factored(apply, on_dense="error")(p, x), apply(written_out(p), x)))
    assert np.allclose(*run(params, draw(30, 6, 4)), atol=1e-4)


def test_leaves_on_leaves():
    below = low_rank(0, (4,), (6,))
    index = jnp.array([1, 7, 23], jnp.int32)
    leaves = [
        LowRank(below, draw(40, 4, 1), draw(41, 1, 6)),
        Sparse(below, index, draw(42, 3)),
        Mix(below, draw(43, 2, 4, 6), draw(44, 2)),
        Scaled(Sparse(below, index, draw(42, 3)), draw(45, 4, 1)),
    ]
    dense = [
        below.dense() + draw(40, 4, 1) @ draw(41, 1, 6),
        below.dense().reshape(-1).at[index].add(draw(42, 3)).reshape(4, 6),
        below.dense() + jnp.einsum("k,kij->ij", draw(44, 2), draw(43, 2, 4, 6)),
    ]
    dense.append(dense[1] * draw(45, 4, 1))
    rows = jnp.array([2, 0, 2])
    for leaf, expected in zip(leaves, dense, strict=True):
        assert np.allclose(leaf.dense(), expected, atol=1e-5)
        assert np.allclose(leaf.rows(rows), expected[rows], atol=1e-5)
        apply = lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T
        run = jax.jit(factored(apply, on_dense="error"))
        x = draw(30, 5, 4)
        assert np.allclose(run({"w": leaf}, x), apply({"w": expected}, x), atol=1e-4)


def test_wide_factors_of_a_half_base():
    leaf = low_rank(0, (4,), (6,))
    half = LowRank(leaf.base.astype(jnp.bfloat16), leaf.down, leaf.up, 0.5)
    assert half.dense().dtype == jnp.bfloat16
    x = draw(30, 5, 4).astype(jnp.bfloat16)
    found = factored(lambda p, x: x @ p["w"], on_dense="error")({"w": half}, x)
    assert found.dtype == jnp.bfloat16
    assert np.allclose(found, x.astype(jnp.float32) @ leaf.dense(), atol=0.1)


def test_loops_and_branches():
    def apply(p, x):
        x = jax.lax.fori_loop(0, 2, lambda i, h: jnp.tanh(h @ p["a"]), x)
        return jax.lax.cond(x.sum() > 0, lambda h: h @ p["a"], lambda h: h @ p["a"].T, x)

    params = {"a": low_rank(0, (4,), (4,))}
    found = factored(apply, on_dense="error")(params, draw(30, 5, 4))
    assert np.allclose(found, apply(written_out(params), draw(30, 5, 4)), atol=1e-5)


def test_what_needs_the_leaf_written_out_says_so():
    apply = lambda p, x: x @ jnp.abs(p["w"])
    params, x = {"w": low_rank(0, (4,), (6,))}, draw(30, 5, 4)
    with pytest.warns(UserWarning, match=r"w: abs at test_factored.py:\d+ .* written out"):
        found = factored(apply)(params, x)
    assert np.allclose(found, apply(written_out(params), x), atol=1e-5)
    with pytest.raises(WeightSpaceError, match="on_dense"):
        factored(apply, on_dense="error")(params, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factored(apply, on_dense="allow")(params, x)


def test_half_types_keep_their_type():
    half = lambda x: x.astype(jnp.bfloat16)
    params = {"w": LowRank(half(draw(0, 4, 6)), half(draw(1, 4, 2)), half(draw(2, 2, 6)))}
    out = factored(lambda p, x: x @ p["w"], on_dense="error")(params, half(draw(3, 5, 4)))
    assert out.dtype == jnp.bfloat16


def test_a_model_that_was_not_made_for_factored_leaves_says_so():
    leaf = low_rank(0, (4,), (3,))
    for use in (lambda: jnp.ones((2, 4)) @ leaf, lambda: jnp.asarray(leaf)):
        with pytest.raises(WeightSpaceError, match=r"no array \(float32\[4,3\]\); run the model"):
            use()
