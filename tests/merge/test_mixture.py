"""Mixtures: every tensor where its architecture looks for it, routers by formula, refusals."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest
import yaml

import wslax as ws
from wslax import WeightSpaceError
from wslax.cli import main
from wslax.merge.mixture import mixture
from wslax.merge.mixture.router import normal

LAYERS, HIDDEN, WIDE = 2, 4, 6
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": WIDE}
CONFIG = {"num_hidden_layers": LAYERS, "hidden_size": HIDDEN, "rms_norm_eps": 1e-5, **HEADS}
QKV = ("q_proj", "k_proj", "v_proj")


def dense(model_type, seed):
    """A decoder's tensors, as its family names them."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    tree = {"model.embed_tokens.weight": draw(9, HIDDEN), "model.norm.weight": draw(HIDDEN)}
    for i in range(LAYERS):
        place = f"model.layers.{i}."
        for part, rows in zip((*QKV, "o_proj"), (4, 2, 2, 4), strict=True):
            tree[f"{place}self_attn.{part}.weight"] = draw(rows, HIDDEN)
            if model_type == "qwen2" and part in QKV:
                tree[f"{place}self_attn.{part}.bias"] = draw(rows)
        tree[f"{place}mlp.gate_proj.weight"] = draw(WIDE, HIDDEN)
        tree[f"{place}mlp.up_proj.weight"] = draw(WIDE, HIDDEN)
        tree[f"{place}mlp.down_proj.weight"] = draw(HIDDEN, WIDE)
    return tree


def save(name, model_type, tree, **change):
    ws.io.save(tree, name)
    config = {**CONFIG, "model_type": model_type, **change}
    pathlib.Path(name, "config.json").write_text(json.dumps(config))


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Makes a base and two experts of a family in the working directory, and returns them."""
    monkeypatch.chdir(tmp_path)

    def make(model_type):
        trees = {name: dense(model_type, seed) for seed, name in enumerate(("base", "a", "b"))}
        for name, tree in trees.items():
            save(name, model_type, tree)
        return trees

    return make


def recipe(**change):
    experts = [{"source_model": "a"}, {"source_model": "b"}]
    return {"base_model": "base", "gate_mode": "random", "experts": experts, **change}


# Architecture: recipe's word, where experts lie, their parts, the router, the shared expert.
MLP = "model.layers.{}.mlp."
LAYOUTS = {
    "MixtralForCausalLM": (
        "model.layers.{}.block_sparse_moe.", ("w1", "w3", "w2"), None, "num_local_experts"),
    "DeepseekForCausalLM": (MLP, None, "shared_experts", "n_routed_experts"),
    "Qwen2MoeForCausalLM": (MLP, None, "shared_expert", "num_experts"),
    "Qwen3MoeForCausalLM": (MLP, None, None, "num_experts"),
}  # fmt: skip
BY_DEFAULT = {
    ("llama", 0): "Mixtral", ("mistral", 0): "Mixtral", ("qwen3", 0): "Qwen3Moe",
    ("llama", 1): "Deepseek", ("mistral", 1): "Deepseek", ("qwen2", 1): "Qwen2Moe",
}  # fmt: skip
DENSE = ("gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize(("model_type", "shared"), BY_DEFAULT)
def test_every_tensor_has_its_place(models, model_type, shared):
    trees = models(model_type)
    given = recipe(shared_experts=[{"source_model": "b"}] * shared)
    made = mixture(given, "out")
    assert made.architecture == BY_DEFAULT[model_type, shared] + "ForCausalLM"
    place, parts, shared_name, count = LAYOUTS[made.architecture]
    wanted = {k: v for k, v in trees["base"].items() if ".mlp." not in k}
    for i in range(LAYERS):
        for old, new in zip(DENSE, parts or DENSE, strict=True):
            name = f"model.layers.{i}.mlp.{old}.weight"
            for j, expert in enumerate("ab"):
                wanted[f"{place.format(i)}experts.{j}.{new}.weight"] = trees[expert][name]
            if shared:
                wanted[f"{place.format(i)}{shared_name}.{new}.weight"] = trees["b"][name]
    out = ws.io.load("out")
    rows = {name: out[name] for name in out if name not in wanted}
    gate = {place.format(i) + "gate.weight": (2, HIDDEN) for i in range(LAYERS)}
    if made.architecture.startswith("Qwen2"):
        gate |= {f"{MLP.format(i)}shared_expert_gate.weight": (1, HIDDEN) for i in range(LAYERS)}
    assert {name: value.shape for name, value in rows.items()} == gate
    for name, value in wanted.items():
        np.testing.assert_array_equal(out[name], value)
    config = json.loads(pathlib.Path("out/config.json").read_text())
    assert config["architectures"] == [made.architecture]
    assert (config[count], config["num_experts_per_tok"], config["rms_norm_eps"]) == (2, 2, 1e-5)


def test_qwen_of_llama_gets_the_biases_it_looks_for(models):
    models("llama")
    mixture(recipe(architecture="qwen", shared_experts=[{"source_model": "a"}]), "out")
    out = ws.io.load("out")
    for i in range(LAYERS):
        for part, rows in zip(QKV, (4, 2, 2), strict=True):
            bias = out[f"model.layers.{i}.self_attn.{part}.bias"]
            np.testing.assert_array_equal(bias, np.zeros(rows, np.float32))


def test_what_the_dense_config_leaves_out_keeps_its_meaning(models):
    """Mixtral's own defaults are others."""
    trees = models("llama")
    for name, tree in trees.items():
        ws.io.save(tree, f"{name}2")
        bare = {k: CONFIG[k] for k in ("num_hidden_layers", "hidden_size")}
        config = {**bare, "model_type": "llama", "num_attention_heads": 2}
        pathlib.Path(f"{name}2", "config.json").write_text(json.dumps(config))
    experts = [{"source_model": "a2"}, {"source_model": "b2"}]
    mixture(recipe(base_model="base2", experts=experts), "out")
    config = json.loads(pathlib.Path("out/config.json").read_text())
    keys = ("rms_norm_eps", "rope_theta", "num_key_value_heads", "max_position_embeddings")
    assert [config[key] for key in keys] == [1e-6, 10000.0, 2, 2048]


