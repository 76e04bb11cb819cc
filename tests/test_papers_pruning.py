"""Experiments on pruning: their parts, by hand."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import wslax as ws
from benchmarks.papers import modhifi, rethinking
from benchmarks.papers.modhifi import forgetting
from benchmarks.papers.rethinking.cases import Case, convolved, l1


def case_of(features, widths, classes, parts):
    net = lambda widths: ws.nets.mlp(features, widths, classes)
    return Case("toy", net, net(widths).apply, widths, parts)


@pytest.fixture(scope="module")
def toy():
    rng = np.random.default_rng(0)
    part = rng.normal(size=(20, 4)).astype(np.float32), rng.integers(0, 3, 20).astype(np.int32)
    case = case_of(4, (6, 5), 3, (part, part, part))
    return case, jax.jit(jax.vmap(case.net(case.widths).init))(jr.split(jr.key(0), 2))


def test_convolutions_as_products_are_convolutions():
    net = ws.nets.conv(8, (3, 4), 5, 2)
    params = jax.jit(net.init)(jr.key(0))
    params["norm_0"]["scale"] = jnp.array([1.0, 2.0, 0.5])
    x = jr.normal(jr.key(1), (6, 8, 8, 2))
    ours, flax = (jax.jit(apply)(params, x) for apply in (convolved, net.apply))
    np.testing.assert_allclose(ours, flax, rtol=1e-4, atol=1e-5)


def test_units_are_ranked_by_the_weights_that_make_them(toy):
    case, nets = toy
    one = jax.tree.map(lambda x: x[0], nets)
    found = l1(one, case.groups)
    expected = [np.abs(one[name]["kernel"]).sum(0) for name in ("hidden_0", "hidden_1")]
    assert len(found) == 2
    for id, values in zip(sorted(found), expected, strict=True):
        np.testing.assert_allclose(found[id], values, rtol=1e-6)


def test_original_weights_are_those_of_the_kept_units(toy):
    case, begin = toy
    ids = sorted(l1(jax.tree.map(lambda x: x[0], begin), case.groups))
    scores = {ids[0]: jnp.array([[0, 1, 2, 0, 0, 3], [9, 8, 0, 0, 7, 0]]), ids[1]: jnp.ones((2, 5))}
    kept = rethinking.cut(case.groups, scores, begin, 0.5)
    for seed, units in enumerate(([1, 2, 5], [0, 1, 4])):
        before = np.asarray(begin["hidden_0"]["kernel"][seed])
        np.testing.assert_array_equal(kept["hidden_0"]["kernel"][seed], before[:, units])
        reader = np.asarray(begin["hidden_1"]["kernel"][seed])[units][:, :2]
        np.testing.assert_array_equal(kept["hidden_1"]["kernel"][seed], reader)


def test_the_small_net_may_take_more_steps_up_to_the_cap(toy):
    case, large = toy

    def make(widths):
        like = jax.eval_shape(case.net(widths).init, jr.key(0))
        return jax.tree.map(lambda x: jnp.zeros((1, *x.shape)), like)

    products = lambda a, b: 2 * (4 * a + a * b + 3 * b)
    more = rethinking.longer(case, make((4, 4)), large)
    assert more == pytest.approx(products(6, 5) / products(4, 4), rel=0.2)  # and biases
    assert rethinking.longer(case, make((1, 1)), large) == rethinking.LIMIT


def test_ways_are_compared_at_their_best_rates_and_originals_at_the_large_nets():
    of = lambda held, test: rethinking.Found(np.array([held, held]).T, np.array([test, test]).T)
    large = of([0.2, 0.9, 0.1], [0, 0, 0])
    ways = {
        "fine-tuned": (1, of([0.1, 0.5, 0.4], [0.9, 0.6, 0.8])),
        "Scratch-E": (1, of([0.8, 0.7, 0.1], [0.5, 0.4, 0.9])),
        "Scratch-B": (1, of([0.8, 0.7, 0.1], [0.7, 0.4, 0.9])),
        "original weights": (1, of([0.8, 0.7, 0.1], [0.1, 0.5, 0.9])),
    }
    told = rethinking.claims("toy", large, {0.3: ways})
    assert [np.round(claim.values, 6).tolist() for claim in told] == [[-10] * 2, [10] * 2, [10] * 2]


def test_scores_of_units_are_those_of_their_formulas(toy):
    case, nets = toy
    x = case.parts[0][0]
    grams, scores = modhifi.scored(case, jr.split(jr.key(0), 2), nets, x)
    one = jax.tree.map(lambda leaf: np.asarray(leaf[1]), nets)
    hidden = np.maximum(x @ one["hidden_0"]["kernel"] + one["hidden_0"]["bias"], 0)
    reader = one["hidden_1"]["kernel"]
    id = min(scores)
    names = (modhifi.OURS, *modhifi.OTHERS)
    by = dict(zip(names, np.asarray(scores[id][1]), strict=True))
    norm = np.linalg.norm(hidden, axis=0)
    np.testing.assert_allclose(by["Wanda"], norm * np.abs(reader).sum(1), rtol=1e-4)
    np.testing.assert_allclose(by["activity"], hidden.mean(0), rtol=1e-4)
    parts = np.einsum("nu,uo->uno", hidden, reader)  # what each unit gives
    whole = parts.sum(0)
    best = np.einsum("uno,no->u", parts, whole) ** 2 / (parts**2).sum((1, 2)) / (whole**2).sum()
    np.testing.assert_allclose(by[modhifi.OURS], best, rtol=1e-3)

    # Rescaled, three units of six make the output best.
    gated = np.asarray(modhifi.gates(case, nets, grams, scores[id], id=id, density=0.5))[1, 0]
    kept = np.flatnonzero(gated[0])
    assert set(kept) == set(best.argsort()[3:])
    fit = np.linalg.lstsq(parts[kept].reshape(3, -1).T, whole.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(gated[1][kept], fit, rtol=1e-2, atol=1e-3)
    assert (np.delete(gated[1], kept) == 0).all()


def test_what_fidelity_gains_is_a_positive_figure():
    part = np.zeros((4, 2, 5, 2))
    part[..., 0, 1], part[..., 0, 0], part[..., 1, 0], part[..., 1, 1] = 90, 70, 40, 85
    ways = modhifi.by_way({"images": part, "noise": part - 10})
    told = [claim.values[0] for claim in modhifi.claims("toy", ways)]
    # Than L1, Wanda, activity and random; by noise; rescaled as well; not rescaled.
    assert told == [50, 90, 90, 90, 40, 80, 5, 90, 20]
    found = {"before": np.array([[90.0, 90]]), modhifi.OURS: np.array([[1.0, 89]])}
    found |= {"activity": np.array([[11.0, 85]]), "random": np.array([[80.0, 80]])}
    assert [c.values for c in modhifi.forgetting_claims("toy", found)] == [[1], [-1], [7], [44]]


def test_a_class_goes_with_the_unit_that_is_its_own():
    own, rest = jnp.array([4.0, 3.0, 2.0, 1.0]), jnp.array([1.0, 9.0, 8.0, 0.0])
    assert forgetting.struck(own, rest, 0.5).tolist() == [True, False, False, False]
    assert forgetting.struck(own, rest, 0.0).sum() == 0
    y = np.tile(np.arange(10, dtype=np.int32), 20)
    part = np.eye(10, dtype=np.float32)[y], y
    case = case_of(10, (10,), 10, (part, part, part))
    like = jax.eval_shape(case.net((10,)).init, jr.key(0))
    params = jax.tree.map(lambda x: jnp.zeros(x.shape), like)
    for layer in params.values():
        layer["kernel"] = jnp.eye(10)
    found = forgetting.forgotten(case, jax.tree.map(lambda x: x[None], params))
    assert found["before"].tolist() == [[100, 100]]
    # Without its unit all logits are 0, which is right for the first class alone.
    np.testing.assert_allclose(found["ModHiFi"], [[10, 100]], rtol=1e-5)
