"""Write tests/merge/mergekit_folders.json: what mergekit 0.1.5 makes of tiny folders.

python tests/peers/make_mergekit_folders.py        (in an environment with mergekit 0.1.5 and peft)
"""

import base64
import json
import os
import pathlib
import sys
import tempfile

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors import safe_open

HERE = pathlib.Path(__file__).parents[1] / "merge"
sys.path.insert(0, str(HERE))
from folders import RECIPES, make_folders


def merged(recipe, out):
    options = MergeOptions(
        copy_tokenizer=True, lora_merge_cache="cache", quiet=True, write_model_card=False
    )
    run_merge(
        MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(recipe))), out, options
    )
    tensors = {}
    for file in pathlib.Path(out).glob("*.safetensors"):
        with safe_open(file, "pt") as handle:
            for name in handle.keys():  # noqa: SIM118
                x = handle.get_tensor(name)
                raw = base64.b64encode(x.to(torch.float32).numpy().tobytes()).decode()
                tensors[name] = [str(x.dtype).removeprefix("torch."), list(x.shape), raw]
    config = json.loads(pathlib.Path(out, "config.json").read_text())
    tokenizer, vocab = pathlib.Path(out, "tokenizer.json"), None
    if "tokenizer" in str(list(recipe)) and tokenizer.exists():
        content = json.loads(tokenizer.read_text())
        vocab = dict(content["model"]["vocab"])
        vocab |= {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    kept = ("num_hidden_layers", "num_layers", "num_decoder_layers", "vocab_size")
    return {
        "tensors": tensors, "vocab": vocab, "config": {k: config[k] for k in kept if k in config},
    }  # fmt: skip


def main():
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        make_folders(folder)
        for name, recipe in RECIPES.items():
            try:
                found[name] = merged(recipe, f"out-{len(found)}")
            except Exception as error:  # what it refuses is worth knowing
                found[name] = {"error": f"{type(error).__name__}: {error}"}
                print(name, found[name]["error"])
    (HERE / "mergekit_folders.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
