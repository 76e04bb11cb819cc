"""`grow.check` on models that keep an old number: sentences and values are written by hand."""

import inspect
import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wslax as ws
from wslax import grow, symmetry


def draw(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype("float32") for name, shape in shapes.items()}


def lines(apply, text):
    """The lines of a function's source that hold a text, as notes write them."""
    source, first = inspect.getsourcelines(apply)
    return [f"test_checking.py:{first + i} " for i, line in enumerate(source) if text in line]


def at(note, apply, text):
    return any(note.startswith(line) for line in lines(apply, text))


def widened(apply, params, x, leaf, axis, size, place=0, **options):
    groups = symmetry.infer(apply, params, x)
    id = groups.at(leaf, axis)[place].id
    return grow.widen(groups, {id: size}, key=0, **options)


class Mlp(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(self.width, name="hidden")(x))
        return nn.Dense(3, name="out")(h)


def test_features_of_a_linen_layer():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    old, new = Mlp(12), Mlp(16)
    params = old.init(jax.random.key(0), x)
    edit = widened(old.apply, params, x, "params/hidden/kernel", 1, 16)
    right = grow.check(old.apply, new.apply, edit, params, x)
    assert right.notes == ()
    assert right.ok
    assert right.difference < 1e-5
    wrong = grow.check(old.apply, old.apply, edit, params, x)
    assert wrong.difference is None
    assert not wrong.ok
    assert "fails: ScopeParamShapeError" in wrong.notes[0]
    assert "hidden: features=12, expected 16 (Dense)" in wrong.notes
    assert not any("out:" in note for note in wrong.notes)
    assert str(wrong).startswith("the new model does not run\n- test_checking.py:")


class Attend(nn.Module):
    heads: int
    width: int

    @nn.compact
    def __call__(self, x):
        attend = nn.MultiHeadDotProductAttention(
            self.heads, qkv_features=self.width, name="attention"
        )
        return nn.Dense(2, name="out")(attend(x))


def test_heads_of_linen_attention():
    x = np.random.default_rng(0).normal(size=(2, 5, 7)).astype("float32")
    old, new = Attend(4, 12), Attend(6, 18)
    params = old.init(jax.random.key(0), x)
    edit = widened(old.apply, params, x, "params/attention/query/kernel", 1, 6)
    right = grow.check(old.apply, new.apply, edit, params, x)
    assert right.ok, str(right)
    wrong = grow.check(old.apply, old.apply, edit, params, x)
    kind = "(MultiHeadDotProductAttention)"
    assert f"attention: num_heads=4, expected 6 {kind}" in wrong.notes
    assert f"attention: qkv_features=12, expected 18 {kind}" in wrong.notes


class Depthwise(nn.Module):
    channels: int
    count: int

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Conv(self.channels, (1, 1), name="expand")(x))
        h = nn.Conv(self.channels, (3, 3), feature_group_count=self.count, name="depthwise")(h)
        return nn.Dense(3, name="out")(h.mean((1, 2)))


def test_groups_of_a_convolution():
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")
    old = Depthwise(8, 8)
    params = old.init(jax.random.key(0), x)
    edit = widened(old.apply, params, x, "params/expand/kernel", 3, 16)
    right = grow.check(old.apply, Depthwise(16, 16).apply, edit, params, x)
    assert right.ok, str(right)
    wrong = grow.check(old.apply, Depthwise(16, 8).apply, edit, params, x)
    assert "depthwise: feature_group_count=8, expected 16 (Conv)" in wrong.notes
    assert any("feature_group_count 8, expected 16" in note for note in wrong.notes)


def attention(heads, head_width, scale):
    def apply(p, x):
        q, k, v = (x @ p[name] for name in ("q", "k", "v"))
        q, k, v = (y.reshape(*x.shape[:2], heads, head_width) for y in (q, k, v))
        weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / scale)
        y = jnp.einsum("bhts,bshd->bthd", weights, v)
        return y.reshape(*x.shape[:2], -1) @ p["o"]

    return apply


ATTENTION = draw(q=(7, 12), k=(7, 12), v=(7, 12), o=(12, 2))
TOKENS = np.random.default_rng(1).normal(size=(2, 5, 7)).astype("float32")


