"""Orders one after another: what `permute` does in turn, also where one chooses for another."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from wslax import align
from wslax.align.compose import after, identity
from wslax.symmetry import Groups, infer, permute
from wslax.symmetry.proof import randomised

sys.path.append(str(Path(__file__).parents[1] / "symmetry"))
from zoo import ZOO


def by_hand():
    """Widths per head; the heads have the higher id, so their turn comes later."""
    params = {"q": jr.normal(jr.key(0), (2, 3, 5))}
    sites = [[("q", 2, "produced")], [("q", 1, "produced")]]
    return params, Groups.from_sites(params, sites, per={0: (1,)})


def from_zoo(name):
    apply, params, inputs = ZOO[name]()
    with jax.numpy_rank_promotion("allow"):
        return randomised(jr.key(2), params), infer(apply, params, *inputs)


CASES = {"by hand": by_hand, "grouped": lambda: from_zoo("grouped")}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_permuting_in_turn(case):
    params, groups = CASES[case]()

    @jax.jit
    def both(params):
        first, then, third = (
            {
                id: jr.permutation(jr.fold_in(jr.key(i), id), p, axis=-1, independent=True)
                for id, p in identity(groups).items()
            }
            for i in range(3)
        )
        in_turn = params
        for orders in (first, then, third):
            in_turn = permute(in_turn, groups, orders)
        return in_turn, permute(params, groups, after(groups, after(groups, first, then), third))

    in_turn, at_once = both(params)
    for x, y in zip(*map(jax.tree.leaves, (in_turn, at_once)), strict=True):
        assert (x == y).all()


def test_weight_matching_returns_the_order_it_reached():
    """Groups that choose for each other move in turn; no further visit may find a gain."""
    a, groups = from_zoo("grouped")
    b = randomised(jr.key(20), a)
    match = jax.jit(lambda b: align.weight_matching(a, b, groups, key=jr.key(0)))
    agreement = lambda b: sum(
        float(jnp.vdot(x, y)) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )
    found = permute(b, groups, match(b))
    again = permute(found, groups, match(found))
    assert np.isclose(agreement(again), agreement(found), rtol=1e-5)
    assert agreement(found) > agreement(b)
