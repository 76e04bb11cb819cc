"""Pruned nets: smaller, and the big net less the units that go."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import WeightSpaceError, select, symmetry, tree
from wslax.symmetry import Groups, Site

sys.path.append(str(pathlib.Path(__file__).parents[1] / "symmetry"))
from zoo import ZOO


@pytest.fixture(autouse=True)
def _models_broadcast_as_they_like():
    with jax.numpy_rank_promotion("allow"):
        yield


def drawn(name):
    """A net of the zoo with random numbers, on the host, and its groups."""
    apply, shapes, inputs = ZOO[name]()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0.5, 0.5, x.shape).astype(np.float32) ** 2, shapes)
    inputs = [
        rng.normal(size=x.shape).astype(np.float32) if tree.is_float(x) else x for x in inputs
    ]
    return apply, params, symmetry.infer(apply, params, *inputs), inputs


def exact(groups):
    """Ids of free groups over whose units the model computes nothing."""
    return [group.id for group in groups.free if not group.reductions]


@pytest.mark.parametrize("name", ["mlp", "resnet", "separable", "lstm", "vit", "mamba"])
def test_units_that_give_nothing_go_without_a_trace(name):
    """Each group alone: every second unit has no outgoing weights and scores zero."""
    apply, params, groups, inputs = drawn(name)
    for id in exact(groups):
        alive = np.arange(groups.all[id].size) % 2 == 0
        zeroed = select.gate(params, groups, {id: alive.astype(np.float32)})
        edit = select.prune(groups, {id: alive.astype(float)}, sizes={id: int(alive.sum())})
        small = jax.tree.map(np.asarray, edit.apply(zeroed))
        assert symmetry.sizes(small, edit.groups)[id] == alive.sum()
        assert tree.size(small) < tree.size(params)
        np.testing.assert_allclose(
            apply(small, *inputs), apply(zeroed, *inputs), rtol=2e-3, atol=2e-4
        )


@pytest.mark.parametrize("name", ["densenet", "encoder_decoder", "llama", "scanned", "mixture"])
@pytest.mark.parametrize("scope", ["group", "model"])
def test_all_groups_at_once(name, scope):
    """Heads and widths, tied and stacked leaves: the models read their sizes from what is left."""
    apply, params, groups, inputs = drawn(name)
    scores = select.scores.along(groups, jax.tree.map(np.square, params))
    edit = select.prune(groups, scores, density=0.5, scope=scope)
    small = edit.apply(params)
    assert symmetry.sizes(small, edit.groups).keys() == symmetry.sizes(params, groups).keys()
    assert tree.size(small) < tree.size(params) / 2
    before, after = (jax.eval_shape(apply, p, *inputs) for p in (params, small))
    assert after.shape == before.shape


def test_widths_follow_the_heads_that_each_layer_keeps():
    """Stacked layers that keep other heads, and heads that keep other widths."""
    _, params, groups, _ = drawn("scanned")
    (heads,) = [
        g for g in groups.free if g.per == (0,) and any("blocks/k" in s.name for s in g.sites)
    ]
    (width,) = [
        g for g in groups.free if heads.id in g.per and any("blocks/v" in s.name for s in g.sites)
    ]
    rng = np.random.default_rng(0)
    scores = {heads.id: rng.normal(size=(3, 2)), width.id: rng.normal(size=(3, 2, 6))}
    kept = select.units(groups, scores, sizes={heads.id: 1, width.id: 3})
    v = np.asarray(
        select.prune(groups, scores, sizes={heads.id: 1, width.id: 3}).apply(params)["blocks"]["v"]
    )
    for layer in range(3):
        head = scores[heads.id][layer].argmax()
        best = np.sort(np.argsort(-scores[width.id][layer, head])[:3])
        np.testing.assert_array_equal(kept[width.id][layer, 0], best)
        np.testing.assert_array_equal(
            v[layer], params["blocks"]["v"][layer].reshape(12, 2, 6)[:, head, best]
        )


def test_groups_that_cannot_shrink_alone_are_refused():
    """Heads and widths in one fused axis, tiled in two ways."""
    _, params, groups, _ = drawn("gpt")
    scores = select.scores.along(groups, jax.tree.map(np.square, params))
    with pytest.raises(WeightSpaceError, match="tiled in another way; leave its group out"):
        select.prune(groups, scores, density=0.5)


def test_nothing_to_prune():
    groups = Groups.from_sites(
        {"a": np.zeros((1, 4))}, [[("a", 1, "produced")]], frozen_by={0: "x"}
    )
    assert select.units(groups, {}, density=0.5, scope="model") == {}


def test_statistics_go_along():
    _, variables, groups, _ = drawn("resnet")
    edit = select.prune(groups, {1: np.arange(8.0)}, density=0.25)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(
            edit.apply(variables)["batch_stats"]["n0a"][name],
            variables["batch_stats"]["n0a"][name][6:],
        )
    alone = edit.apply(variables["batch_stats"])
    assert alone["n0a"]["mean"].shape == (2,)
    optimizer = optax.adam(0.1)
    _, state = optimizer.update(variables["params"], optimizer.init(variables["params"]))
    nu = edit.optimizer_state(state)[0].nu
    np.testing.assert_array_equal(nu["c0a"]["kernel"], state[0].nu["c0a"]["kernel"][..., 6:])


def test_each_head_keeps_its_own_width_and_some_heads_go():
    """Against slicing by hand of the one attention block."""
    _, variables, groups, _ = drawn("vit")
    block = variables["params"]["block0"]["attention"]
    rng = np.random.default_rng(1)
    scores = {3: rng.normal(size=(4, 2)), 0: np.array([0.0, 3.0, 1.0, 2.0])}
    edit = select.prune(groups, scores, density=0.5)
    small = edit.apply(variables)["params"]["block0"]["attention"]
    heads, widths = [1, 3], scores[3].argmax(1)
    for k, head in enumerate(heads):
        np.testing.assert_array_equal(
            small["value"]["kernel"][:, k, 0], block["value"]["kernel"][:, head, widths[head]]
        )
        np.testing.assert_array_equal(
            small["out"]["kernel"][k, 0], block["out"]["kernel"][head, widths[head]]
        )
        np.testing.assert_array_equal(
            small["query"]["kernel"][:, k], block["query"]["kernel"][:, head]
        )
    assert symmetry.sizes(edit.apply(variables), edit.groups)[0] == 2


def pair(sizes):
    params = {name: np.zeros((1, size)) for name, size in zip("ab", sizes, strict=True)}
    sites = [[(name, 1, "produced")] for name in "ab"]
    return Groups.from_sites(params, sites)


def test_one_ranking_of_all_groups():
    scores = {0: np.array([9.0, 1.0, 8.0, 7.0]), 1: np.array([2.0, 3.0, 0.5, 6.0])}
    found = select.units(pair((4, 4)), scores, density=0.5, scope="model")
    assert {id: index.tolist() for id, index in found.items()} == {0: [0, 2, 3], 1: [3]}
    found = select.units(pair((4, 4)), scores, density=0.25, scope="model")
    assert {id: index.tolist() for id, index in found.items()} == {0: [0], 1: [3]}
    found = select.units(pair((4, 4)), scores, density=0.5, scope="model", least=2)
    assert {id: index.tolist() for id, index in found.items()} == {0: [0, 2], 1: [1, 3]}


def test_a_ranking_counts_every_outer_unit():
    """3 heads of width 2: their better widths score 6 in the mean, their worse ones 1."""
    sites = [
        [Site("a", 1, size=3, inner=2, role="produced")],
        [Site("a", 1, outer=3, size=2, role="produced")],
        [("b", 1, "produced")],
    ]
    params = {"a": np.zeros((1, 6)), "b": np.zeros((1, 4))}
    groups = Groups.from_sites(params, sites, per={1: (0,)})
    scores = {1: np.array([[5.0, 1.0], [1.0, 6.0], [7.0, 1.0]]), 2: np.array([9.0, 4.0, 3.0, 0.0])}
    found = select.units(groups, scores, density=0.5, scope="model")
    assert {id: index.tolist() for id, index in found.items()} == {
        1: [[0], [1], [0]],
        2: [0, 1],
    }
    # 9, then 3 units of 6; 4 would be the fifth of 5.


@pytest.mark.parametrize(("to", "expected"), [(1, 5), (4, 4), (8, 8), (16, 10)])
def test_round_numbers(to, expected):
    found = select.units(pair((10, 4)), {0: np.arange(10.0)}, density=0.5, round_to=to)
    assert len(found[0]) == expected


def test_scores_may_be_traced_and_models_mapped():
    groups = Groups.from_sites(
        {"a": np.zeros((2, 4)), "b": np.zeros((4, 1))},
        [[("a", 1, "produced"), ("b", 0, "consumed")]],
    )
    rng = np.random.default_rng(0)
    members = {
        "a": rng.normal(size=(3, 2, 4)).astype(np.float32),
        "b": rng.normal(size=(3, 4, 1)).astype(np.float32),
    }

    @jax.jit
    @jax.vmap
    def pruned(params):
        scores = select.scores.along(groups, jax.tree.map(jnp.square, params))
        return select.prune(groups, scores, density=0.5).apply(params)

    small = pruned(members)
    for i in range(3):
        norms = (members["a"][i] ** 2).sum(0) + (members["b"][i] ** 2).sum(1)
        keep = np.sort(np.argsort(-norms)[:2])
        np.testing.assert_array_equal(small["a"][i], members["a"][i][:, keep])
        np.testing.assert_array_equal(small["b"][i], members["b"][i][keep])


def test_group_norms_by_hand():
    """DepGraph's: squares of all members, over their mean; statistics and biases left out."""
    _, variables, groups, _ = drawn("resnet")
    params = variables["params"]
    found = select.scores.along(
        groups, jax.tree.map(np.square, params), where=["*/kernel", "n*/scale"]
    )
    squares = (
        (params["c0a"]["kernel"] ** 2).sum((0, 1, 2))
        + (params["c0b"]["kernel"] ** 2).sum((0, 1, 3))
        + params["n0a"]["scale"] ** 2
    )
    np.testing.assert_allclose(found[1], squares / squares.mean(), rtol=1e-5)
    flat = params["out"]["kernel"].reshape(4, 12, 3)  # flattened from [2, 2, channels]
    plain = select.scores.along(
        groups, jax.tree.map(np.abs, params), where="out/kernel", normalise=False
    )
    np.testing.assert_allclose(plain[3], np.abs(flat).sum((0, 2)), rtol=1e-5)


