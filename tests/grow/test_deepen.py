"""Deeper nets: exact where blocks are made identities, by numpy takes where they are copied."""

import functools

import forwards
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wslax import WeightSpaceError, grow, symmetry
from wslax.symmetry import Groups


@pytest.fixture(autouse=True)
def _x64():
    with jax.enable_x64(True):
        yield


def norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-3)
    return x * p["scale"][None, None] + p["bias"][None, None]


def attend(x, p):
    q, k, v = jnp.moveaxis((x @ p["qkv"]).reshape(*x.shape[:2], 3, 2, 2), 2, 0)
    weights = jax.nn.softmax(jnp.einsum("bihd,bjhd->bhij", q, k), -1)
    y = jnp.einsum("bhij,bjhd->bihd", weights, v).reshape(*x.shape[:2], 4)
    return y @ p["out"]["kernel"] + p["out"]["bias"][None, None]


def pre(x, p):
    x = x + attend(norm(x, p["n0"]), p)
    return x + jax.nn.gelu(norm(x, p["n1"]) @ p["up"]) @ p["down"]


def post(x, p):
    x = norm(x + attend(x, p), p["n0"])
    return norm(x + jax.nn.gelu(x @ p["up"]) @ p["down"], p["n1"])


def gained(x, p):
    """A gain behind each branch, as in LayerScale, with a flat bias before it."""
    y = jax.nn.gelu(norm(x, p["n1"]) @ p["up"]) @ p["down"] + p["bias"][None, None]
    return x + y * p["gain"][None, None]


def plain(x, p):
    return jnp.tanh(x @ p["w"])


LAYER = {"scale": (6,), "bias": (6,)}
SHAPES = {
    pre: {
        "n0": LAYER,
        "qkv": (6, 12),
        "out": {"kernel": (4, 6), "bias": (6,)},
        "n1": LAYER,
        "up": (6, 5),
        "down": (5, 6),
    },
    gained: {"n1": LAYER, "up": (6, 5), "down": (5, 6), "bias": (6,), "gain": (6,)},
    plain: {"w": (6, 6)},
}
SHAPES[post] = SHAPES[pre]
X = np.random.default_rng(1).normal(size=(2, 3, 3))


def apply(params, x, block=pre):
    x = x @ params["in"]
    if isinstance(params["blocks"], dict):
        x, _ = jax.lax.scan(lambda x, p: (block(x, p), None), x, params["blocks"])
    else:
        for p in params["blocks"]:
            x = block(x, p)
    return x @ params["head"]


@functools.cache
def model(block=pre, scanned=False, depth=2):
    """Parameters and inferred groups."""
    of_one = SHAPES[block]
    shapes = {"in": (3, 6), "head": (6, 2), "blocks": [of_one] * depth}
    params = forwards.draw(0, shapes)
    if scanned:
        params["blocks"] = jax.tree.map(lambda *xs: np.stack(xs), *params["blocks"])
    with jax.enable_x64(True):
        return params, symmetry.infer(functools.partial(apply, block=block), params, X)


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())


def parts(groups):
    """What does not depend on the order of groups: symmetries by their span's size and support."""
    describe = lambda g: (
        g.size,
        sorted(map(str, g.sites)),
        sorted(str(groups.all[i].sites[0]) for i in g.per),
        g.reductions,
        (g.frozen_by or "").partition(" at ")[0],
        np.linalg.matrix_rank(np.array(g.scales)) if g.scales else 0,
        len(g.signs),
    )
    return sorted(map(describe, groups.all)), dict(groups.shapes)


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("block", [pre, gained])
def test_identity_blocks_keep_the_function_and_train(block, scanned):
    params, groups = model(block, scanned)
    edit = grow.deepen(groups, 4)
    deep = edit.apply(params)
    run = functools.partial(apply, block=block)
    close(run(deep, X), run(params, X))
    assert jax.tree.map(np.shape, edit.spec(params)) == jax.tree.map(np.shape, deep)
    gradient = jax.grad(lambda p: (run(p, X) ** 2).sum())(deep)["blocks"]
    last = gradient["down"][1] if scanned else gradient[1]["down"]
    assert np.abs(last).max() > 1e-3
    assert parts(edit.groups) == parts(symmetry.infer(run, deep, X))


@pytest.mark.parametrize("scanned", [False, True])
def test_only_last_projections_are_zeroed(scanned):
    params, groups = model(pre, scanned)
    deep = grow.deepen(groups, [0, 0, 1]).apply(params)["blocks"]
    new = jax.tree.map(lambda x: x[1], deep) if scanned else deep[1]
    old = jax.tree.map(lambda x: x[0], params["blocks"]) if scanned else params["blocks"][0]
    zero = jax.tree.map(lambda a, b: None if (a == b).all() else not a.any(), new, old)
    assert zero == jax.tree.map(lambda _: None, old) | {
        "out": {"kernel": True, "bias": True},
        "down": True,
    }


