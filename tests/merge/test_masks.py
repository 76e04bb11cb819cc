"""Masks over entries against their formulas in float64 numpy."""

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

SHAPES = {"kernel": (4, 7), "bias": (7,)}
draw = functools.partial(experts.draw, SHAPES)


@pytest.fixture(scope="module", autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def vectors(population, base):
    return {n: population[n].astype(float) - base[n] for n in base}


def close(found, expected, tolerance=2e-6):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def magmax(d):
    best = d[0]
    for x in d[1:]:
        best = np.where(abs(x) >= abs(best), x, best)
    return best


def tall(d, lam):
    return np.stack([abs(x) > lam * abs(d.sum(0) - x) for x in d])


def emr(d):
    """Of all leaves flat, `[N, size]`: the models' task vectors as they are rebuilt."""
    sign = np.where(d.sum(0) > 0, 1, -1)
    masks = d * sign > 0
    unified = sign * (abs(d) * masks).max(0)
    scales = abs(d).sum(1) / abs(masks * unified).sum(1)
    return scales[:, None] * masks * unified


def flat(tree):
    return np.concatenate([np.asarray(tree[n], float).ravel() for n in sorted(tree)])


def test_magmax_is_its_formula():
    population, base = draw()
    found = merge.magmax(population, base, lam=0.7)
    for leaf, d in vectors(population, base).items():
        close(found[leaf], base[leaf] + 0.7 * magmax(d))


def test_magmax_takes_the_last_of_equals():
    d = np.float32([[1, -2, 3], [-1, 2, 0], [1, -2, -3]])
    assert merge.magmax({"w": d}, {"w": np.zeros(3, np.float32)}, lam=1.0)["w"].tolist() == [
        1,
        -2,
        -3,
    ]


@pytest.mark.parametrize("lam", [0.4, np.array([0.2, 0.6, 2.0])])
def test_tall_masks_and_consensus_are_their_formulas(lam):
    population, base = draw()
    masks = merge.tall_masks(population, base, lam=lam)
    found = merge.consensus(population, base, lam=0.3, mask_lam=lam)
    for leaf, d in vectors(population, base).items():
        lams = np.broadcast_to(lam, (3,))
        expected = np.stack([tall(d, lams[i])[i] for i in range(3)])
        assert (masks[leaf] == expected).all()
        close(found[leaf], base[leaf] + 0.3 * (expected.sum(0) >= 2) * d.sum(0))


def test_consensus_at_nought_is_task_arithmetic():
    population, base = draw()
    found = merge.consensus(population, base, lam=0.3, least=0)
    close(found["kernel"], merge.task_arithmetic(population, base, lam=0.3)["kernel"])
    assert (merge.consensus(population, base, least=4)["kernel"] == base["kernel"]).all()


def test_masks_of_what_is_not_merged_are_false():
    population, base = draw()
    masks = merge.tall_masks({**population, "step": np.arange(3)}, {**base, "step": np.int64(0)},
                             where="bias")  # fmt: skip
    assert masks["step"].tolist() == [False] * 3
    assert not masks["kernel"].any()
    assert masks["bias"].any()


def test_emr_rebuilds_members_as_its_formula():
    population, base = draw()
    stored = merge.emr(population, base)
    d = vectors(population, base)
    expected = emr(np.concatenate([d[n].reshape(3, -1) for n in sorted(d)], axis=1))
    found = jax.vmap(lambda i: merge.emr_member(stored, base, i))(jnp.arange(3))
    for i in range(3):
        close(flat(ws.population.member(found, i)) - flat(base), expected[i], 5e-6)
    bits = sum(x.nbytes for x in stored.masks.values())
    assert bits == 3 * (4 + 1)


@given(d=hnp.arrays(np.float32, (3, 11), elements=st.floats(-2, 2, width=16)))
@settings(deadline=None, max_examples=25)
def test_emr_keeps_signs_and_l1_norms(d):
    base = {"w": np.zeros(11, np.float32)}
    stored = merge.emr({"w": d}, base)
    for i in range(3):
        member = np.asarray(merge.emr_member(stored, base, i)["w"])
        assert (member * d[i] >= 0).all()
        if member.any():
            close(abs(member).sum(), abs(d[i]).sum(), 1e-5)


def test_emr_of_one_member_is_that_member():
    population, base = draw(1)
    close(merge.emr_member(merge.emr(population, base), base, 0)["kernel"], population["kernel"][0])


def test_other_leaves_are_the_bases():
    population, base = draw()
    more = {**base, "step": np.int64(5)}
    stored = merge.emr({**population, "step": np.arange(3)}, more, where=["kernel", "step"])
    member = merge.emr_member(stored, more, 1)
    assert int(member["step"]) == 5
    assert (member["bias"] == base["bias"]).all()


def test_no_task_vectors_give_the_base_and_order_does_not_matter():
    population, base = draw()
    same = {n: np.repeat(b[None], 3, 0) for n, b in base.items()}
    turned = {n: x[[2, 0, 1]] for n, x in population.items()}
    for method in (merge.magmax, merge.consensus):
        assert (method(same, base)["kernel"] == base["kernel"]).all()
        close(method(turned, base)["kernel"], method(population, base)["kernel"])
    assert (merge.emr_member(merge.emr(same, base), base, 0)["kernel"] == base["kernel"]).all()


def test_half_types_and_errors():
    population, base = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), draw())
    assert merge.magmax(population, base)["kernel"].dtype == jnp.bfloat16
    stored = merge.emr(population, base)
    assert merge.emr_member(stored, base, 0)["kernel"].dtype == jnp.bfloat16
    with pytest.raises(ws.WeightSpaceError, match="mask_lam: expected a number or 3 numbers"):
        merge.consensus(population, base, mask_lam=np.ones(2))
    with pytest.raises(ws.WeightSpaceError, match="member 3: 3 are stored"):
        merge.emr_member(stored, base, 3)
    with pytest.raises(ws.WeightSpaceError, match="kernel: stored, but not in the base"):
        merge.emr_member(stored, {"bias": base["bias"]}, 0)
