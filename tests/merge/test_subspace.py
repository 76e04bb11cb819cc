"""Subspace merging against the papers' formulas in float64 numpy, PyTorch's way round."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import wslax as ws
from tests.merge import experts
from wslax import merge
from wslax.symmetry import Groups

SHAPES = {"tall": (6, 4), "wide": (4, 6), "bias": (6,)}
draw = functools.partial(experts.draw, SHAPES)
TA = functools.partial(merge.task_arithmetic, lam=0.4)
TIES = functools.partial(merge.ties, density=0.5)


@pytest.fixture(scope="module", autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def close(found, expected, tolerance=5e-6):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


# The formulas. d: [N, out, in] of float64.


def polar(a):
    u, _, vt = np.linalg.svd(a, full_matrices=False)
    return u @ vt


def tsv_m(d):
    rank = min(d.shape[1:]) // len(d)
    u, s, vt = np.linalg.svd(d, full_matrices=False)
    left = np.concatenate([x[:, :rank] for x in u], 1)
    right = np.concatenate([x[:rank] for x in vt], 0)
    middle = np.diag(np.concatenate([x[:rank] for x in s]))
    return polar(left) @ middle @ polar(right)


def iso_c(d):
    u, s, vt = np.linalg.svd(d.sum(0), full_matrices=False)
    return s.mean() * u @ vt


def iso_cts(d, common=0.8):
    count, rank = len(d), min(d.shape[1:])
    own = round((rank - int(rank * common)) / count)
    k = rank - own * count
    u, s, vt = np.linalg.svd(d.sum(0), full_matrices=False)
    us, ss, vs = [u[:, :k]], [s[:k]], [vt[:k]]
    for x in d:
        a, b, c = np.linalg.svd(x - u[:, :k] @ u[:, :k].T @ x, full_matrices=False)
        us, ss, vs = [*us, a[:, :own]], [*ss, b[:own]], [*vs, c[:own]]
    mean = np.concatenate(ss).mean()
    return mean * polar(np.concatenate(us, 1)) @ polar(np.concatenate(vs, 0))


def knots(d, function):
    u, s, vt = np.linalg.svd(np.concatenate(list(d), 1), full_matrices=False)
    return u @ function(np.stack([np.diag(s) @ v for v in np.split(vt, len(d), 1)]))


def ties(d, density=0.5):
    k = max(1, int(density * d[0].size))
    kept = np.stack([x * (abs(x) >= np.sort(abs(x).ravel())[-k]) for x in d])
    agree = np.sign(kept) == np.where(kept.sum(0) >= 0, 1, -1)
    return (kept * agree).sum(0) / np.maximum(agree.sum(0), 1)


METHODS = {
    "tsv_m": (merge.tsv_m, tsv_m, 0.7),
    "iso_c": (merge.iso_c, iso_c, 0.7),
    "iso_cts": (
        functools.partial(merge.iso_cts, common=0.5),
        functools.partial(iso_cts, common=0.5),
        0.7,
    ),
}
KNOTS = {
    "task_arithmetic": (TA, lambda d: 0.4 * d.sum(0)),
    "ties": (TIES, ties),
}


@pytest.mark.parametrize("name", METHODS)
def test_is_its_formula(name):
    method, formula, lam = METHODS[name]
    population, base = draw()
    found = method(population, base, lam=lam)
    for leaf, b in base.items():
        d = population[leaf].astype(float) - b
        merged = d.mean(0) if b.ndim == 1 else formula(np.swapaxes(d, 1, 2)).T
        close(found[leaf], b + lam * merged)


@pytest.mark.parametrize("name", KNOTS)
def test_knots_is_its_formula(name):
    method, formula = KNOTS[name]
    population, base = draw()
    found = merge.knots(population, base, method)
    for leaf, b in base.items():
        d = population[leaf].astype(float) - b
        merged = formula(d) if b.ndim == 1 else knots(np.swapaxes(d, 1, 2), formula).T
        close(found[leaf], b + merged)


def groups_of(params, **roles):
    """Hand-made groups in which each axis of a leaf is a group of its own."""
    sites = [[(name, axis, role)] for name, axes in roles.items() for axis, role in enumerate(axes)]
    return Groups.from_sites(params, sites)


ALL = {
    **{name: METHODS[name][0] for name in METHODS},
    "knots": lambda population, base, **more: merge.knots(population, base, TA, **more),
    "wudi": merge.wudi,
    "calibrate": lambda population, base, **more: merge.calibrate(
        TA(population, base), population, base, **more
    ),
}


@pytest.mark.parametrize("name", ALL)
def test_roles_say_what_is_a_matrix(name):
    """Heads, stacked layers and PyTorch's order merge as the plain matrices do that they hold."""
    rng = np.random.default_rng(1)
    base = rng.normal(size=(2, 6, 4)).astype(np.float32)  # two matrices, [in, out]
    members = base + 0.3 * rng.normal(size=(3, 2, 6, 4)).astype(np.float32)
    method = ALL[name]
    plain = method({"a": members[:, 0], "b": members[:, 1]}, {"a": base[0], "b": base[1]})

    def seen(x):
        return {
            "query": x[..., 0, :, :].reshape(*x.shape[:-3], 6, 2, 2),
            "out": x[..., 1, :, :].reshape(*x.shape[:-3], 2, 3, 4),
            "layers": x,
            "torch": np.swapaxes(x[..., 0, :, :], -1, -2),
            "norm": x[..., 0, 0, :],
        }

    eaten, made, both = "consumed", "produced", "elementwise"
    groups = groups_of(
        seen(base), query=(eaten, made, made), out=(eaten, eaten, made), layers=(both, eaten, made),
        torch=(made, eaten), norm=(both,),
    )  # fmt: skip
    found = method(seen(members), seen(base), groups=groups)
    close(found["query"].reshape(6, 4), plain["a"], 1e-5)
    close(found["out"].reshape(6, 4), plain["b"], 1e-5)
    close(found["layers"], np.stack([plain["a"], plain["b"]]), 1e-5)
    close(found["torch"].T, plain["a"], 1e-5)


