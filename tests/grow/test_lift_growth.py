"""LIFT's compact state under growth, against Adam by hand on masked dense moments."""

import functools

import forwards
import jax
import numpy as np
import optax
import pytest

from wslax import WeightSpaceError, grow, select, symmetry, tree

B1, B2, EPS = 0.9, 0.95, 1e-6
ADAM = optax.scale_by_adam(B1, B2, EPS)
KERNELS = ("a", "b", "out")


def lift(inner=ADAM, density=0.4, refresh_every=100):
    return select.lift(inner, rank=2, density=density, refresh_every=refresh_every)


UPDATE = jax.jit(lift().update)


def slope(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)


@pytest.fixture(scope="module")
def trained():
    """A net, its groups, and the state of LIFT after two steps."""
    params, groups = forwards.mlp_params(dtype=np.float32)
    return params, groups, train(lift(), params, 2)


def train(optimizer, params, steps):
    state, update = jax.jit(optimizer.init)(params), jax.jit(optimizer.update)
    for seed in range(steps):
        _, state = update(slope(params, seed), state, params)
    return state


def origin(edit, params, group, leaf):
    """For each unit of a leaf's grown last axis the old one."""
    numbered = params | {leaf: params[leaf] | {"bias": np.arange(float(group.size))}}
    return np.asarray(edit.apply(numbered)[leaf]["bias"]).astype(int)


def dense(state, params):
    """Masks and moments as whole leaves, by plain indexing."""
    found = {}
    for leaf in KERNELS:
        at, size = np.asarray(state.indices[leaf]["kernel"]), params[leaf]["kernel"].size
        for what, values in {"mask": np.ones(at.shape), "m": state.inner.mu[leaf]["kernel"],
                             "v": state.inner.nu[leaf]["kernel"]}.items():  # fmt: skip
            flat = np.zeros(size)
            flat[at[at < size]] = np.asarray(values)[at < size]
            found[leaf, what] = flat.reshape(params[leaf]["kernel"].shape)
    return found


def test_the_next_step_by_hand(trained):
    """Copies are selected with their units; incoming m / 2 and v / 4, outgoing as they are."""
    params, groups, state = trained
    edit = grow.widen(groups, {0: 10}, method="hypercloning", key=0)
    wide, unit = edit.apply(params), origin(edit, params, groups.all[0], "a")
    assert np.bincount(unit).tolist() == [2] * 5
    held, gradient = dense(state, params), slope(wide, 7)
    got, after = UPDATE(gradient, jax.jit(edit.optimizer_state)(state), wide)
    places = {"a": (np.s_[:, unit], 2), "b": (np.s_[unit], 1), "out": (np.s_[:], 1)}
    for leaf, (at, copies) in places.items():
        mask = held[leaf, "mask"][at]
        assert mask.sum() == after.indices[leaf]["kernel"].size
        g = np.asarray(gradient[leaf]["kernel"], float) * mask
        m = B1 * held[leaf, "m"][at] / copies + (1 - B1) * g
        v = B2 * held[leaf, "v"][at] / copies**2 + (1 - B2) * g**2
        step = (m / (1 - B1**3)) / (np.sqrt(v / (1 - B2**3)) + EPS)
        np.testing.assert_allclose(got[leaf]["kernel"], step * mask, rtol=1e-4, atol=1e-6)
        assert not np.asarray(got[leaf]["bias"]).any()


def test_leaves_that_do_not_grow_keep_their_bits(trained):
    _, groups, state = trained
    grown = jax.jit(grow.widen(groups, {0: 9}, key=0).optimizer_state)(state)
    for old, new in ((state.indices, grown.indices), (state.inner.mu, grown.inner.mu)):
        np.testing.assert_array_equal(old["out"]["kernel"], new["out"]["kernel"])
    assert grown.count == state.count
    assert grown.inner.count == state.inner.count