def test_scale_noise_and_dtype(models):
    trees = models("llama")
    experts = [
        {"source_model": "a", "residual_scale": 0.5},
        {"source_model": "b", "noise_scale": 0.1},
    ]
    mixture(recipe(experts=experts, dtype="float16"), "out", seed=3)
    mixture(recipe(experts=experts, dtype="float16"), "again", seed=3)
    out, again = ws.io.load("out"), ws.io.load("again")
    assert {value.dtype for value in out.values()} == {np.dtype(np.float16)}
    for name in out:
        np.testing.assert_array_equal(out[name], again[name])
    name, place = "model.layers.1.mlp.down_proj.weight", "model.layers.1.block_sparse_moe."
    halved = (0.5 * trees["a"][name]).astype(np.float16)
    np.testing.assert_array_equal(out[f"{place}experts.0.w2.weight"], halved)
    noise = [
        out[f"model.layers.{i}.block_sparse_moe.experts.1.{new}.weight"]
        - trees["b"][f"model.layers.{i}.mlp.{old}.weight"]
        for i in range(LAYERS)
        for old, new in zip(DENSE, ("w1", "w3", "w2"), strict=True)
    ]
    noise = np.concatenate([x.reshape(-1) for x in noise])
    assert noise.std() == pytest.approx(0.1, rel=0.25)
    assert len(np.unique(noise.round(3))) > noise.size / 3
    assert json.loads(pathlib.Path("out/config.json").read_text())["torch_dtype"] == "float16"