ORDERS = {
    ("copy", 5): [0, 0, 1, 1, 2],
    ("stack", 7): [0, 1, 2, 0, 1, 2, 0],
    ("solar", 4): [0, 1, 1, 2],
}


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize(("method", "depth"), ORDERS)
def test_published_orders(method, depth, scanned):
    params, groups = model(pre, scanned, 3)
    order = ORDERS[method, depth]
    blocks = params["blocks"]
    taken = jax.tree.map(lambda x: x[order], blocks) if scanned else [blocks[i] for i in order]
    edit = grow.deepen(groups, depth, method=method)
    deep = edit.apply(params)
    equal(deep, params | {"blocks": taken})
    equal(grow.deepen(groups, order, method="copy").apply(params), deep)
    equal(jax.jit(edit.apply)(params), deep)
    assert symmetry.locate(deep, edit.groups)


@pytest.mark.parametrize("scanned", [False, True])
def test_means_of_neighbours(scanned):
    params, groups = model(pre, scanned, 3)
    deep = grow.deepen(groups, 5, method="mean").apply(params)["blocks"]
    blocks = params["blocks"]
    if scanned:
        blocks, deep = (
            [jax.tree.map(lambda x, i=i: x[i], b) for i in range(n)]
            for b, n in ((blocks, 3), (deep, 5))
        )
    mean = lambda a, b: jax.tree.map(lambda x, y: (x + y) / 2, a, b)
    a, b, c = blocks
    equal(deep, [a, mean(a, b), b, mean(b, c), c])
    one = grow.deepen(groups, 4, method="mean").apply(params)["blocks"]
    assert (one["up"].shape[0] if scanned else len(one)) == 4


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=7), st.booleans())
def test_orders_compose_as_indices_do(order, scanned):
    blocks = forwards.draw(3, {"w": (4, 2)})["w"]
    tree = {"h": blocks if scanned else {f"b{i}": b for i, b in enumerate(blocks)}}
    stack = grow.blocks(tree, scanned="h")[0] if scanned else None
    deep = grow.deepen(tree, order, method="copy", stack=stack).apply(tree)["h"]
    deep = deep if scanned else np.stack([deep[f"b{i}"] for i in range(len(order))])
    np.testing.assert_array_equal(deep, blocks[order])


def test_names_are_renumbered_and_siblings_stay():
    leaf = lambda i, n=2: np.full(n, float(i))
    tree = {f"b_{i}": leaf(i) for i in range(11)} | {"b_11": leaf(11, 3), "b": leaf(-1), "z": ()}
    deep = grow.deepen(tree, [*range(11), 4], method="copy", stack="b_[0-10]").apply(tree)
    assert [float(deep[f"b_{i}"][0]) for i in range(13)] == [*range(11), 4, 11]
    assert deep["b"] is tree["b"]
    assert len(deep) == 15
    flat = {f"m.h.{i:02d}.w": leaf(i) for i in range(2)} | {"m.out": leaf(5)}
    deep = grow.deepen(flat, 4, method="stack").apply(flat)
    assert {name: float(x[0]) for name, x in deep.items()} == {
        "m.h.00.w": 0, "m.h.01.w": 1, "m.h.02.w": 0, "m.h.03.w": 1, "m.out": 5
    }  # fmt: skip


def test_copies_and_collections_go_through():
    params, groups = model()
    edit = grow.deepen(groups, 3)
    deep = edit.apply(params)
    both = edit.apply({"ema": params, "now": params, "step": np.int32(3)})
    equal(both, {"ema": deep, "now": deep, "step": np.int32(3)})
    layers = lambda leaf: {f"b_{i}": {leaf: np.full(3, float(i))} for i in range(2)}
    variables = {"params": layers("scale"), "batch_stats": layers("mean")}
    edit = grow.deepen(variables, [0, 1, 0], method="copy")
    deep = edit.apply(variables)
    assert [float(deep["batch_stats"][f"b_{i}"]["mean"][0]) for i in range(3)] == [0, 1, 0]
    equal(edit.apply(variables["params"]), deep["params"])


def test_populations_and_donation():
    params, groups = model()
    edit = grow.deepen(groups, 4)
    population = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    deep = jax.vmap(edit.apply)(population)
    equal(jax.tree.map(lambda x: x[1], deep), edit.apply(jax.tree.map(lambda x: 2 * x, params)))
    deep = edit.apply(jax.tree.map(jnp.asarray, params))
    jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)(deep)


def test_a_second_edit_and_a_widening_after():
    params, groups = model()
    once = grow.deepen(groups, 3)
    twice = grow.deepen(once.groups, 5)
    deep = twice.apply(once.apply(params))
    close(apply(deep, X), apply(params, X))
    hidden = next(g for g in twice.groups.all if any("blocks/3/up" in s.name for s in g.sites)
                  and g.size == 5)  # fmt: skip
    wide = grow.widen(twice.groups, {hidden.id: 9}, key=0)
    close(apply(wide.apply(deep), X), apply(params, X))
    assert wide.apply(deep)["blocks"][3]["up"].shape == (6, 9)