def test_a_tied_embedding_is_no_matrix():
    rng = np.random.default_rng(1)
    base = {"table": rng.normal(size=(6, 4)).astype(np.float32)}
    population = {"table": base["table"] + rng.normal(size=(3, 6, 4)).astype(np.float32)}
    sites = [[("table", a, r)] for a in (0, 1) for r in ("consumed", "produced")]
    groups = Groups.from_sites(base, [sites[0] + sites[1], sites[2] + sites[3]])
    close(merge.iso_c(population, base, groups=groups)["table"], population["table"].mean(0))


deltas = hnp.arrays(np.float32, (3, 4, 6), elements=st.floats(-2, 2, width=16))
invariant = settings(deadline=None, max_examples=15)
ZERO = {"w": np.zeros((4, 6), np.float32)}


@given(d=deltas)
@invariant
def test_one_member_is_the_identity(d):
    for name in ("tsv_m", "wudi"):
        close(ALL[name]({"w": d[:1]}, ZERO)["w"], d[0], 1e-4)
    close(merge.knots({"w": d[:1]}, ZERO, merge.task_arithmetic)["w"], d[0], 1e-4)
    close(merge.calibrate({"w": d[0]}, {"w": d[:1]}, ZERO)["w"], d[0], 1e-4)


@given(d=deltas)
@invariant
def test_no_task_vectors_give_the_base(d):
    base = {"w": d[0]}
    same = {"w": np.broadcast_to(d[0], d.shape)}
    for method in ALL.values():
        assert (method(same, base)["w"] == d[0]).all()


@given(d=deltas, order=st.permutations(range(3)))
@invariant
def test_a_linear_method_needs_no_frame_and_no_order(d, order):
    close(merge.knots({"w": d}, ZERO, TA)["w"], TA({"w": d}, ZERO)["w"], 1e-4)
    close(merge.knots({"w": d[list(order)]}, ZERO, TA)["w"], TA({"w": d}, ZERO)["w"], 1e-4)


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_members_does_not_matter(name):
    population, base = draw()
    turned = {n: x[[2, 0, 1]] for n, x in population.items()}
    for a, b in zip(
        *(jax.tree.leaves(ALL[name](p, base)) for p in (population, turned)), strict=True
    ):
        close(a, b, 2e-5)


def low_rank(count, rank, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(count, 4, rank)), rng.normal(size=(count, rank, 6))
    return (a @ b).astype(np.float32)


def test_iso_c_makes_the_spectrum_flat():
    d = low_rank(3, 4)
    for method in (merge.iso_c, merge.iso_cts):
        singular = np.linalg.svd(np.asarray(method({"w": d}, ZERO)["w"]), compute_uv=False)
        close(singular, singular[0], 1e-5)