def test_the_normal_stream_is_that_of_the_library():
    from scipy import stats

    import wslax.random as random

    words = random.bits(5, "w", 4000)
    found = normal(5, "w", 4000)
    np.testing.assert_allclose(found, random.normal(words), rtol=1e-4)
    assert stats.kstest(found, "norm").pvalue > 1e-3


@pytest.mark.parametrize("mode", ["random", "uniform_random"])
def test_drawn_routers(models, mode):
    models("llama")
    mixture(recipe(gate_mode=mode), "out")
    rows = np.concatenate([v.reshape(-1) for k, v in ws.io.load("out").items() if ".gate." in k])
    assert len(np.unique(rows)) == rows.size == LAYERS * 2 * HIDDEN
    if mode == "uniform_random":
        assert np.abs(rows).max() <= HIDDEN**-0.5


@pytest.fixture
def tokenizer(monkeypatch):
    """A stand-in for the tokenizers package: a text is numbers, one token each; <s> is 0."""
    encode = lambda text, add_special_tokens: types.SimpleNamespace(
        ids=[int(word) for word in text.replace("<s>", "0 ").split()]
    )
    module = types.ModuleType("tokenizers")
    module.Tokenizer = types.SimpleNamespace(
        from_file=lambda file: types.SimpleNamespace(encode=encode)
    )
    monkeypatch.setitem(sys.modules, "tokenizers", module)


def prompted():
    return recipe(gate_mode="cheap_embed", experts=[
        {"source_model": "a", "positive_prompts": ["1 2", "3"]},
        {"source_model": "b", "positive_prompts": ["4"], "negative_prompts": ["5 6", "1"]},
    ])  # fmt: skip


@pytest.mark.parametrize("token", ["<s>", {"content": "<s>"}, None])
def test_routers_from_embeddings_of_prompts(models, tokenizer, token):
    embedding = models("llama")["base"]["model.embed_tokens.weight"].astype(np.float64)
    pathlib.Path("base/tokenizer.json").write_text("{}")
    pathlib.Path("base/tokenizer_config.json").write_text(json.dumps({"bos_token": token}))
    mixture(prompted(), "out")
    zero = [0] if token else []
    unit = lambda x: x / np.linalg.norm(x)
    direction = lambda *texts: unit(embedding[[i for text in texts for i in zero + text]].sum(0))
    rows = [direction([1, 2], [3]), unit(direction([4]) - direction([5, 6], [1]))]
    out = ws.io.load("out")
    for i in range(LAYERS):
        gate = out[f"model.layers.{i}.block_sparse_moe.gate.weight"]
        np.testing.assert_allclose(gate, rows, rtol=1e-5, atol=1e-6)
    assert (ws.io.load("base").keys() & out.keys()) == {k for k in out if "block_sparse" not in k}
    assert pathlib.Path("out/tokenizer.json").read_text() == "{}"


REFS = json.loads((pathlib.Path(__file__).parent / "mergekit_moe_refs.json").read_text())


def fused(out):
    """Experts as mergekit 0.1.5 stores some of them: stacked, gate above up."""
    place = "model.layers.0.block_sparse_moe."
    words = ("w1", "w3", "w2") if f"{place}gate.weight" in out else DENSE
    place = place if words != DENSE else MLP.format(0)
    gate, up, down = (
        np.stack([out.pop(f"{place}experts.{j}.{word}.weight") for j in range(2)]) for word in words
    )
    out[f"{MLP.format(0)}gate.weight"] = out.pop(f"{place}gate.weight")
    both = {"gate_up_proj": np.concatenate([gate, up], 1), "down_proj": down}
    return out | {f"{MLP.format(0)}experts.{part}": x for part, x in both.items()}


