"""Whole recipes over folders against what mergekit made of the same files."""

import base64
import hashlib
import json
import os
import pathlib
import shutil
import zlib

import folders
import jinja2
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import wslax as ws
from wslax.io import safe_yaml
from wslax.io.reader import open_tensors
from wslax.io.writer import write_tensors
from wslax.merge.files import config, stream
from wslax.merge.files.plan import make_plan

REFERENCES = json.loads(pathlib.Path(__file__).with_name("mergekit_folders.json").read_text())


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    folders.make_folders(folder)
    for name in ("odd", "slow", "biased"):
        shutil.copytree(folder / "a", folder / name)
    tree = dict(safetensors.numpy.load_file(folder / "a" / "model.safetensors"))
    head = {"lm_head.bias": np.zeros(9, np.float32)}
    safetensors.numpy.save_file({**tree, **head}, folder / "biased" / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        tree[name] = np.concatenate([tree[name], tree[name][:1]])
    safetensors.numpy.save_file(tree, folder / "odd" / "model.safetensors")
    (folder / "slow" / "tokenizer.json").rename(folder / "slow" / "vocab.json")
    return folder


def expected(name):
    found = {}
    for tensor, (dtype, shape, raw) in REFERENCES[name]["tensors"].items():
        x = np.frombuffer(base64.b64decode(raw), np.float32).reshape(shape)
        found[tensor] = x.astype(getattr(ml_dtypes, dtype, dtype))
    return found


def token_ids(out):
    content = json.loads((out / "tokenizer.json").read_text())
    added = {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    return {**content["model"]["vocab"], **added}


def merged(where, monkeypatch, recipe, out, **options):
    monkeypatch.chdir(where)
    ws.merge.checkpoints(recipe, out, **options)
    with open_tensors(where / out) as tensors:
        return {name: tensors.read(name).copy() for name in tensors}


@pytest.mark.parametrize("name", folders.RECIPES)
def test_equals_mergekit(where, tmp_path, monkeypatch, name):
    found = merged(where, monkeypatch, folders.RECIPES[name], tmp_path / "out")
    wanted = expected(name)
    assert set(found) == set(wanted)
    theirs = REFERENCES[name]["vocab"]
    if theirs is not None:
        ids = token_ids(tmp_path / "out")
        assert set(ids) == set(theirs)
    for tensor, x in wanted.items():
        assert found[tensor].dtype == x.dtype
        a, b = found[tensor].astype(float), x.astype(float)
        if theirs is not None and ("embed" in tensor or "head" in tensor):
            # mergekit hands out the ids of new tokens in the order of a hash table
            assert len(a) == len(b)
            rows = np.arange(len(a))
            rows[[ids[token] for token in theirs]] = list(theirs.values())
            b = b[rows]
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=tensor)
    if theirs is not None and "base_model" in folders.RECIPES[name]:
        base = token_ids(where / folders.RECIPES[name]["base_model"])
        assert {token: ids[token] for token in base if token in ids} == {
            token: theirs[token] for token in base if token in theirs
        }
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {k: config[k] for k in REFERENCES[name]["config"]} == REFERENCES[name]["config"]


class Killed(RuntimeError):
    pass


def stop_after(count):
    seen = []

    def progress(nbytes):
        seen.append(nbytes)
        if len(seen) > count:
            raise Killed

    return progress, seen


@pytest.mark.parametrize("shard_bytes", [None, 600])
def test_a_stopped_merge_goes_on_to_the_same_bits(where, tmp_path, monkeypatch, shard_bytes):
    monkeypatch.chdir(where)
    recipe = {**folders.RECIPES["ties of slices"], "merge_method": "dare_ties"}
    ws.merge.checkpoints(recipe, tmp_path / "whole", shard_bytes=shard_bytes)
    changed = (where / "a" / "model.safetensors").stat().st_mtime_ns
    progress, seen = stop_after(9)
    options = {"shard_bytes": shard_bytes, "threads": 1, "resume": True}
    with pytest.raises(Killed):
        ws.merge.checkpoints(recipe, tmp_path / "out", progress=progress, **options)
    assert not (tmp_path / "out").exists()
    journal = tmp_path / "out.partial.journal"
    lines = journal.read_text().splitlines()
    # A kill may cut the last line short, and a page may be lost.
    journal.write_text("\n".join([*lines, lines[1][:20]]))
    lost = json.loads(lines[1])["name"]
    overwrite(tmp_path / "out.partial", lost)
    with pytest.raises(ws.WeightSpaceError, match="was begun with other inputs, settings or"):
        ws.merge.checkpoints(recipe, tmp_path / "out", seed=1, **options)
    os.utime("a/model.safetensors")
    with pytest.raises(ws.WeightSpaceError, match="its inputs have changed"):
        ws.merge.checkpoints(recipe, tmp_path / "out", **options)
    os.utime("a/model.safetensors", ns=(changed, changed))
    resumed, again = stop_after(10**6)
    ws.merge.checkpoints(recipe, tmp_path / "out", progress=resumed, **options)
    assert again[0] == sum(seen) - seen[0] - size_of(tmp_path / "out", lost)
    for file in (tmp_path / "whole").glob("*.safetensors"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "whole"]


def size_of(folder, name):
    with open_tensors(folder) as tensors:
        return tensors.infos[name].nbytes


def overwrite(folder, name):
    with open_tensors(folder) as tensors:
        info = tensors.infos[name]
    with info.file.open("r+b") as handle:
        handle.seek(info.offset)
        handle.write(b"\x01" * info.nbytes)


def test_a_stopped_merge_that_was_not_to_be_resumed_leaves_nothing(where, tmp_path, monkeypatch):
    monkeypatch.chdir(where)
    recipe = folders.RECIPES["ties of slices"]
    with pytest.raises(Killed):
        ws.merge.checkpoints(recipe, tmp_path / "out", progress=stop_after(3)[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["an adapter on a model", "tokens by hand, padded"])
def test_made_parts_do_not_depend_on_the_pieces(where, tmp_path, monkeypatch, name):
    monkeypatch.chdir(where)
    plan = make_plan(config.parse_recipe(folders.RECIPES[name]))

    def written(chunk):
        target = tmp_path / f"{chunk}.safetensors"
        with write_tensors(target, {job.name: job.spec for job in plan.jobs}) as (writer, _):
            stream.execute(plan, writer, chunk=chunk)
        return target.read_bytes()

    assert written(7) == written(1000)


LINEAR = {"merge_method": "linear", "parameters": {"weight": 1}}
TWO = [{"model": "a"}, {"model": "b"}]


def slices(*ranges):
    return [{"sources": [{"model": m, "layer_range": r} for m, r in part]} for part in ranges]


REFUSED = {
    "layers out of bounds": (
        {**LINEAR, "slices": slices([("a", [0, 3]), ("b", [1, 4])])},
        "slices.0: layers 1 to 4 of b are wanted, it has 3 (model.layers)",
    ),
    "unequal slices": (
        {**LINEAR, "slices": slices([("a", [0, 3]), ("b", [0, 2])])},
        "slices.0: every source gives the same number of layers, got 2, 3",
    ),
    "a range backwards": (
        {**LINEAR, "slices": slices([("a", [3, 3])])},
        "slices.0.sources.0.layer_range: expected 0 <= first < end, got [3, 3]",
    ),
    "a base that is not listed": (
        {**LINEAR, "merge_method": "ties", "base_model": "base", "slices": slices([("a", [0, 3])])},
        "slices.0: the base base is not among its sources",
    ),
    "other depth": (
        {**LINEAR, "models": [{"model": "a"}, {"model": "deep"}]},
        "has; nothing is dropped silently",
    ),
    "unequal vocabularies": (
        {**LINEAR, "models": TWO},
        "none is cut; tokenizer_source: union aligns them by their tokens",
    ),
    "no tokenizer": (
        {**LINEAR, "models": [{"model": "t5a"}, {"model": "t5b"}], "tokenizer_source": "union"},
        "t5a: has no tokenizer.json beside its weights",
    ),
    "a token that no model has": (
        {
            **LINEAR, "models": TWO,
            "tokenizer": {"tokens": {"z": {"source": {
                "kind": "model_token", "model": "a", "token": "zz"}}}},
        },
        "tokenizer.tokens.z: a has no token 'zz'",
    ),
    "a token of no model": (
        {**LINEAR, "models": TWO, "tokenizer": {"tokens": {"z": {"source": "base"}}}},
        "tokenizer.tokens.z: no such model here",
    ),
    "no such stack": (
        {**LINEAR, "models": TWO, "layers": "model.layer"},
        "layers: no tensor is named model.layer.0... Did you mean 'model.layers'?",
    ),
    "two stacks": (
        {**LINEAR, "slices": slices([("t5a", [0, 2])])},
        "layers are numbered in decoder.block, encoder.block; say which",
    ),
    "a module without tensors": (
        {**LINEAR, "modules": {"text": {"models": TWO}, "vision": {"models": TWO}}},
        "modules: no tensor's name shows that it is of text or vision; give it a prefix:",
    ),
    "tensors of no module": (
        {**LINEAR, "modules": {"layers": {"models": TWO}}},
        "lm_head.weight (3 in all) is of none of them",
    ),
    "rows that are not the vocabulary's": (
        {**LINEAR, "models": [{"model": "a"}, {"model": "odd"}], "tokenizer_source": "union"},
        "10 rows in odd/model.safetensors, and the config says vocab_size 9; whose rows they are",
    ),
    "a tokenizer of another kind": (
        {**LINEAR, "models": [{"model": "a"}, {"model": "slow"}], "tokenizer_source": "union"},
        "slow: has no tokenizer.json beside its weights",
    ),
    "a tensor that only one slice's source has": (
        {**LINEAR, "slices": slices([("a", [0, 1]), ("biased", [0, 1])])},
        "a/model.safetensors: lacks 'lm_head.bias' that biased/model.safetensors has",
    ),
    "an adapter alone": ({**LINEAR, "models": [{"model": "lora"}]}, "write MODEL+lora"),
    "an adapter of other names": (
        {**LINEAR, "models": [{"model": "t5a+lora"}]},
        "the base has no tensor 'model.layers.0.self_attn.q_proj.weight'",
    ),
    "a template that is none": (
        {**LINEAR, "models": [{"model": "a"}], "chat_template": "chatmll"},
        "chat_template: 'chatmll' is neither a name nor Jinja. Did you mean 'chatml'?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_before_any_work(where, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(where)
    recipe, sentence = REFUSED[kind]
    with pytest.raises(ws.WeightSpaceError) as error:
        ws.merge.checkpoints(recipe, tmp_path / "out")
    assert sentence in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_output_never_touches_an_input(where, monkeypatch):
    monkeypatch.chdir(where)
    one = {**LINEAR, "models": [{"model": "a"}]}
    with pytest.raises(ws.WeightSpaceError, match="lies in the input a; name another output"):
        ws.merge.checkpoints(one, "a/merged")
    shutil.copytree("a", "out.partial")
    two = {**LINEAR, "models": [{"model": "out.partial"}]}
    with pytest.raises(ws.WeightSpaceError, match="is an input, and the place of unfinished"):
        ws.merge.checkpoints(two, "out")
    assert (where / "out.partial" / "model.safetensors").exists()
    shutil.rmtree("out.partial")


def save(folder, tree, config=None):
    folder.mkdir()
    safetensors.numpy.save_file(tree, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config or {}))
    return str(folder)


def test_a_prefix_more_or_less_is_the_same_model(tmp_path, monkeypatch):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    plain = save(tmp_path / "a", {"enc.0.w": x, "enc.1.w": x + 1, "emb": x})
    more = save(tmp_path / "b", {"bert.enc.0.w": 3 * x, "bert.enc.1.w": x, "bert.emb": x})
    recipe = {
        "merge_method": "linear",
        "models": [
            {"model": plain},
            {"model": more, "parameters": {"weight": [{"filter": "bert.enc", "value": [1, 3]}]}},
        ],
        "parameters": {"weight": 1},
    }
    found = merged(tmp_path, monkeypatch, recipe, tmp_path / "out")
    assert set(found) == {"enc.0.w", "enc.1.w", "emb"}
    np.testing.assert_allclose(found["enc.0.w"], 2 * x)
    np.testing.assert_allclose(found["enc.1.w"], (x + 1 + 3 * x) / 4)


def test_float8_is_merged_as_the_numbers_that_it_stands_for(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(4, 6)).astype(ml_dtypes.float8_e4m3fn)
    scale = np.array([0.5, 2.0, 1.0, 4.0], np.float32)
    other = rng.normal(size=(4, 6)).astype(np.float32)
    config = {"quantization_config": {"quant_method": "fp8"}}
    a = save(tmp_path / "a", {"w": codes, "w_scale": scale}, config)
    b = save(tmp_path / "b", {"w": other})
    recipe = {**LINEAR, "models": [{"model": a}, {"model": b}]}
    found = merged(tmp_path, monkeypatch, recipe, tmp_path / "out")
    mean = (codes.astype(np.float32) * scale[:, None] + other) / 2
    np.testing.assert_allclose(found["w"], mean, rtol=1e-6)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {}


CONFIGS = [
    ({"num_hidden_layers": 2, "max_window_layers": 2}, {"num_hidden_layers": 3}),
    ({"n_layer": 2, "n_head": 2}, {"n_layer": 3}),
    (
        {"num_layers": 2, "num_decoder_layers": 2, "decoder_layers": 2},
        {"num_layers": 3},
    ),
    (
        {"text_config": {"num_hidden_layers": 2, "layer_types": ["x", "y"]}, "depth": 5},
        {"text_config": {"num_hidden_layers": 3, "layer_types": ["x", "y", "y"]}},
    ),
]


@pytest.mark.parametrize(("before", "after"), CONFIGS)
def test_the_config_gets_the_new_depth(tmp_path, monkeypatch, before, after):
    x = np.ones((2, 2), np.float32)
    model = save(tmp_path / "a", {f"h.{i}.w": x for i in range(2)}, before)
    recipe = {"merge_method": "passthrough", "slices": slices([(model, [0, 2])], [(model, [1, 2])])}
    found = merged(tmp_path, monkeypatch, recipe, tmp_path / "out")
    assert set(found) == {"h.0.w", "h.1.w", "h.2.w"}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {**before, **after}


def test_a_depth_that_no_config_key_says_is_refused(tmp_path, monkeypatch):
    x = np.ones((2, 2), np.float32)
    model = save(tmp_path / "a", {f"h.{i}.w": x for i in range(2)}, {"hidden_size": 2})
    recipe = {"merge_method": "passthrough", "slices": slices([(model, [0, 1])])}
    with pytest.raises(ws.WeightSpaceError, match="no key says that h has 2 layers"):
        merged(tmp_path, monkeypatch, recipe, tmp_path / "out")


def test_chat_templates(where, tmp_path, monkeypatch):
    monkeypatch.chdir(where)
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]

    def rendered(wanted):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        ws.merge.checkpoints({**LINEAR, "models": [{"model": "a"}], "chat_template": wanted}, out)
        template = json.loads((out / "tokenizer_config.json").read_text())["chat_template"]
        return jinja2.Template(template).render(
            messages=talk, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
        )

    assert rendered("chatml") == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert rendered("llama3").startswith(
        "<s><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    )
    assert rendered("mistral") == "<s>[INST] hi [/INST]yes</s>"
    assert rendered("{{ messages[0].content }}!") == "hi!"


def test_the_card_and_the_recipe_stand_beside_the_weights(where, tmp_path, monkeypatch):
    monkeypatch.chdir(where)
    ws.merge.checkpoints(folders.RECIPES["union over a base"], tmp_path / "out", digests=True)
    card = (tmp_path / "out" / "README.md").read_text()
    front = safe_yaml.read_documents(card.split("---")[1])[0]
    assert front["tags"] == ["mergekit", "merge", "wslax"]
    assert "# out\n" in card
    assert "**task_arithmetic**" in card
    again = config.read_recipe(tmp_path / "out" / "mergekit_config.yml")
    assert again == config.parse_recipe(folders.RECIPES["union over a base"])
    notes = json.loads((tmp_path / "out" / "wslax_merge.json").read_text())
    with open_tensors(tmp_path / "out") as tensors:
        sums = {name: f"{zlib.crc32(tensors.read(name)):08x}" for name in tensors}
    assert notes["crc32"] == sums
    for entry in notes["inputs"]:
        data = (where / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()


def test_norms_as_wide_as_the_vocabulary_are_no_vocabulary(tmp_path, monkeypatch):
    def model(name, tokens):
        tree = {n: np.arange(16, dtype=np.float32).reshape(4, 4) for n in ("wte", "lm_head")}
        tree["norm.weight"] = np.arange(4, dtype=np.float32)
        found = save(tmp_path / name, tree, {"vocab_size": 4})
        folders._save_tokenizer(tmp_path / name, tokens, [])
        return found

    a, b = model("a", ["x", "y", "z", "w"]), model("b", ["w", "y", "z", "x"])
    recipe = {**LINEAR, "models": [{"model": a}, {"model": b}], "tokenizer_source": "union"}
    found = merged(tmp_path, monkeypatch, recipe, tmp_path / "out")
    assert found["norm.weight"].tolist() == [0, 1, 2, 3]
    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_allclose(found["wte"], (x + x[[3, 1, 2, 0]]) / 2)


def test_a_tokenizer_of_another_model_brings_its_files_and_no_others(tmp_path, monkeypatch, where):
    for name in ("a", "b"):
        shutil.copytree(where / name, tmp_path / name)
        (tmp_path / name / f"tokenizer_{name}.txt").write_text("")
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"from": name}))
    recipe = {**LINEAR, "models": TWO, "tokenizer_source": "b"}
    merged(tmp_path, monkeypatch, recipe, tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "tokenizer_b.txt" in names
    assert "tokenizer_a.txt" not in names
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"from": "a"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(folders.TOKENS["b"]) + 1


def test_a_resumed_merge_sees_that_an_adapters_config_changed(where, tmp_path, monkeypatch):
    for name in ("a", "lora"):
        shutil.copytree(where / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    recipe = {**LINEAR, "models": [{"model": "a+lora"}]}
    with pytest.raises(Killed):
        ws.merge.checkpoints(recipe, "out", progress=stop_after(5)[0], resume=True)
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 3', '"lora_alpha": 30'))
    with pytest.raises(ws.WeightSpaceError, match="its inputs have changed; remove it"):
        ws.merge.checkpoints(recipe, "out", resume=True)
    shutil.rmtree("out.partial")
    ws.merge.checkpoints(recipe, "out", resume=True)
    assert not (tmp_path / "out.partial.journal").exists()


def test_a_tied_head_beside_a_longer_one(where, tmp_path, monkeypatch):
    recipe = {**LINEAR, "models": [{"model": "tied"}, {"model": "b"}], "tokenizer_source": "union"}
    found = merged(where, monkeypatch, recipe, tmp_path / "out")
    assert found["lm_head.weight"].shape == found["model.embed_tokens.weight"].shape
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )
