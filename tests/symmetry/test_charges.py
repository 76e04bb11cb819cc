"""Signs and scales read from jaxprs: what follows by hand for each function, and by numbers."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from zoo import attention, layer_norm, rms_norm, rotate, shapes

from wslax.symmetry import Groups, check, infer
from wslax.symmetry.charges.solve import solutions


@pytest.fixture(autouse=True)
def _models_broadcast_as_they_like():
    with jax.numpy_rank_promotion("allow"):
        yield


PARAMS = shapes(a=(3, 8), b=(8,), c=(8, 2))
SITES = [("a", 1, "produced"), ("b", 0, "elementwise"), ("c", 0, "consumed")]
ONE, NONE = ((1, 1, -1),), ()
EVEN, ODD = ((1, 1, 0),), ((1, 1, 1),)

# What happens between the hidden layer `x @ a + b` and `c`: scales, then signs, by hand.
HIDDEN = {
    "linear": (lambda h: h, ONE, ODD),
    "relu": (jax.nn.relu, ONE, NONE),
    "leaky": (jax.nn.leaky_relu, ONE, NONE),
    "where": (lambda h: jnp.where(h > 0, h, 0), ONE, NONE),
    "pooled": (lambda h: jnp.maximum(h, h[:1]), ONE, NONE),
    "tanh": (jnp.tanh, NONE, ODD),
    "sin": (jnp.sin, NONE, ODD),
    "erf": (jax.lax.erf, NONE, ODD),
    "cos": (jnp.cos, NONE, EVEN),
    "abs": (jnp.abs, ONE, EVEN),
    "sign": (jnp.sign, ((1, 1, 0),), ODD),
    "cube": (lambda h: h**3, ((1, 1, -3),), ODD),
    "square": (lambda h: h * h, ((1, 1, -2),), EVEN),
    "squared relu": (lambda h: jax.nn.relu(h) ** 2, ((1, 1, -2),), NONE),
    "root": (lambda h: jnp.sqrt(jax.nn.relu(h)), ((2, 2, -1),), NONE),
    "twice": (lambda h: jnp.tanh(h) - 2 * jnp.sin(h), NONE, ODD),
    "cut": (lambda h: jax.lax.stop_gradient(jax.nn.relu(h)) + 0.5 * h, ONE, NONE),
    "rms norm": (lambda h: rms_norm(h, 1.0), NONE, ODD),
    "share": (lambda h: h / jnp.abs(h).sum(-1, keepdims=True), NONE, ODD),
    "sigmoid": (jax.nn.sigmoid, NONE, NONE),
    "silu": (jax.nn.silu, NONE, NONE),
    "gelu": (jax.nn.gelu, NONE, NONE),
    "exact gelu": (lambda h: jax.nn.gelu(h, approximate=False), NONE, NONE),
    "softplus": (jax.nn.softplus, NONE, NONE),
    "elu": (jax.nn.elu, NONE, NONE),
    "relu6": (jax.nn.relu6, NONE, NONE),
    "clip": (lambda h: jnp.clip(h, -1, 1), NONE, NONE),
    "threshold": (lambda h: jnp.where(h > 1, h, 0), NONE, NONE),
    "count": (lambda h: (h > 1).astype(h.dtype) * h, NONE, NONE),
    "integer": (lambda h: h.astype(int).astype(h.dtype), NONE, NONE),
    "plus one": (lambda h: jax.nn.relu(h) + 1, NONE, NONE),
    "softmax": (jax.nn.softmax, NONE, NONE),
    "layer norm": (lambda h: layer_norm(h, 1.0, 0.0), NONE, NONE),
    "mean": (lambda h: h - h.mean(-1, keepdims=True), NONE, NONE),
    "largest": (lambda h: h - h.max(-1, keepdims=True), NONE, NONE),
}


def hidden(between):
    return lambda p, x: between(x @ p["a"] + p["b"]) @ p["c"]


@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_layer(name):
    between, scales, signs = HIDDEN[name]
    apply, x = hidden(between), jr.normal(jr.key(3), (5, 3))
    groups = infer(apply, PARAMS, x)
    (group,) = groups.free
    assert [(s.name, s.role) for s in group.sites] == [(n, r) for n, _, r in SITES]
    assert group.scales == scales
    assert group.signs == signs
    assert check(apply, PARAMS, groups, x, key=jr.key(1)) < 1e-5


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "softplus", "threshold", "layer norm"])
def test_the_check_would_find_a_wrong_claim(name):
    between, scales, signs = HIDDEN[name]
    apply, x = hidden(between), jr.normal(jr.key(3), (5, 3))
    wrong = {"scales": ONE, "signs": ODD}
    for kind, claimed in (("scales", scales), ("signs", signs)):
        if not claimed:
            groups = Groups.from_sites(PARAMS, [SITES], **{kind: {0: wrong[kind]}})
            assert check(apply, PARAMS, groups, x, key=jr.key(1)) > 1e-3


def heads(p, x, turn=lambda q: q):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[n]) for n in "qkv")
    return jnp.einsum("bthe,hed->btd", attention(turn(q), turn(k), v), p["o"])


ATTENTION = shapes(q=(6, 2, 4), k=(6, 2, 4), v=(6, 2, 4), o=(2, 4, 6))


@pytest.mark.parametrize("rotary", [False, True])
def test_queries_and_keys_values_and_outputs(rotary):
    apply = lambda p, x: heads(p, x, rotate if rotary else lambda q: q)
    groups = infer(apply, ATTENTION, jnp.ones((2, 5, 6)))
    found = {
        tuple(s.name for s in g.sites): (g.per, g.scales, g.signs) for g in groups.free if g.scales
    }
    (head,) = (g.id for g in groups.free if {s.name for s in g.sites} == set("qkvo"))
    both = (((1, -1),), ((1, 1),))
    # Rotary angles fix the order in a head's width, and all of it may still be scaled at once.
    turned = {("k", "o", "q", "v"): ((), ((1, 0, -1, 0),), ((1, 0, 1, 0),))}
    assert found == {("o", "v"): ((head,), *both)} | (
        turned if rotary else {("k", "q"): ((head,), *both)}
    )


def test_the_linear_path_of_a_gated_layer():
    apply = lambda p, x: (jax.nn.silu(x @ p["gate"]) * (x @ p["up"])) @ p["down"]
    params = shapes(gate=(3, 8), up=(3, 8), down=(8, 2))
    (group,) = infer(apply, params, jnp.ones((4, 3))).free
    assert [s.name for s in group.sites] == ["down", "gate", "up"]
    assert (group.scales, group.signs) == (((1, 0, -1),), ((1, 0, 1),))
    bilinear = lambda p, x: ((x @ p["gate"]) * (x @ p["up"])) @ p["down"]
    (group,) = infer(bilinear, params, jnp.ones((4, 3))).free
    assert group.scales == ((1, 0, -1), (0, 1, -1))


def test_programs_within_programs():
    """A scan whose carry begins at zeros, a branch and a loop keep what they may."""
    params = shapes(a=(3, 6), w=(6, 6), out=(6, 2))

    def apply(p, x, act):
        step = lambda h, x: (act(x @ p["a"] + h), None)
        h = jax.lax.scan(step, jnp.zeros((4, 6)), x)[0]
        h = jax.lax.cond(x.sum() > 0, lambda h: h * 2, lambda h: act(h), h)
        return jax.lax.fori_loop(0, 2, lambda i, h: h @ p["w"] + h, h) @ p["out"]

    for act, kind in ((jax.nn.relu, "scales"), (jnp.tanh, "signs")):
        run = lambda p, x, act=act: apply(p, x, act)
        groups = infer(run, params, jnp.ones((5, 4, 3)))
        (group,) = groups.free
        assert [(s.name, s.axis) for s in group.sites] == [("a", 1), ("out", 0), ("w", 0), ("w", 1)]
        expected = {"scales": ((1, -1, -1, 1),), "signs": ((1, 1, 1, 1),)}
        assert getattr(group, kind) == expected[kind]
        assert {group.scales, group.signs} == {expected[kind], ()}
        assert check(run, params, groups, jr.normal(jr.key(0), (5, 4, 3)), key=jr.key(1)) < 1e-5


def test_an_operation_without_a_rule_changes_nothing():
    apply = lambda p, x: jnp.sinc(jax.lax.bessel_i1e(x @ p["a"])) @ p["c"]
    (group,) = infer(apply, shapes(a=(3, 8), c=(8, 2)), jnp.ones((4, 3))).free
    assert group.scales == group.signs == ()


def test_the_solver_against_all_solutions_of_small_systems():
    rng = np.random.default_rng(0)
    for _ in range(30):
        rows = rng.integers(-1, 2, (3, 5))
        sparse = [tuple((u, float(n)) for u, n in enumerate(row) if n) for row in rows]
        sparse = [row for row in sparse if row]
        basis = np.array(solutions(sparse, 5, signs=False)).reshape(-1, 5)
        assert not (rows @ basis.T).any()
        assert len(basis) == 5 - np.linalg.matrix_rank(rows)
        assert np.linalg.matrix_rank(basis) == len(basis)
        signs = np.array(solutions(sparse, 5, signs=True)).reshape(-1, 5)
        every = np.indices((2,) * 5).reshape(5, -1)
        solving = every[:, ((rows @ every) % 2 == 0).all(0)]
        spanned = np.indices((2,) * len(signs)).reshape(len(signs), 2 ** len(signs)).T @ signs % 2
        assert set(map(tuple, solving.T)) == set(map(tuple, spanned))
        assert len(spanned) == len(set(map(tuple, spanned)))
