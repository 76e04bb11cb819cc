"""Layouts: what Flax computes with converted weights, the exact way back, and every refusal."""

import flax.linen as nn
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax import WeightSpaceError
from wslax.io.convert import checkpoint
from wslax.io.layout import Rule, inverse, plan


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def converted(tensors, to, rules=()):
    steps = plan({name: value.shape for name, value in tensors.items()}, to, rules)
    return ws.io.relayout(tensors, steps)


def below(flat, module):
    return {
        name.split("/")[-1]: jnp.asarray(value)
        for name, value in flat.items()
        if name.startswith(f"{module}/")
    }


HF = {
    "model.embed_tokens.weight": normal(11, 6),
    "model.layers.0.q_proj.weight": normal(4, 6),
    "model.layers.0.q_proj.bias": normal(4),
    "model.norm.weight": normal(6),
    "model.norm.bias": normal(6),
    "conv.weight": normal(5, 2, 3, 3),
    "conv.bias": normal(5),
    "conv1d.weight": normal(5, 2, 3),
    "conv3d.weight": normal(5, 2, 3, 1, 2),
    "bn.running_mean": normal(6),
    "bn.running_var": normal(6),
    "bn.num_batches_tracked": np.array(3),
    "shared.weight": normal(11, 6),
    "scales": normal(3),
}


def test_flax_computes_what_pytorch_means():
    flax = converted(HF, "flax")
    x = normal(2, 6)
    weight, bias = HF["model.layers.0.q_proj.weight"], HF["model.layers.0.q_proj.bias"]
    dense = nn.Dense(4).apply({"params": below(flax, "model/layers/0/q_proj")}, x)
    np.testing.assert_allclose(dense, x @ weight.T + bias, rtol=1e-5, atol=1e-5)

    image = normal(1, 2, 7, 7)
    want = sum(
        np.einsum("oi,bihw->bohw", HF["conv.weight"][:, :, i, j], image[:, :, i : i + 5, j : j + 5])
        for i in range(3)
        for j in range(3)
    ) + HF["conv.bias"].reshape(1, -1, 1, 1)
    conv = nn.Conv(5, (3, 3), padding="VALID")
    got = conv.apply({"params": below(flax, "conv")}, image.transpose(0, 2, 3, 1))
    np.testing.assert_allclose(got.transpose(0, 3, 1, 2), want, rtol=1e-4, atol=1e-4)

    embed = nn.Embed(11, 6).apply({"params": below(flax, "model/embed_tokens")}, np.array([3, 7]))
    np.testing.assert_array_equal(embed, HF["model.embed_tokens.weight"][[3, 7]])
    norm = nn.LayerNorm(epsilon=1e-5).apply({"params": below(flax, "model/norm")}, x)
    apart = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    want = apart * HF["model.norm.weight"] + HF["model.norm.bias"]
    np.testing.assert_allclose(norm, want, rtol=1e-4, atol=1e-5)


def test_names_and_rules():
    steps = plan({name: value.shape for name, value in HF.items()}, "flax")
    assert {step.source: (step.target, step.rule) for step in steps} == {
        "model.embed_tokens.weight": ("model/embed_tokens/embedding", "embedding"),
        "model.layers.0.q_proj.weight": ("model/layers/0/q_proj/kernel", "linear"),
        "model.layers.0.q_proj.bias": ("model/layers/0/q_proj/bias", "kept"),
        "model.norm.weight": ("model/norm/scale", "norm"),
        "model.norm.bias": ("model/norm/bias", "kept"),
        "conv.weight": ("conv/kernel", "convolution"),
        "conv.bias": ("conv/bias", "kept"),
        "conv1d.weight": ("conv1d/kernel", "convolution"),
        "conv3d.weight": ("conv3d/kernel", "convolution"),
        "bn.running_mean": ("bn/mean", "statistics"),
        "bn.running_var": ("bn/var", "statistics"),
        "bn.num_batches_tracked": ("bn/num_batches_tracked", "kept"),
        "shared.weight": ("shared/embedding", "embedding"),
        "scales": ("scales", "kept"),
    }


