"""PEFT's files against what PEFT makes of them, there and back, and every refusal."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wslax as ws
from wslax import WeightSpaceError
from wslax.adapt import read_peft, write_peft

REFS = json.loads((pathlib.Path(__file__).parent / "peft_refs.json").read_text())
X = np.array(REFS["x"], np.float32)


def arrays(values, shapes):
    return {
        name: np.array(v, np.int32 if name.endswith("indices") else np.float32).reshape(
            shapes[name]
        )
        for name, v in values.items()
    }


BASE = arrays(REFS["base"], REFS["shapes"])


def folder_of(path, config, tensors):
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps(config))
    ws.io.save(tensors, path / "adapter_model.safetensors")
    return path


def saved(path, name):
    case = REFS["cases"][name]
    return folder_of(path, case["config"], arrays(case["stored"], case["shapes"]))


def net(params, x):
    """The references' model, in PyTorch's layout."""
    vectors = {name: value[None] for name, value in params.items() if value.ndim == 1}
    linear = lambda x, name: x @ params[f"{name}.weight"].T + vectors[f"{name}.bias"]
    h = jnp.tanh(linear(x, "up"))
    h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-5)
    return linear(linear(h * vectors["norm.weight"] + vectors["norm.bias"], "down"), "head")


def flax(params):
    """The references' parameters as a tree of Flax."""
    steps = ws.io.layout.plan({k: v.shape for k, v in params.items()}, "flax")
    tree = {}
    for name, value in ws.io.relayout(params, steps).items():
        module, leaf = name.split("/")
        tree.setdefault(module, {})[leaf] = value
    return tree


UNREAD = ("oft shared", "oft bounded")
READ = [name for name in REFS["cases"] if name not in UNREAD]
OTHERWISE = {"lora bias", "lokr both"}  # that come back in other tensors


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize("name", READ)
def test_what_peft_merges(tmp_path, name):
    """In PyTorch's layout and in Flax's, and the same files again from the latter."""
    case = REFS["cases"][name]
    merged = BASE | arrays(case["merged"], REFS["shapes"])
    folder = saved(tmp_path / "a", name)
    found = read_peft(folder, BASE)
    close_trees = functools.partial(jax.tree.map, close)
    close_trees(found.adapter.fuse(BASE, found.train, found.fixed), merged)
    tree = flax(BASE)
    adapter, train, fixed, config = read_peft(folder, tree)
    close_trees(adapter.fuse(tree, train, fixed), flax(merged))
    write_peft(tmp_path / "b", tree, adapter, train, fixed, config)
    ours, theirs = (ws.io.load(tmp_path / x / "adapter_model.safetensors") for x in "ba")
    if name in OTHERWISE:
        again = read_peft(tmp_path / "b", BASE)
        close_trees(again.adapter.fuse(BASE, again.train, again.fixed), merged)
        return
    specs = [{k: (v.shape, v.dtype) for k, v in tensors.items()} for tensors in (ours, theirs)]
    assert specs[0] == specs[1]
    for key, value in theirs.items():
        skew = lambda x: x - np.swapaxes(x, -1, -2) if key.endswith("boft_R") else x  # noqa: B023
        np.testing.assert_allclose(skew(ours[key]), skew(value), rtol=1e-6, atol=1e-6)
    again = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert again.items() >= config.items()


@pytest.mark.parametrize("name", ["lora", "dora", "boft deep", "shira"])
def test_what_peft_computes(tmp_path, name):
    """By the factored forward pass."""
    adapter, train, fixed, _ = read_peft(saved(tmp_path / "a", name), BASE)
    run = jax.jit(lambda base, x: ws.trace.factored(net)(adapter.apply(base, train, fixed), x))
    np.testing.assert_allclose(run(BASE, X), REFS["cases"][name]["output"], rtol=1e-4, atol=1e-5)


