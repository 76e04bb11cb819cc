"""Crossovers by rank-one terms: every child is one of the sums that its parents can give."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wslax import WeightSpaceError, evolve

RNG = np.random.default_rng(0)


def keys(count):
    return jax.random.split(jax.random.key(0), count)


def picks(children, sums):
    """Which of the sums each child is; it must be one of them."""
    gap = np.abs(np.asarray(children)[:, None] - sums[None]).reshape(len(children), len(sums), -1)
    gap = gap.max(2)
    np.testing.assert_allclose(gap.min(1), 0, atol=1e-5)
    return gap.argmin(1)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 3)])
def test_directions_come_whole_by_the_parents_shares(shape):
    x = RNG.normal(size=(2, *shape)).astype("f4")
    u, s, v = np.linalg.svd(x.reshape(2, -1, 3).astype(float), full_matrices=False)
    terms = np.einsum("pir,pr,prj->prij", u, s, v)
    choices = list(itertools.product([0, 1], repeat=3))
    sums = np.stack([sum(terms[p, r] for r, p in enumerate(c)) for c in choices])
    pair = {"w": jnp.asarray(x), "b": jnp.array([[1.0, 1.0], [2.0, 2.0]]), "n": jnp.array([7, 8])}
    cross = jax.jit(jax.vmap(lambda key: evolve.by_direction(key, pair, jnp.array([3.0, 1.0]))))
    children = cross(keys(2000))
    found = np.array(choices)[picks(children["w"], sums.reshape(-1, *shape))]
    first = 1 - found.mean(0)
    assert (abs(first - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 2000)).all()
    assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 5 / np.sqrt(2000)
    assert (children["n"] == 7).all()
    assert (children["b"][:, 0] == children["b"][:, 1]).all()  # a vector has one parent
    assert set(np.unique(children["b"])) == {1.0, 2.0}


def test_equal_parents_have_that_child_in_any_type():
    for dtype in ("float32", "bfloat16", "float16"):
        x = jnp.asarray(RNG.normal(size=(4, 6)), dtype)
        child = evolve.by_direction(1, {"w": jnp.stack([x, x])}, jnp.ones(2))["w"]
        assert child.dtype == x.dtype
        assert (child == x).all()
    one = evolve.by_direction(1, {"w": jnp.stack([x, 2 * x])}, jnp.array([1.0, 0.0]))["w"]
    assert (one == x).all()


def adapters(r=3):
    a, b = RNG.normal(size=(2, r, 5)), RNG.normal(size=(2, 4, r))
    as_leaves = lambda a, b: {
        "q": {
            "lora_A": {"weight": jnp.asarray(a, "f4")},
            "lora_B": {"weight": jnp.asarray(b, "f4")},
        }
    }
    return a, b, as_leaves(a, b) | {"scale": jnp.array([1.0, 2.0]), "rank": jnp.array([r, r])}


def test_terms_of_a_product_stay_together():
    a, b, pair = adapters()
    choices = list(itertools.product([0, 1], repeat=3))
    sums = np.stack([sum(np.outer(b[p, :, k], a[p, k]) for k, p in enumerate(c)) for c in choices])
    cross = jax.jit(jax.vmap(lambda key: evolve.by_term()(key, pair, jnp.array([1.0, 3.0]))))
    child = cross(keys(2000))
    product = np.asarray(child["q"]["lora_B"]["weight"] @ child["q"]["lora_A"]["weight"])
    first = 1 - np.array(choices)[picks(product, sums)].mean(0)
    assert (abs(first - 0.25) < 5 * np.sqrt(0.75 * 0.25 / 2000)).all()
    assert set(np.unique(child["scale"])) == {1.0, 2.0}
    # Terms on the other axes, a stack of layers before them.
    stacked = {
        "lora_A": jnp.stack([pair["q"]["lora_A"]["weight"].mT] * 2, 1),
        "lora_B": jnp.stack([pair["q"]["lora_B"]["weight"].mT] * 2, 1),
    }
    other = evolve.by_term(axes=(-1, -2))(0, stacked, jnp.ones(2))
    product = np.asarray(other["lora_A"] @ other["lora_B"]).swapaxes(1, 2)
    assert (picks(product, sums) == picks(product, sums)[0]).all()


def test_genome_breeds_adapters():
    _, _, pair = adapters()
    population = jax.tree.map(lambda x: jnp.concatenate([x, x * 2]), pair)
    strategy = evolve.genome(crossover=evolve.by_term(), mutation_rate=0.0)
    children, _ = strategy.ask(jax.random.key(0), strategy.init(0, population, jnp.ones(4)))
    assert children["q"]["lora_A"]["weight"].shape == (2, 3, 5)


def test_factors_that_do_not_fit_are_named():
    _, _, pair = adapters()
    lone = {"q": {"lora_A": pair["q"]["lora_A"]}}
    with pytest.raises(
        WeightSpaceError, match=r"q/lora_A/weight: lacks its other factor 'q/lora_B"
    ):
        evolve.by_term()(0, lone, jnp.ones(2))
    with pytest.raises(WeightSpaceError, match=r"has 5 terms, q/lora_B/weight has 4"):
        evolve.by_term(axes=(-1, -2))(0, pair, jnp.ones(2))
    with pytest.raises(WeightSpaceError, match="no leaf has 'down' in its name"):
        evolve.by_term("down", "up")(0, pair, jnp.ones(2))
