"""Write tests/adapt/peft_refs.json: adapters of every kind as PEFT saves them, and what they do.

python tests/peers/make_peft_adapter_refs.py        (in an environment with peft)

Cases that the installed version has no configuration for stay as they are in the file: Bone's come
from peft 0.17, all others from 0.21.
"""

import json
import pathlib
import tempfile

import peft
import torch
from peft.tuners.boft import layer as boft
from safetensors.torch import load_file

TARGET = pathlib.Path(__file__).parents[1] / "adapt" / "peft_refs.json"
BOTH = {"target_modules": ["up", "down"]}
LORA = BOTH | {"r": 2, "lora_alpha": 3}


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up = torch.nn.Linear(6, 8)
        self.norm = torch.nn.LayerNorm(8)
        self.down = torch.nn.Linear(8, 4)
        self.head = torch.nn.Linear(4, 9)

    def forward(self, x):
        return self.head(self.down(self.norm(torch.tanh(self.up(x)))))


CASES = {
    "lora": ("Lora", LORA),
    "lora rslora": ("Lora", LORA | {"use_rslora": True}),
    "lora patterns": (
        "Lora", LORA | {"rank_pattern": {"up": 3}, "alpha_pattern": {r"d\w+": 5}}),
    "lora bias": ("Lora", LORA | {"target_modules": ["up"], "lora_bias": True}),
    "lora whole": ("Lora", LORA | {"target_modules": ["up"], "modules_to_save": ["norm"]}),
    "lora biases": ("Lora", LORA | {"target_modules": ["up"], "bias": "all"}),
    "dora": ("Lora", LORA | {"use_dora": True}),
    "dora rslora": ("Lora", LORA | {"use_dora": True, "use_rslora": True}),
    "pissa": ("Lora", LORA | {"init_lora_weights": "pissa"}),
    "pissa converted": ("Lora", LORA | {"init_lora_weights": "pissa"}),
    "loha": ("LoHa", BOTH | {"r": 2, "alpha": 3}),
    "loha patterns": (
        "LoHa", BOTH | {"r": 2, "alpha": 3, "rank_pattern": {"up": 1}, "alpha_pattern": {"up": 5}}),
    "lokr": ("LoKr", BOTH | {"r": 1, "alpha": 3}),
    "lokr both": ("LoKr", {"target_modules": ["head"], "r": 1, "alpha": 3, "decompose_both": True}),
    "lokr full": ("LoKr", BOTH | {"r": 8, "alpha": 3}),
    "lokr factor": ("LoKr", BOTH | {"r": 1, "alpha": 2, "decompose_factor": 2}),
    "oft": ("OFT", BOTH | {"oft_block_size": 2}),
    "oft exact": ("OFT", BOTH | {"r": 2, "oft_block_size": 0, "use_cayley_neumann": False}),
    "oft terms": ("OFT", {"target_modules": ["down"], "oft_block_size": 4,
                          "num_cayley_neumann_terms": 3}),
    "oft shared": ("OFT", {"target_modules": ["down"], "oft_block_size": 4, "block_share": True}),
    "oft bounded": ("OFT", BOTH | {"oft_block_size": 2, "coft": True, "eps": 0.1}),
    "boft": ("BOFT", BOTH | {"boft_block_size": 2}),
    "boft number": ("BOFT", BOTH | {"boft_block_size": 0, "boft_block_num": 2}),
    "boft butterfly": ("BOFT", {"target_modules": ["down"], "boft_block_size": 2,
                                "boft_n_butterfly_factor": 2}),
    "boft deep": ("BOFT", {"target_modules": ["down"], "boft_block_size": 2,
                           "boft_n_butterfly_factor": 3}),
    "miss": ("Miss", BOTH | {"r": 2}),
    "miss padded": ("Miss", BOTH | {"r": 3}),
    "miss bat": ("Miss", BOTH | {"r": 2, "init_weights": "bat"}),
    "miss mini": ("Miss", BOTH | {"r": 2, "mini_r": 4, "init_weights": "mini"}),
    "bone": ("Bone", BOTH | {"r": 2}),
    "bone bat": ("Bone", BOTH | {"r": 2, "init_weights": "bat"}),
    "ia3": ("IA3", BOTH | {"feedforward_modules": []}),
    "ia3 feedforward": ("IA3", BOTH | {"feedforward_modules": ["down"]}),
    "vera": ("Vera", BOTH | {"r": 3, "projection_prng_key": 1}),
    "shira": ("Shira", BOTH | {"r": 1, "random_seed": 1}),
    "norms": ("LNTuning", {"target_modules": ["norm"]}),
}  # fmt: skip
AROUND_ONE = ("ia3_l", "boft_s", "magnitude")  # what multiplies; the rest is added


