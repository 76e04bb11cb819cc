"""The mixtures that dense models can become: names of tensors and keys of the config."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wslax.errors import WeightSpaceError
from wslax.merge.mixture.recipe import MixtureRecipe

PARTS = ("gate_proj", "up_proj", "down_proj")
_LAYER = "model.layers.{layer}."
_QKV = ("q_proj.bias", "k_proj.bias", "v_proj.bias")

# What a dense config means by a key that it leaves out, where mixtures mean something else.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    "mistral": {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "num_key_value_heads": 8,
    },
    "qwen2": {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 32,
    },
    "qwen3": {
        "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "num_key_value_heads": 32,
        "head_dim": 128,
    },
}  # fmt: skip


class Kind(NamedTuple):
    """A mixture's architecture.

    Attributes:
      name: as recipes call it; its beginning will do.
      dense: model types it can be made of.
      architecture: class name in the config.
      model_type: in the config.
      expert: name of an expert's part.
      router: name of a layer's router `[experts, hidden]`.
      parts: the checkpoint's words for `PARTS`.
      shared: name of the shared expert's part, or None.
      shared_router: name of its gate `[1, hidden]`, or None.
      least_shared: how many shared experts it needs.
      biases: ends of the names of biases that it has; None for any.
    """

    name: str
    dense: Sequence[str]
    architecture: str
    model_type: str
    expert: str
    router: str
    parts: Sequence[str] = PARTS
    shared: str | None = None
    shared_router: str | None = None
    least_shared: int = 0
    biases: Sequence[str] | None = ()


_EXPERT, _ROUTER = _LAYER + "mlp.experts.{expert}.{part}.weight", _LAYER + "mlp.gate.weight"
KINDS = (
    Kind(
        "mixtral", ("llama", "mistral"), "MixtralForCausalLM", "mixtral",
        _LAYER + "block_sparse_moe.experts.{expert}.{part}.weight",
        _LAYER + "block_sparse_moe.gate.weight", parts=("w1", "w3", "w2"),
    ),
    Kind(
        "deepseek moe", ("llama", "mistral"), "DeepseekForCausalLM", "deepseek", _EXPERT, _ROUTER,
        shared=_LAYER + "mlp.shared_experts.{part}.weight", biases=None,
    ),
    Kind(
        "qwen moe", ("llama", "mistral", "qwen2"), "Qwen2MoeForCausalLM", "qwen2_moe", _EXPERT,
        _ROUTER, shared=_LAYER + "mlp.shared_expert.{part}.weight",
        shared_router=_LAYER + "mlp.shared_expert_gate.weight", least_shared=1, biases=_QKV,
    ),
    Kind(
        "qwen3 moe", ("qwen3",), "Qwen3MoeForCausalLM", "qwen3_moe", _EXPERT, _ROUTER, biases=None,
    ),
)  # fmt: skip


def _why_not(kind: Kind, recipe: MixtureRecipe, model_type: str) -> str | None:
    shared = recipe.shared_experts
    if model_type not in kind.dense:
        return f"is made of {' or '.join(kind.dense)}, not {model_type}"
    if len(shared) < kind.least_shared:
        return "needs one shared expert"
    if shared and kind.shared is None:
        return "has no shared experts"
    if shared and kind.shared_router is None and shared[0].positive_prompts:
        return "does not gate its shared expert, so that takes no prompts"
    needs = kind.shared_router is not None and recipe.gate_mode == "cheap_embed"
    if needs and not shared[0].positive_prompts:
        return "gates its shared expert, so cheap_embed needs prompts for it"
    return None


def choose_kind(recipe: MixtureRecipe, model_type: Any) -> Kind:
    """The architecture that a recipe names, or the first that it can become.

    Example:
        >>> from wslax.merge.mixture.recipe import Expert
        >>> choose_kind(MixtureRecipe("base", [Expert("a")], "random"), "llama").name
        'mixtral'
    """
    wanted = (recipe.architecture or "").lower()
    named = [kind for kind in KINDS if kind.name.startswith(wanted)]
    if not named:
        known = ", ".join(kind.name for kind in KINDS)
        raise WeightSpaceError(f"architecture: expected one of {known}, got {wanted!r}")
    reasons = {kind.name: _why_not(kind, recipe, str(model_type)) for kind in named}
    for kind in named:
        if reasons[kind.name] is None:
            return kind
    text = "; ".join(f"{name} {reason}" for name, reason in reasons.items())
    raise WeightSpaceError(f"no architecture fits: {text}")


def config_of(kind: Kind, dense: Mapping[str, Any], recipe: MixtureRecipe) -> dict[str, Any]:
    """The mixture's `config.json`: the dense model's, with what makes it one.

    Example:
        >>> from wslax.merge.mixture.recipe import Expert
        >>> recipe = MixtureRecipe("base", [Expert("a"), Expert("b")], "random")
        >>> config = config_of(KINDS[0], {"model_type": "llama", "rms_norm_eps": 1e-5}, recipe)
        >>> config["num_local_experts"], config["architectures"], config["rms_norm_eps"]
        (2, ['MixtralForCausalLM'], 1e-05)
    """
    count, wide = len(recipe.experts), dense.get("intermediate_size")
    rope = {} if "rope_parameters" in dense else {"rope_theta": 10000.0}
    heads = {"num_key_value_heads": dense.get("num_attention_heads")}
    config = {**heads, **rope, **_DEFAULTS[dense["model_type"]], **dense}
    config |= {"architectures": [kind.architecture], "model_type": kind.model_type}
    config |= {"num_experts_per_tok": recipe.experts_per_token}
    config.pop("auto_map", None)
    if recipe.dtype:
        config["dtype" if "dtype" in dense else "torch_dtype"] = recipe.dtype
    sparse = {"decoder_sparse_step": 1, "norm_topk_prob": True, "moe_intermediate_size": wide}
    windowless = {"sliding_window": None, "use_sliding_window": False}
    if kind.name == "mixtral":
        return config | {"num_local_experts": count, "sliding_window": None}
    if kind.name == "qwen moe":
        shared = {"shared_expert_intermediate_size": wide}
        return config | sparse | windowless | {"num_experts": count} | shared
    if kind.name == "qwen3 moe":
        return config | sparse | {"num_experts": count}
    # Remote code, as its authors publish it; transformers has none of its own.
    code = "deepseek-ai/deepseek-moe-16b-base--"
    return config | {
        "n_routed_experts": count, "n_shared_experts": len(recipe.shared_experts) or None,
        "first_k_dense_replace": 0, "moe_layer_freq": 1, "scoring_func": "softmax",
        "norm_topk_prob": True, "moe_intermediate_size": wide,
        "auto_map": {
            "AutoConfig": code + "configuration_deepseek.DeepseekConfig",
            "AutoModel": code + "modeling_deepseek.DeepseekModel",
            "AutoModelForCausalLM": code + "modeling_deepseek.DeepseekForCausalLM",
        },
    }  # fmt: skip
