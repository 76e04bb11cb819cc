"""Structured pruning adapters, and what pruning makes of their parts."""

import jax
import numpy as np
import optax
import pytest

from tests.adapt.test_products import change, trained
from wslax import WeightSpaceError, adapt, symmetry, tree

RNG = np.random.default_rng(1)


def test_splopa_is_a_sum_of_kronecker_products():
    adapter = adapt.splopa(3, (2, 4), rank=2)
    params, train, fixed = trained(adapter, (6, 8))
    p = {name: np.float64(part) for name, part in train["w"].items()}
    each = zip(p["places"], p["prototype_down"] @ p["prototype_up"], strict=True)
    expected = sum(np.kron(place, prototype) for place, prototype in each)
    assert np.allclose(change(adapter, params, train, fixed), expected, atol=1e-4)


@pytest.mark.parametrize("make", [adapt.splora, adapt.sppara])
def test_starts_are_near_the_base(make):
    params = {"w": RNG.normal(size=(40, 30)).astype(np.float32)}
    train, fixed = make().init(jax.random.key(0), params)
    found = np.float64(make().fuse(params, train, fixed)["w"]) - params["w"]
    assert 0 < abs(found).max() < 1e-4
    start = train["w"]["down"] if make is adapt.splora else train["w"]["change"]
    bound = (40 * 16) ** -0.5 if make is adapt.splora else 1e-4
    assert 0.9 * bound < abs(start).max() < bound


def model():
    """A net of two layers with a flattened, tiled axis, and its groups."""
    draw = lambda *shape: RNG.normal(size=shape).astype(np.float32)
    params = {"a": draw(3, 8), "bias": draw(8), "b": draw(16, 5)}
    sites = [
        ("a", 1, "produced"), ("bias", 0, "elementwise"),
        symmetry.Site("b", 0, outer=2, size=8, role="consumed"),
    ]  # fmt: skip
    return params, symmetry.Groups.from_sites(params, [sites])


@pytest.mark.parametrize("adapter", [adapt.splora(2), adapt.sppara(), adapt.lora(2)])
def test_taking_then_fusing_is_fusing_then_taking(adapter):
    params, groups = model()
    train, fixed = adapter.init(jax.random.key(0), params)
    train = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), train)
    adapted = adapter.fuse(params, train, fixed)
    importance = abs(np.asarray(adapted["a"])).sum(0)  # on the adapted weight, as the authors do
    keep = {0: np.sort(np.argsort(-importance)[:3])}
    base, left = symmetry.take(params, groups, keep), adapt.take(train, groups, keep)
    found = adapter.fuse(base, left, adapt.take(fixed, groups, keep))
    expected = symmetry.take(adapted, groups, keep)
    assert jax.tree.map(np.shape, found) == {"a": (3, 3), "bias": (3,), "b": (6, 5)}
    for name in params:
        assert np.allclose(found[name], expected[name], atol=1e-5)


def heads():
    """Heads, layers on a first axis and a matrix [out, in], and their groups."""
    draw = lambda *shape: RNG.normal(size=shape).astype(np.float32)
    params = {"q": draw(6, 3, 4), "o": draw(3, 4, 6), "layers": draw(2, 6, 5), "t": draw(7, 6)}
    groups = symmetry.Groups.from_sites(params, [
        [("q", 0, "consumed"), ("o", 2, "produced"), ("layers", 1, "consumed"),
         ("t", 1, "consumed")],
        [("q", 1, "produced"), ("o", 0, "consumed")],
        [("q", 2, "produced"), ("o", 1, "consumed")],
        [("layers", 2, "produced")], [("t", 0, "produced")],
    ])  # fmt: skip
    return params, groups


def test_parts_in_any_layout_follow():
    params, groups = heads()
    of = lambda groups: adapt.chain(adapt.splora(2, groups=groups), adapt.whole(where="t"))
    adapter = of(groups)
    train, fixed = adapter.init(jax.random.key(0), params)
    train = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), train)
    keep = {0: np.array([0, 5, 3]), 1: np.array([2, 0]), 2: np.array([1, 2, 3]), 4: np.array([6])}
    left = tuple(adapt.take(part, groups, keep) for part in train)
    resized = of(symmetry.resize(groups, {id: len(index) for id, index in keep.items()}))
    found = resized.fuse(symmetry.take(params, groups, keep), left, fixed)
    expected = symmetry.take(adapter.fuse(params, train, fixed), groups, keep)
    assert jax.tree.map(np.shape, found)["layers"] == (2, 3, 5)
    for name in params:
        assert np.allclose(found[name], expected[name], atol=1e-4)


def test_learned_numbers_after_pruning_are_the_ranks_times_both_sides():
    params, groups = model()
    train, _ = adapt.splora(2).init(jax.random.key(0), params)
    left = adapt.take(train, groups, {0: np.array([1, 4, 6])})
    assert tree.size(left["a"]) == 2 * (3 + 3)
    assert tree.size(left["b"]) == 2 * (6 + 5)


def test_moments_follow():
    params, groups = model()
    train, _ = adapt.splora(2).init(jax.random.key(0), params)
    state, keep = optax.adam(1e-3).init(train), {0: np.array([1, 4, 6])}
    state = jax.tree.map(lambda x: x + 1, state)
    moved = tree.map_like(lambda t: adapt.take(t, groups, keep), state, train)
    expected = optax.adam(1e-3).init(adapt.take(train, groups, keep))
    assert jax.tree.map(np.shape, moved) == jax.tree.map(np.shape, expected)


def test_parts_without_units_and_indices_by_head_are_refused():
    params, groups = model()
    train, _ = adapt.miss(2).init(0, params)
    with pytest.raises(WeightSpaceError, match="a: no units run through its 'block'"):
        adapt.take(train, groups, {0: np.array([1])})
    flat, _ = adapt.lora(2).init(0, {"t": heads()[0]["t"]})
    with pytest.raises(WeightSpaceError, match=r"t: expected down \[6, 2\] .* with these groups="):
        adapt.take(flat, heads()[1], {4: np.array([6])})
    with pytest.raises(WeightSpaceError, match="units are 0 to 7"):
        adapt.take(train, groups, {0: np.array([8])})