def block_diagonal(blocks):
    """What the extension computes that butterflies of two factors and more ask for."""
    return torch.stack([torch.block_diag(*row) for row in blocks])


def listed(tensors):
    return {
        name: t.tolist() if not t.is_floating_point()
        else [round(x, 6) for x in t.double().flatten().tolist()]
        for name, t in tensors.items()
    }  # fmt: skip


def train(model):
    """Every trained number, and VeRA's projections, as a random one of two digits."""
    projections = [t for name, t in model.named_buffers() if ".vera_" in name]
    chosen = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    for name, parameter in [*chosen, *(("", t) for t in projections)]:
        around = any(part in name for part in AROUND_ONE)
        values = (0.3 * torch.randn_like(parameter)).round(decimals=2)
        parameter.data = values.abs() + 0.5 if around else values


def folder_of(model, name):
    """What `save_pretrained` writes: the configuration and the tensors."""
    with tempfile.TemporaryDirectory() as folder:
        if name == "pissa converted":
            start = f"{folder}/start"
            model.peft_config["default"].init_lora_weights = True
            model.save_pretrained(start)
            model.peft_config["default"].init_lora_weights = "pissa"
            train(model)
            model.save_pretrained(folder, path_initial_model_for_weight_conversion=start)
        else:
            train(model)
            model.save_pretrained(folder)
        config = json.loads(pathlib.Path(folder, "adapter_config.json").read_text())
        config["target_modules"].sort()  # a set's order
        return config, load_file(f"{folder}/adapter_model.safetensors")


def case(name, base, x):
    kind, given = CASES[name]
    if "butterfly" in name or "deep" in name:
        boft.get_fbd_cuda = lambda: True
        boft.FastBlockDiag.apply = block_diagonal
    net = Net()
    net.load_state_dict(base)
    model = peft.get_peft_model(net, getattr(peft, f"{kind}Config")(**given)).eval()
    config, stored = folder_of(model, name)
    with torch.no_grad():
        output = model(x)
    merged = model.merge_and_unload().state_dict()
    changed = {k: t for k, t in merged.items() if not torch.equal(t, base[k])}
    return {
        "config": dict(sorted(config.items())),
        "shapes": {k: list(t.shape) for k, t in stored.items()},
        "stored": listed(stored), "merged": listed(changed), "output": output.tolist(),
    }  # fmt: skip


def main():
    torch.manual_seed(0)
    base = {k: t.detach().round(decimals=2) for k, t in Net().state_dict().items()}
    base["norm.weight"] = 1 + (0.2 * torch.randn(8)).round(decimals=2)
    x = torch.randn(3, 6).round(decimals=2)
    there = json.loads(TARGET.read_text())["cases"] if TARGET.exists() else {}
    made = {}
    for name in CASES:
        torch.manual_seed(len(name))
        known = hasattr(peft, f"{CASES[name][0]}Config")
        own = known and (CASES[name][0] == "Bone") == hasattr(peft, "BoneConfig")
        made[name] = case(name, base, x) if own else there.get(name)
    shapes = {k: list(t.shape) for k, t in base.items()}
    refs = {"base": listed(base), "shapes": shapes, "x": x.tolist(), "cases": made}
    TARGET.write_text(json.dumps(refs).replace('{"config"', '\n{"config"') + "\n")


if __name__ == "__main__":
    main()