def test_directions_that_no_task_uses_stay_unused():
    """Two adapters of rank 1: what is merged has rank 2, and its nuclear norm is kept by iso_c."""
    d = low_rank(2, 1)
    for method in (merge.tsv_m, merge.iso_c, merge.iso_cts, merge.wudi):
        singular = np.linalg.svd(np.asarray(method({"w": d}, ZERO)["w"]), compute_uv=False)
        assert (singular[2:] < 1e-5).all()
        assert (singular[:2] > 1e-2).all()
    nuclear = np.linalg.svd(d.sum(0), compute_uv=False).sum()
    merged = np.asarray(merge.iso_c({"w": d}, ZERO)["w"])
    close(np.linalg.svd(merged, compute_uv=False).sum(), nuclear, 1e-5)


def test_equal_members_keep_their_leading_triplets():
    """N copies: the frames of the copies fall together, and their singular values do not add up."""
    d = low_rank(1, 4)
    u, s, vt = np.linalg.svd(d[0].astype(float), full_matrices=False)
    found = merge.tsv_m({"w": np.repeat(d, 2, 0)}, ZERO)["w"]
    close(found, (u[:, :2] * s[:2]) @ vt[:2], 1e-5)


def test_knots_counts_only_directions_in_use():
    """With the rank that is in use a density means that share of their coordinates."""
    d = low_rank(2, 1)
    half = functools.partial(merge.ties, density=0.5)
    one, two = (merge.knots({"w": d}, ZERO, half, rank=r)["w"] for r in (2, None))
    vt = np.linalg.svd(np.concatenate(list(d)).astype(float), full_matrices=False)[2]
    close(one, ties(d @ vt[:2].T) @ vt[:2], 1e-5)
    assert abs(np.asarray(one) - np.asarray(two)).max() > 1e-3


def test_coefficients_vectorise_and_have_gradients():
    method, (population, base) = merge.iso_c, draw()
    lams = jnp.array([0.5, 1.5])
    many = jax.vmap(lambda lam: method(population, base, lam=lam))(lams)
    close(many["tall"][1], method(population, base, lam=1.5)["tall"])
    slope = jax.jacobian(lambda lam: method(population, base, lam=lam))(1.0)
    ahead = method(population, base, lam=2.0)
    close(base["wide"] + 2 * slope["wide"], ahead["wide"])


def test_half_types_compute_in_float32():
    dtype = jnp.bfloat16
    population, base = (jax.tree.map(lambda x: jnp.asarray(x, dtype), t) for t in draw())
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (population, base))
    found, exact = merge.tsv_m(population, base), merge.tsv_m(*wide)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True):
        assert a.dtype == dtype
        close(a.astype(np.float32), b, float(jnp.finfo(dtype).eps))


def test_other_leaves_are_kept_and_by_leaf_holds():
    population, base = draw()
    step = {"step": np.array([3, 4, 5]), **population}
    lam = ws.by_leaf({"wide": 0.0, "*": 1.0})
    found = merge.iso_c(step, {"step": np.int64(2), **base}, lam=lam, where=["wide", "tall"])
    assert int(found["step"]) == 2
    for leaf in ("wide", "bias"):
        assert (found[leaf] == base[leaf]).all()
    assert (found["tall"] != base["tall"]).any()


def test_errors_come_first():
    population, base = draw()
    with pytest.raises(ws.WeightSpaceError, match="common: expected 0 to 1, got 2"):
        merge.iso_cts(population, base, common=2.0)
    with pytest.raises(ws.WeightSpaceError, match="rank: expected at least 1, got 0"):
        merge.knots(population, base, TA, rank=0)
    with pytest.raises(ws.WeightSpaceError, match="bias: base is"):
        merge.tsv_m(population, base | {"bias": np.zeros(7, np.float32)})
    with pytest.raises(ws.WeightSpaceError, match="bias: lam: expected a number"):
        merge.tsv_m(population, base, lam=np.ones(3))
    with pytest.raises(ws.WeightSpaceError, match="alpha: expected above 0"):
        merge.calibrate(base, population, base, alpha=0.0)
    with pytest.raises(ws.WeightSpaceError, match="steps: expected at least 0"):
        merge.wudi(population, base, steps=-1)
