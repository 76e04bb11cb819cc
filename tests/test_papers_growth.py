"""The experiment on what growth saves: its arithmetic, its nets, and its arms at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from benchmarks.papers import growth_peer as peer
from benchmarks.papers import growth_speed as speed
from benchmarks.papers.counting import counted, flops
from benchmarks.papers.growth_speed import arms, nets, training


@pytest.fixture(scope="module")
def job():
    text = "".join(np.random.default_rng(0).choice(list("abcdefg"), 200))
    return speed.characters(text, 8)


def test_operations_until_a_loss_lie_on_the_line_between_points():
    costs, losses = np.array([10.0, 20.0, 30.0, 40.0]), np.array([4.0, 3.0, 1.0, 2.0])
    assert training.reached(costs, losses, 2.0) == 25
    assert training.reached(costs, losses, 3.0) == 20
    assert training.reached(costs, losses, 5.0) == 10
    assert training.reached(costs, losses, 0.5) == 40  # never: all of them


def test_what_is_taken_is_over_the_operations_to_the_lowest_loss_from_scratch():
    scratch = training.Curve(np.array([0.0, 10, 20]), np.array([[3.0, 3], [1, 2], [2, 1]]))
    arm = training.Curve(np.array([4.0, 20]), np.array([[2.0, 3.0], [0.0, 2.0]]))
    assert speed.targets(scratch).tolist() == [1, 1]
    assert speed.targets(scratch, 10).tolist() == [1, 2]
    assert speed.taken(scratch, arm).tolist() == [12 / 10, 20 / 20]
    assert speed.taken(scratch, arm, 4.0).tolist() == [8 / 10, 16 / 10]
    assert training.at(arm, 12.0).tolist() == [1.0, 2.5]
    assert np.isnan(training.at(arm, 3.0)).all()


def test_claims_leave_out_the_seed_of_choices_and_name_the_best_width_by_it():
    costs = np.array([0.0, 10, 20])
    to = lambda *y: training.Curve(costs, np.array([[9.0] * len(y), y, [0.0] * len(y)]))
    scratch = training.Curve(costs, np.array([[9.0, 9, 9], [5, 5, 5], [1, 1, 1]]))
    runs = {name: speed.Run(to(5.0, 1.0, 1.0), 2.0) for name in arms.ARMS}
    runs |= {name: runs["stack"] for name in ("LiGO", "stack, new state")}
    runs |= {"FPI": speed.Run(to(1.0, 5.0, 5.0), 2.0), speed.alone("shallow"): runs["stack"]}
    told = speed.claims("toy", speed.Race(0.1, "stack", scratch, runs, []), 0.332)
    by = {claim.says: claim for claim in told}
    assert by["growth is cheaper than scratch"].values == [2.0, 2.0]
    # The lowest loss of scratch within 18 is 5, which the arm has halfway between 9 and 1.
    assert by["HyperCloning is 2.2 to 4 times faster"].values == pytest.approx([10 / 3] * 2)
    assert by["LEMON saves 33.2% of the cost"].values == pytest.approx([0.7, 0.7])
    depth = by["stacking in depth is better than growth in width"]
    assert "FPI" in depth.what
    assert depth.values == pytest.approx([2 - 20 / 18] * 2)
    assert by["growth gives what the small net alone does not"].values == [0, 0]


def test_characters_are_followed_by_the_next_ones(job):
    x, y = job.train
    assert x.shape == y.shape == (len(x), 8)
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    np.testing.assert_array_equal(x[1:, 0], y[:-1, -1])
    assert job.inputs == job.classes == 7


def test_patches_are_squares():
    image = np.arange(4 * 4 * 2).reshape(1, 4, 4, 2)
    cut = speed.patches(image, 2)
    assert cut.shape == (1, 4, 8)
    np.testing.assert_array_equal(cut[0, 1], image[0, :2, 2:].ravel())


def test_a_place_sees_those_before_it_alone_and_costs_are_counted(job):
    params = nets.init(nets.Size(16, 2), job, jax.random.key(0))
    told = functools.partial(nets.apply, params, causal=True)
    x = job.train[0][:1]
    other = x.at[0, 5].set((x[0, 5] + 1) % 7)
    moved = np.abs(told(x) - told(other))[0].max(-1)
    assert (moved[:5] == 0).all()
    assert (moved[5:] > 1e-6).all()
    product, operations = counted(jnp.dot, jnp.ones((4, 5)), jnp.ones((5, 6)))
    assert operations == flops(jnp.dot, jnp.ones((4, 5)), jnp.ones((5, 6))) == 2 * 4 * 5 * 6
    assert (product == 5).all()


@pytest.fixture(scope="module")
def toy(job):
    params = nets.init(nets.Size(16, 2), job, jax.random.key(0))
    return params, arms.groups(nets.Size(16, 2), job)


def test_exact_arms_begin_at_the_loss_of_the_small_net(job, toy):
    params, groups = toy
    edit = arms.ARMS["LEMON + identity"].edit(groups, 0)
    loss = functools.partial(nets.loss, causal=True)
    before, after = loss(params, job.test), loss(edit.apply(params), job.test)
    assert float(after) == pytest.approx(float(before), rel=1e-5)


def test_ligo_grows_both_ways_and_zero_is_refused_under_norms(job, toy):
    params, groups = toy
    maps, materialise = arms.operator(groups, jax.random.key(0))
    like = jax.eval_shape(lambda: nets.init(arms.LARGE, job, jax.random.key(0)))
    grown = jax.eval_shape(materialise, maps, params)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, like)
    with pytest.raises(ws.WeightSpaceError, match="mean"):
        arms.ARMS["zero"].edit(groups, 0)


def test_missing_data_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("WSLAX_DATA", str(tmp_path))
    found = speed.measure(1)
    assert found.claims == []
    assert len(found.skipped) == 2


def test_growth_beside_gromo_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(peer, "ours", lambda method, net, *_: (net, np.array([[[3.0], [1.0]]])))
    monkeypatch.setattr(peer, "trained", lambda net, state, *_: (net, state))
    monkeypatch.setattr(peer.gromo, "is_there", lambda: False)
    found = peer.measure(1)
    rows = {row["growth"]: row for row in found.tables["After 600 steps"]}
    assert rows["gradmax"]["at growth"] == [-2]
    assert rows["gradmax"]["units"] == [4]
    assert rows["16 units from the start"]["units"] == [16]
    assert [claim.values for claim in found.claims] == [[0]]
    assert "gromo" in found.skipped[0]
    made = {name: {"training loss": [x]} for name, x in (("gradmax", 1.0), ("gromo, TINY", 0.25))}
    assert peer.claims(made)[0].values == [-0.75]
