"""Learned coefficients against their optimizers in numpy, and what their forms promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from tests.merge.experts import draw
from wslax import merge

SHAPES = {"b": (4,), "w": (5, 4)}
N, STEPS = 3, 30
X = np.random.default_rng(3).normal(size=(STEPS, 6, 5)).astype(np.float32)


def apply(params, x):
    """Two tasks: the second looks at three classes."""
    logits = x @ params["w"] + params["b"][None]
    return {"a": logits, "b": logits[:, :3]}


def entropies(logits):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return -(p * np.log(p)).sum(-1).mean()


def descend(value, start, rate, steps):
    """Adam on central differences, in float64."""
    c, m, v, losses = start.copy(), 0.0, 0.0, []
    for t in range(steps):
        g = np.zeros_like(c)
        for at in np.ndindex(c.shape):
            ends = []
            for side in (1e-5, -1e-5):
                moved = c.copy()
                moved[at] += side
                ends.append(value(moved, t))
            g[at] = (ends[0] - ends[1]) / 2e-5
        losses.append(value(c, t))
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        c = c - rate * (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
    return c, losses


@pytest.mark.parametrize("per_leaf", [True, False])
def test_adamerging_is_adam_on_the_entropy(per_leaf):
    population, base = draw(SHAPES)
    found = merge.adamerging(population, base, apply, X, per_leaf=per_leaf)
    deltas = {n: population[n].astype(float) - b for n, b in base.items()}

    def model(c):
        rows = {"b": c[0], "w": c[-1]}
        return {n: b + np.tensordot(rows[n].clip(0, 1), deltas[n], 1) for n, b in base.items()}

    def value(c, t):
        logits = X[t].astype(float) @ model(c)["w"] + model(c)["b"]
        return entropies(logits) + entropies(logits[:, :3])

    coef, losses = descend(value, np.full((1 + per_leaf, N), 0.3), 1e-3, STEPS)
    ours = np.stack([found.coef["b"], found.coef["w"]]) if per_leaf else found.coef[None]
    np.testing.assert_allclose(ours, coef, atol=1e-4)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    for name, expected in model(coef).items():
        np.testing.assert_allclose(found.params[name], expected, atol=1e-4)


def test_adamerging_keeps_coefficients_in_range():
    population, base = draw(SHAPES)
    found = merge.adamerging(population, base, apply, X, optimizer=OPTIMIZER)
    rows = np.stack(list(found.coef.values()))
    assert rows.min() == 0
    assert rows.max() <= 1


OPTIMIZER = optax.adam(0.2)


def test_trimmed_vectors_are_those_of_ties():
    """Without steps: base plus 0.3 of what numpy keeps, over the whole model."""
    population, base = draw(SHAPES)
    found = merge.adamerging(population, base, apply, X[:0], density=0.4)
    d = np.concatenate([(population[n] - base[n]).reshape(N, -1) for n in SHAPES], 1)
    kept = np.sort(np.abs(d), 1)[:, -int(0.4 * d.shape[1])][:, None] <= np.abs(d)
    trimmed = d * kept
    sign = np.sign(trimmed.sum(0))
    sign[sign == 0] = np.sign(sign.sum())
    expected = 0.3 * (trimmed * (trimmed * sign > 0)).sum(0)
    ours = np.concatenate([(found.params[n] - base[n]).ravel() for n in SHAPES])
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def bowl(params, target):
    return ((params["w"] - target) ** 2).sum()


SGD = optax.sgd(0.02)


@pytest.mark.parametrize("parts", [None, 4, 7])
def test_atlas_finds_the_least_squares(parts):
    """Enough parts for a target of its own parts: a model that coefficients can reach is found."""
    population, base = draw({"b": (4,), "w": (4, 3)})
    target = base["w"] + np.tensordot([0.5, -2.0, 1.0], population["w"] - base["w"], 1)
    key = None if parts is None else 5
    found = merge.atlas(
        population, base, bowl, np.tile(target, (4000, 1, 1)), optimizer=SGD, parts=parts, key=key
    )
    np.testing.assert_allclose(found.params["w"], target, atol=2e-2)
    assert (found.params["b"] == base["b"]).all()
    assert found.coef["w"].shape == ((N,) if parts is None else (N, parts))
    if parts is None:
        np.testing.assert_allclose(found.coef["w"], [0.5, -2.0, 1.0], atol=2e-2)


def test_parts_share_nothing_and_cover_all():
    """The slope of one part's coefficient is each entry's task vector in that part, 0 elsewhere."""
    from wslax.merge.coefficients import mixed, of_task_vectors, parted

    population, base = draw({"w": (5, 3)})
    mixing = parted(of_task_vectors(population, base), 4, 2)
    slope = jax.jacobian(lambda c: mixed({"w": c}, mixing)["w"])(jnp.zeros((N, 4)))
    d = population["w"] - base["w"]
    slope = np.moveaxis(np.asarray(slope), (2, 3), (0, 1))
    used = slope != 0
    assert (used.sum(1) == 1).all()
    assert (used == used[:1]).all()
    np.testing.assert_allclose(slope.sum(1), d, atol=1e-6)
    assert sorted(used[0].reshape(4, -1).sum(1)) == [3, 4, 4, 4]


def test_stacked_layers_are_leaves_of_their_own():
    """One leaf that stacks two layers learns what two leaves do."""
    population, base = draw({"one": (5, 3), "two": (5, 3)})
    stack = lambda p, axis: {"w": np.stack([p["one"], p["two"]], axis)}
    apart = lambda p, t: ((p["one"] - t) ** 2).sum() + ((p["two"] + t) ** 2).sum()
    joint = lambda p, t: apart({"one": p["w"][0], "two": p["w"][1]}, t)
    targets = np.ones((20, 5, 3), np.float32)
    a = merge.atlas(population, base, apart, targets)
    b = merge.atlas(stack(population, 1), stack(base, 0), joint, targets, stacked="w")
    np.testing.assert_allclose(b.coef["w"][:, 0], a.coef["one"], rtol=1e-5)
    np.testing.assert_allclose(b.coef["w"][:, 1], a.coef["two"], rtol=1e-5)


def test_atlas_penalty_shrinks_and_halves_keep_their_dtype():
    population, base = draw(SHAPES)
    half = lambda t: {n: jnp.asarray(x, jnp.bfloat16) for n, x in t.items()}
    targets = np.ones((50, 5, 4), np.float32)
    pull = lambda coef: 1e3 * sum((c**2).sum() for c in jax.tree.leaves(coef))
    loss = lambda p, t: ((p["w"].astype(jnp.float32) - t) ** 2).sum()
    free = merge.atlas(half(population), half(base), loss, targets)
    held = merge.atlas(half(population), half(base), loss, targets, penalty=pull)
    assert jnp.abs(held.coef["w"]).max() < 0.2 * jnp.abs(free.coef["w"]).max()
    assert free.params["w"].dtype == jnp.bfloat16
    assert free.coef["w"].dtype == jnp.float32


def test_mistakes():
    population, base = draw(SHAPES)
    with pytest.raises(ws.WeightSpaceError, match="density: expected 0 to 1"):
        merge.adamerging(population, base, apply, X, density=2.0)
    with pytest.raises(ws.WeightSpaceError, match="parts: expected a number above 0, with key="):
        merge.atlas(population, base, bowl, X, parts=3)
    with pytest.raises(ws.WeightSpaceError, match="differ"):
        merge.atlas(population, {"w": base["w"]}, bowl, X)
    with pytest.raises(ws.WeightSpaceError, match="base"):
        merge.adamerging(population, None, apply, X)