@pytest.mark.parametrize("kind", REFS)
def test_mixtures_are_mergekits(tmp_path, monkeypatch, tokenizer, kind):
    """`tests/peers/make_mergekit_tools_refs.py` made the references."""
    monkeypatch.chdir(tmp_path)
    ref = REFS[kind]
    for name, tensors in ref["models"].items():
        tree = {k: np.array(v, np.float32).reshape(shape) for k, (shape, v) in tensors.items()}
        save(name, **{**ref["config"], "tree": tree})
        pathlib.Path(name, "tokenizer.json").write_text("{}")
        pathlib.Path(name, "tokenizer_config.json").write_text('{"bos_token": "1 "}')
    mixture({**ref["recipe"], "architecture": kind}, "out")
    out, wanted = dict(ws.io.load("out")), ref["out"]
    if f"{MLP.format(0)}experts.gate_up_proj" in wanted:
        out = fused(out)
    assert {k: list(v.shape) for k, v in out.items()} == {k: v[0] for k, v in wanted.items()}
    for name, (_, values) in wanted.items():
        np.testing.assert_allclose(out[name].reshape(-1), values, atol=1e-6)


def test_given_rows(models):
    models("qwen2")
    rows = np.random.default_rng(0).normal(size=(LAYERS, 3, HIDDEN))
    ws.io.save({"router": rows}, "rows.safetensors")
    given = recipe(gate_mode="vectors", vectors="rows.safetensors")
    mixture({**given, "shared_experts": [{"source_model": "a"}]}, "out")
    out = ws.io.load("out")
    for i in range(LAYERS):
        gate = out[f"{MLP.format(i)}gate.weight"]
        shared = out[f"{MLP.format(i)}shared_expert_gate.weight"]
        np.testing.assert_allclose(np.concatenate([gate, shared]), rows[i], rtol=1e-6)


