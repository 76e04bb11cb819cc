"""Every method on every net: the function stays, or the group is refused with a reason."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from tests.grow import nets
from tests.symmetry.zoo import ZOO
from wslax import WeightSpaceError, grow, symmetry
from wslax.grow import METHODS


@pytest.fixture(autouse=True)
def _models_broadcast_as_they_like():
    with jax.numpy_rank_promotion("allow"):
        yield


EXACT = [name for name, method in METHODS.items() if method.exact]


@pytest.mark.parametrize("name", [name for name in ZOO if name != "dropout"])
def test_the_function_of_each_net_stays(name):
    """All groups that a method takes at once, by 1.5 (of any size) and 2; one part in 1e5."""
    net, before = nets.net(name)
    grown = 0
    for factor in (1.5, 2):
        for method in EXACT:
            noise = 0.1 if method == "hypercloning" else 0.0
            widen = functools.partial(grow.widen, method=method, key=1, noise=noise)
            sizes, sentences = nets.accepted(net.groups, factor, widen)
            for sentence in sentences.values():  # the reason, and after it what would work
                assert ";" in sentence or "because" in sentence
            if sizes:
                assert net.change(widen(net.groups, sizes), before) < 1e-5, (method, factor, sizes)
                grown += 1
    assert grown >= 4


def test_the_record_of_all_factors():
    """`python -m benchmarks.exactness` measures what would take the suite too long."""
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "exactness.jsonl"
    lines = [*map(json.loads, path.read_text().splitlines())]
    found = {(line.get("method"), line.get("net"), line.get("factor")): line for line in lines}
    for method, name, factor in itertools.product(METHODS, ZOO, (1.25, 1.5, 2, 3)):
        line = found[method, name, factor]
        assert (line["taken"] > 0) == ("change" in line)
        assert method not in EXACT or line.get("change", 0) <= 1e-5, line
    shifted = [line for line in lines if "rescaled" in line]
    assert len(shifted) == 12
    for line in shifted:
        assert line["rescaled"] <= 1e-5
        assert (line["kept"] > 1e-3) == bool(line["factor"] % 1)


def test_norms_of_widths_that_are_no_multiple():
    """LEMON's remainder, tied head included, with the epsilon that the docstring asks for."""

    def normed(h, eps):
        centred = h - h.mean(-1, keepdims=True)
        return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + eps)

    def body(params, x, eps):
        h = jnp.take(params["embed"], x, 0)
        for block in params["blocks"]:
            n = normed(h, eps) * block["scale"] + block["bias"]
            h = h + jnp.tanh(n @ block["up"]) @ block["down"]
        return h

    def apply(params, x, eps):
        return normed(body(params, x, eps), eps) @ params["head"]

    def gained(params, x, eps):
        n = normed(body(params, x, eps), eps) * params["scale"] + params["bias"]
        return n @ params["embed"].T

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        block = {"scale": (6,), "bias": (6,), "up": (6, 5), "down": (5, 6)}
        shapes = {"embed": (9, 6), "blocks": [block, block], "head": (6, 3)}
        params = jax.tree.map(
            lambda s: rng.normal(size=s), shapes, is_leaf=lambda s: isinstance(s, tuple)
        )
        x, eps = np.arange(8) % 9, 0.3
        groups = symmetry.infer(lambda p, x: apply(p, x, eps), params, x)
        stream = next(g for g in groups.free if g.size == 6)
        with pytest.raises(WeightSpaceError, match=r"no scale that could be multiplied.* 12"):
            grow.widen(groups, {stream.id: 8}, method="lemon", key=0)

        tied = {k: v for k, v in params.items() if k != "head"}
        tied |= {"scale": rng.normal(size=6), "bias": rng.normal(size=6)}
        groups = symmetry.infer(lambda p, x: gained(p, x, eps), tied, x)
        stream = next(g for g in groups.free if g.size == 6)
        for size, part in ((8, 6 / 8), (15, 12 / 15), (18, 1.0)):
            wide = grow.widen(groups, {stream.id: size}, method="lemon", key=0).apply(tied)
            before, after = gained(tied, x, eps), gained(wide, x, eps * part)
            np.testing.assert_allclose(after, before, atol=1e-12 * np.abs(before).max())
            if part < 1:
                off = np.abs(gained(wide, x, eps) - before).max()
                assert off > 1e-4