def test_a_reshape_to_heads():
    root = 3**0.5
    old = attention(4, 3, root)
    edit = widened(old, ATTENTION, TOKENS, "v", 1, 8)
    assert grow.check(old, attention(8, 3, root), edit, ATTENTION, TOKENS).ok
    fails = grow.check(old, old, edit, ATTENTION, TOKENS)
    assert fails.difference is None
    assert any("reshape to 4, expected 8" in note for note in fails.notes)
    assert at(fails.notes[0], attention, "reshape(*x.shape[:2], heads")
    runs = grow.check(old, attention(4, -1, root), edit, ATTENTION, TOKENS)
    assert runs.difference > 1e-2
    (note,) = runs.notes
    assert at(note, attention, "reshape(*x.shape[:2], heads")
    assert note.endswith("reshape to 4, expected 8")


@pytest.mark.parametrize("name", ["literal", "traced"])
def test_the_scale_of_attention(name):
    root = (lambda n: n**0.5) if name == "literal" else jnp.sqrt
    old = lambda p, x: attention(4, 3, root(3))(p, x)
    new = lambda p, x: attention(4, 5, root(5))(p, x)
    stale = lambda p, x: attention(4, 5, root(3))(p, x)
    edit = widened(old, ATTENTION, TOKENS, "q", 1, 5, place=1)
    values = symmetry.infer(old, ATTENTION, TOKENS).at("v", 1)[1].id
    edit = ws.chain(edit, grow.widen(edit.groups, {values: 5}, key=0))
    right = grow.check(old, new, edit, ATTENTION, TOKENS)
    assert right.ok, str(right)
    wrong = grow.check(old, stale, edit, ATTENTION, TOKENS)
    assert wrong.difference > 1e-3
    (note,) = wrong.notes
    assert at(note, attention, "/ scale")
    assert note.endswith("div by 1.73205, expected 2.23607")


def centred(width):
    def apply(p, x):
        h = x @ p["a"]
        h = h - h.sum(-1, keepdims=True) / width
        return jnp.tanh(h) @ p["b"]

    return apply


def test_a_mean_by_hand():
    params, x = draw(a=(4, 12), b=(12, 2)), draw(x=(12, 4))["x"]
    old = centred(12)
    edit = widened(old, params, x, "a", 1, 24)
    right = grow.check(old, centred(24), edit, params, x)
    assert right.ok, str(right)
    wrong = grow.check(old, old, edit, params, x)
    assert wrong.difference > 1e-2
    (note,) = wrong.notes
    assert at(note, centred, "h.sum")
    assert note.endswith("div by 12, expected 24")
    times = lambda p, x: jnp.tanh(jnp.sum(x @ p["a"], -1, keepdims=True) * (1 / 12)) * (x @ p["a"])
    both = lambda p, x: times(p, x) @ p["b"]
    (note,) = grow.check(both, both, edit, params, x).notes
    assert note.endswith("mul by 0.0833333, expected 0.0416667")


class Normed(nn.Module):
    width: int
    eps: float

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(self.width, name="up")(x)
        h = nn.RMSNorm(epsilon=self.eps, name="norm")(h)
        return nn.Dense(3, name="out")(h)


def test_the_eps_that_lemon_needs():
    """The new mean of squares is 12/16 of the old one, so eps has to be."""
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    old = Normed(12, 1e-2)
    params = old.init(jax.random.key(0), x)
    edit = widened(old.apply, params, x, "params/up/kernel", 1, 16, method="lemon")
    right = grow.check(old.apply, Normed(16, 0.75e-2).apply, edit, params, x)
    assert right.ok, str(right)
    assert right.difference < 1e-5
    wrong = grow.check(old.apply, Normed(16, 1e-2).apply, edit, params, x)
    assert wrong.difference > 1e-4
    assert "norm: epsilon=0.01, expected 0.0075 (RMSNorm)" in wrong.notes
    (note,) = [note for note in wrong.notes if "test_checking" in note]
    assert at(note, Normed, "RMSNorm")
    assert note.endswith("eps 0.01, expected 0.0075")


class Heads(eqx.Module):
    """What Equinox's attention does with its static field."""

    project: eqx.nn.Linear
    out: eqx.nn.Linear
    num_heads: int = eqx.field(static=True)

    def __call__(self, x):
        h = jax.vmap(self.project)(x).reshape(x.shape[0], self.num_heads, -1)
        h = h / jnp.abs(h).max(-1, keepdims=True)
        return jax.vmap(self.out)(h.reshape(x.shape[0], -1))


def make_heads(width, heads):
    keys = jax.random.split(jax.random.key(0))
    return Heads(eqx.nn.Linear(4, width, key=keys[0]), eqx.nn.Linear(width, 3, key=keys[1]), heads)


def test_static_fields_of_equinox_modules():
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    model = make_heads(12, 6)
    params, static = eqx.partition(model, eqx.is_array)
    old = lambda p, x: eqx.combine(p, static)(x)
    heads = symmetry.infer(old, params, x).at("project/weight", 0)[0]
    assert heads.size == 6
    edit = widened(old, params, x, "project/weight", 0, 12)
    wide = make_heads(24, 12)
    leaves = lambda m: (m.project.weight, m.project.bias, m.out.weight, m.out.bias)
    new = lambda p, x: eqx.tree_at(leaves, wide, leaves(p))(x)
    right = grow.check(old, new, edit, params, x)
    assert right.notes == ()
    assert right.ok
    wrong = grow.check(old, old, edit, params, x)
    assert wrong.difference > 1e-2
    assert "Heads: num_heads=6, expected 12 (Heads)" in wrong.notes
    assert "project: out_features=12, expected 24 (Linear)" in wrong.notes
    assert "out: in_features=12, expected 24 (Linear)" in wrong.notes
    assert any(at(n, Heads, "self.num_heads") and "reshape to 6" in n for n in wrong.notes)


def test_a_slice_that_ends_at_the_old_width():
    params, x = draw(a=(4, 12), b=(12, 2)), draw(x=(5, 4))["x"]
    model = lambda end: lambda p, x: jnp.tanh(x @ p["a"])[:, :end] @ p["b"][:end]
    old = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
    edit = widened(old, params, x, "a", 1, 16)
    halves = lambda end: lambda p, x: jax.lax.slice_in_dim(x @ p["a"], 0, end, axis=1).sum(-1)
    wrong = grow.check(halves(12), halves(12), edit, params, x)
    assert wrong.notes[0].endswith("slice to 12, expected 16")
    assert grow.check(model(12), model(16), edit, params, x).ok


def test_blocks_that_the_new_model_leaves_out():
    def model(depth):
        def apply(p, x):
            for i in range(depth):
                x = x + jnp.tanh(x @ p[f"block_{i}"])
            return x

        return apply

    params, x = draw(block_0=(4, 4), block_1=(4, 4)), draw(x=(5, 4))["x"]
    edit = ws.edit.from_map(lambda p: {**p, "block_2": jnp.zeros((4, 4))})
    assert grow.check(model(2), model(3), edit, params, x).ok
    wrong = grow.check(model(2), model(2), edit, params, x)
    assert wrong.difference == 0
    assert wrong.notes == ("block_2: the new model does not read this leaf",)
    assert not wrong.ok


def test_scans_and_nested_calls_are_walked():
    """A norm by hand inside a checkpointed scan."""

    def model(width):
        def layer(x, w):
            h = x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) / width + 1e-6)
            return x + jnp.tanh(h @ w), None

        return lambda p, x: jax.lax.scan(jax.checkpoint(layer), x @ p["a"], p["w"])[0] @ p["b"]

    params, x = draw(a=(4, 6), w=(3, 6, 6), b=(6, 2)), draw(x=(5, 4))["x"]
    old = model(6)
    edit = widened(old, params, x, "a", 1, 12)
    right = grow.check(old, model(12), edit, params, x)
    assert right.ok, str(right)
    wrong = grow.check(old, old, edit, params, x)
    (note,) = wrong.notes
    assert re.search(r"\(layer\): div by 6, expected 12$", note)


def test_a_change_of_function_without_a_constant_says_so():
    params, x = draw(a=(4, 4)), draw(x=(5, 4))["x"]
    edit = ws.edit.from_map(lambda p: {"a": 2 * p["a"]})
    apply = lambda p, x: x @ p["a"]
    found = grow.check(apply, apply, edit, params, x)
    assert found.notes == ()
    assert not found.ok
    assert "does the edit keep the function?" in str(found)
