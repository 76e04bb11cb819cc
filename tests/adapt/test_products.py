"""LoHa and LoKr against their formulas in float64."""

import jax
import numpy as np
import pytest

from wslax import WeightSpaceError, adapt
from wslax.adapt.products import _factors

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


def trained(adapter, shape):
    """Parameters, and an adapter's parts with random numbers for what it trains."""
    params = {"w": RNG.normal(size=shape).astype(np.float32)}
    train, fixed = jax.jit(adapter.init)(KEY, params)
    draw = lambda x: RNG.normal(size=x.shape).astype(np.float32)
    return params, jax.tree.map(draw, train), fixed


def change(adapter, params, train, fixed):
    return np.float64(jax.jit(adapter.fuse)(params, train, fixed)["w"]) - params["w"]


def test_loha_is_a_product_of_thin_products_entry_by_entry():
    adapter = adapt.loha(2, alpha=6)
    params, train, fixed = trained(adapter, (6, 8))
    p = {name: np.float64(part) for name, part in train["w"].items()}
    expected = 3 * (p["down_1"] @ p["up_1"]) * (p["down_2"] @ p["up_2"])
    found = change(adapter, params, train, fixed)
    assert np.allclose(found, expected, atol=1e-4)
    assert np.linalg.matrix_rank(found, 1e-3) == 4


@pytest.mark.parametrize(("rank", "shape"), [(2, (12, 20)), (8, (6, 35))])
def test_lokr_is_a_kronecker_product(rank, shape):
    adapter = adapt.lokr(rank, alpha=3 * rank)
    params, train, fixed = trained(adapter, shape)
    p = {name: np.float64(part) for name, part in train["w"].items()}
    right = p["right"] if "right" in p else p["right_down"] @ p["right_up"]
    assert ("right" in p) == (rank == 8)
    found = change(adapter, params, train, fixed)
    assert np.allclose(found, 3 * np.kron(p["left"], right), atol=1e-4)


def test_lokr_splits_sides_as_peft_does():
    given = [(256, None), (128, None), (127, None), (128, 4), (12, 5), (12, 6), (6, 2)]
    expected = [(16, 16), (8, 16), (1, 127), (4, 32), (3, 4), (6, 2), (2, 3)]
    assert [_factors(*one) for one in given] == expected


def test_bad_ranks_are_refused():
    with pytest.raises(WeightSpaceError, match="rank: expected an integer of at least 1, got 0"):
        adapt.lokr(0)
    with pytest.raises(WeightSpaceError, match="w: rank 7 does not fit"):
        adapt.loha(7).init(KEY, {"w": np.ones((6, 8), np.float32)})