MADE = {
    "BOFT": (ws.adapt.boft, {"block_size": 2}, {}),
    "MISS": (ws.adapt.bone, {"size": 2}, {"init_weights": "bat"}),
    "IA3": (ws.adapt.ia3, {"inputs": True}, {}),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_was_trained_here(tmp_path, kind):
    """Ranks, sizes and targets are filled in, and what is read is the model that was written."""
    make, settings, config = MADE[kind]
    params = flax(BASE)
    adapter = make(**settings, where=["up/kernel", "down/kernel"])
    train, fixed = adapter.init(0, params)
    train = jax.tree.map(lambda x: np.asarray(x) + 0.1, train)
    config = {"peft_type": kind, **config}
    write_peft(tmp_path / "a", params, adapter, train, fixed, config)
    again = read_peft(tmp_path / "a", params)
    fused = [a.fuse(params, t, f) for a, t, f in ((adapter, train, fixed), again[:3])]
    jax.tree.map(close, *fused)
    assert again.config["target_modules"] == ["down", "up"]
    assert again.config.items() >= config.items()


def test_the_rank_of_pissa_is_filled_in(tmp_path):
    params = flax(BASE)
    adapter = ws.adapt.pissa(2, where=["up/kernel", "down/kernel"])
    train, fixed = adapter.init(0, params)
    config = {"peft_type": "LORA", "lora_alpha": 4, "init_lora_weights": "pissa"}
    write_peft(tmp_path / "a", params, adapter, train, fixed, config)
    again = read_peft(tmp_path / "a", params)
    assert again.config["r"] == 2
    fused = [a.fuse(params, t, f) for a, t, f in ((adapter, train, fixed), again[:3])]
    jax.tree.map(close, *fused)


def test_a_chain_of_adapters(tmp_path):
    params = flax(BASE)
    adapter = ws.adapt.chain(
        ws.adapt.lora(2, where="up/kernel"), ws.adapt.whole(where=["norm/scale", "head/bias"])
    )
    train, fixed = adapter.init(0, params)
    train = jax.tree.map(lambda x: x + 0.1, train)
    config = {"peft_type": "LORA", "lora_alpha": 2}
    write_peft(tmp_path / "a", params, adapter, train, fixed, config)
    again = read_peft(tmp_path / "a", BASE)
    fused = again.adapter.fuse(BASE, again.train, again.fixed)
    jax.tree.map(close, flax(dict(fused)), adapter.fuse(params, train, fixed))
    assert (again.config["modules_to_save"], again.config["bias"]) == (["norm"], "all")


def _lora(**changes):
    case = REFS["cases"]["lora"]
    return case["config"] | changes, arrays(case["stored"], case["shapes"])


def _without(*ends, **more):
    config, stored = _lora()
    kept = {k: v for k, v in stored.items() if not k.endswith(ends)}
    return config, kept | {f"base_model.model.{k.replace('__', '.')}": v for k, v in more.items()}


def _of(name, **changes):
    case = REFS["cases"][name]
    return case["config"] | changes, arrays(case["stored"], case["shapes"])


F32 = np.float32
REFUSED = {
    "another kind": (_lora(peft_type="XLORA"), "peft_type: 'XLORA' is not read here. Did you mean"),
    "no kind": (_lora(peft_type=[1]), "is not read here"),
    "unknown field": (_lora(wings=2), "wings: 2 is not understood of LORA"),
    "another variant": (_lora(use_qalora=True), "use_qalora: QA-LoRA is not read"),
    "another start": (_lora(init_lora_weights="olora"), "starts from changed base weights"),
    "rank": (_lora(r=3), "stored with rank 2, the config says 3"),
    "not targeted": (_lora(target_modules=["up"]), r"down: stored, and target_modules \['up'\]"),
    "not stored": (
        _lora(target_modules=["up", "down", "head"]), "head: is of target_modules .* nothing is"),
    "half": (_without("down.lora_B.weight"), "down: expected lora_A.weight, lora_B.weight or"),
    "dora unsaid": (_without(up__lora_magnitude_vector=np.ones(8, F32)), "use_dora and a lora_mag"),
    "not of the model": (_without(tail__bias=np.ones(3, F32)), "no tensor 'tail.bias'"),
    "replaced by another shape": (_without(norm__bias=np.ones(3, F32)), r"norm.bias: \[3\] in"),
    "both": (_without(up__base_layer__weight=np.ones((8, 6), F32)), "both adapted and replaced"),
    "integers": (_without(norm__bias=np.ones(8, np.int32)), "norm.bias: expected floats"),
    "axes": (_without("up.lora_A.weight", up__lora_A__weight=np.ones(2, F32)), r"lora_A.weight \["),
    "shapes": (
        _without("up.lora_A.weight", up__lora_A__weight=np.ones((2, 5), F32)),
        r"up.weight: .* expects down \[6, 2\]"),
    "bounded": (_of("oft bounded"), "coft: True is not understood of OFT"),
    "terms": (_of("oft", num_cayley_neumann_terms=10**9), "expected 1 to 64 terms"),
    "form": (_of("miss bat", init_weights=True), r"a block \[2, 2, 2\] is none of True"),
    "projections": (
        (_of("vera")[0], {k: v for k, v in _of("vera")[1].items() if "vera_A" not in k}),
        "expected vera_lambda_b"),
    "places": (
        (_of("shira")[0], {k: v + v.dtype.type(7) for k, v in _of("shira")[1].items()}),
        "shira_indices lie outside"),
    "nothing": ((_lora(target_modules=None)[0], {}), "holds no tensors"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_names_the_folder_once(tmp_path, kind):
    (config, tensors), message = REFUSED[kind]
    folder = folder_of(tmp_path / "a", config, tensors)
    with pytest.raises(WeightSpaceError, match=message) as caught:
        read_peft(folder, BASE)
    assert str(caught.value).count(str(folder)) == 1


def test_what_is_not_written(tmp_path):
    """Nothing stands under the final name."""
    params = flax(BASE)
    adapter = ws.adapt.lora(2, where="up/kernel")
    train, fixed = adapter.init(0, params)
    train = jax.tree.map(lambda x: x + 0.1, train)
    write = functools.partial(write_peft, tmp_path / "a", params, adapter, train, fixed)
    with pytest.raises(WeightSpaceError, match="makes another change"):
        write({"peft_type": "LORA", "lora_alpha": 3})
    with pytest.raises(WeightSpaceError, match="LOHA has other parts than down, up"):
        write({"peft_type": "LOHA"})
    with pytest.raises(WeightSpaceError, match="peft_type"):
        write({})
    assert not list(tmp_path.iterdir())


@settings(max_examples=10, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    rank=st.integers(1, 3),
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
    layout=st.sampled_from(["torch", "in first", "flax"]),
)
def test_parts_are_those_stored(tmp_path_factory, sizes, rank, dtype, layout):
    """For any sizes and layouts, to the bit."""
    (out, inner), rank = sizes, min(rank, *sizes)
    rng = np.random.default_rng(rank)
    a, b = (rng.normal(size=shape).astype(dtype) for shape in ((rank, inner), (out, rank)))
    weight = np.zeros((out, inner) if layout == "torch" else (inner, out), np.float32)
    params = {"fc": {"kernel": weight}} if layout == "flax" else {"fc.weight": weight}
    stored = {"base_model.model.fc.lora_A.weight": a, "base_model.model.fc.lora_B.weight": b}
    config = {"peft_type": "LORA", "r": rank, "fan_in_fan_out": layout == "in first"}
    folder = folder_of(tmp_path_factory.mktemp("peft") / "a", config, stored)
    _, train, _, _ = read_peft(folder, params)
    (parts,) = train.values()
    assert parts["down"].dtype == parts["up"].dtype == dtype
    np.testing.assert_array_equal(parts["down"], a.T)
    np.testing.assert_array_equal(parts["up"], b.T)
