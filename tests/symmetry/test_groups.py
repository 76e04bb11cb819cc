"""Groups as data: round trips, tables, and every way of writing them wrong."""

import dataclasses

import jax
import numpy as np
import pytest

from wslax import WeightSpaceError, nets, symmetry
from wslax.symmetry import Groups, Site

PARAMS = {"k": np.zeros((3, 8)), "b": np.zeros(8), "o": np.zeros((8, 2)), "s": 1.0}
HIDDEN = [("k", -1, "produced"), ("b", 0, "elementwise"), ("o", 0, "consumed")]


def test_groups_are_immutable_hashable_and_round_trip():
    options = {"reductions": {0: ("mean",)}, "frozen_by": {1: "slice, model.py:7"}}
    groups = Groups.from_sites(PARAMS, [HIDDEN, [("o", 1, "produced")]], **options)
    assert Groups.from_json(groups.to_json()) == groups
    assert hash(Groups.from_json(groups.to_json())) == hash(groups)
    assert [g.id for g in groups.free] == [0]
    assert groups.at("o", 0) == (groups.all[0],)
    assert groups.at("o", 5) == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        groups.all[0].sites[0].size = 3
    jax.jit(lambda x, g: x, static_argnums=1)(1.0, groups)
    assert "frozen by slice, model.py:7" in groups.table()
    assert "reduced by mean" in groups.table()


def test_a_leaf_may_be_produced_and_consumed_along_one_axis():
    tied = [("k", 1, "produced"), ("k", 1, "consumed")]
    groups = Groups.from_sites(PARAMS, [tied])
    params = PARAMS | {"k": np.arange(24.0).reshape(3, 8)}
    moved = symmetry.permute(params, groups, {0: np.arange(8)[::-1]})
    assert (moved["k"][0] == np.arange(8)[::-1]).all()
    assert [s.size for s in symmetry.resize(groups, {0: 9}).all[0].sites] == [9, 9]


def site(**changes):
    return Site(**({"name": "k", "axis": 1, "size": 8, "role": "produced"} | changes))


@pytest.mark.parametrize(
    ("groups", "options", "sentence"),
    [
        ([[]], {}, "group 0 is empty"),
        ([[("kk", 0, "produced")]], {}, "leaf 'kk' is unknown"),
        ([[("s", 0, "produced")]], {}, "leaf 's' is unknown"),
        ([[("k", 2, "produced")]], {}, "k: has 2 axes .3, 8., got axis 2"),
        ([[("k", 1, "produce")]], {}, "k: role 'produce' is unknown. Did you mean 'produced'"),
        ([[("k", 1, "produced"), ("k", 0, "consumed")]], {}, "k.0: 0:3. consumed: has 3 units"),
        ([[site(size=9)]], {}, "does not fit the axis of length 8"),
        ([[site(outer=3, size=2)]], {}, "does not fit"),
        ([[site(size=0)]], {}, "at least 1"),
        ([[site(axis=2)]], {}, "k: has 2 axes, got axis 2"),
        ([HIDDEN, [("b", 0, "elementwise")]], {}, "b: the sites of groups 0 and 1 overlap"),
        ([[site(), site()]], {}, "overlap"),
        ([[site(size=5)], [site(start=3, size=5)]], {}, "overlap"),
        ([[site(size=4, inner=2)], [site(size=2, inner=3)]], {}, "overlap"),
        ([HIDDEN], {"reductions": {0: ("softmaxx",)}}, "Did you mean 'softmax'"),
        ([HIDDEN], {"reductions": {1: ("mean",)}}, "no group 1"),
        ([HIDDEN], {"per": {0: (0,)}}, "per=0 is not another group"),
        (
            [HIDDEN, [("o", 1, "produced")]],
            {"per": {0: (1,)}},
            "group 0 runs through it",
        ),
    ],
)
def test_what_is_wrong_is_named(groups, options, sentence):
    with pytest.raises(WeightSpaceError, match=sentence):
        Groups.from_sites(PARAMS, groups, **options)


@pytest.mark.parametrize("text", ["", "[]", '{"groups": []}', '{"shapes": {}, "groups": [{}]}'])
def test_other_json_is_refused(text):
    with pytest.raises(WeightSpaceError, match=r"Groups\.to_json"):
        Groups.from_json(text)


def test_a_piece_must_start_at_a_whole_unit():
    sites = [[site(size=2)], [site(start=1, size=3, inner=2)]]
    groups = Groups.from_sites(PARAMS, sites)
    with pytest.raises(WeightSpaceError, match="no multiple of 2"):
        symmetry.resize(groups, {0: 3})


def test_the_chain_of_a_net():
    net = nets.conv(8, [4, 6], 3)
    params = jax.eval_shape(net.init, jax.random.key(0))
    layers = ["conv_0", "norm_0", "conv_1", "norm_1", "out"]
    reductions = {0: ("mean", "variance"), 1: ("mean", "variance")}
    groups = symmetry.feed_forward(params, layers, reductions=reductions)
    assert [g.size for g in groups.all] == [4, 6]
    assert {(s.name, s.axis, s.role) for s in groups.all[0].sites} == {
        ("conv_0/kernel", 3, "produced"),
        ("conv_0/bias", 0, "elementwise"),
        ("norm_0/scale", 0, "elementwise"),
        ("norm_0/bias", 0, "elementwise"),
        ("conv_1/kernel", 2, "consumed"),
    }


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (["k0", "out"], "no leaf belongs to layer 'k0'. Did you mean"),
        (["k", "k"], "takes 3 inputs, no multiple of the 8 units"),
        (["n", "k"], "the first layer, 'n', has no kernel"),
        (["k", "m"], r"m/scale: expected shape \[8\], got \[5\]"),
    ],
)
def test_a_chain_that_does_not_meet_is_refused(layers, sentence):
    k = {"kernel": np.zeros((3, 8))}
    params = {"k": k, "n": {"scale": np.zeros(8)}, "m": {"scale": np.zeros(5)}}
    with pytest.raises(WeightSpaceError, match=sentence):
        symmetry.feed_forward(params, layers)
