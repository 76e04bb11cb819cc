"""AKI against the paper's matrices, on a list of blocks and on a scan, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wslax import WeightSpaceError, grow, symmetry
from wslax.grow.copies import drawn

RNG = np.random.default_rng(0)
SHAPES = {
    "scale": (6,), "q": (6, 2, 3), "k": (6, 2, 3), "v": (6, 2, 3), "o": (2, 3, 6),
    "up": (6, 5), "bias": (5,), "down": (5, 6), "down_bias": (6,),
}  # fmt: skip
BLOCKS = [{name: RNG.normal(size=s).astype("f4") for name, s in SHAPES.items()} for _ in range(3)]
ENDS = {"embed": RNG.normal(size=(7, 6)).astype("f4"), "head": RNG.normal(size=(6, 4)).astype("f4")}
TOKENS = np.arange(5) % 7
WIDER = {"stream": 8, "heads": 5, "hidden": 9}


@pytest.fixture(autouse=True)
def _models_broadcast_as_they_like():
    with jax.numpy_rank_promotion("allow"):
        yield


def block(x, p):
    n = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * p["scale"]
    q, k, v = (jnp.einsum("td,dhk->htk", n, p[name]) for name in "qkv")
    y = jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v
    x = x + jnp.einsum("htk,hkd->td", y, p["o"])
    return x + jnp.tanh(x @ p["up"] + p["bias"]) @ p["down"] + p["down_bias"]


def listed(params, tokens):
    x = params["embed"][tokens]
    for p in params["blocks"]:
        x = block(x, p)
    return x @ params["head"]


def scanned(params, tokens):
    x, _ = jax.lax.scan(lambda x, p: (block(x, p), None), params["embed"][tokens], params["blocks"])
    return x @ params["head"]


@functools.cache
def both(kind):
    """The net with a list or a scan, its groups, and of each block its three groups' ids."""
    if kind == "list":
        params, apply = {**ENDS, "blocks": BLOCKS}, listed
        prefixes = [f"blocks/{i}" for i in range(3)]
    else:
        params = {**ENDS, "blocks": jax.tree.map(lambda *x: np.stack(x), *BLOCKS)}
        apply, prefixes = scanned, ["blocks"] * 3
    groups = symmetry.infer(apply, params, TOKENS)
    shift = kind != "list"

    def of(prefix, leaf, axis):
        return next(g for g in groups.at(f"{prefix}/{leaf}", axis + shift) if g in groups.free).id

    ids = [
        {"stream": of(p, "up", 0), "heads": of(p, "q", 1), "hidden": of(p, "up", 1)}
        for p in prefixes
    ]
    return params, groups, ids


def unstacked(params):
    blocks = params["blocks"]
    if isinstance(blocks, dict):
        blocks = [jax.tree.map(lambda x, i=i: x[i], blocks) for i in range(3)]
    return blocks


def expanded(w, inner=None, outer=None):
    """EXPN of the paper: `(axis, g)`, copies over their count along the inner one."""
    if inner:
        axis, g = inner
        share = (1 / np.bincount(g)[g]).reshape([-1 if a == axis else 1 for a in range(w.ndim)])
        w = np.take(w, g, axis) * share
    return w if outer is None else np.take(w, outer[1], outer[0])


def by_fpi(w, stream, heads, hidden):
    """One block with its own maps, and along which axis what it puts out is new."""
    own = {
        "scale": (expanded(w["scale"], outer=(0, stream)), None),
        **{n: (expanded(w[n], (0, stream), (1, heads)), (1, 2)) for n in "qkv"},
        "o": (expanded(w["o"], (0, heads), (2, stream)), (2, 6)),
        "up": (expanded(w["up"], (0, stream), (1, hidden)), (1, 5)),
        "bias": (expanded(w["bias"], outer=(0, hidden)), (0, 5)),
        "down": (expanded(w["down"], (0, hidden), (1, stream)), (1, 6)),
        "down_bias": (expanded(w["down_bias"], outer=(0, stream)), None),
    }
    return own