@pytest.mark.parametrize("scanned", [False, True])
def test_moments_are_copied_with_blocks_and_zero_where_weights_are(scanned):
    params, groups = model(pre, scanned)
    optimizer = optax.adam(0.1)
    state = optimizer.init(params)
    _, state = optimizer.update(jax.tree.map(lambda x: x + 1.0, params), state, params)
    edit = grow.deepen(groups, [0, 0, 1])
    grown = edit.optimizer_state(state)
    assert jax.tree.structure(grown) == jax.tree.structure(optimizer.init(edit.apply(params)))
    at = (lambda t, i: jax.tree.map(lambda x: x[i], t)) if scanned else lambda t, i: t[i]
    old, new = at(state[0].mu["blocks"], 0), at(grown[0].mu["blocks"], 1)
    np.testing.assert_array_equal(new["up"], old["up"])
    assert not new["down"].any()
    assert np.asarray(old["down"]).any()
    equal(grown[0].nu["head"], state[0].nu["head"])


def test_masked_states():
    params, groups = model()
    mask = jax.tree.map(lambda _: True, params)
    mask["blocks"][0] = jax.tree.map(lambda _: False, mask["blocks"][0])
    optimizer = optax.masked(optax.sgd(0.1, momentum=0.9), mask)
    edit = grow.deepen(groups, [0, 1, 1])
    grown = edit.optimizer_state(optimizer.init(params))
    deep_mask = edit.apply(params) | {}
    deep_mask = jax.tree.map(lambda _: True, deep_mask)
    deep_mask["blocks"][0] = mask["blocks"][0]
    expected = optax.masked(optax.sgd(0.1, momentum=0.9), deep_mask).init(edit.apply(params))
    assert jax.tree.structure(grown) == jax.tree.structure(expected)


@pytest.mark.parametrize(
    ("block", "scanned", "sentence"),
    [
        (post, False, r"blocks/\*/n\d/\w+: meets the stream .* name its last projections"),
        (post, True, r"blocks/n\d/\w+: meets the stream"),
        (plain, False, "no group runs into and out of every block"),
        (plain, True, "blocks/w: is read and written by the carry of the scan"),
    ],
)
def test_blocks_that_zeros_do_not_make_identities_are_refused(block, scanned, sentence):
    _, groups = model(block, scanned)
    with pytest.raises(WeightSpaceError, match=sentence):
        grow.deepen(groups, 4)


def test_zeroing_a_post_norm_block_is_no_identity():
    """The control: what the refusal is for."""
    params, groups = model(post)
    run = functools.partial(apply, block=post)
    deep = grow.deepen(groups, 3, zero=["*/out/*", "*/down"]).apply(params)
    assert np.abs(run(deep, X) - run(params, X)).max() > 1e-2


def test_leaves_named_by_hand():
    params, groups = model()
    named = grow.deepen(params, 4, zero=["*/out/*", "*/down"])
    assert named.groups is None
    equal(named.apply(params), grow.deepen(groups, 4).apply(params))
    with pytest.raises(WeightSpaceError, match="reads from the groups"):
        grow.deepen(params, 4)
    sites = [[("in", 1, "produced"), ("head", 0, "consumed")]]
    for i in range(2):
        sites[0] += [(f"blocks/{i}/n1/scale", 0, "elementwise")]
        sites[0] += [(f"blocks/{i}/up", 0, "consumed"), (f"blocks/{i}/down", 1, "produced")]
    with pytest.raises(WeightSpaceError, match="n1/scale: meets the stream"):
        grow.deepen(Groups.from_sites(params, sites), 3)


@pytest.mark.parametrize(
    ("depth", "options", "sentence"),
    [
        (1, {}, r"depth 1: there are 2 blocks, .* \[0\] with method='copy'"),
        (5, {"method": "solar"}, "an even number of at most 4"),
        (4, {"method": "mean"}, "at most 3 blocks"),
        (3, {"method": "stak"}, "Did you mean 'stack'"),
        ([0, 2], {"method": "copy"}, r"blocks are 0 to 1, got \[0, 2\]"),
        ([0, 1, 0], {"method": "stack"}, "makes its own order"),
        ([1, 0], {}, "comes once before its copies and in the old order"),
        ([0], {}, "method='copy' takes any order"),
        (3, {"zero": "*/nothing"}, "picks no leaf"),
    ],
)
def test_bad_requests(depth, options, sentence):
    _, groups = model()
    with pytest.raises(WeightSpaceError, match=sentence):
        grow.deepen(groups, depth, **options)


def test_a_tree_of_another_model_is_named():
    params, groups = model()
    other = params | {"blocks": [params["blocks"][0], params["blocks"][1] | {"up": np.zeros(3)}]}
    with pytest.raises(WeightSpaceError, match=r"blocks/1/up: .* shape \[6, 5\], got \[3\]"):
        grow.deepen(groups, 3).apply(other)
