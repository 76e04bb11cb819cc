"""What every adapter keeps to. An adapter joins by a line in `MAKERS`."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from wslax import WeightSpaceError, adapt, io, symmetry
from wslax.trace import factored

MAKERS = {
    "lora": lambda **o: adapt.lora(2, alpha=3, **o),
    "dora": lambda **o: adapt.dora(2, alpha=3, **o),
    "pissa": lambda **o: adapt.pissa(2, **o),
    "vera": lambda **o: adapt.vera(5, **o),
    "ia3 of inputs": lambda **o: adapt.ia3(inputs=True, **o),
    "loha": lambda **o: adapt.loha(2, alpha=3, **o),
    "lokr": lambda **o: adapt.lokr(1, alpha=3, **o),
    "boft": lambda **o: adapt.boft(2, **o),
    "bone": lambda **o: adapt.bone(2, **o),
    "miss": lambda **o: adapt.miss(2, **o),
    "splopa": lambda **o: adapt.splopa(2, (2, 2), init_range=0.0, **o),
    "compander": lambda **o: adapt.compander(2.0, 1.0, learn=True, **o),
    "whole": lambda groups=None, **o: adapt.whole(**o),
    "chain": lambda **o: adapt.chain(
        adapt.ia3(**o), adapt.lora(2, **o), adapt.whole(where="*bias")
    ),
}  # fmt: skip
WRITTEN_OUT = ()  # whose matrices are products with no factored form
KEY, MEMBERS = jr.key(1), 3
every_adapter = pytest.mark.parametrize("name", MAKERS)


def draw(i, *shape):
    """By numpy: what jax would compile for each shape takes longer than the tests."""
    return (np.random.default_rng(i).normal(size=shape) / 2).astype(np.float32)


def stirred(train, i):
    """Some trained state."""
    leaves, structure = jax.tree.flatten(train)
    return structure.unflatten(
        [x + 0.3 * draw(100 * i + k, *x.shape) for k, x in enumerate(leaves)]
    )


def stacked(trees):
    return jax.tree.map(lambda *x: np.stack(x), *trees)


PLAIN = {"a": draw(0, 6, 4), "b": draw(1, 4, 6), "bias": draw(2, 4)}


def plain(p, x):
    return jnp.tanh(x @ p["a"] + p["bias"][None]) @ p["b"] @ p["a"]


# Layers under a scan, heads, and matrices as PyTorch stores them.
LAID = {
    "layers": draw(3, 3, 6, 6),
    "heads": draw(5, 6, 2, 4),
    "head/bias": draw(7, 4),
    "head": draw(8, 4, 8),
}


def of_layouts(p, x):
    h, _ = jax.lax.scan(lambda h, w: (h + jnp.tanh(h @ w.T), None), x, p["layers"])
    h = jnp.einsum("bd,dhk->bhk", h, p["heads"]).reshape(len(x), -1)
    return h @ p["head"].T + p["head/bias"][None]


GROUPS = symmetry.infer(of_layouts, LAID, jnp.zeros((5, 6)))
X = draw(9, 5, 6)


@functools.cache
def started(name):
    adapter = MAKERS[name]()
    return adapter, *jax.device_get(jax.jit(adapter.init)(KEY, PLAIN))


def losses(name, adapter, params, apply, fixed):
    """A loss of `train`, factored and written out, and how often the first was traced."""
    run, traced = factored(apply, on_dense="allow" if name in WRITTEN_OUT else "error"), []

    def loss(train):
        traced.append(name)
        return (run(adapter.apply(params, train, fixed), X) ** 2).sum()

    return loss, lambda train: (apply(adapter.fuse(params, train, fixed), X) ** 2).sum(), traced


@every_adapter
def test_the_change_begins_as_none_and_leaves_keep_their_types(name):
    dtypes = (jnp.float32, jnp.bfloat16, jnp.float16)
    params = {"a": PLAIN["a"], "b": PLAIN["b"], "c": PLAIN["b"] / 3, "bias": PLAIN["bias"]}
    kinds = dict(zip(params, (*dtypes, jnp.bfloat16), strict=True))
    params = {key: jnp.asarray(leaf, kinds[key]) for key, leaf in params.items()}
    adapter = MAKERS[name]()

    @jax.jit
    def fuse(params):
        train, fixed = adapter.init(KEY, params)
        return [adapter.fuse(params, each, fixed) for each in (train, stirred(train, 1))]

    found, moved = fuse(params)
    for key, leaf in params.items():
        assert (found[key].dtype, found[key].shape) == (leaf.dtype, leaf.shape)
        assert moved[key].dtype == leaf.dtype
        assert np.allclose(found[key], leaf, rtol=0, atol=2e-6 if leaf.dtype == np.float32 else 0)
        assert key == "bias" or np.abs(moved[key] - leaf).max() > 0.01


@every_adapter
def test_a_population_is_each_alone_written_out(name):
    adapter, train, fixed = started(name)
    loss, written, traced = losses(name, adapter, PLAIN, plain, fixed)
    members = stacked([stirred(train, i) for i in range(MEMBERS)])

    @jax.jit
    def run(members):
        together = jax.vmap(jax.value_and_grad(loss))(members)
        return together, jax.lax.map(jax.value_and_grad(written), members)

    (values, grads), (alone, expected) = run(members)
    assert np.allclose(values, alone, rtol=1e-4)
    assert jax.tree.structure(grads) == jax.tree.structure(train)
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert np.isfinite(ours).all()
        assert np.abs(theirs).max() > 0
        assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    run(jax.tree.map(lambda x: x[::-1], members))
    assert len(traced) == 1


@every_adapter
def test_layouts_by_groups(name):
    adapter = MAKERS[name](groups=GROUPS)

    @jax.jit
    def run(params):
        train, fixed = adapter.init(KEY, params)
        train = stirred(train, 1)
        loss, written, _ = losses(name, adapter, params, of_layouts, fixed)
        found = adapter.fuse(params, train, fixed)
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, params)
        return loss(train), written(train)

    ours, theirs = run(LAID)
    assert np.allclose(ours, theirs, rtol=1e-4)


@every_adapter
def test_adapters_stack(name):
    adapter, train, fixed = started(name)
    lora, upper, none = started("lora")
    run = factored(plain, on_dense="allow" if name in WRITTEN_OUT else "error")

    def stack(p, first, second):
        """On top of each other, as they are and written out after each."""
        for how in ("apply", "fuse"):
            found = p
            for made, *parts in (first, second):
                found = getattr(made, how)(found, *parts)
            yield run(found, X) if how == "apply" else plain(found, X)

    pairs = [(adapter, stirred(train, 1), fixed), (lora, stirred(upper, 2), none)]
    compare = jax.jit(lambda p: [*stack(p, *pairs), *stack(p, *pairs[::-1])])
    ours, theirs, swapped, expected = compare(PLAIN)
    assert np.allclose(ours, theirs, atol=2e-4)
    assert np.allclose(swapped, expected, atol=2e-4)


@every_adapter
def test_parts_are_saved_and_come_back(name, tmp_path):
    _, train, _ = started(name)
    train = stirred(train, 1)
    io.save(train, tmp_path / "train")
    found = io.load(tmp_path / "train", like=train)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, train))


@every_adapter
def test_what_does_not_fit(name):
    adapter, train, fixed = started(name)
    other = PLAIN | {"a": draw(0, 8, 4), "b": draw(1, 4, 8)}
    with pytest.raises(WeightSpaceError, match=r"[ab]: for float32\[[84],[84]\] .* expects .* got"):
        adapter.apply(other, train, fixed)
    with pytest.raises(WeightSpaceError, match="population of adapters"):
        adapter.fuse(PLAIN, stacked([train, train]), fixed)
    lacking = {key: leaf for key, leaf in PLAIN.items() if key == "bias"} | {"c": PLAIN["b"]}
    with pytest.raises(WeightSpaceError, match=r"'[ab]', which the model lacks"):
        adapter.apply(lacking, train, fixed)
