"""Adapters, written as PEFT's folders."""

import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from wslax import tree
from wslax.adapt.peft.fields import kind_of
from wslax.adapt.peft.kind import Arrays, Config, Kind
from wslax.adapt.peft.reading import Leaf, Peft, leaves_of, rows_of, understood
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError
from wslax.io.atomic import check_free
from wslax.io.layout import Rule
from wslax.io.peft import PREFIX, targets, whole_name, write_folder
from wslax.trace.leaves import is_factored, wide
from wslax.typing import Params


def _merged(parts: Any) -> dict[str, Any]:
    """Leaf to parts of one adapter, or of a chain of adapters of different leaves."""
    if isinstance(parts, Mapping):
        return dict(parts)
    found: dict[str, Any] = {}
    for each in map(_merged, parts):
        for name in found.keys() & each.keys():
            raise WeightSpaceError(f"{name}: two adapters of the chain change it; fuse the first")
        found |= each
    return found


def _shared(kind: Kind, parts: Mapping[str, Arrays]) -> dict[str, Any]:
    """Of parts that modules share, the largest along every axis, which holds all of them."""
    found = {}
    for part in kind.shared:
        each = [arrays[part] for arrays in parts.values()]
        found |= {f"base_model.{part}": max(each, key=lambda x: x.shape)} if each else {}
    return found


def _sorted(
    kind: Kind, config: Config, params: Params, leaves: Mapping[str, Leaf], train: Any, fixed: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Module to its parts, and name of the base's tensor to what replaces it."""
    called = {leaf.name: name for name, leaf in leaves.items()}
    named = tree.named_leaves(params)
    parts: dict[str, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for name, trained in train.items():
        if name not in called:
            raise WeightSpaceError(f"the adapter changes {name!r}, which the model lacks")
        leaf, target = leaves[called[name]], called[name]
        host = {part: np.asarray(x) for part, x in trained.items()}
        if set(host) == {"change"}:
            old = np.asarray(named[name])
            new = (old.astype(tree.wide(old)) + host["change"]).astype(old.dtype)
            whole[target] = new.T if leaf.turned else new
            continue
        module, _, last = target.rpartition(".")
        if last != "weight" or len(leaf.shape) != 2:
            raise WeightSpaceError(f"{name}: PEFT adapts matrices, `X.weight`, and it is {target}")
        rows = rows_of(leaf, config)
        shape = leaf.shape[rows], leaf.shape[1 - rows]
        others = {part: np.asarray(x) for part, x in fixed[name].items()}
        try:
            parts[module] = kind.write(config, module, host, others, shape)
        except KeyError as error:
            raise WeightSpaceError(
                f"{name}: {config['peft_type']} has other parts than {', '.join(host)}"
            ) from error
    return parts, whole


def _named(
    kind: Kind, parts: Mapping[str, Arrays], whole: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Tensors by PEFT's names."""
    stored = _shared(kind, parts)
    for module, arrays in parts.items():
        own = {part: x for part, x in arrays.items() if part not in kind.shared}
        stored |= {f"{PREFIX}{module}.{part}": x for part, x in own.items()}
    if kind.parts:
        return stored | {whole_name(name, parts): x for name, x in whole.items()}
    for name, x in whole.items():
        module, _, last = name.rpartition(".")
        stored[f"{PREFIX}{module}.ln_tuning_layers.{last}"] = x
    return stored


def _fields(
    kind: Kind,
    config: Config,
    parts: Mapping[str, Arrays],
    whole: Mapping[str, Any],
    names: Collection[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that tensors imply where none are given, and those that have to be so."""
    if not kind.parts:
        return {}, {"target_modules": sorted({name.rpartition(".")[0] for name in whole})}
    found = targets(parts, list(whole), names)
    if "bias" not in kind.fields.split() and found.pop("bias") != "none":
        raise WeightSpaceError(f"{', '.join(whole)}: PEFT trains no biases with this kind")
    return kind.implied(config, parts), found | dict(kind.always)


def _check_same(params: Params, ours: Peft, theirs: Peft) -> None:
    """Refuse a configuration under which the tensors would make another model."""
    models = [p.adapter.apply(params, p.train, p.fixed) for p in (ours, theirs)]
    kept = [jax.tree.leaves(model, is_leaf=is_factored) for model in (params, *models)]
    for name, base, *pair in zip(tree.named_leaves(params), *kept, strict=True):
        if pair[0] is pair[1]:
            continue
        left, right = (np.asarray(wide(leaf)) for leaf in pair)
        change = np.linalg.norm(left - np.asarray(wide(base)))
        room = 1e-3 * change + 1e-6 * np.linalg.norm(left)
        if not np.linalg.norm(left - right) <= room:
            raise WeightSpaceError(
                f"{name}: the configuration makes another change of it than the adapter does; "
                "give its fields the numbers that the adapter was made with (lora_alpha, ...)"
            )


def write_peft(
    folder: str | os.PathLike[str],
    params: Params,
    adapter: Adapter,
    train: Any,
    fixed: Any,
    config: Config,
    rules: Sequence[Rule] = (),
) -> None:
    """Write an adapter as PEFT's folder, which `PeftModel.from_pretrained` loads.

    What is written is read back and compared before anything stands under the final name. Of a
    model in PyTorch's layout the adapter is one that `read_peft` or `groups=` made, whose parts are
    `[in, out]`.

    Args:
      folder: a new or empty folder.
      params: the base.
      adapter: what the adapter does.
      train: its trained part.
      fixed: its fixed part.
      config: PEFT's fields: `peft_type` and what shapes do not tell (`lora_alpha`, `use_rslora`,
        ...; what is left out has PEFT's default). Ranks, targets and biases are filled in.
      rules: a name map, as of `read_peft`.

    Raises:
      WeightSpaceError: if the folder is taken, the kind or a field is not known, a leaf has no
        place in such an adapter, or the configuration would make another model of it.

    Example:
        >>> import jax, tempfile, wslax as ws
        >>> params = {"fc": {"kernel": np.zeros((3, 2), np.float32)}}
        >>> adapter = ws.adapt.lora(1, alpha=2)
        >>> parts = adapter.init(jax.random.key(0), params)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = {"peft_type": "LORA", "lora_alpha": 2}
        ...     write_peft(f"{folder}/adapter", params, adapter, *parts, config)
        ...     sorted(ws.io.load(f"{folder}/adapter/adapter_model.safetensors"))
        ['base_model.model.fc.lora_A.weight', 'base_model.model.fc.lora_B.weight']
    """
    out = pathlib.Path(folder)
    check_free(out)
    kind, leaves = kind_of(config), leaves_of(params, rules)
    parts, whole = _sorted(kind, config, params, leaves, *map(_merged, (train, fixed)))
    implied, needed = _fields(kind, config, parts, whole, leaves)
    plain = {"task_type": None, "base_model_name_or_path": None, "inference_mode": True}
    filled = {**plain, **implied, **config, **needed}
    stored = _named(kind, parts, whole)
    theirs = understood(filled, stored, params, rules)
    _check_same(params, Peft(adapter, train, fixed, filled), theirs)
    write_folder(out, stored, filled)