BAD = {
    "a key": ({"gate_mod": "random"}, "unknown key 'gate_mod'. Did you mean 'gate_mode'"),
    "no base": ({"base_model": None}, "base_model: expected the path"),
    "no experts": ({"experts": []}, "expected 1 to 0"),
    "experts": ({"experts": "a"}, "experts: expected a list"),
    "an expert": ({"experts": ["a", "b"]}, "experts.0: expected source_model"),
    "prompts": (
        {"experts": [{"source_model": "a", "positive_prompts": "x"}] * 2}, "a list of texts"),
    "noise": ({"experts": [{"source_model": "a", "noise_scale": float("nan")}] * 2}, "a number"),
    "count": ({"experts_per_token": 3}, "expected 1 to 2, the number of experts, got 3"),
    "count is true": ({"experts_per_token": True}, "got True"),
    "hidden": ({"gate_mode": "hidden"}, "runs the base model, which wslax does not; use"),
    "no mode": ({"gate_mode": None}, "runs the base model"),
    "mode": ({"gate_mode": "chep_embed"}, "Did you mean 'cheap_embed'"),
    "rows": ({"gate_mode": "vectors"}, "names the file of rows"),
    "rows without use": ({"vectors": "x"}, "names the file of rows"),
    "no prompts": ({"gate_mode": "cheap_embed"}, "experts.0.positive_prompts: cheap_embed needs"),
    "same prompts": (
        {"gate_mode": "cheap_embed",
         "experts": [{"source_model": x, "positive_prompts": ["1"]} for x in "ab"]},
        "all have the same prompts"),
    "two shared": ({"shared_experts": [{"source_model": "a"}] * 2}, "at most one, got 2"),
    "dtype": ({"dtype": "float8"}, "dtype: expected one of"),
    "architecture": ({"architecture": "gpt"}, "expected one of mixtral, deepseek moe"),
    "shared in mixtral": (
        {"architecture": "mixtral", "shared_experts": [{"source_model": "a"}]},
        "mixtral has no shared experts"),
    "qwen alone": ({"architecture": "qwen moe"}, "qwen moe needs one shared expert"),
    "missing model": ({"base_model": "nowhere"}, "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_recipes_that_are_refused(models, kind):
    models("llama")
    change, message = BAD[kind]
    with pytest.raises(WeightSpaceError, match=message):
        mixture(recipe(**change), "out")


def _without(tree, end):
    return {k: v for k, v in tree.items() if not k.endswith(end)}


UNLIKE = {
    "another family": (lambda t: save("c", "mistral", t), "is a 'mistral', base a 'llama'"),
    "another shape": (
        lambda t: save("c", "llama", {k: v[:3] for k, v in t.items()}),
        r"\[3, 4\] in .*, \[6, 4\]"),
    "a part missing": (
        lambda t: save("c", "llama", _without(t, "1.mlp.up_proj.weight")), "no tensor"),
    "integers": (
        lambda t: save("c", "llama", {k: v.astype(np.int8) for k, v in t.items()}), "got int8"),
    "nan": (lambda t: save("c", "llama", {k: v * np.nan for k, v in t.items()}), "NaN or infinity"),
    "no config": (lambda t: ws.io.save(t, "c"), "config.json: cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNLIKE)
def test_experts_unlike_the_base_are_refused(models, kind):
    make, message = UNLIKE[kind]
    make(models("llama")["a"])
    with pytest.raises(WeightSpaceError, match=message):
        mixture(recipe(experts=[{"source_model": "a"}, {"source_model": "c"}]), "out")
    assert not ws.io.atomic.partial_name("out").exists()


BASES = {
    "layers": ({}, {"num_hidden_layers": 3}, "has 3 layers, the tensors have MLPs in 2"),
    "layers are text": ({}, {"num_hidden_layers": "2"}, "expected a whole number"),
    "hidden": ({}, {"hidden_size": 5}, "hidden_size is not"),
    "a mixture": ({"model.layers.0.mlp.gate.weight": np.ones(2)}, {}, "no part of a dense"),
    "a bias": ({"model.layers.0.self_attn.q_proj.bias": np.ones(4)}, {}, "mixtral has no such"),
}


@pytest.mark.parametrize("kind", BASES)
def test_bases_that_are_no_dense_decoder(models, kind):
    more, change, message = BASES[kind]
    tree = models("llama")["base"]
    save("other", "llama", {**tree, **more}, **change)
    with pytest.raises(WeightSpaceError, match=message):
        mixture(recipe(base_model="other"), "out")


def test_prompts_need_a_tokenizer_of_the_base(models, tokenizer, monkeypatch):
    models("llama")
    with pytest.raises(WeightSpaceError, match=r"has no tokenizer\.json"):
        mixture(prompted(), "out")
    pathlib.Path("base/tokenizer.json").write_text("{}")
    given = prompted()
    given["experts"][0]["positive_prompts"] = ["99"]
    with pytest.raises(WeightSpaceError, match="has 9 rows, a prompt has token 99"):
        mixture(given, "out")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(WeightSpaceError, match="needs the tokenizers package"):
        mixture(prompted(), "out")


@pytest.mark.parametrize("rows", [np.ones((LAYERS, 3, HIDDEN)), np.full((LAYERS, 2, 4), np.nan)])
def test_rows_that_do_not_fit(models, rows):
    models("llama")
    ws.io.save({"router": rows}, "rows.safetensors")
    with pytest.raises(WeightSpaceError, match=r"expected floats of \[2, 2, 4\]|holds NaN"):
        mixture(recipe(gate_mode="vectors", vectors="rows.safetensors"), "out")


def test_the_command_and_the_recipe_it_keeps(models, capsys):
    models("llama")
    pathlib.Path("moe.yaml").write_text(yaml.safe_dump(recipe()))
    assert main(["moe", "moe.yaml", "out", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["architecture"], made["tensors"]) == ("MixtralForCausalLM", 24)
    assert main(["moe", "out/wslax_moe.yaml", "again"]) == 0
    assert "again  MixtralForCausalLM, 24 tensors" in capsys.readouterr().out
    assert main(["diff", "out", "again"]) == 0
    assert main(["moe", "nowhere.yaml", "third"]) == 1
    assert "cannot be read" in capsys.readouterr().err