@pytest.mark.parametrize("kind", ["list", "scan"])
def test_new_units_are_the_next_block_s_as_in_the_paper(kind):
    params, groups, ids = both(kind)
    sizes = {id: WIDER[word] for block_ids in ids for word, id in block_ids.items()}
    wide = grow.aki(groups, sizes, key=3).apply(params)
    maps = [{w: drawn(groups.all[id], sizes[id], 3, np) for w, id in b.items()} for b in ids]
    if kind == "list":  # each block has maps of its own, but for the stream
        assert (maps[0]["hidden"] != maps[1]["hidden"]).any()
    stream = maps[0]["stream"]
    np.testing.assert_array_equal(wide["embed"], ENDS["embed"][:, stream])
    np.testing.assert_allclose(wide["head"], expanded(ENDS["head"], (0, stream)), rtol=1e-6)
    own = [by_fpi(w, **g) for w, g in zip(BLOCKS, maps, strict=True)]
    for i, u in enumerate(unstacked(wide)):
        for name, (matrix, where) in own[i].items():
            if where:
                axis, old = where
                following = own[min(i + 1, 2)][name][0]
                first, (_, more) = (
                    np.split(matrix, [old], axis)[0],
                    np.split(following, [old], axis),
                )
                matrix = np.concatenate([first, more], axis)
            np.testing.assert_allclose(u[name], matrix, rtol=1e-6, err_msg=f"{i} {name}")


def test_moments_come_from_the_next_block_too():
    params, groups, ids = both("list")
    sizes = {b["hidden"]: 9 for b in ids}
    edit, copies = grow.aki(groups, sizes, key=3), grow.widen(groups, sizes, method="fpi", key=3)
    state = optax.sgd(0.1, momentum=0.9).init(params)
    state = jax.tree.map(np.asarray, (optax.TraceState(params), *state[1:]))
    grown, own = (e.optimizer_state(state)[0].trace["blocks"] for e in (edit, copies))
    for i in range(3):
        np.testing.assert_array_equal(grown[i]["up"][:, :5], own[i]["up"][:, :5])
        np.testing.assert_array_equal(grown[i]["up"][:, 5:], own[min(i + 1, 2)]["up"][:, 5:])
        np.testing.assert_array_equal(grown[i]["down"], own[i]["down"])
    zero = edit.optimizer_state(state, policy="zero_pad")[0].trace["blocks"][0]["up"]
    assert zero[:, :5].any()
    assert not zero[:, 5:].any()


def test_a_collection_and_a_copy_move_like_the_tree():
    inner = {f"block_{i}": {"up": RNG.normal(size=(2, 3)), "out": np.ones((3, 2))} for i in (9, 10)}
    params = {"params": inner}
    sites = [
        [(f"params/block_{i}/up", 1, "produced"), (f"params/block_{i}/out", 0, "consumed")]
        for i in (9, 10)
    ]
    groups = symmetry.Groups.from_sites(params, sites)
    edit = grow.aki(groups, {0: 4, 1: 4}, key=0)
    wide = edit.apply(params)["params"]
    up = inner["block_10"]["up"]
    assert (wide["block_9"]["up"][:, 3:] == up).all(0).any()
    np.testing.assert_array_equal(wide["block_9"]["up"][:, :3], inner["block_9"]["up"])
    for other in (edit.apply(inner), edit.apply({"ema": params})["ema"]["params"]):
        jax.tree.map(np.testing.assert_array_equal, other, wide)
    traced = jax.jit(lambda p, k: grow.aki(groups, {0: 4, 1: 4}, key=k).apply(p))
    assert traced(params, jax.random.key(0))["params"]["block_9"]["up"].shape == (2, 4)


def test_refusals():
    _, groups, ids = both("list")
    one, two, three = (b["hidden"] for b in ids)
    for sizes in ({one: 9}, {one: 9, two: 8, three: 8}):
        with pytest.raises(WeightSpaceError, match=r"blocks/0/\w+: .* blocks/1/.* blocks alike"):
            grow.aki(groups, sizes, key=0)
    lone = symmetry.Groups.from_sites(
        {"a": np.ones((2, 3)), "b": np.ones((3, 1))}, [[("a", 1, "produced"), ("b", 0, "consumed")]]
    )
    with pytest.raises(WeightSpaceError, match="no leaves form repeated blocks; use fpi"):
        grow.aki(lone, {0: 4}, key=0)
