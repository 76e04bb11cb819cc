"""Write what mergekit 0.1.5 extracts from and mixes of tiny models.

tests/adapt/mergekit_lora_refs.json and tests/merge/mergekit_moe_refs.json, by
python tests/peers/make_mergekit_tools_refs.py        (in an environment with mergekit 0.1.5)
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

TESTS = pathlib.Path(__file__).parents[1]
SIZES = {
    "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 10, "tie_word_embeddings": False,
}  # fmt: skip
KINDS = {
    "mixtral": ("Llama", 0, False),
    "deepseek": ("Llama", 1, False),
    "qwen": ("Llama", 1, True),
    "qwen3": ("Qwen3", 0, False),
}


def make(folder, family, names):
    """Random models with a tokenizer of numbers, `3 4` being tokens 3 and 4."""
    config = getattr(transformers, f"{family}Config")(**SIZES, head_dim=4)
    words = Tokenizer(models.WordLevel({str(i): i for i in range(10)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="1", eos_token="2", unk_token="0"
    )
    for name in names:
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter).round(decimals=3)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def listed(file):
    """Name to shape and values."""
    tensors = load_file(file).items()
    return {k: [list(t.shape), [round(x, 7) for x in t.flatten().tolist()]] for k, t in tensors}


def call(command, *words):
    program = pathlib.Path(sys.executable).with_name(command)
    subprocess.run([program, *words], check=True, capture_output=True)


def mixed(family, shared, prompted):
    experts = [
        {"source_model": "a", "positive_prompts": ["3 4", "5"], "residual_scale": 0.5},
        {"source_model": "b", "positive_prompts": ["6 7"], "negative_prompts": ["8", "3"]},
    ]
    recipe = {"base_model": "base", "gate_mode": "cheap_embed", "dtype": "float32"}
    recipe |= {"experts": experts}
    if shared:
        # mergekit knows a shared expert's file only where it is an expert too.
        prompts = {"positive_prompts": ["9"]} if prompted else {}
        recipe |= {"shared_experts": [{"source_model": "a", **prompts}]}
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = pathlib.Path(name)
        make(folder, family, ("base", "a", "b"))
        local = json.loads(json.dumps(recipe).replace('model": "', 'model": "./'))
        pathlib.Path("moe.yaml").write_text(yaml.safe_dump(local))
        call("mergekit-moe", "moe.yaml", "out")
        return {
            "recipe": recipe,
            "config": json.loads(pathlib.Path("base/config.json").read_text()),
            "models": {n: listed(f"{n}/model.safetensors") for n in ("base", "a", "b")},
            "out": listed("out/model.safetensors"),
        }


def extracted():
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        make(pathlib.Path(name), "Llama", ("base", "tuned"))
        words = ("--model", "./tuned", "--base-model", "./base", "--out-path", "out")
        call("mergekit-extract-lora", *words, "--max-rank", "3")
        return {
            "base": listed("base/model.safetensors"),
            "tuned": listed("tuned/model.safetensors"),
            "adapter": listed("out/adapter_model.safetensors"),
        }


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.manual_seed(0)
    cases = {name: mixed(*kind) for name, kind in KINDS.items()}
    (TESTS / "merge/mergekit_moe_refs.json").write_text(json.dumps(cases) + "\n")
    (TESTS / "adapt/mergekit_lora_refs.json").write_text(json.dumps(extracted()) + "\n")