def identical(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_pytorch_to_flax_and_back_is_the_identity():
    identical(converted(converted(HF, "flax"), "torch"), HF)


@pytest.mark.parametrize("middle", ["flax", "flax.safetensors", "flax.npz"])
def test_the_way_back_through_files_is_the_identity(tmp_path, middle):
    ws.io.save(HF, tmp_path / "hf", metadata={"note": "kept"}, shard_bytes=300)
    (tmp_path / "hf/config.json").write_bytes(b'{"a": 1}\r\n')
    checkpoint(tmp_path / "hf", tmp_path / middle, to="flax")
    checkpoint(tmp_path / middle, tmp_path / "back", to="torch", shard_bytes=300)
    back = ws.io.load(tmp_path / "back")
    identical({name: back[name] for name in HF}, HF)
    if middle == "flax":
        assert (tmp_path / "back/config.json").read_bytes() == b'{"a": 1}\r\n'
        assert ws.io.open_tensors(tmp_path / "back").metadata == {"format": "pt", "note": "kept"}


def test_blocks_smaller_than_a_tensor_write_the_same(tmp_path, monkeypatch):
    ws.io.save(HF, tmp_path / "a.safetensors")
    checkpoint(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="flax")
    monkeypatch.setattr("wslax.io.convert._BLOCK", 1)
    checkpoint(tmp_path / "a.safetensors", tmp_path / "c.safetensors", to="flax")
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()


PARTS = st.sampled_from(["a", "embed", "0", "query", "norm", "weight", "kernel", "mean"])
LEAVES = st.sampled_from(["weight", "bias", "scale", "kernel", "embedding", "running_mean", "mean"])
NAMES = st.builds(lambda parts, leaf: ".".join([*parts, leaf]), st.lists(PARTS, max_size=2), LEAVES)


@given(st.dictionaries(NAMES, st.integers(0, 5), max_size=6), st.sampled_from(["flax", "torch"]))
@settings(deadline=None)
def test_any_plan_can_be_undone_and_says_where_the_default_would_not(ranks, to):
    tensors = {name: normal(*range(2, 2 + rank)) for name, rank in ranks.items()}
    try:
        steps = plan({name: value.shape for name, value in tensors.items()}, to)
    except WeightSpaceError:
        return
    changed = ws.io.relayout(tensors, steps)
    identical(ws.io.relayout(changed, inverse(steps)), tensors)
    if to == "flax" and not any("way back" in step.rule for step in steps):
        identical(converted(changed, "torch"), tensors)


def test_a_tensor_that_the_default_would_not_bring_back_is_marked():
    (step,) = plan({"layer.scale": (3,)}, "flax")
    assert step.rule == "kept; the default way back gives layer.weight"


def test_a_map_comes_first_and_takes_the_stars_over(tmp_path):
    file = tmp_path / "map.yaml"
    file.write_text(
        "'h.*.attn.*.weight': {to: 'layers/*/*/kernel', axes: [0, 1]}\n'head.weight': 'out/kernel'"
    )
    tensors = {
        "h.0.attn.c_fc.weight": normal(2, 3),
        "head.weight": normal(4, 2),
        "n.weight": normal(2),
    }
    rules = ws.io.read_map(file)
    steps = plan({name: value.shape for name, value in tensors.items()}, "flax", rules)
    assert [(step.target, step.axes) for step in steps] == [
        ("layers/0/c_fc/kernel", (0, 1)),
        ("out/kernel", (0, 1)),
        ("n/scale", (0,)),
    ]
    assert steps[0].rule == "map: h.*.attn.*.weight"
    identical(ws.io.relayout(ws.io.relayout(tensors, steps), inverse(steps)), tensors)
    file.write_text('{"head/weight": {"to": "x.*"}}')
    with pytest.raises(WeightSpaceError, match=r"as many \* as each other"):
        plan({"head.weight": (2,)}, None, ws.io.read_map(file))


def test_gpt2_like_weights_are_not_turned_silently():
    with pytest.raises(WeightSpaceError, match=r"with a bias of 3 is not PyTorch's .* in a map"):
        plan({"c_fc.weight": (2, 3), "c_fc.bias": (3,)}, "flax")
    with pytest.raises(WeightSpaceError, match="is not Flax's"):
        plan({"fc/kernel": (3, 2), "fc/bias": (3,)}, "torch")
    kept = plan({"a/query/kernel": (6, 2, 3), "a/query/bias": (2, 3)}, "torch")
    assert kept[0].axes == (0, 1, 2)


@pytest.mark.parametrize(
    ("shapes", "rules", "message"),
    [
        ({"a.weight": (2,), "a.scale": (2,)}, (), "would both be called 'a/scale'"),
        ({"a.weight": (2,)}, (Rule("b.weight", "c"),), r"names no tensor. Did you mean 'a.weight'"),
        ({"a.weight": (2, 3)}, (Rule("a.weight", "c", (0, 0)),), r"do not order the 2 axes"),
        (
            {"a.weight": (2,), "b": (2,)},
            (Rule("*weight", "*w"), Rule("b", "a/w")),
            "both be called",
        ),
    ],
)
def test_plans_that_do_not_work_out(shapes, rules, message):
    with pytest.raises(WeightSpaceError, match=message):
        plan(shapes, "flax", rules)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "expected lines of 'old: new'"),
        ("a: {", "not valid YAML"),
        ("a: 3", "'a': expected a new name"),
        ("3: a", "3: expected a new name"),
        ("a: {axes: [1, 0]}", "'a': expected a new name"),
        ("a: {to: b, axis: [1, 0]}", r"unknown key 'axis'. Did you mean 'axes'"),
        ("a: {to: b, axes: [true]}", "not a list of axis numbers"),
    ],
)
def test_bad_maps_are_named(tmp_path, text, message):
    file = tmp_path / "map.yaml"
    file.write_text(text)
    with pytest.raises(WeightSpaceError, match=rf"map\.yaml: .*{message}"):
        ws.io.read_map(file)
    with pytest.raises(WeightSpaceError, match="No such file"):
        ws.io.read_map(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("x.bin", r"writes no \.bin"),
        ("x.npy", r"writes no \.npy"),
        ("x.orbax", "for Orbax use"),
        ("x.npz", "npz cannot hold bfloat16"),
        ("full", "not empty"),
        ("there.safetensors", "exists already"),
    ],
)
def test_targets_that_cannot_be_are_refused_and_nothing_is_left(tmp_path, target, message):
    source = tmp_path / "a.safetensors"
    ws.io.save({"w": np.ones(2, ml_dtypes.bfloat16)}, source)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").write_text("mine")
    (tmp_path / "there.safetensors").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(WeightSpaceError, match=message):
        checkpoint(source, tmp_path / target)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.safetensors").read_text() == "mine"
