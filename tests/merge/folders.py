"""Tiny Hugging Face folders that merges on disk are tested with, and the recipes over them.

Used by the tests and by the script that has mergekit merge the same folders.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy

WIDTH, INNER = 4, 6
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH,
    "intermediate_size": INNER, "num_attention_heads": 2, "num_key_value_heads": 2,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "torch_dtype": "float32",
    "tie_word_embeddings": False,
}  # fmt: skip
T5 = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_model": WIDTH,
    "d_kv": 2, "d_ff": INNER, "num_heads": 2, "feed_forward_proj": "gated-gelu", "vocab_size": 12,
    "num_layers": 2, "num_decoder_layers": 3, "torch_dtype": "float32",
}  # fmt: skip
COMMON = ["<s>", "</s>", "a", "b", "c", "d", "e"]
TOKENS = {
    "a": [*COMMON, "f", "g"],
    "b": [*COMMON[:2], "b", "a", "c", "e", "d", "h", "i", "j"],
    "base": [*COMMON, "f", "k"],
    "tied": [*COMMON, "f", "g"],
    "deep": [*COMMON, "f", "g"],
}
ADDED = {"b": ["<x>"], "base": ["<y>"]}
DEPTHS = {"a": 3, "b": 3, "base": 3, "tied": 3, "deep": 5}
PADDED = {"base": 2}  # rows beyond the tokenizer's


def _llama_shapes(depth, rows, tied):
    shapes = {"model.embed_tokens.weight": (rows, WIDTH)}
    for i in range(depth):
        layer = f"model.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{layer}self_attn.{name}.weight"] = (WIDTH, WIDTH)
        shapes[f"{layer}mlp.gate_proj.weight"] = (INNER, WIDTH)
        shapes[f"{layer}mlp.up_proj.weight"] = (INNER, WIDTH)
        shapes[f"{layer}mlp.down_proj.weight"] = (WIDTH, INNER)
        shapes[f"{layer}input_layernorm.weight"] = (WIDTH,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (WIDTH,)
    shapes["model.norm.weight"] = (WIDTH,)
    return shapes if tied else {**shapes, "lm_head.weight": (rows, WIDTH)}


def _t5_shapes():
    shapes = {"shared.weight": (12, WIDTH)}
    for stack, depth in (("encoder", 2), ("decoder", 3)):
        for i in range(depth):
            blocks = ["SelfAttention", *["EncDecAttention"] * (stack == "decoder")]
            for j, attention in enumerate(blocks):
                layer = f"{stack}.block.{i}.layer.{j}."
                for name in "qkvo":
                    shapes[f"{layer}{attention}.{name}.weight"] = (WIDTH, WIDTH)
                shapes[f"{layer}layer_norm.weight"] = (WIDTH,)
            layer = f"{stack}.block.{i}.layer.{len(blocks)}."
            shapes[f"{layer}DenseReluDense.wi_0.weight"] = (INNER, WIDTH)
            shapes[f"{layer}DenseReluDense.wi_1.weight"] = (INNER, WIDTH)
            shapes[f"{layer}DenseReluDense.wo.weight"] = (WIDTH, INNER)
            shapes[f"{layer}layer_norm.weight"] = (WIDTH,)
        name = "SelfAttention.relative_attention_bias.weight"
        shapes[f"{stack}.block.0.layer.0.{name}"] = (4, 2)
        shapes[f"{stack}.final_layer_norm.weight"] = (WIDTH,)
    return shapes


def _save(folder, shapes, config, seed):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tree = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(tree, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def _save_tokenizer(folder, tokens, added):
    special = [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for i, t in [*enumerate(tokens[:2]), *enumerate(added, len(tokens))]
    ]  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [],
        },
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _save_lora(folder, seed):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = [f"model.layers.{i}.self_attn.q_proj" for i in range(3)]
    names += ["model.layers.1.mlp.down_proj"]
    factors = {}
    for name in names:
        columns = INNER if "down" in name else WIDTH
        prefix = f"base_model.model.{name}"
        factors[f"{prefix}.lora_A.weight"] = rng.normal(size=(2, columns)).astype(np.float32)
        factors[f"{prefix}.lora_B.weight"] = rng.normal(size=(WIDTH, 2)).astype(np.float32)
    safetensors.numpy.save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 3,
        "target_modules": names, "base_model_name_or_path": "a",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))


def make_folders(where):
    """Write every model under a folder."""
    where = pathlib.Path(where)
    for seed, (name, tokens) in enumerate(TOKENS.items()):
        tied, added = name == "tied", ADDED.get(name, [])
        rows = len(tokens) + len(added) + PADDED.get(name, 0)
        config = {
            **LLAMA, "num_hidden_layers": DEPTHS[name], "vocab_size": rows,
            "tie_word_embeddings": tied,
        }  # fmt: skip
        _save(where / name, _llama_shapes(DEPTHS[name], rows, tied), config, seed)
        _save_tokenizer(where / name, tokens, added)
    for seed, name in enumerate(("t5a", "t5b")):
        _save(where / name, _t5_shapes(), T5, 10 + seed)
    _save_lora(where / "lora", 20)


def _part(model, first, last, **parameters):
    return {"model": model, "layer_range": [first, last], "parameters": parameters}


RECIPES = {
    "layers of two models, stacked": {
        "merge_method": "passthrough",
        "slices": [{"sources": [_part("a", 0, 2)]}, {"sources": [_part("deep", 1, 5)]}],
    },
    "a layer twice, scaled": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [_part("a", 0, 2)]},
            {
                "sources": [
                    _part("a", 1, 3, scale=[{"filter": "o_proj", "value": 0.0}, {"value": 1.0}])
                ]
            },
        ],
    },
    "slices, gradients and filters": {
        "merge_method": "linear",
        "slices": [
            {
                "sources": [_part("a", 0, 2, weight=[0.2, 0.8]), _part("deep", 3, 5)],
                "parameters": {"weight": [{"filter": "mlp", "value": [1.0, 3.0]}]},
            },
            {"sources": [_part("a", 2, 3), _part("deep", 0, 1, weight=0.3)]},
        ],
        "parameters": {"weight": [{"filter": "layers.3.", "value": 5.0}, {"value": 0.7}]},
    },
    "slerp of slices": {
        "merge_method": "slerp",
        "base_model": "deep",
        "slices": [{"sources": [_part("a", 0, 3), _part("deep", 1, 4)]}],
        "parameters": {"t": [{"filter": "self_attn", "value": [0, 0.5, 1]}, {"value": 0.4}]},
    },
    "ties of slices": {
        "merge_method": "ties",
        "slices": [
            {
                "sources": [_part("a", 0, 2), _part("deep", 0, 2), _part("base", 0, 2)],
                "base_model": "base",
                "parameters": {"density": 0.5},
            },
            {
                "sources": [_part("a", 2, 3), _part("deep", 4, 5), _part("base", 2, 3)],
                "base_model": "base",
            },
        ],
        "tokenizer_source": "a",
        "parameters": {"weight": 0.6, "density": [0.3, 0.9]},
    },
    "union of tokenizers": {
        "merge_method": "linear",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": [{"filter": "embed", "value": 0.3}, {"value": 1.0}]},
        "tokenizer_source": "union",
    },
    "union over a base": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"weight": 0.5},
        "tokenizer_source": "union",
    },
    "tokens by hand, padded": {
        "merge_method": "linear",
        "models": [{"model": "a"}, {"model": "b"}, {"model": "base"}],
        "parameters": {"weight": 1.0},
        "tokenizer": {
            "source": "union",
            "tokens": {
                "new": {"source": {"kind": "model_token", "model": "b", "token": "h"}},
                "nil": {"source": {"kind": "zero"}},
                "c": {"source": "b", "force": True},
                "k": {"source": {"kind": "model_token", "model": "a", "token_id": 3}},
            },
            "pad_to_multiple_of": 8,
        },
        "base_model": "base",
    },
    "the tokenizer of one model": {
        "merge_method": "slerp",
        "base_model": "a",
        "models": [{"model": "a"}, {"model": "b"}],
        "parameters": {"t": 0.4},
        "tokenizer_source": "b",
    },
    "union over the base of a slice": {
        "merge_method": "task_arithmetic",
        "slices": [
            {
                "sources": [_part("a", 0, 3), _part("b", 0, 3), _part("base", 0, 3)],
                "base_model": "base",
            },
        ],
        "parameters": {"weight": 0.5},
        "tokenizer_source": "union",
    },
    "a head that one model ties": {
        "merge_method": "linear",
        "models": [{"model": "a"}, {"model": "tied"}],
        "parameters": {"weight": [1.0, 0.25]},
    },
    "an adapter on a model": {
        "merge_method": "linear",
        "models": [
            {"model": "a+lora", "parameters": {"weight": 0.4}},
            {"model": "tied", "parameters": {"weight": 0.6}},
        ],
    },
    "modules": {
        "merge_method": "linear",
        "modules": {
            "encoder": {
                "slices": [
                    {"sources": [_part("t5a", 0, 1), _part("t5b", 0, 1, weight=0.2)]},
                    {"sources": [_part("t5a", 1, 2), _part("t5b", 1, 2)]},
                ],
                "parameters": {"weight": 0.9},
            },
            "decoder": {
                "models": [{"model": "t5a"}, {"model": "t5b", "parameters": {"weight": [0, 1]}}],
            },
            "shared": {"models": [{"model": "t5a"}, {"model": "t5b"}]},
        },
        "parameters": {"weight": 0.5},
    },
    "bfloat16 out": {
        "merge_method": "task_arithmetic",
        "base_model": "deep",
        "models": [{"model": "deep+lora", "parameters": {"weight": 0.5}}],
        "dtype": "float32",
        "out_dtype": "bfloat16",
    },
}