@pytest.mark.parametrize("size", [7, 13])
def test_sizes_that_are_no_multiple(trained, size):
    """Old places first, then copies as far as both go; the rest stands for none until a refresh."""
    params, groups, state = trained
    edit = grow.widen(groups, {0: size}, key=0)
    wide, grown = edit.apply(params), jax.jit(edit.optimizer_state)(state)
    fresh = jax.eval_shape(lift().init, wide)
    assert jax.tree.structure(grown) == jax.tree.structure(fresh)
    tree.check_like(grown, fresh)
    unit = origin(edit, params, groups.all[0], "a")
    held, moved = dense(state, params), dense(grown, wide)
    for leaf, at, old in (("a", np.s_[:, unit], np.s_[:, :5]), ("b", np.s_[unit], np.s_[:5])):
        mask, copied = moved[leaf, "mask"], held[leaf, "mask"][at]
        np.testing.assert_array_equal(mask[old], held[leaf, "mask"])
        assert (mask <= copied).all()
        assert mask.sum() == min(copied.sum(), grown.indices[leaf]["kernel"].size)
        assert (np.diff(grown.indices[leaf]["kernel"]) > 0).all()
    updates, after = UPDATE(slope(wide, 7), grown, wide)
    for leaf in KERNELS:
        np.testing.assert_array_equal(updates[leaf]["kernel"] != 0, moved[leaf, "mask"] != 0)
    if size != 13:
        return
    # Three updates so far: at the next one this lift selects anew, and fills all places.
    again = lift(refresh_every=3)
    updates, after = jax.jit(again.update)(slope(wide, 8), after, wide)
    mask = select.principal_mask(wide, rank=2, density=0.4)
    for leaf in KERNELS:
        np.testing.assert_array_equal(updates[leaf]["kernel"] != 0, mask[leaf]["kernel"])


def test_everything_selected_is_the_inner_state(trained):
    params, groups, _ = trained
    params = {name: {"kernel": params[name]["kernel"]} for name in KERNELS}
    groups = symmetry.feed_forward(params, list(KERNELS))
    edit = grow.widen(groups, {groups.free[0].id: 12}, key=3)
    states = train(lift(density=1.0), params, 2), train(ADAM, params, 2)
    for policy in ("exact", "reset"):
        move = jax.jit(functools.partial(edit.optimizer_state, policy=policy))
        grown, plain = map(move, states)
        flat = jax.tree.map(lambda x: x.reshape(-1), (plain.mu, plain.nu))
        jax.tree.map(np.testing.assert_array_equal, (grown.inner.mu, grown.inner.nu), flat)
        assert grown.inner.count == plain.count
        assert grown.count == (0 if policy == "reset" else 2)


def test_zero_pad(trained):
    params, groups, state = trained
    edit = grow.widen(groups, {0: 10}, method="hypercloning", key=0)
    with pytest.raises(WeightSpaceError, match="ScaleByAdamState: policy 'zero_pad'"):
        edit.optimizer_state(state, policy="zero_pad")
    counted = train(lift(grow.scale_by_adam(B1, B2, EPS)), params, 2)
    padded = jax.jit(functools.partial(edit.optimizer_state, policy="zero_pad"))(counted)
    grown, at = padded.inner, np.asarray(padded.indices["b"]["kernel"])
    new = at // 4 >= 5
    assert new.sum() == (~new).sum() == 8
    for field in grown:
        values = np.asarray(field["b"]["kernel"])
        assert not values[new].any()
        assert values[~new].all()


def test_blocks_and_masked_parts():
    """Under `multi_transform`, through deepening: a copied block has its block's selection."""
    block = {"up": {"kernel": (4, 6), "bias": (6,)}, "down": {"kernel": (6, 4)}}
    params = forwards.draw(0, {"block_0": block, "block_1": block, "out": (4, 3)}, np.float32)
    chosen = select.lift(ADAM, rank=1, density=0.3, refresh_every=9, where="*up/kernel")
    labels = {"block_0": "x", "block_1": "x", "out": "y"}
    optimizer = lambda labels: optax.multi_transform({"x": chosen, "y": optax.sgd(0.1)}, labels)
    state = train(optimizer(labels), params, 1)
    edit = grow.deepen(params, 3, method="copy")
    grown = jax.jit(edit.optimizer_state)(state)
    fresh = jax.eval_shape(optimizer(labels | {"block_2": "x"}).init, edit.apply(params))
    assert jax.tree.structure(grown) == jax.tree.structure(fresh)
    tree.check_like(grown, fresh)
    old, new = (s.inner_states["x"].inner_state for s in (state, grown))
    source = {"block_0": "block_0", "block_1": "block_0", "block_2": "block_1"}
    for block, of in source.items():
        for one, other in ((old.indices, new.indices), (old.inner.mu, new.inner.mu)):
            a, b = one[of]["up"]["kernel"], other[block]["up"]["kernel"]
            np.testing.assert_array_equal(a, b)


def test_a_leaf_that_where_picks_only_in_the_grown_model_is_named():
    """`where` speaks of the second block, whose place a copy of the first one takes."""
    block = {"up": {"kernel": (4, 6)}, "down": {"kernel": (6, 4)}}
    params = forwards.draw(0, {"block_0": block, "block_1": block}, np.float32)
    chosen = select.lift(ADAM, rank=1, density=0.3, refresh_every=9, where="block_1/up/*")
    edit = grow.deepen(params, [0, 0, 1], method="copy")
    with pytest.raises(WeightSpaceError, match=r"block_1/up/kernel: where= picks .* start afresh"):
        edit.optimizer_state(chosen.init(params))
