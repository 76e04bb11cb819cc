"""The kinds of PEFT's adapters that are read and written here."""

from collections.abc import Callable, Mapping
from typing import Any

from wslax.adapt.peft.kind import Arrays, Config, Implied, Kind
from wslax.adapt.peft.parts import (
    LOHA,
    read_boft,
    read_ia3,
    read_loha,
    read_lokr,
    read_lora,
    read_miss,
    read_oft,
    read_shira,
    read_vera,
    side,
    write_boft,
    write_ia3,
    write_loha,
    write_lokr,
    write_lora,
    write_miss,
    write_oft,
    write_shira,
    write_vera,
)
from wslax.errors import WeightSpaceError


def _none(*_: Any) -> Any:
    raise WeightSpaceError("LN_TUNING has whole leaves alone")


def _ranks(part: str) -> Implied:
    """The rank by a part `[r, ...]`, and the modules that have another."""

    def implied(config: Config, modules: Mapping[str, Arrays]) -> dict[str, Any]:
        if "r" in config:
            return {}
        found = {m: parts[part].shape[0] for m, parts in modules.items() if part in parts}
        most = max(found.values(), default=8)
        return {"r": most, "rank_pattern": {m: r for m, r in found.items() if r != most}}

    return implied


def _alike(field: str, fields_of: Callable[[Arrays], dict[str, Any]]) -> Implied:
    """Fields of each module's parts, one of which is `field`; they are the same for all."""

    def implied(config: Config, modules: Mapping[str, Arrays]) -> dict[str, Any]:
        if field in config:
            return {}
        found = {module: fields_of(parts) for module, parts in modules.items()}
        first = next(iter(found.values()), {})
        for module, fields in found.items():
            if fields != first:
                raise WeightSpaceError(
                    f"{module}: has {fields}, another module {first}; PEFT has one for all modules"
                )
        return first

    return implied


def _miss_fields(parts: Arrays) -> dict[str, Any]:
    block = next(iter(parts.values()))
    return {"r": block.shape[-1], "init_weights": "bat"} if block.ndim == 3 else {"r": len(block)}


def _boft_fields(parts: Arrays) -> dict[str, Any]:
    factors, _, size, _ = parts["boft_R"].shape
    return {"boft_block_size": size, "boft_block_num": 0, "boft_n_butterfly_factor": factors}


def _oft_fields(parts: Arrays) -> dict[str, Any]:
    return {"r": 0, "oft_block_size": side(parts["oft_R.weight"].shape[-1])}


def _feedforward(config: Config, modules: Mapping[str, Arrays]) -> dict[str, Any]:
    inputs = [module for module, parts in modules.items() if parts["ia3_l"].shape[0] == 1]
    return {"feedforward_modules": inputs}


KINDS = {
    "LORA": Kind(
        read_lora,
        write_lora,
        tuple(
            ("lora_A.weight", "lora_B.weight", *more)
            for more in ((), ("lora_B.bias",), ("lora_magnitude_vector",))
        ),
        "alora_invocation_tokens alpha_pattern arrow_config bias corda_config ensure_weight_tying "
        "eva_config init_lora_weights kasa_config layer_replication loftq_config lora_alpha "
        "lora_bias lora_dropout lora_ga_config megatron_config megatron_core monteclora_config "
        "qalora_group_size r rank_pattern target_parameters trainable_token_indices use_bdlora "
        "use_dora use_qalora use_rslora velora_config",
        _ranks("lora_A.weight"),
        (("lora_bias", False),),  # what was added to biases is stored in them
    ),
    "LOHA": Kind(
        read_loha,
        write_loha,
        (tuple(LOHA),),
        "alpha alpha_pattern module_dropout r rank_dropout rank_pattern use_effective_conv2d",
        _ranks("hada_w1_b"),
    ),
    "LOKR": Kind(
        read_lokr,
        write_lokr,
        tuple(
            (*left, *right)
            for left in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
            for right in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
        ),
        "alpha alpha_pattern decompose_both decompose_factor module_dropout r rank_dropout "
        "rank_dropout_scale rank_pattern use_effective_conv2d",
        _ranks("lokr_w2_b"),
        (("decompose_both", False),),
    ),
    "OFT": Kind(
        read_oft,
        write_oft,
        (("oft_R.weight",),),
        "bias eps module_dropout num_cayley_neumann_terms oft_block_size r use_cayley_neumann",
        _alike("r", _oft_fields),
    ),
    "BOFT": Kind(
        read_boft,
        write_boft,
        (("boft_R", "boft_s"),),
        "bias boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor",
        _alike("boft_block_size", _boft_fields),
    ),
    "MISS": Kind(
        read_miss,
        write_miss("miss_block"),
        (("miss_block",),),
        "bias mini_r miss_dropout r",
        _alike("r", _miss_fields),
    ),
    "BONE": Kind(
        read_miss,
        write_miss("bone_block"),
        (("bone_block",),),
        "bias r",
        _alike("r", _miss_fields),
    ),
    "IA3": Kind(
        read_ia3,
        write_ia3,
        (("ia3_l",),),
        "feedforward_modules init_ia3_weights",
        _feedforward,
    ),
    "VERA": Kind(
        read_vera,
        write_vera,
        (("vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"),),
        "bias d_initial projection_prng_key r save_projection vera_dropout",
        _alike("r", lambda parts: {"r": len(parts["vera_A"])}),
        (("save_projection", True),),
        ("vera_A", "vera_B"),
    ),
    "SHIRA": Kind(
        read_shira,
        write_shira,
        (("shira_weight", "shira_indices"),),
        "mask_type r random_seed",
    ),
    "LN_TUNING": Kind(_none, _none, (), ""),  # whole leaves alone
}
