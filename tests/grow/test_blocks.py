"""Stacks of blocks are found from names, and from groups where leaves alone cannot tell."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wslax import WeightSpaceError, grow
from wslax.symmetry import Groups, Site


def block(*shape):
    return {"kernel": np.zeros(shape), "bias": np.zeros(shape[-1])}


def names(tree, **options):
    return [(stack.name, stack.depth) for stack in grow.blocks(tree, **options)]


TREES = {
    "dict": ({"block_0": block(2, 2), "block_1": block(2, 2)}, [("block_*", 2)]),
    "list": ({"blocks": [block(2, 2)] * 3, "out": block(2, 1)}, [("blocks/*", 3)]),
    "tuple of leaves": ((np.zeros(3), np.zeros(3)), [("*", 2)]),
    "flat checkpoint": (
        {f"model.h.{i}.{part}.weight": np.zeros(3) for i in range(12) for part in "ab"},
        [("model.h.*", 12)],
    ),
    "two families": (
        {f"{kind}{i}": block(2, 2) for kind in ("encoder", "decoder") for i in range(2)},
        [("decoder*", 2), ("encoder*", 2)],
    ),
    "stages": (
        {f"stage_{i}": block(2 + i // 3, 2) for i in range(6)},
        [("stage_[0-2]", 3), ("stage_[3-5]", 3)],
    ),
    "nested": (
        {"stages": [{"layers": [block(2, 2)] * 2}] * 3},
        [("stages/*", 3)],
    ),
    "dtypes differ": ({"a0": np.zeros(2), "a1": np.zeros(2, np.float32)}, []),
    "gap": ({"a0": np.zeros(2), "a2": np.zeros(2)}, []),
    "chain of widths": ({"h_0": block(4, 8), "h_1": block(8, 3)}, []),
    "nothing": ({}, []),
}


@pytest.mark.parametrize("name", TREES)
def test_what_is_found(name):
    tree, expected = TREES[name]
    assert names(tree) == expected


def test_numbers_count_as_numbers():
    tree = {f"layers_{i}": {"w": np.zeros(2)} for i in (10, 9, 11, 8)}
    (stack,) = grow.blocks(tree)
    assert (stack.first, stack.depth, stack.number(2)) == (8, 4, "10")
    assert grow.blocks({f"{i:02d}": np.zeros(2) for i in range(12)})[0].number(3) == "03"


def test_collections_of_one_model_are_one_stack():
    layers = lambda leaf: {f"b_{i}": {leaf: np.zeros(3)} for i in range(2)}
    (stack,) = grow.blocks({"params": layers("scale"), "batch_stats": layers("mean")})
    assert stack.name == "params/b_*"
    assert stack.leaves == ("params/b_*/scale", "batch_stats/b_*/mean")


def test_a_layer_axis_comes_from_groups_or_globs():
    tree = {"layers": {"up": np.zeros((3, 4, 3)), "down": np.zeros((3, 3, 4))}}
    assert names(tree) == []
    layers = [("layers/down", 0, "elementwise"), ("layers/up", 0, "elementwise")]
    groups = Groups.from_sites(tree, [layers], frozen_by={0: "scan at line 3"})
    (stack,) = grow.blocks(tree, groups)
    assert (stack.name, stack.depth, stack.axes) == ("layers", 3, (0, 0))
    assert grow.blocks(groups) == (stack,)
    (named,) = grow.blocks(tree, scanned="layers/*")
    assert (named.name, named.leaves) == ("layers/*", stack.leaves)
    assert "3 blocks, stacked for a scan" in str(named)
    with pytest.raises(WeightSpaceError, match=r"leading axes of one length"):
        grow.blocks({**tree, "out": np.zeros((5, 2))}, scanned="*")
    with pytest.raises(WeightSpaceError, match="picks no leaf"):
        grow.blocks(tree, scanned="nothing/*")


def test_numbers_in_a_scan_are_inside_it():
    tree = {"s0": np.zeros((3, 2)), "s1": np.zeros((3, 2))}
    sites = [Site(name, 0, size=3, role="elementwise") for name in tree]
    groups = Groups.from_sites(tree, [sites], frozen_by={0: "scan at line 3"})
    assert [stack.axes for stack in grow.blocks(tree, groups)] == [(0, 0)]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=9))
def test_runs_of_equal_blocks(kinds):
    """Against a plain count of maximal runs."""
    tree = [np.zeros(2 + kind) for kind in kinds]
    runs = [1]
    for a, b in itertools.pairwise(kinds):
        runs = [*runs[:-1], runs[-1] + 1] if a == b else [*runs, 1]
    assert [s.depth for s in grow.blocks(tree)] == [run for run in runs if run > 1]


def test_which_stack_is_meant():
    tree, _ = TREES["two families"]
    with pytest.raises(WeightSpaceError, match=r"'decoder\*', 'encoder\*'; say which by stack="):
        grow.deepen(tree, 3, method="copy")
    with pytest.raises(WeightSpaceError, match=r"no stack 'encodr\*'\. Did you mean 'encoder\*'"):
        grow.deepen(tree, 3, method="copy", stack="encodr*")
    with pytest.raises(WeightSpaceError, match="no stack of repeated blocks"):
        grow.deepen({"w": np.zeros(3)}, 3, method="copy")