FROZEN = Groups.from_sites(
    {"a": np.zeros((1, 4)), "b": np.zeros((1, 4))},
    [[("a", 1, "produced")], [("b", 1, "produced")]],
    frozen_by={1: "sort, net.py:3"},
)
ONES = {0: np.ones(4)}


def test_frozen_groups_keep_all_units():
    with pytest.warns(UserWarning, match=r"group 1 \(b.*frozen by sort, net.py:3"):
        found = select.units(FROZEN, {0: np.ones(4), 1: np.ones(4)}, density=0.5)
    assert found.keys() == {0}


@pytest.mark.parametrize(
    ("scores", "options", "sentence"),
    [
        (ONES, {}, "either density= or sizes="),
        (ONES, {"density": 0.5, "sizes": {0: 2}}, "either density= or sizes="),
        (ONES, {"density": 0.0}, "above 0 and at most 1, got 0.0"),
        (ONES, {"density": 0.5, "round_to": 0}, "round_to: expected at least 1"),
        (ONES, {"sizes": {0: 5}}, "group 0 .*expected 1 to 4 to keep, got 5"),
        (ONES, {"sizes": {1: 2}}, "frozen by sort"),
        ({}, {"sizes": {0: 2}}, "scores has no entry"),
        ({0: np.ones(3)}, {"density": 0.5}, r"group 0 .*shape \[4\]"),
        ({0: np.full(4, np.nan)}, {"density": 0.5}, "not all numbers"),
        ({7: np.ones(4)}, {"density": 0.5}, "no group 7"),
        (ONES, {"sizes": {0: 2}, "scope": "model"}, "give it a density="),
    ],
)
def test_what_does_not_fit_is_refused(scores, options, sentence):
    with pytest.raises(WeightSpaceError, match=sentence):
        select.prune(FROZEN, scores, **options)


