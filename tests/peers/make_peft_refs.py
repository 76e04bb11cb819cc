"""Write tests/io/peft_refs.json: tiny adapters as PEFT saves them, and what it makes of the base.

python tests/peers/make_peft_refs.py        (in an environment with peft and transformers)
"""

import json
import pathlib
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers.pytorch_utils import Conv1D

TARGET = pathlib.Path(__file__).parents[1] / "io" / "peft_refs.json"


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(3, 4)
        self.down = torch.nn.Linear(4, 3)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.layers = torch.nn.ModuleList([Layer(), Layer()])
        self.conv = torch.nn.Conv2d(3, 2, (2, 1))
        self.old = Conv1D(4, 3)
        self.head = torch.nn.Linear(3, 5)

    def forward(self, x):
        return self.head(self.embed(x))


CASES = {
    "plain": {"target_modules": ["up", "down"], "r": 2, "lora_alpha": 3},
    "patterns": {
        "target_modules": ["up", "down"], "r": 2, "lora_alpha": 3, "use_rslora": True,
        "rank_pattern": {"up": 3, "layers.0.down": 1},
        "alpha_pattern": {r"layers\.[1-9]\.down": 5, "up": 7},
    },
    "whole": {
        "target_modules": ["up"], "r": 1, "lora_alpha": 1, "lora_bias": True,
        "modules_to_save": ["head"],
    },
    "kinds": {"target_modules": ["embed", "conv"], "r": 2, "lora_alpha": 3},
    "in first": {"target_modules": ["old", "head"], "r": 2, "lora_alpha": 3,
                 "fan_in_fan_out": True},
    "biases": {"target_modules": ["up"], "r": 1, "lora_alpha": 2, "bias": "all"},
}  # fmt: skip


def listed(tensors):
    return {name: [round(x, 6) for x in t.double().flatten().tolist()] for name, t in tensors}


def case(given):
    net = Net()
    base = {name: t.detach().clone() for name, t in net.state_dict().items()}
    model = get_peft_model(net, LoraConfig(**given))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter).round(decimals=2)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        stored = load_file(f"{folder}/adapter_model.safetensors")
        config = json.loads(pathlib.Path(folder, "adapter_config.json").read_text())
    merged = model.merge_and_unload().state_dict()
    shapes = {name: list(t.shape) for name, t in [*base.items(), *stored.items()]}
    config = {k: v for k, v in config.items() if v not in (None, {}, False, [])}
    return {
        "config": {k: config[k] for k in sorted(config) if k != "peft_version"},
        "shapes": shapes, "base": listed(base.items()), "stored": listed(stored.items()),
        "merged": listed(merged.items()),
    }  # fmt: skip


if __name__ == "__main__":
    torch.manual_seed(0)
    cases = {name: case(given) for name, given in CASES.items()}
    TARGET.write_text(json.dumps(cases).replace('{"config"', '\n{"config"') + "\n")
