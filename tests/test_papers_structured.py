"""The experiment on structured pruning adapters: its parts, by hand."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import wslax as ws
from benchmarks.papers import structured_adapters as paper
from benchmarks.papers.structured_adapters import transfer


def test_units_go_by_an_equal_factor_down_to_the_share():
    assert transfer.schedule(0.0625, 256).tolist() == [256, 128, 64, 32, 16, 16]
    assert transfer.schedule(1.0, 7).tolist() == [7] * 6
    for share in transfer.SHARES:
        assert int(transfer.schedule(share, 256)[-1]) == round(256 * share)


def test_what_is_lost_stays_lost():
    gates = transfer.survivors(jnp.array([3.0, 9.0, 1.0, 5.0]), jnp.array([1.0, 0.0, 1.0, 1.0]), 2)
    assert gates.tolist() == [1, 0, 0, 1]
    # Units of equal score, as those that never fire, are still counted one by one.
    assert transfer.survivors(jnp.zeros(4), jnp.array([0.0, 1.0, 1.0, 1.0]), 2).sum() == 2


def test_numbers_learned_are_those_of_the_pruned_net():
    """Of 6 inputs and layers of 16: with half the units kept, 8."""
    count = lambda arm, share: transfer.learned(arm, 6, share, 16)
    rest = 8 + 8 + 10 + 8 * 10
    assert count("head and biases", 0.5) == rest
    assert count("fine-pruning", 0.5) == rest + 6 * 8 + 8 * 8
    splora = rest + 8 * (6 + 8) + 8 * (8 + 8)
    names = ("SPLoRA", "SPLoRA, random units", "random places")
    assert [count(arm, 0.5) for arm in names] == [splora] * 3


def test_random_places_between_kept_units_are_as_many_as_an_adapter_learns():
    shapes = {name: {"change": jnp.zeros(shape)} for name, shape in zip(
        transfer.MATRICES, [(196, 256), (256, 256)], strict=True)}  # fmt: skip
    mask, rest = transfer.places(jr.key(0), (shapes, {"out/bias": {"change": jnp.zeros(10)}}), 77)
    first, second = (mask[name]["change"] for name in transfer.MATRICES)
    assert float(first[:, :77].sum()) == pytest.approx(8 * (196 + 77), rel=0.1)
    assert float(second[:77, :77].sum()) == pytest.approx(8 * (77 + 77), rel=0.1)
    assert rest["out/bias"]["change"].all()


def test_gated_net_trains_as_the_pruned_one():
    base = jax.jit(transfer.net_of(5, 12).init)(jr.key(0))
    groups = ws.symmetry.feed_forward(base, transfer.LAYERS)
    adapter = transfer.SPLORA
    train, fixed = adapter.init(jr.key(1), base)
    train = jax.tree.map(lambda x: x + jr.normal(jr.key(x.size), x.shape) / 3, train)
    x, y = jr.normal(jr.key(2), (7, 5)), jnp.arange(7)
    scores = {group.id: jr.uniform(jr.key(group.id), (12,)) for group in groups.free}
    gates = {id: transfer.survivors(s, jnp.ones(12), 4) for id, s in scores.items()}
    kept = ws.select.units(groups, scores, sizes={0: 4, 1: 4})
    assert {id: np.flatnonzero(g).tolist() for id, g in gates.items()} == {
        id: index.tolist() for id, index in kept.items()
    }
    small = ws.select.prune(groups, scores, sizes={0: 4, 1: 4}).apply(base)
    taken = lambda train: tuple(ws.adapt.take(part, groups, kept) for part in train)

    def gated(train):
        return transfer.loss(ws.select.gate(adapter.fuse(base, train, fixed), groups, gates), x, y)

    def pruned(train):
        return transfer.loss(adapter.fuse(small, train, fixed), x, y)

    value, slope = jax.jit(jax.value_and_grad(gated))(train)
    expected, small_slope = jax.jit(jax.value_and_grad(pruned))(taken(train))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), taken(slope), small_slope
    )
    # Nothing else moves.
    total = lambda t: sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(t))
    assert total(slope) == pytest.approx(total(small_slope), rel=1e-4)


def test_rate_is_the_best_on_validation_data_for_each_share():
    of = lambda value: np.full((6, 2, 5), value)
    found = transfer.Found(of(0.1), of(0.0))
    found.validation[3, :, 1] = 0.5
    found.test[3, :, 1] = [0.25, 0.5]
    found.test[2] = 0.9
    found.test[0, :, 0] = 0.75
    assert paper.chosen(found).tolist() == [0, 3, 0, 0, 0]
    assert paper.figures(found)[:2].tolist() == [[75, 75], [25, 50]]
    other = transfer.Found(of(0.1), of(0.0))
    told = paper.claims("toy", {"SPLoRA": found} | dict.fromkeys(
        ("fine-pruning", "random places", "SPLoRA, random units"), other))  # fmt: skip
    assert [claim.values for claim in told[3:5]] == [[75, 75], [25, 50]]
    assert [claim.bound for claim in told] == ["> 0"] * 3 + ["> -1"] * 2 + ["> 0"] * 2


@pytest.mark.parametrize("name", ["random places", "SPLoRA, random units"])
def test_a_net_of_few_units_is_left(name):
    net = transfer.net_of(5, 12)
    x, y = jr.normal(jr.key(1), (20, 5)), jnp.arange(20) % 10

    @jax.jit
    def run(key):
        base = net.init(key)
        arm = transfer.ARMS[name]
        return base, transfer.transferred(arm, key, base, (x, y), 0.25, 1e-2, 2)

    base, left = run(jr.key(0))
    alive = [np.flatnonzero(np.abs(left[to]["kernel"]).sum(1)) for to in ("hidden_1", "out")]
    assert [len(units) for units in alive] == [3, 3]
    moved = np.asarray(left["hidden_0"]["kernel"] != base["hidden_0"]["kernel"])[:, alive[0]]
    assert moved.any()
    if name == "SPLoRA, random units":
        assert moved.all()
