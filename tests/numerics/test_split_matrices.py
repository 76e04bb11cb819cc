"""Low rank and selection of a matrix that is split over four devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from wslax.numerics import lowrank, threshold

W = np.random.default_rng(0).normal(size=(128, 256)).astype(np.float32)
# Rounded, so that which of equal ones are chosen matters.
TIED = np.round(W, 1)


def low_rank(w):
    return lowrank.reconstruct(lowrank.principal(w, 4, block=8, products=6))


def choose(w):
    return threshold.top_k_mask(w, 500)


def kth(w):
    return threshold.kth_largest(w, 500)


def gathered(text):
    """The largest number of floats that an all-gather or all-to-all of a program makes."""
    shapes = re.findall(r"= \(?[a-z]+\d*\[([\d,]*)\]\S* (?:all-gather|all-to-all)", text)
    return max((int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes), default=0)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [P("x", None), P(None, "x")])
@pytest.mark.parametrize("fn", [low_rank, choose, kth])
def test_split_is_as_whole_and_is_not_gathered(fn, spec, kind):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(kind,))
    w = W if fn is low_rank else TIED
    split = jax.device_put(w, NamedSharding(mesh, spec))
    with jax.set_mesh(mesh):
        compiled = jax.jit(fn).lower(split).compile()
        found = compiled(split)
    np.testing.assert_allclose(found, fn(jnp.asarray(w)), atol=1e-4)
    assert gathered(compiled.as_text()) <= w.size / 32
    if found.ndim:
        assert found.sharding.spec == spec
