"""MixtureGrowth: the wide net is the two narrow ones, and mixes of their templates between them."""

import forwards
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wslax as ws
from wslax import WeightSpaceError, grow
from wslax.grow import Templates
from wslax.symmetry import Groups, Site

PLAIN = lambda: forwards.residual_params(normed=False)


def flat_residual(params, x):
    """The residual net without its LayerNorm."""
    h = x @ params["embed"]
    for block in params["blocks"]:
        h = h + jax.nn.gelu((h * block["scale"][None]) @ block["up"]) @ block["down"]
    return (h + jnp.tanh(h @ params["square"])) @ params["head"]


def heads():
    """Attention with the queries, keys and values of all heads in one kernel."""
    params, groups = forwards.attention_params()
    return params, Groups.from_sites(params, [groups.all[0].sites])


MODELS = {
    "mlp": (forwards.mlp_params, forwards.mlp, (2, 3)),
    "flatten": (forwards.conv_variables, forwards.conv, (2, 6, 6, 2)),
    "stream": (PLAIN, flat_residual, (2, 3)),
    "heads": (
        heads,
        lambda p, x: forwards.attention(p, x, p["out"].shape[0] // forwards.WIDTH),
        (2, 5, 4),
    ),
}


def started(make):
    """Draws of a net by another key each, in float32: `init` of a narrow net."""
    like = make()[0]
    leaves, structure = jax.tree.flatten(like)

    def init(key):
        keys = jax.random.split(key, len(leaves))
        draws = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
        draws = jax.tree.unflatten(structure, draws)
        positive = lambda name, x: abs(x) + 0.5 if name.endswith("var") else x
        return ws.tree.map_named(positive, draws)

    return init


def numbers(make, **how):
    mix = grow.mixture(make()[1], **how)
    draw = jax.jit(lambda key: mix.init(key, started(make)))
    return mix._replace(materialise=jax.jit(mix.materialise, static_argnums=1)), draw(
        jax.random.key(3)
    )


@pytest.mark.parametrize("name", MODELS)
def test_without_blocks_off_the_diagonal_logits_add_up(name):
    make, apply, shape = MODELS[name]
    mix, params = numbers(make)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    wide = mix.materialise(mix.grow(params, "zero", key=0))
    apart = [np.asarray(apply(mix.materialise(params, i), x)) for i in (0, 1)]
    assert np.abs(apart[0] - apart[1]).max() > 0.1
    np.testing.assert_allclose(apply(wide, x), apart[0] + apart[1], rtol=1e-4, atol=1e-4)
    assert ws.symmetry.sizes(wide, mix.groups)  # the groups are the wide net's


def test_blocks_by_hand():
    make = forwards.mlp_params
    mix, params = numbers(make)
    banks, a = params.banks["b"]["kernel"], params.coefficients["b/kernel"]
    assert banks.shape == (2, 2, 5, 4)
    assert a.shape == (4, 2)
    w = [np.tensordot(a[m], banks[s], 1) for m, s in enumerate((0, 1, 0, 1))]
    wide = mix.materialise(params)
    # stored [in, out]: the transpose of [[W0, W2], [W3, W1]]
    expected = np.block([[w[0], w[3]], [w[2], w[1]]])
    np.testing.assert_allclose(wide["b"]["kernel"], expected, rtol=1e-5)
    stem, head = params.coefficients["a/kernel"], params.coefficients["out/kernel"]
    assert stem.shape == head.shape == (2, 2)
    np.testing.assert_array_equal(wide["b"]["bias"], params.banks["b"]["bias"].ravel())
    np.testing.assert_allclose(wide["out"]["bias"], params.banks["out"]["bias"].sum(0), rtol=1e-6)
    for i in (0, 1):
        np.testing.assert_allclose(mix.materialise(params, i)["b"]["kernel"], w[i], rtol=1e-5)


def test_draws_are_orthogonal_and_keep_the_variance():
    make = forwards.mlp_params
    for templates in (2, 6):
        _, params = numbers(make, templates=templates)
        a = np.asarray(params.coefficients["b/kernel"])
        thin = a if templates <= 4 else a.T
        np.testing.assert_allclose(thin.T @ thin, np.eye(thin.shape[1]), atol=1e-5)
    init = lambda key: {"w": jax.random.normal(key, (60, 60)), "v": jnp.zeros((60, 2))}
    groups = Groups.from_sites(
        jax.eval_shape(init, jax.random.key(0)),
        [[("w", 0, "consumed")], [("w", 1, "produced"), ("v", 0, "consumed")]],
    )
    mix = grow.mixture(groups)
    drawn = jax.jit(jax.vmap(lambda key: mix.materialise(mix.init(key, init))["w"]))
    w = drawn(jax.random.split(jax.random.key(0), 40))
    assert float(jnp.var(w)) == pytest.approx(1, abs=0.05)


def test_choices_of_coefficients():
    make = forwards.mlp_params
    mix, params = numbers(make)
    old = np.asarray(params.coefficients["b/kernel"], np.float64)
    of = lambda choice, **how: np.asarray(
        mix.grow(params, choice, key=5, **how).coefficients["b/kernel"]
    )
    for choice in grow.CHOICES:
        np.testing.assert_array_equal(of(choice)[:2], old[:2].astype(np.float32))
    assert (of("zero")[2:] == 0).all()
    found = of("orthogonal", scale=0.5)
    np.testing.assert_array_equal(found[2], old[2].astype(np.float32))
    # The last right singular vector: the direction that those before it have least of.
    assert np.linalg.norm(found[3]) == pytest.approx(0.5)
    least = np.linalg.eigvalsh(old[:3].T @ old[:3])[0]
    assert np.linalg.norm(old[:3] @ found[3]) ** 2 / 0.25 == pytest.approx(least, abs=1e-5)
    moved = of("copy", scale=0.25)[2:] - old[:2]
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 0.25, rtol=1e-4)
    assert (of("random", scale=2.0)[2:] < 2).all()
    assert (of("random")[2:] >= 0).all()
    np.testing.assert_array_equal(of("random"), of("random"))
    assert mix.grow(params, "zero", key=0).coefficients["a/kernel"].shape == (2, 2)