def test_a_tiled_class_token_is_as_linear_as_the_patches_beside_it():
    rng = np.random.default_rng(0)
    shapes = {"token": (1, 1, 6), "patch": (3, 6), "scale": (6,), "out": (6, 2)}
    params = {name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()}
    x = rng.normal(size=(2, 4, 3)).astype("f4")

    def apply(p, x):
        h = jnp.concatenate([jnp.tile(p["token"], (len(x), 1, 1)), x @ p["patch"]], 1)
        centred = h - h.mean(-1, keepdims=True)
        n = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return n * p["scale"] @ p["out"]

    groups = symmetry.infer(apply, params, x)
    stream = groups.at("patch", 1)[0].id
    wide = grow.widen(groups, {stream: 8}, method="lemon", key=0).apply(params)
    before = apply(params, x)
    np.testing.assert_allclose(apply(wide, x), before, atol=1e-5 * np.abs(before).max())


def test_new_units_of_zero_are_fresh_and_unread():
    """Incoming weights like the old ones in size, biases their mean, outgoing weights zero."""
    params = {"a": np.full((50, 4), 3.0), "bias": np.arange(4.0), "out": np.ones((4, 2))}
    sites = [("a", 1, "produced"), ("bias", 0, "elementwise"), ("out", 0, "consumed")]
    groups = symmetry.Groups.from_sites(params, [sites])
    wide = grow.widen(groups, {0: 40}, method="zero", key=0).apply(params)
    np.testing.assert_array_equal(wide["a"][:, :4], params["a"])
    assert abs(wide["a"][:, 4:].std() - 3) < 0.2
    assert (wide["bias"][4:] == 1.5).all()
    assert not wide["out"][4:].any()
    other = grow.widen(groups, {0: 40}, method="zero", key=1).apply(params)
    assert not np.allclose(wide["a"], other["a"])
    own = jax.vmap(lambda p, k: grow.widen(groups, {0: 40}, method="zero", key=k).apply(p))
    both = own(jax.tree.map(lambda x: np.stack([x, x]), params), jr.split(jr.key(0), 2))
    assert not np.allclose(both["a"][0], both["a"][1])


def test_shares_of_lemon_are_unequal_and_noise_of_hypercloning_cancels():
    params = {"a": np.ones((3, 4)), "out": np.random.default_rng(0).normal(size=(4, 5))}
    groups = symmetry.Groups.from_sites(params, [[("a", 1, "produced"), ("out", 0, "consumed")]])
    split = grow.widen(groups, {0: 12}, method="lemon", key=0).apply(params)["out"]
    noisy = grow.widen(groups, {0: 12}, method="hypercloning", key=0, noise=0.5).apply(params)
    for out in (split, noisy["out"]):
        parts = out.reshape(3, 4, 5)
        np.testing.assert_allclose(parts.sum(0), params["out"], rtol=1e-6, atol=1e-7)
        assert np.abs(parts[0] - parts[1]).min() > 0
    with pytest.raises(WeightSpaceError, match="lemon makes no equal copies"):
        grow.widen(groups, {0: 12}, method="lemon", key=0, noise=0.1)


def test_moments_follow_the_gradients_of_the_wide_net():
    """Queries and keys, a tied head with its norm's scale, and the rest: against autodiff."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        shapes = {
            "embed": (7, 6),
            "q": (6, 4),
            "k": (6, 4),
            "v": (6, 3),
            "o": (3, 6),
            "scale": (6,),
        }
        params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
        x = np.arange(5) % 7

        def apply(params, x):
            h = params["embed"][x]
            q, k, v = (h @ params[name] for name in "qkv")
            h = h + jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[-1])) @ v @ params["o"]
            n = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + 0.1)
            return (n * params["scale"]) @ params["embed"].T

        gradient = jax.grad(lambda p: jnp.sum(jnp.sin(apply(p, x))))
        groups = symmetry.infer(apply, params, x)
        sizes = {group.id: 2 * group.size for group in groups.free}
        assert len(sizes) == 3
        edit = grow.widen(groups, sizes, method="hypercloning", key=0)
        wide = edit.apply(params)
        before = apply(params, x)
        np.testing.assert_allclose(apply(wide, x), before, atol=1e-12 * np.abs(before).max())
        import optax

        grown = edit.optimizer_state(optax.TraceState(gradient(params))).trace
        own = gradient(wide)
        for name in params:
            scale = np.abs(own[name]).max()
            np.testing.assert_allclose(grown[name], own[name], atol=1e-10 * scale, err_msg=name)
