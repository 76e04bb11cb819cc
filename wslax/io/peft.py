"""What PEFT's folders have in common: a configuration, tensors named after modules, patterns.

A folder holds `adapter_config.json` and `adapter_model.safetensors`. In the latter
`base_model.model.X.PART` is a part of the adapter of module X, whose tensors the base calls
`X.weight` and `X.bias`; everything else replaces a tensor of the base.
"""

import json
import pathlib
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.io.atomic import check_space, replaced
from wslax.io.header import Spec, no_twins
from wslax.io.reader import Tensors, open_tensors, refuse_pickle
from wslax.io.writer import write_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_WRAPPERS = re.compile(r"\.(modules_to_save|base_layer|ln_tuning_layers)(?=\.[^.]+$)")


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The folder's configuration, a JSON object.

    Raises:
      WeightSpaceError: if there is none or it is no JSON object.

    Example:
        >>> read_config(pathlib.Path("no-such-folder"))
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: no-such-folder: has no adapter_config.json; name the adapter's folder
    """  # noqa: E501
    try:
        text = (folder / CONFIG).read_text("utf-8")
        config = json.loads(text, object_pairs_hook=no_twins)
    except FileNotFoundError as error:
        raise WeightSpaceError(f"{folder}: has no {CONFIG}; name the adapter's folder") from error
    except OSError as error:
        raise WeightSpaceError(f"{folder / CONFIG}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise WeightSpaceError(f"{folder / CONFIG}: not a JSON object ({error})") from error
    if not isinstance(config, dict):
        raise WeightSpaceError(f"{folder / CONFIG}: not a JSON object")
    return config


def open_weights(folder: pathlib.Path) -> Tensors:
    """The folder's tensors, unread; pickles are refused."""
    if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
        refuse_pickle(folder / "adapter_model.bin")
    return open_tensors(folder / WEIGHTS)


def sort_tensors(
    names: Iterable[str], parts: Iterable[str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Stored names by what they are.

    Args:
      names: stored names.
      parts: how the names of an adapter's parts end, `"lora_A.weight"`.

    Returns:
      `(module to part to stored name, name of the base's tensor to the stored name of what
      replaces it)`.

    Raises:
      WeightSpaceError: if two would replace one tensor.

    Example:
        >>> sort_tensors([PREFIX + "a.lora_A.weight", PREFIX + "b.bias"], ["lora_A.weight"])
        ({'a': {'lora_A.weight': 'base_model.model.a.lora_A.weight'}},
         {'b.bias': 'base_model.model.b.bias'})
    """
    ends = re.compile(rf"(.+)\.({'|'.join(map(re.escape, parts))})")
    modules: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for stored in names:
        name = stored.removeprefix(PREFIX)
        if found := ends.fullmatch(name):
            modules.setdefault(found[1], {})[found[2]] = stored
            continue
        name = _WRAPPERS.sub("", name)
        if name in whole:
            raise WeightSpaceError(f"{stored} and {whole[name]} both replace {name}")
        whole[name] = stored
    return modules, whole


def _matches(pattern: str, module: str) -> bool:
    """Whether a key of rank_pattern, a regular expression for the name's end, picks a module."""
    if module == pattern or module.endswith("." + pattern):
        return True
    if re.search(r"\)\s*[*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 4:
        raise WeightSpaceError(f"the pattern {pattern!r} may take for ever; write the names out")
    try:
        with warnings.catch_warnings(action="error"):  # of what later versions of Python read anew
            return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise WeightSpaceError(f"the pattern {pattern!r} cannot be read ({error})") from error


def number_of(config: Mapping[str, Any], key: str, patterns: str, module: str) -> float:
    """A number of the config for one module: the first pattern that picks it, or the default.

    Example:
        >>> number_of({"r": 4, "rank_pattern": {"up": 2}}, "r", "rank_pattern", "layers.0.up")
        2.0
    """
    given = config.get(patterns) or {}
    if not isinstance(given, dict):
        raise WeightSpaceError(f"{patterns}: expected a map of module names, got {given!r}")
    value = next((v for k, v in given.items() if _matches(k, module)), config.get(key, 8))
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**53:
        raise WeightSpaceError(f"{key} of {module}: expected a number above zero, got {value!r}")
    return float(value)


def check_rank(config: Mapping[str, Any], module: str, rank: int) -> None:
    """Refuse a module whose factors have another rank than the config says."""
    wanted = number_of(config, "r", "rank_pattern", module)
    if wanted != rank:
        raise WeightSpaceError(f"{module}: stored with rank {rank}, the config says {wanted:g}")


def whole_name(name: str, modules: Collection[str]) -> str:
    """What PEFT calls a tensor that replaces one of the base.

    Args:
      name: of the base's tensor.
      modules: those that have an adapter.

    Raises:
      WeightSpaceError: if it is neither a `.weight` nor a `.bias`.

    Example:
        >>> whole_name("a.bias", ["a"]), whole_name("b.bias", ["a"])
        ('base_model.model.a.base_layer.bias', 'base_model.model.b.bias')
    """
    module, _, leaf = name.rpartition(".")
    if leaf not in ("weight", "bias"):
        raise WeightSpaceError(
            f"{name}: changed, and an adapter holds .weight and .bias of modules only; exclude it"
        )
    return PREFIX + (f"{module}.base_layer.{leaf}" if module in modules else name)


def _ends(modules: Collection[str], names: Iterable[str]) -> list[str]:
    """Modules by the last word of their names where no other module ends so, else in full."""
    ends: dict[str, set[str]] = {}
    for name in names:
        module = name.rpartition(".")[0]
        ends.setdefault(module.rpartition(".")[2], set()).add(module)
    last = {module: module.rpartition(".")[2] for module in modules}
    return sorted({end if ends[end] <= set(modules) else m for m, end in last.items()})


def targets(modules: Collection[str], whole: Sequence[str], names: Iterable[str]) -> dict[str, Any]:
    """The fields of a configuration that say which modules are changed, and how.

    Args:
      modules: those that have an adapter.
      whole: names of the base's tensors that are replaced.
      names: of all the base's tensors.

    Example:
        >>> targets(["0.up"], ["1.up.weight", "0.up.bias"], ["0.up.weight", "1.up.weight"])
        {'target_modules': ['0.up'], 'modules_to_save': ['1.up'], 'bias': 'all'}
    """
    saved = [name.removesuffix(".weight") for name in whole if name.endswith(".weight")]
    biases = {name.removesuffix(".bias") for name in whole} - {*whole, *saved}
    return {
        "target_modules": _ends(modules, names),
        "modules_to_save": saved or None,
        "bias": "all" if biases else "none",
    }


def write_folder(
    out: pathlib.Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> int:
    """Write a folder under a temporary name and rename it; the bytes of tensors written."""
    specs = {name: Spec(value.dtype, value.shape) for name, value in tensors.items()}
    written = sum(spec.nbytes for spec in specs.values())
    check_space(out, written)
    with replaced(out) as partial:
        partial.mkdir()
        with write_file(partial / WEIGHTS, specs) as writer:
            for name, value in tensors.items():
                writer.write(name, 0, value)
        (partial / CONFIG).write_text(json.dumps(config, indent=2), "utf-8")
    return written