def test_heads_and_their_width_make_blocks_of_eight():
    """An attention kernel `[features, heads, width]`: three axes double."""
    shapes = {"q": jnp.zeros((2, 3, 5)), "bias": jnp.zeros((3, 5)), "embed": jnp.zeros((4, 2))}
    groups = Groups.from_sites(
        shapes,
        [
            [("embed", 1, "produced"), ("q", 0, "consumed")],
            [("q", 1, "produced"), ("bias", 0, "elementwise")],
            [("q", 2, "produced"), ("bias", 1, "elementwise")],
        ],
    )
    init = lambda key: jax.tree.map(lambda x: jax.random.normal(key, x.shape), shapes)
    mix = grow.mixture(groups)
    params = mix.init(0, init)
    assert params.coefficients["q"].shape == (8, 2)
    assert params.coefficients["bias"].shape == (4, 2)
    wide = mix.materialise(mix.grow(params, "zero", key=0))
    for i, half in enumerate((slice(None, 1), slice(1, None))):
        own = mix.materialise(params, i)["q"]
        at = tuple(slice(i * n, (i + 1) * n) for n in own.shape)
        np.testing.assert_array_equal(wide["q"][at], own)
        rest = np.asarray(wide["q"]).copy()
        rest[:2, :3, :5] = rest[2:, 3:, 5:] = 0
        assert (rest == 0).all(), half


def test_statistics_are_merged():
    make = forwards.conv_variables
    _, groups = make()
    mix = grow.mixture(groups)
    apart = [{"n0": {"mean": jnp.full(4, float(i)), "var": jnp.full(4, 9.0)}} for i in (0, 1)]
    merged = mix.materialise(Templates(ws.population.stack(apart), {}))
    assert merged["n0"]["mean"].tolist() == [0.0] * 4 + [1.0] * 4
    assert merged["n0"]["var"].shape == (8,)


def test_training_goes_on_in_templates_without_decay_of_coefficients():
    make, apply, shape = MODELS["mlp"]
    mix, params = grow.mixture(make()[1]), numbers(make)[1]
    x = jnp.ones(shape)
    loss = lambda p, member: jnp.sum(jnp.square(apply(mix.materialise(p, member), x)))
    apart = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, jnp.arange(2))
    kernel = apart.coefficients["b/kernel"]  # member, then whose coefficients
    assert (kernel[0, [1, 2, 3]] == 0).all()
    assert (kernel[1, 1] != 0).all()
    assert (apart.banks["b"]["kernel"][0, 1] == 0).all()
    together = jax.jit(jax.grad(loss), static_argnums=1)(params, None)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(together))
    decay = optax.add_decayed_weights(0.1, mask=Templates(banks=True, coefficients=False))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = decay.update(zeros, decay.init(params), params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(updates.coefficients))
    np.testing.assert_allclose(updates.banks["b"]["kernel"], 0.1 * params.banks["b"]["kernel"])


def test_half_types_keep_their_type_and_coefficients_have_float32():
    make = forwards.mlp_params
    init = lambda key: jax.tree.map(lambda x: x.astype(jnp.bfloat16), started(make)(key))
    mix = grow.mixture(make()[1])
    params = jax.eval_shape(lambda: mix.init(0, init))
    assert params.coefficients["b/kernel"].dtype == jnp.float32
    wide = jax.eval_shape(mix.materialise, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(wide)} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda g: grow.mixture(g, [7]), "no group 7"),
        (lambda g: grow.mixture(g, []), "at least one group"),
        (lambda g: grow.mixture(g, templates=0), "one template"),
        (lambda g: grow.mixture(g).grow(Templates({}, {}), "copies", key=0), "'copies'.*copy"),
        (lambda g: grow.mixture(g).materialise(Templates({}, {}), 2), "member: expected 0, 1"),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(WeightSpaceError, match=words):
        call(forwards.mlp_params()[1])


def test_leaves_that_two_nets_cannot_share():
    shapes = {"w": jnp.zeros((4, 6)), "v": jnp.zeros((6, 2))}
    piece = Site("w", 1, start=1, size=5, role="produced")
    groups = Groups.from_sites(shapes, [[piece]])
    with pytest.raises(WeightSpaceError, match="w: only a part of its axis 1"):
        grow.mixture(groups)
    sites = [
        [Site("w", 1, size=2, inner=3, role="produced")],
        [Site("w", 1, outer=2, size=3, role="produced")],
    ]
    with pytest.raises(WeightSpaceError, match="choose one of them with ids="):
        grow.mixture(Groups.from_sites(shapes, sites))
    scaled = lambda p, x: jax.nn.relu((x * p["in"]) @ p["w"]) @ p["v"]
    init = lambda key: {
        "in": jnp.ones((1, 4)), "w": jax.random.normal(key, (4, 6)), "v": jnp.ones((6, 2)),
    }  # fmt: skip
    groups = ws.symmetry.infer(scaled, init(jax.random.key(0)), jnp.ones((2, 4)))
    with pytest.raises(WeightSpaceError, match="in: no group that doubles"):
        grow.mixture(groups).init(0, init)
    counted = lambda key: {**init(key), "in": jnp.ones((1, 4), int)}
    with pytest.raises(WeightSpaceError, match="in: is int32, expected floats"):
        grow.mixture(groups).init(0, counted)
