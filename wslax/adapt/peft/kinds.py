"""What PEFT calls the parts of each kind of adapter, and which of ours they are.

PEFT's matrices are `[out, in]`, ours `[in, out]`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from wslax.adapt.low_rank import lora
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.lora import check_lora
from wslax.io.peft import check_rank, number_of

Config = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]


class Module(NamedTuple):
    """The adapter of one module.

    Attributes:
      make: makes the adapter: `lora` and its like.
      settings: its arguments beside `where` and `groups`, hashable.
      train: its trained part.
      fixed: its fixed part.
    """

    make: Callable[..., Adapter]
    settings: tuple[tuple[str, Any], ...]
    train: Arrays
    fixed: Arrays = {}  # noqa: RUF012  never changed


class Kind(NamedTuple):
    """A kind of adapter of PEFT.

    Attributes:
      parts: how the names of its tensors end, one tuple for each set that may stand together.
      fields: of the configuration, beside `FIELDS`.
      read: `(config, module, parts) -> Module`.
      write: `(config, train, fixed) -> parts`, the way back.
      rank: part and its axis that is as long as the rank.
      integers: how names of tensors end that are no floats.
    """

    parts: tuple[tuple[str, ...], ...]
    fields: str
    read: Callable[[Config, str, Arrays], Module]
    write: Callable[[Config, Arrays, Arrays], dict[str, np.ndarray]]
    rank: tuple[str, int]
    integers: tuple[str, ...] = ()


# Fields that every kind may have and that no number depends on once tensors and shapes are known.
FIELDS = """
    auto_mapping base_model_name_or_path bias exclude_modules fan_in_fan_out inference_mode
    init_weights layers_pattern layers_to_transform modules_to_save peft_type peft_version revision
    runtime_config target_modules task_type
"""


def _read_lora(config: Config, module: str, parts: Arrays) -> Module:
    down, up = (parts[name].T for name in ("lora_A.weight", "lora_B.weight"))
    rank = down.shape[-1]
    check_rank(config, module, rank)
    alpha = number_of(config, "lora_alpha", "alpha_pattern", module)
    settings = ("rank", rank), ("alpha", alpha), ("rslora", bool(config.get("use_rslora")))
    return Module(lora, settings, {"down": down, "up": up})


def _write_lora(config: Config, train: Arrays, fixed: Arrays) -> dict[str, np.ndarray]:
    return {"lora_A.weight": train["down"].T, "lora_B.weight": train["up"].T}


KINDS = {
    "LORA": Kind(
        (("lora_A.weight", "lora_B.weight"),),
        "alora_invocation_tokens alpha_pattern arrow_config corda_config ensure_weight_tying "
        "eva_config init_lora_weights kasa_config layer_replication loftq_config lora_alpha "
        "lora_bias lora_dropout lora_ga_config megatron_config megatron_core monteclora_config "
        "qalora_group_size r rank_pattern target_parameters trainable_token_indices use_bdlora "
        "use_dora use_qalora use_rslora velora_config",
        _read_lora,
        _write_lora,
        ("lora_A.weight", 0),
    ),
}


def kind_of(config: Config) -> Kind:
    """The kind that a configuration names, its fields checked.

    Raises:
      WeightSpaceError: if it is of no known kind, or has a field that nobody knows.

    Example:
        >>> kind_of({"peft_type": "LORA", "r": 4}).parts
        (('lora_A.weight', 'lora_B.weight'),)
    """
    name = config.get("peft_type")
    if not isinstance(name, str) or name not in KINDS:
        raise WeightSpaceError(
            f"peft_type: {name!r} is not read here.{did_you_mean(str(name), KINDS)}"
        )
    known = f"{FIELDS} {KINDS[name].fields}".split()
    for field, value in config.items():
        if field not in known and value:
            raise WeightSpaceError(
                f"{field}: {value!r} is not known of {name} here, and may change the model; merge "
                "the adapter into its base where it was trained"
            )
    if name == "LORA":
        check_lora(config)
    return KINDS[name]