def test_traced_scores_have_no_joint_sizes():
    with pytest.raises(WeightSpaceError, match="scope='model' finds sizes"):
        jax.jit(lambda s: select.units(FROZEN, {0: s}, density=0.5, scope="model"))(jnp.ones(4))


def test_tied_leaves_cannot_be_gated():
    sites = [[("e", 1, "produced"), ("e", 1, "consumed")]]
    groups = Groups.from_sites({"e": np.zeros((5, 2))}, sites)
    with pytest.raises(WeightSpaceError, match="e: makes the units of group 0 and reads them"):
        select.gate({"e": np.zeros((5, 2))}, groups, {0: np.ones(2)})


def test_held_weights_stay_zero():
    """AdamW with decay and momentum: what is pruned stays, the rest trains as if it were alone."""
    rng = np.random.default_rng(0)
    mask = {"w": rng.random(20) < 0.5}
    params = {"w": np.where(mask["w"], rng.normal(size=20), 0).astype(np.float32)}
    alone = {"w": params["w"][mask["w"]]}
    clipped = lambda: optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1))
    held, plain = select.hold(clipped(), mask), clipped()
    state, plain_state = held.init(params), plain.init(alone)
    for _ in range(5):
        grads = {"w": rng.normal(size=20).astype(np.float32)}
        updates, state = held.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, plain_state = plain.update({"w": grads["w"][mask["w"]]}, plain_state, alone)
        alone = optax.apply_updates(alone, updates)
    assert (params["w"][~mask["w"]] == 0).all()
    np.testing.assert_allclose(params["w"][mask["w"]], alone["w"], rtol=1e-5)
    with pytest.raises(WeightSpaceError, match="mask and params differ"):
        held.init({"v": params["w"]})
