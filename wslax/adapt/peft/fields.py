"""PEFT's configurations: which fields are known, and which of them have to be unset."""

from wslax.adapt.peft.kind import Config, Kind
from wslax.adapt.peft.kinds import KINDS
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.lora import check_lora

# Those of every kind; no number depends on them once tensors and shapes are known.
_ALL = """
    auto_mapping base_model_name_or_path exclude_modules fan_in_fan_out inference_mode
    init_weights layers_pattern layers_to_transform modules_to_save peft_type peft_version revision
    runtime_config target_modules task_type
"""


def kind_of(config: Config) -> Kind:
    """The kind that a configuration names, its fields checked.

    Raises:
      WeightSpaceError: if it is of no known kind, or sets a field that is not known or that
        makes something else of the tensors.

    Example:
        >>> kind_of({"peft_type": "IA3"}).parts
        (('ia3_l',),)
    """
    name = config.get("peft_type")
    if not isinstance(name, str) or name not in KINDS:
        near = did_you_mean(str(name), KINDS)
        raise WeightSpaceError(f"peft_type: {name!r} is not read here.{near}")
    kind = KINDS[name]
    known = f"{_ALL} {kind.fields}".split()
    for field, value in config.items():
        if value and field not in known:
            raise WeightSpaceError(
                f"{field}: {value!r} is not understood of {name}, and may change what its tensors "
                "mean; merge the adapter into its base where it was trained"
            )
    if name == "LORA":
        plain = {"use_dora": False}
        if config.get("init_lora_weights") == "pissa":
            plain["init_lora_weights"] = True
        check_lora({**config, **plain})
    return kind
