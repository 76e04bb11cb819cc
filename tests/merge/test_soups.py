"""Soups against their recipes in plain numpy, and what each of them promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import merge

N = 6


def draw(seed=0):
    """Members about a point of a bowl that is steeper in some directions; not all help."""
    rng = np.random.default_rng(seed)
    weights = (
        rng.normal(size=(N, 3, 4)).astype(np.float32) * np.linspace(0.4, 1.5, N)[:, None, None]
    )
    return {
        "bias": rng.normal(size=(N, 4)).astype(np.float32),
        "kernel": weights.astype(np.float32),
        "step": np.full(N, 7, np.int32),
    }


STEEP = np.linspace(0.5, 2.0, 12, dtype=np.float32).reshape(3, 4)


def score(params):
    return -(STEEP * params["kernel"] ** 2).sum() - 0.1 * (params["bias"] ** 2).sum()


def recipe(population):
    """Members in the paper's greedy soup."""
    rows = [{n: x[i] for n, x in population.items()} for i in range(N)]
    order = sorted(range(N), key=lambda i: -score(rows[i]))

    def mean(chosen):
        return {n: np.mean([rows[i][n].astype(float) for i in chosen], 0) for n in population}

    chosen = order[:1]
    for i in order[1:]:
        if score(mean([*chosen, i])) >= score(mean(chosen)):
            chosen.append(i)
    return chosen, mean(chosen)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("compiled", [True, False])
def test_greedy_soup_is_its_recipe(compiled, seed):
    population = draw(seed)
    chosen, mean = recipe(population)
    assert 1 < len(chosen) < N
    function = score if compiled else lambda p: score(jax.tree.map(np.asarray, p))
    soup = merge.greedy_soup(population, function, compiled=compiled)
    assert np.flatnonzero(soup.coef).tolist() == sorted(chosen)
    np.testing.assert_allclose(soup.params["kernel"], mean["kernel"], rtol=1e-5, atol=1e-6)
    assert int(soup.params["step"]) == 7
    best = max(score({n: x[i] for n, x in population.items()}) for i in range(N))
    assert score(soup.params) >= best
    again = merge.linear(population, coef=soup.coef)
    np.testing.assert_allclose(again["bias"], soup.params["bias"], rtol=1e-5, atol=1e-6)


def test_greedy_soup_keeps_leaves_and_passes_by_nan():
    key = jax.random.split(jax.random.key(0), 3)
    x = jnp.asarray([[1.0, 1.0], [np.nan, 1.0], [0.5, 1.0]], jnp.bfloat16)
    population = {"key": key, "w": x, "weak": jax.vmap(lambda _: jnp.asarray(2.0))(jnp.arange(3))}
    weak = ws.population.stack([{"s": jnp.asarray(1.0)}] * 3)["s"]
    soup = merge.greedy_soup(
        {**population, "s": weak}, lambda p: -jnp.sum(p["w"].astype(jnp.float32) ** 2)
    )
    assert soup.coef.tolist() == [0.0, 0.0, 1.0]
    assert soup.params["key"] == key[2]
    assert soup.params["w"].dtype == jnp.bfloat16
    assert soup.params["s"].weak_type == weak.weak_type


def test_greedy_soup_takes_in_equals():
    same = {"w": np.ones((3, 2), np.float32)}
    assert merge.greedy_soup(same, lambda p: p["w"].sum()).coef.tolist() == pytest.approx(
        [1 / 3] * 3
    )


def loss(params, target):
    return ((params["kernel"] - target) ** 2).sum() + (params["bias"] ** 2).sum()


BATCHES = jnp.zeros((40, 3, 4))


@pytest.mark.parametrize(("per_leaf", "softmax"), [(False, True), (True, True), (False, False)])
def test_learned_soup_follows_the_gradient(per_leaf, softmax):
    """Against Adam in numpy on the gradient by hand."""
    population = draw()
    soup = merge.learned_soup(population, loss, BATCHES, per_leaf=per_leaf, softmax=softmax)
    flat = {n: population[n].reshape(N, -1).astype(float) for n in ("bias", "kernel")}
    names = [("bias",), ("kernel",)] if per_leaf else [("bias", "kernel")]
    for parts in names:
        w, m, v = (np.zeros(N) if softmax else np.full(N, 1 / N)), 0.0, 0.0
        for t in range(1, 41):
            e = np.exp(w - w.max())
            alpha = e / e.sum() if softmax else w
            g = sum(2 * flat[n] @ (alpha @ flat[n]) for n in parts)
            g = alpha * (g - alpha @ g) if softmax else g
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            w = w - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        e = np.exp(w - w.max())
        alpha = e / e.sum() if softmax else w
        found = soup.coef[parts[0]] if per_leaf else soup.coef
        np.testing.assert_allclose(found, alpha, rtol=1e-3, atol=1e-4)
        for n in parts:
            expected = (alpha @ flat[n]).reshape(population[n].shape[1:])
            np.testing.assert_allclose(soup.params[n], expected, rtol=1e-3, atol=1e-3)
    assert int(soup.params["step"]) == 7


def test_lm_cocktail_is_its_formula():
    population, losses = draw(), np.array([2.0, 1.0, 3.0, 0.5, 9.0, 2.0], np.float32)
    for temperature in (5.0, 0.2):
        weights = np.exp(-losses.astype(float) / temperature)
        weights /= weights.sum()
        found = merge.lm_cocktail(population, losses, temperature=temperature)
        expected = np.tensordot(weights, population["kernel"].astype(float), 1)
        np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda t: merge.lm_cocktail(population, losses, temperature=t)["bias"].sum())
    assert np.isfinite(slope(5.0))
    with pytest.raises(ws.WeightSpaceError, match="losses: expected 6 numbers"):
        merge.lm_cocktail(population, losses[:3])


def slerp(a, b, t):
    cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    angle = np.arccos(np.clip(cosine, -1, 1))
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def test_warp_slerp_is_its_recurrence():
    population = {n: x for n, x in draw().items() if n != "step"}
    base = {n: np.full(x.shape[1:], 0.3, np.float32) for n, x in population.items()}
    found = merge.warp_slerp(population, base, lam=0.5)
    for n, b in base.items():
        d = population[n].astype(float) - b
        merged = d[0]
        for m in range(1, N):
            merged = slerp(merged, d[m], 1 / (m + 1))
        np.testing.assert_allclose(found[n], b + 0.5 * merged, rtol=1e-5, atol=1e-5)


def test_warp_slerp_of_one_and_of_equals():
    population = {n: x for n, x in draw().items() if n != "step"}
    base = {n: np.zeros(x.shape[1:], np.float32) for n, x in population.items()}
    one = {n: x[:1] for n, x in population.items()}
    same = {n: np.repeat(x, 3, 0) for n, x in one.items()}
    for members in (one, same):
        found = merge.warp_slerp(members, base)["kernel"]
        np.testing.assert_allclose(found, one["kernel"][0], rtol=1e-5)


def test_liti_ends_at_its_models():
    params = {n: x[0] for n, x in draw().items()}
    base = {n: x[1] for n, x in draw().items()}
    assert (merge.liti(params, base, eta=0.0)["kernel"] == base["kernel"]).all()
    np.testing.assert_allclose(merge.liti(params, base, eta=1.0)["bias"], params["bias"], rtol=1e-5)
    middle = merge.liti(params, base, eta=0.25, where="kernel")
    expected = 0.25 * params["kernel"] + 0.75 * base["kernel"]
    np.testing.assert_allclose(middle["kernel"], expected, rtol=1e-5, atol=1e-6)
    assert (middle["bias"] == base["bias"]).all()
