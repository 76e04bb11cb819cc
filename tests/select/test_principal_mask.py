"""The mask against numpy's decomposition in float64, and its exact counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax.select import principal_mask


def oracle(w, rank, density):
    u, s, vt = np.linalg.svd(np.asarray(w, float), full_matrices=False)
    score = np.abs((u[:, :rank] * s[:rank]) @ vt[:rank]).ravel()
    mask = np.zeros(score.size, bool)
    mask[np.argsort(-score, kind="stable")[: max(1, round(density * score.size))]] = True
    return mask.reshape(w.shape)


def weights(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def iou(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(("shape", "rank"), [((40, 30), 4), ((30, 40), 1), ((30, 40), 30)])
def test_the_mask_is_that_of_the_exact_decomposition(shape, rank):
    w = weights(shape)
    mask = principal_mask({"w": jnp.asarray(w)}, rank=rank, density=0.1)["w"]
    assert mask.dtype == bool
    assert int(mask.sum()) == 120
    assert iou(mask, oracle(w, rank, 0.1)) > 0.98


def test_a_slowly_decaying_spectrum_beyond_the_exact_solver():
    rng = np.random.default_rng(3)
    u, v = (np.linalg.qr(rng.normal(size=(640, 640)))[0] for _ in range(2))
    w = (u * np.arange(1, 641.0) ** -0.5) @ v.T
    for seed in range(2):
        mask = principal_mask({"w": jnp.asarray(w, jnp.float32)}, rank=32, density=0.05, key=seed)
        assert iou(mask["w"], oracle(w, 32, 0.05)) > 0.98


def test_principal_weights_are_not_the_largest_weights():
    w = weights((60, 50))
    mask = principal_mask({"w": jnp.asarray(w)}, rank=2, density=0.05)["w"]
    assert iou(mask, oracle(w, 50, 0.05)) < 0.5
    whole = principal_mask({"w": jnp.asarray(w)}, rank=50, density=0.05)["w"]
    assert (whole == oracle(w, 50, 0.05)).all()


@given(
    shape=st.sampled_from([(1, 1), (1, 7), (5, 9), (9, 4)]),
    density=st.sampled_from([0.001, 0.1, 0.37, 0.5, 1.0]),
    rank=st.sampled_from([1, 3, 12]),
)
@settings(deadline=None, max_examples=12)
def test_exactly_k_even_where_all_are_equal(shape, density, rank):
    m, n = shape
    for w in (np.ones((m, n), np.float32), np.zeros((m, n), np.float32)):
        mask = np.asarray(principal_mask({"w": w}, rank=rank, density=density)["w"])
        k = max(1, round(density * m * n))
        assert mask.sum() == k
        if rank >= min(m, n):  # no approximation: of equals the first
            assert mask.ravel()[:k].all()


TREE = {
    "embed": {"table": weights((12, 8))},
    "layers": {"kernel": weights((3, 8, 10)), "bias": weights((3,)), "step": np.int32(1)},
}


GROUPS = ws.symmetry.Groups.from_sites(
    TREE,
    [
        [("embed/table", 0, "consumed")], [("embed/table", 1, "produced")],
        [("layers/kernel", 1, "consumed")], [("layers/kernel", 2, "produced")],
    ],
)  # fmt: skip


def test_leading_axes_are_matrices_of_their_own():
    mask = principal_mask(TREE, rank=2, density=0.1, groups=GROUPS)["layers"]["kernel"]
    assert (mask.sum((1, 2)) == 8).all()
    for i in range(3):
        alone = principal_mask({"w": TREE["layers"]["kernel"][i]}, rank=2, density=0.1)["w"]
        assert (alone == mask[i]).all()


def test_where_and_by_leaf():
    counts = {
        name: int(m.sum())
        for name, m in ws.tree.named_leaves(
            principal_mask(
                TREE, where=["embed/*", "*/kernel"], rank=ws.by_leaf({"embed/*": 1, "*": 3}),
                density=ws.by_leaf({"embed/*": 0.5, "*": 0.1}), groups=GROUPS,
            )
        ).items()
    }  # fmt: skip
    assert counts == {
        "embed/table": 48, "layers/bias": 0, "layers/kernel": 24, "layers/step": 0,
    }  # fmt: skip
    only = principal_mask(TREE, rank=2, density=0.1, where="embed/*")
    assert not np.asarray(only["layers"]["kernel"]).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_types_are_decomposed_in_float32(dtype):
    w = jnp.asarray(weights((40, 30)), dtype)
    mask = principal_mask({"w": w}, rank=3, density=0.1)["w"]
    assert iou(mask, oracle(np.asarray(w, np.float32), 3, 0.1)) > 0.98


def test_a_population_is_each_member_alone():
    population = {"w": jnp.asarray(weights((3, 20, 15)))}
    masks = jax.jit(jax.vmap(lambda p: principal_mask(p, rank=2, density=0.1)))(population)["w"]
    for i, member in enumerate(ws.population.unstack(population)):
        assert iou(masks[i], principal_mask(member, rank=2, density=0.1)["w"]) > 0.98


W = {"w": weights((4, 5)), "b": weights((5,))}
BAD = [
    ({"rank": 0}, "w: rank: expected at least 1, got 0"),
    ({"rank": 1.5}, "w: rank: expected an integer, got 1.5"),
    ({"rank": "2"}, "w: rank: expected a number, got '2'"),
    ({"rank": None}, "w: rank: expected a number, got None"),
    ({"rank": 1j}, "w: rank: expected a number, got 1j"),
    ({"density": True}, "w: density: expected a number, got True"),
    ({"density": 0}, r"w: density: expected above 0 and at most 1, got 0\.0"),
    ({"density": -0.1}, "w: density"),
    ({"density": 1.1}, "w: density"),
    ({"density": float("nan")}, "w: density: expected a number, got nan"),
    ({"density": [0.1, 0.2]}, "w: density: expected a number"),
    ({"where": "b"}, r"b: expected a matrix of floats \[m, n\], got float32\[5\]"),
    ({"where": "x"}, "where='x' picks no leaf"),
    ({"density": ws.by_leaf({"b": 0.5})}, "w: density has no rule for it"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(change, message):
    with pytest.raises(ws.WeightSpaceError, match=message):
        principal_mask(W, **{"rank": 2, "density": 0.5, **change})


def test_more_bad_input():
    with pytest.raises(ws.WeightSpaceError, match="no matrix of floats to select from"):
        principal_mask({"b": W["b"]}, rank=1, density=0.5)
    with pytest.raises(
        ws.WeightSpaceError, match="w: density fixes the program, so it is a Python number"
    ):
        jax.jit(lambda d: principal_mask(W, rank=1, density=d))(0.5)


def test_many_matrices_are_decomposed_one_after_another():
    """Side by side JAX's eigh would wait for threads that wait for it: this would never end."""
    params = {str(i): jnp.asarray(weights((64, 64), i)) for i in range(6)}
    masks = jax.jit(lambda p: principal_mask(p, rank=2, density=0.1))
    for _ in range(10):
        assert all(int(m.sum()) == 410 for m in jax.tree.leaves(masks(params)))
    assert all(
        int(m.sum()) == 410 for m in jax.tree.leaves(principal_mask(params, rank=2, density=0.1))
    )
