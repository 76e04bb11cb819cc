"""A dense layer as a mixture: what stays depends on how the layer combines its experts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import WeightSpaceError, grow, symmetry

EXPERTS = 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, 5)).astype(np.float32)
PARAMS = {
    "mlp": {
        "up": RNG.normal(size=(5, 40)).astype(np.float32),
        "down": RNG.normal(size=(40, 5)).astype(np.float32),
    },
    "head": RNG.normal(size=(5, 3)).astype(np.float32),
}
ROUTER = {"router/kernel": 5}


def dense(params, x):
    mlp = params["mlp"]
    return (x + jnp.tanh(x @ mlp["up"]) @ mlp["down"]) @ params["head"]


def mixture(params, x, k, *, renormalise=True):
    """The k largest of a softmax over experts, written out."""
    gates = jax.nn.softmax(x @ params["router"]["kernel"])
    chosen = gates >= jnp.sort(gates)[:, -k][:, None]
    weights = jnp.where(chosen, gates, 0)
    if renormalise:
        weights = weights / weights.sum(-1, keepdims=True)
    hidden = jnp.tanh(jnp.einsum("td,edf->tef", x, params["mlp"]["up"]))
    out = jnp.einsum("tef,efd->ted", hidden, params["mlp"]["down"])
    return (x + jnp.einsum("ted,te->td", out, weights)) @ params["head"]


def upcycled(key=0, **options):
    model = symmetry.infer(dense, PARAMS, X) if "drop" in options else PARAMS
    return grow.upcycle(model, EXPERTS, where="mlp/*", router=ROUTER, key=key, **options)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_function_stays_where_weights_sum_to_one(k):
    params = upcycled().apply(PARAMS)
    np.testing.assert_allclose(mixture(params, X, k), dense(PARAMS, X), rtol=1e-5, atol=1e-5)
    raw = np.abs(mixture(params, X, k, renormalise=False) - dense(PARAMS, X)).max()
    assert (raw > 0.1) == (k < EXPERTS)


def test_the_router_of_equal_experts_gets_no_gradient_and_noise_gives_it_one():
    def size(params):
        gradient = jax.grad(lambda p: jnp.sum(jnp.sin(mixture(p, X, 2))))(params)
        return float(jnp.abs(gradient["router"]["kernel"]).max())

    assert size(upcycled().apply(PARAMS)) < 1e-5
    assert size(upcycled(noise=0.1).apply(PARAMS)) > 1e-3
    assert size(upcycled(drop=0.5).apply(PARAMS)) > 1e-3


def test_the_router_is_fresh_and_small():
    first, second = (upcycled(key=key).apply(PARAMS)["router"]["kernel"] for key in (0, 1))
    assert first.shape == (5, EXPERTS)
    assert not np.allclose(first, second)
    wide = grow.upcycle(PARAMS, EXPERTS, where="mlp/*", router={"router": (30, 40)}, key=0)
    assert abs(wide.apply(PARAMS)["router"].std() - 0.02) < 0.001


def test_drop_draws_half_of_the_units_anew_the_same_in_both_leaves():
    mlp = upcycled(drop=0.5).apply(PARAMS)["mlp"]
    up = (mlp["up"] != PARAMS["mlp"]["up"][None]).all(1)
    down = (mlp["down"] != PARAMS["mlp"]["down"][None]).all(2)
    np.testing.assert_array_equal(up, down)
    assert (up.sum(-1) == 20).all()
    assert len({row.tobytes() for row in up}) > 1
    for e in range(EXPERTS):
        new, old = mlp["up"][e][:, up[e]], PARAMS["mlp"]["up"][:, up[e]]
        error = 4 * old.std() / np.sqrt(old.size)
        assert abs(new.mean() - old.mean()) < error
        assert abs(new.std() - old.std()) < error


def test_an_axis_of_experts_behind_layers_and_copies_of_the_tree():
    stacked = jax.tree.map(lambda x: np.stack([x, x + 1, x + 2]), PARAMS)
    edit = grow.upcycle(stacked, 2, where="mlp/*", router={"router": (3, 5)}, key=0, axis=1)
    tree = edit.apply({"params": stacked, "ema": stacked, "step": 7})
    assert tree["params"]["mlp"]["up"].shape == (3, 2, 5, 40)
    np.testing.assert_array_equal(tree["ema"]["mlp"]["up"][:, 1], stacked["mlp"]["up"])
    assert tree["ema"]["router"].shape == (3, 5, 2)
    assert tree["step"] == 7
    spec = edit.spec(jax.eval_shape(lambda: stacked))
    assert spec["mlp"]["down"].shape == (3, 2, 40, 5)


def test_moments_are_repeated_and_the_router_starts_at_zero():
    optimizer, edit = optax.adam(0.1), upcycled()
    _, state = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    grown = edit.optimizer_state(state)
    fresh = optimizer.init(edit.apply(PARAMS))
    assert jax.tree.structure(grown) == jax.tree.structure(fresh)
    for expert in range(EXPERTS):
        np.testing.assert_array_equal(grown[0].nu["mlp"]["up"][expert], state[0].nu["mlp"]["up"])
    assert not grown[0].mu["router"]["kernel"].any()
    np.testing.assert_array_equal(grown[0].mu["head"], state[0].mu["head"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"experts": 1}, "at least 2, got 1"),
        ({"axis": 3}, r"mlp/down: .* axis=3"),
        ({"router": {"head": 5}}, "head: the model has a leaf"),
        ({"drop": 0.5}, "drop: .* groups"),
        ({"noise": -1.0}, "noise at least 0"),
        ({"where": "mpl/*"}, "mpl"),
    ],
)
def test_what_does_not_fit_is_refused(options, sentence):
    given = {"experts": 4, "where": "mlp/*", "router": ROUTER, "key": 0} | options
    with pytest.raises(WeightSpaceError, match=sentence):
        grow.upcycle(PARAMS, **given)
