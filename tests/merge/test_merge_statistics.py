"""Fisher and RegMean against their formulas in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import merge
from wslax.symmetry import Groups


@pytest.fixture(scope="module", autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def draw(count=3):
    rng = np.random.default_rng(1)
    population = {
        "b": rng.normal(size=(count, 4)).astype(np.float32),
        "w": rng.normal(size=(count, 6, 4)).astype(np.float32),
    }
    fishers = {n: rng.gamma(0.3, size=x.shape).astype(np.float32) for n, x in population.items()}
    fishers["w"][:, 0] = 0
    return population, fishers


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("coef", [1.0, np.array([1.0, 0.2, 3.0])])
def test_fisher_is_its_formula(coef, normalize):
    population, fishers = draw()
    found = merge.fisher(population, fishers, coef=coef, normalize=normalize)
    flat = np.concatenate([f.reshape(3, -1).astype(float) for f in fishers.values()], 1)
    c = np.broadcast_to(coef, (3,)) / (np.linalg.norm(flat, axis=1) if normalize else 1)
    for n, x in population.items():
        weight = c.reshape(-1, *(1,) * (x.ndim - 1)) * np.maximum(fishers[n].astype(float), 1e-6)
        np.testing.assert_allclose(
            found[n], (weight * x).sum(0) / weight.sum(0), rtol=1e-4, atol=1e-6
        )


def test_fisher_properties():
    population, fishers = draw()
    even = {n: np.ones_like(f) for n, f in fishers.items()}
    found = merge.fisher(population, even)["w"]
    np.testing.assert_allclose(found, population["w"].mean(0), rtol=1e-5, atol=1e-6)
    one, own = ({n: x[:1] for n, x in t.items()} for t in (population, fishers))
    np.testing.assert_allclose(merge.fisher(one, own)["w"], one["w"][0], rtol=1e-6)
    turned = ({n: x[[2, 0, 1]] for n, x in t.items()} for t in (population, fishers))
    np.testing.assert_allclose(
        merge.fisher(*turned)["w"], merge.fisher(population, fishers)["w"], rtol=1e-5, atol=1e-6
    )
    slope = jax.grad(lambda c: merge.fisher(population, fishers, coef=c)["w"].sum())(jnp.ones(3))
    np.testing.assert_allclose(slope.sum(), 0, atol=1e-4)  # only ratios of weights count
    half = merge.fisher({n: x.astype(np.float16) for n, x in population.items()}, fishers)
    assert half["w"].dtype == np.float16
    with pytest.raises(ws.WeightSpaceError, match=r"w: fishers is float32\[2,6,4\]"):
        merge.fisher(population, fishers | {"w": fishers["w"][:2]})


SEEN = np.random.default_rng(2).normal(size=(3, 20, 6)) * [3, 1, 1, 0.5, 0.1, 2]
GRAMS = np.einsum("nsi,nsj->nij", SEEN, SEEN).astype(np.float32)


def regmean(w, gram, alpha):
    """PyTorch's way round: w: [N, out, in]."""
    gram = gram.astype(float) * (alpha + (1 - alpha) * np.eye(gram.shape[-1]))
    return sum(x @ g for x, g in zip(w, gram, strict=True)) @ np.linalg.inv(gram.sum(0))


@pytest.mark.parametrize("alpha", [0.9, 0.0, 1.0])
def test_regmean_is_its_formula(alpha):
    population, _ = draw()
    found = merge.regmean(population, {"w": GRAMS}, alpha=alpha)
    expected = regmean(np.swapaxes(population["w"].astype(float), 1, 2), GRAMS, alpha).T
    np.testing.assert_allclose(found["w"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["b"], population["b"].mean(0), rtol=1e-5, atol=1e-6)
    halves = merge.regmean(population, {"w": (0.25 * GRAMS, 0.75 * GRAMS)}, alpha=alpha)
    np.testing.assert_allclose(halves["w"], found["w"], rtol=1e-3, atol=1e-4)


def test_regmean_is_least_squares_on_the_members_outputs():
    population, _ = draw()
    outputs = np.einsum("nsi,nio->nso", SEEN, population["w"].astype(float))
    expected = np.linalg.lstsq(SEEN.reshape(-1, 6), outputs.reshape(-1, 4), rcond=None)[0]
    found = merge.regmean(population, {"w": GRAMS}, alpha=1.0)["w"]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_regmean_keeps_the_mean_where_no_input_was():
    population, _ = draw()
    seen = SEEN.copy()
    seen[:, :, 2] = 0
    found = merge.regmean(
        population, {"w": np.einsum("nsi,nsj->nij", seen, seen).astype(np.float32)}
    )
    np.testing.assert_allclose(found["w"][2], population["w"][:, 2].mean(0), rtol=1e-5, atol=1e-6)
    assert np.isfinite(found["w"]).all()


def test_regmean_sees_heads_stacks_and_the_other_order():
    population, _ = draw()
    w = population["w"]
    plain = merge.regmean({"w": w}, {"w": GRAMS})["w"]
    leaves = {
        "out": w.reshape(3, 2, 3, 4), "query": w.reshape(3, 6, 2, 2), "torch": np.swapaxes(w, 1, 2),
        "layers": np.stack([w, w], 1),
    }  # fmt: skip
    grams = dict.fromkeys(("out", "query", "torch"), GRAMS) | {"layers": np.stack([GRAMS] * 2, 1)}
    one = {n: x[0] for n, x in leaves.items()}
    groups = Groups.from_sites(one, [[("torch", 0, "produced")], [("torch", 1, "consumed")]])
    found = merge.regmean(leaves, grams, groups=groups)
    for x in (
        found["out"].reshape(6, 4),
        found["query"].reshape(6, 4),
        found["torch"].T,
        *found["layers"],
    ):
        np.testing.assert_allclose(x, plain, rtol=1e-3, atol=1e-4)


def test_regmean_properties_and_errors():
    population, _ = draw()
    one = {n: x[:1] for n, x in population.items()}
    found = merge.regmean(one, {"w": GRAMS[:1]})
    np.testing.assert_allclose(found["w"], one["w"][0], rtol=1e-5, atol=1e-5)
    turned = merge.regmean(
        {n: x[[2, 0, 1]] for n, x in population.items()}, {"w": GRAMS[[2, 0, 1]]}
    )
    again = merge.regmean(population, {"w": GRAMS})
    np.testing.assert_allclose(turned["w"], again["w"], rtol=1e-3, atol=1e-4)
    with pytest.raises(ws.WeightSpaceError, match="'v' is no leaf"):
        merge.regmean(population, {"v": GRAMS})
    with pytest.raises(ws.WeightSpaceError, match="w: expected a Gram matrix"):
        merge.regmean(population, {"w": GRAMS[:, :5, :5]})


def test_regmean_takes_what_taps_give():
    """Grams read by tracing a population, against numpy on the inputs themselves."""
    net = ws.nets.mlp(5, (4,), 3)
    experts = ws.population.init(net.init, jax.random.key(0), 3)
    x = jax.random.normal(jax.random.key(1), (3, 20, 5))
    grams = jax.vmap(lambda p, x: ws.trace.taps(net.apply, p, x, read="gram"))(experts, x)
    found = merge.regmean(experts, grams)["hidden_0"]["kernel"]
    gram = np.einsum("nsi,nsj->nij", x, x).astype(np.float64)
    gram = 0.9 * gram + 0.1 * np.eye(5) * gram
    kernels = np.asarray(experts["hidden_0"]["kernel"], np.float64)
    expected = np.linalg.solve(gram.sum(0), np.einsum("nij,njk->ik", gram, kernels))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
