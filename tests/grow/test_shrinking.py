"""Fewer units: which stay, the same along a stream, and their moments with them."""

import forwards
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax import WeightSpaceError, grow, symmetry
from wslax.symmetry import Groups

PARAMS, GROUPS = forwards.residual_params(normed=False)


def small_by_hand(params, stream, hidden):
    """The residual net's leaves at the units given, each axis on its own."""
    blocks = [
        {"scale": b["scale"][stream], "up": b["up"][stream][:, h], "down": b["down"][h][:, stream]}
        for b, h in zip(params["blocks"], hidden, strict=True)
    ]
    square = params["square"][stream][:, stream]
    return {
        "embed": params["embed"][:, stream],
        "blocks": blocks,
        "square": square,
        "head": params["head"][stream],
    }


def equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    ("method", "stream", "hidden"),
    [("first", [0, 1], [0, 1, 2, 3]), ("uniform", [0, 2], [0, 2, 3, 5])],
)
def test_one_choice_along_a_stream(method, stream, hidden):
    """Uniform: every second of 4; 4 of 6 are rounded from 0, 5/3, 10/3, 5."""
    edit = grow.shrink(GROUPS, {0: 2, 1: 4, 2: 4}, method=method)
    equal(edit.apply(PARAMS), small_by_hand(PARAMS, stream, [hidden, hidden]))
    assert symmetry.sizes(edit.apply(PARAMS), edit.groups) == {0: 2, 1: 4, 2: 4}


def test_ranked_keeps_the_best_in_their_order():
    scores = {0: np.array([3.0, 1.0, 4.0, 4.0]), 1: np.array([0.0, 5.0, 1.0, 5.0, 2.0, 5.0])}
    edit = grow.shrink(GROUPS, {0: 3, 1: 2}, scores=scores, method="ranked")
    expected = small_by_hand(PARAMS, [0, 2, 3], [[1, 3], [0, 1, 2, 3, 4, 5]])
    equal(edit.apply(PARAMS), expected)
    traced = jax.jit(
        lambda p, s: grow.shrink(GROUPS, {0: 3, 1: 2}, scores=s, method="ranked").apply(p)
    )
    with jax.enable_x64(True):
        equal(traced(PARAMS, scores), expected)


def test_dead_units_go_without_a_trace():
    """Units of no activation score nothing, and the net without them is the same function."""
    params, _ = forwards.mlp_params()
    params["a"]["kernel"][:, [1, 3]] = 0
    params["a"]["bias"][[1, 3]] = 0
    groups = symmetry.feed_forward(params, ["a", "b", "out"])
    with jax.enable_x64(True):
        x = np.random.default_rng(1).normal(size=(6, 3))
        activations = jnp.tanh(x @ params["a"]["kernel"] + params["a"]["bias"][None])
        scores = {0: jnp.abs(activations).mean(0)}
        small = grow.shrink(groups, {0: 3}, scores=scores, method="ranked").apply(params)
        before, after = (forwards.mlp(p, x) for p in (params, small))
        np.testing.assert_allclose(after, before, rtol=1e-12)


def test_rescaling_keeps_the_variance_of_sums():
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(8, 4000)), "out": rng.normal(size=(4000, 30))}
    groups = Groups.from_sites(params, [[("a", 1, "produced"), ("out", 0, "consumed")]])
    x = rng.normal(size=(200, 8))
    spread = lambda p: (np.tanh(x @ p["a"]) @ p["out"]).std()
    small = grow.shrink(groups, {0: 1000}, rescale=True).apply(params)
    np.testing.assert_array_equal(small["out"], 2 * params["out"][::4])
    assert abs(spread(small) / spread(params) - 1) < 0.1


@given(st.integers(1, 5), st.integers(5, 12), st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_shrinking_undoes_widening(keep, wide, key):
    params, groups = forwards.mlp_params()
    edit = grow.widen(groups, {0: wide}, method="zero", key=key)
    back = grow.shrink(edit.groups, {0: 5}, method="first")
    equal(back.apply(edit.apply(params)), params)
    once = grow.shrink(groups, {0: keep}, method="first")
    assert once.apply(params)["b"]["kernel"].shape == (keep, 4)


def test_moments_of_the_units_that_stay():
    optimizer = optax.adam(0.1)
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    state = jax.tree.map(np.asarray, state)
    edit = grow.shrink(GROUPS, {0: 2, 1: 4, 2: 4}, rescale=True)
    moments = edit.optimizer_state(state)[0]
    hidden = [0, 2, 3, 5]
    equal(moments.nu, small_by_hand(state[0].nu, [0, 2], [hidden, hidden]))
    assert moments.count == state[0].count


FROZEN = Groups.from_sites(PARAMS, [[("embed", 1, "produced")]], frozen_by={0: "sort, net.py:3"})


@pytest.mark.parametrize(
    ("groups", "sizes", "options", "sentence"),
    [
        (GROUPS, {0: 5}, {}, r"group 0 \(embed.*expected 1 to 4, got 5; `grow.widen`"),
        (GROUPS, {0: 0}, {}, "expected 1 to 4, got 0"),
        (GROUPS, {9: 1}, {}, "no group 9"),
        (FROZEN, {0: 2}, {}, "embed: .* frozen by sort"),
        (GROUPS, {0: 2}, {"method": "rank"}, "Did you mean 'ranked'"),
        (GROUPS, {0: 2}, {"method": "ranked"}, "scores go with"),
        (GROUPS, {0: 2}, {"method": "ranked", "scores": {1: np.ones(6)}}, "scores has no entry"),
        (GROUPS, {0: 2}, {"method": "ranked", "scores": {0: np.ones(3)}}, r"shape \[4\]"),
        (GROUPS, {0: 2}, {"method": "ranked", "scores": {0: np.full(4, np.nan)}}, "not all numb"),
    ],
)
def test_what_does_not_fit_is_refused(groups, sizes, options, sentence):
    with pytest.raises(WeightSpaceError, match=sentence):
        grow.shrink(groups, sizes, **options)
