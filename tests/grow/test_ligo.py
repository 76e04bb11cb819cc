"""Learned growth, against the published code's concatenations and sums written in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import WeightSpaceError, grow, symmetry

IN, WIDTH, HIDDEN, OUT, BLOCKS = 3, 4, 5, 2, 2


def block(x, p):
    return x + jnp.tanh(x @ p["up"] + p["bias"][None]) @ p["down"]


def listed(params, x):
    x = x @ params["embed"]
    for i in range(sum(name.startswith("block") for name in params)):
        x = block(x, params[f"block_{i}"])
    return x @ params["head"]


def scanned(params, x):
    x, _ = jax.lax.scan(lambda x, p: (block(x, p), None), x @ params["embed"], params["blocks"])
    return x @ params["head"]


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    blocks = [
        {"up": draw(WIDTH, HIDDEN), "bias": draw(HIDDEN), "down": draw(HIDDEN, WIDTH)}
        for _ in range(BLOCKS)
    ]
    return {"embed": draw(IN, WIDTH), "head": draw(WIDTH, OUT)}, blocks, draw(7, IN)


def ends(small):
    return small[0] | {f"block_{i}": block for i, block in enumerate(small[1])}


def stacked(small):
    return small[0] | {"blocks": jax.tree.map(lambda *x: np.stack(x), *small[1])}


def of(groups, name, axis):
    return next(g.id for g in groups.free if any((s.name, s.axis) == (name, axis) for s in g.sites))


def rows_out(w, extra):
    """`FusedLinear.get_params`, with inputs first: further outputs are `extra` of the old ones."""
    return np.concatenate([w, w @ extra.T], -1)


def rows_in(w, extra):
    return np.concatenate([w, extra @ w], -2)


@pytest.mark.parametrize("scan", [False, True])
def test_maps_are_those_of_the_published_code(small, scan):
    params, apply = (stacked(small), scanned) if scan else (ends(small), listed)
    groups = symmetry.infer(apply, params, small[2])
    deeper = grow.ligo_depth(groups, 4, key=3)
    prefix = "blocks" if scan else "block_0"
    inner = (
        [of(deeper.groups, "blocks/up", 2)]
        if scan
        else [of(deeper.groups, f"block_{i}/up", 1) for i in range(4)]
    )
    stream = of(deeper.groups, "embed", 1)
    wider = grow.ligo_width(deeper.groups, {stream: 6, **{i: 8 for i in inner}}, key=5)
    materialise = lambda params: wider.materialise(
        wider.maps, deeper.materialise(deeper.maps, params)
    )
    grown = jax.jit(materialise)(params)

    b = {id: np.asarray(rows) for id, rows in wider.maps.produced.items()}
    for rows in b.values():
        np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
        assert (rows >= 0).all()
        assert rows.std() > 0
    np.testing.assert_allclose(grown["embed"], rows_out(params["embed"], b[stream]), rtol=1e-5)
    np.testing.assert_allclose(grown["head"], rows_in(params["head"], b[stream]), rtol=1e-5)
    for name in ("up", "bias", "down"):
        d = np.asarray(deeper.maps[f"blocks/{name}" if scan else f"block_*/{name}"])
        np.testing.assert_allclose(d.sum(1), 1, rtol=1e-5)
        assert (d.argmax(1) == [0, 1, 0, 1]).all()
        assert d.min() > 0
        assert d.max(1).min() > 0.97
        for i in range(4):
            w = sum(d[i, l] * small[1][l][name] for l in range(BLOCKS))
            within = b[inner[0 if scan else i]]
            if name == "down":
                expected = rows_in(rows_out(w, b[stream]), within)
            else:
                expected = (
                    rows_out(w, within)
                    if name == "bias"
                    else rows_out(rows_in(w, b[stream]), within)
                )
            got = grown["blocks"][name][i] if scan else grown[f"block_{i}"][name]
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6, err_msg=prefix)


def test_learning_can_begin_at_the_old_function():
    net = ws.nets.transformer(11, 6, width=8, heads=2, depth=2)
    params, tokens = net.init(jax.random.key(0)), jnp.arange(10).reshape(2, 5)
    groups = symmetry.infer(net.apply, params, tokens)
    deeper = grow.ligo_depth(groups, 3, method="identity", noise=0.0, key=0)
    sizes = {}
    for group in deeper.groups.free:
        try:
            grow.widen(deeper.groups, {group.id: 2 * group.size}, method="lemon", key=1)
        except WeightSpaceError:
            continue
        sizes[group.id] = 2 * group.size
    assert len(sizes) > 3
    wider = grow.ligo_width(deeper.groups, sizes, method="lemon", key=1)

    def run(maps):
        logits = net.apply(wider.materialise(maps[1], deeper.materialise(maps[0], params)), tokens)
        return (logits**2).sum(), logits

    (_, logits), slopes = jax.jit(jax.value_and_grad(run, has_aux=True))((deeper.maps, wider.maps))
    before = net.apply(params, tokens)
    assert abs(logits - before).max() < 1e-5 * abs(before).max()
    # Rows of consumers count from the start, but where the new block's projections are zero.
    for id, slope in slopes[1].consumed.items():
        read = {site.name for site in deeper.groups.all[id].sites if site.role == "consumed"}
        if any("block_1" not in name for name in read):
            assert abs(slope).max() > 0


def test_keys_may_be_traced_and_types_stay(small):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), ends(small))
    groups = symmetry.infer(listed, params, small[2].astype(jnp.bfloat16))
    stream = of(groups, "embed", 1)

    def grown(key):
        ligo = grow.ligo_width(groups, {stream: 6}, key=key)
        return ligo.materialise(ligo.maps, params)["embed"]

    many = jax.jit(jax.vmap(grown))(jax.random.split(jax.random.key(0), 3))
    assert (many.shape, many.dtype) == ((3, IN, 6), jnp.bfloat16)
    assert (many[:, :, :WIDTH] == params["embed"][None]).all()
    assert (many[0] != many[1]).any()


def test_what_cannot_be_mixed_is_named(small):
    params = ends(small) | {"embed": np.ones((IN, WIDTH), np.int32)}
    groups = symmetry.infer(listed, ends(small), small[2])
    ligo = grow.ligo_width(groups, {of(groups, "embed", 1): 6}, key=0)
    with pytest.raises(WeightSpaceError, match="embed: is int32, expected floats"):
        ligo.materialise(ligo.maps, params)
    params = ends(small)
    params["block_1"] = params["block_1"] | {"up": np.ones((WIDTH, HIDDEN), np.int32)}
    params["block_0"] = params["block_0"] | {"up": np.ones((WIDTH, HIDDEN), np.int32)}
    deeper = grow.ligo_depth(groups, 3, key=0)
    with pytest.raises(WeightSpaceError, match=r"block_\*/up: is int32, expected floats"):
        deeper.materialise(deeper.maps, params)
    with pytest.raises(WeightSpaceError, match="frozen"):
        grow.ligo_width(groups, {of_frozen(groups): 9}, key=0)


def of_frozen(groups):
    return next(group.id for group in groups.all if group.frozen_by)
