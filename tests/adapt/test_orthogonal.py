"""OFT and BOFT: rotations of the inputs, as their authors write them."""

import jax
import numpy as np
import pytest

from tests.adapt.test_products import trained
from wslax import WeightSpaceError, adapt


def cayley(upper, size):
    """(I + Q)(I - Q)^-1 in float64."""
    q = np.zeros((size, size))
    q[np.triu_indices(size, 1)] = upper
    q, one = q - q.T, np.eye(size)
    return (one + q) @ np.linalg.inv(one - q)


def butterfly(n, level, size):
    """The permutation matrix of a level: in each stretch of 2^level blocks, halves of blocks
    with even numbers come before those with odd ones."""
    if level == 0:
        return np.eye(n)
    half, stretch = size // 2, size * 2**level
    chunks = np.arange(stretch).reshape(-1, half)
    order = np.concatenate([chunks[0::2], chunks[1::2]]).reshape(-1)
    order = np.concatenate([start + order for start in range(0, n, stretch)])
    return np.eye(n)[order]


def block_diagonal(blocks):
    count, size, _ = blocks.shape
    full = np.zeros((count, size, count, size))
    full[np.arange(count), :, np.arange(count), :] = blocks
    return full.reshape(count * size, -1)


def rotation(skew, size):
    """The product over the levels, in the order in which PEFT's `get_delta_weight` has it."""
    whole = np.eye(skew.shape[1] * size)
    for level, uppers in enumerate(np.float64(skew)):
        blocks = block_diagonal(np.stack([cayley(upper, size) for upper in uppers]))
        p = butterfly(len(whole), level, size)
        whole = p @ blocks @ p.T @ whole
    return whole


def test_oft_rotates_each_block_of_inputs():
    adapter = adapt.oft(3)
    params, train, fixed = trained(adapter, (6, 5))
    r, w = rotation(train["w"]["skew"], 3), np.float64(params["w"])
    found = np.float64(adapter.fuse(params, train, fixed)["w"])
    assert np.allclose(found, r @ w, atol=1e-5)
    assert np.allclose(found.T @ found, w.T @ w, atol=1e-4)  # lengths and angles of columns stay
    assert not np.allclose(found, w, atol=1e-1)


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_boft_is_a_butterfly_and_a_scale(factors):
    adapter = adapt.boft(4, factors)
    params, train, fixed = trained(adapter, (32, 5))
    r = rotation(train["w"]["skew"], 4)
    found = adapter.fuse(params, train, fixed)["w"]
    assert np.allclose(found, r @ params["w"] * np.float64(train["w"]["scale"]), atol=1e-4)
    met = (abs(r) > 1e-9).sum(1)
    assert (met == 4 * 2 ** (factors - 1)).all()  # what the docstring says of reach


def test_counts_of_what_is_trained():
    count = lambda adapter: sum(x.size for x in jax.tree.leaves(trained(adapter, (32, 5))[1]))
    assert count(adapt.oft(8)) == 32 // 8 * 8 * 7 // 2
    assert count(adapt.boft(4, 3)) == 3 * 32 // 4 * 4 * 3 // 2 + 5


def test_blocks_that_do_not_fit_are_refused():
    params = {"w": np.ones((12, 5), np.float32)}
    with pytest.raises(WeightSpaceError, match="w: blocks of 8 do not fill axis 0"):
        adapt.oft(8).init(0, params)
    with pytest.raises(WeightSpaceError, match="w: blocks of 8 do not fill axis 0"):
        adapt.boft(4, 2).init(0, params)
    with pytest.raises(WeightSpaceError, match="even blocks for more than one"):
        adapt.boft(3, 2)
