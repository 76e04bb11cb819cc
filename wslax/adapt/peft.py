"""Adapters in PEFT's folders, read as ours and written from ours."""

import glob
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from wslax import tree
from wslax.adapt.joined import joined
from wslax.adapt.peft_kinds import Arrays, Config, Kind, Module, kind_of
from wslax.adapter import Adapter
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.atomic import check_free
from wslax.io.layout import Rule, plan
from wslax.io.peft import (
    PREFIX,
    open_weights,
    read_config,
    sort_tensors,
    targets,
    whole_name,
    write_folder,
)
from wslax.symmetry.types import Groups
from wslax.typing import Params


class Peft(NamedTuple):
    """An adapter of PEFT's.

    Attributes:
      adapter: what it does.
      train: its trained part.
      fixed: its fixed part.
      config: PEFT's configuration, as `write_peft` takes it.
    """

    adapter: Adapter
    train: Any
    fixed: Any
    config: dict[str, Any]


class _Leaf(NamedTuple):
    """A leaf of the model under PyTorch's name: `turned` if it lies as Flax lays it."""

    name: str
    shape: tuple[int, ...]
    turned: bool


def _leaves(params: Params, rules: Sequence[Rule]) -> dict[str, _Leaf]:
    """PyTorch's name to leaf."""
    named = tree.named_leaves(params)
    steps = plan({name: tuple(np.shape(leaf)) for name, leaf in named.items()}, "torch", rules)
    return {step.target: _Leaf(step.source, step.shape, step.axes == (1, 0)) for step in steps}


def _leaf(leaves: Mapping[str, _Leaf], name: str) -> _Leaf:
    if name not in leaves:
        raise WeightSpaceError(f"the model has no tensor {name!r}.{did_you_mean(name, leaves)}")
    return leaves[name]


def _check_targets(config: Config, modules: Sequence[str], leaves: Mapping[str, _Leaf]) -> None:
    """Refuse what PEFT passes over in silence: modules stored and not targeted, or not stored."""
    ends = config.get("target_modules")
    if not isinstance(ends, list):
        return
    picked = lambda module: any(module == end or module.endswith(f".{end}") for end in ends)
    for module in modules:
        if not picked(module):
            raise WeightSpaceError(f"{module}: stored, and target_modules {ends} leaves it out")
    if any(config.get(f"{what}") for what in ("exclude_modules", "layers_to_transform")):
        return
    for name in leaves:
        module, _, last = name.rpartition(".")
        if last == "weight" and picked(module) and module not in modules:
            raise WeightSpaceError(f"{module}: is of target_modules {ends}, and nothing is stored")


def _check_parts(module: str, parts: Arrays, kind: Kind) -> None:
    if set(parts) not in map(set, kind.parts):
        expected = " or ".join(", ".join(names) for names in kind.parts)
        raise WeightSpaceError(f"{module}: expected {expected}, got {', '.join(sorted(parts))}")


def _adapter(modules: Mapping[str, Module], params: Params, groups: Groups) -> Adapter:
    """The adapter of leaves, those of equal settings as one."""
    alike: dict[Any, list[str]] = {}
    for name, module in modules.items():
        alike.setdefault((module.make, module.settings), []).append(name)
    made = [
        (make(where=[glob.escape(n) for n in names], groups=groups, **dict(settings)), names)
        for (make, settings), names in alike.items()
    ]
    return made[0][0] if len(made) == 1 else joined(made)


def _read(config: dict[str, Any], stored: Arrays, params: Params, rules: Sequence[Rule]) -> Peft:
    kind = kind_of(config)
    for name, value in stored.items():
        if value.dtype.kind not in "fV" and not name.endswith(kind.integers):
            raise WeightSpaceError(f"{name}: expected floats, got {value.dtype}")
    leaves = _leaves(params, rules)
    found, whole = sort_tensors(stored, {part for parts in kind.parts for part in parts})
    _check_targets(config, list(found), leaves)
    modules: dict[str, Module] = {}
    sites = []
    for module, names in found.items():
        parts = {part: stored[name] for part, name in names.items()}
        _check_parts(module, parts, kind)
        leaf = _leaf(leaves, f"{module}.weight")
        modules[leaf.name] = kind.read(config, module, parts)
        rows = 0 if leaf.turned or config.get("fan_in_fan_out") else 1
        sites += [[(leaf.name, rows, "consumed")], [(leaf.name, 1 - rows, "produced")]]
    adapter = _adapter(modules, params, Groups.from_sites(params, sites))
    train, fixed = (
        {name: getattr(module, what) for name, module in modules.items()}
        for what in ("train", "fixed")
    )
    jax.eval_shape(adapter.fuse, params, train, fixed)  # says what does not fit
    return Peft(adapter, train, fixed, config)


def read_peft(
    folder: str | os.PathLike[str], params: Params, rules: Sequence[Rule] = ()
) -> Peft:
    r"""Read an adapter that PEFT saved as an adapter of a model here.

    The tensors of module X belong to the leaf that is called `X.weight` in PyTorch: in a flat
    dict of a checkpoint by name, in a tree of Flax by the rules of `wslax.io.layout`. Parts are
    `[in, out]` whatever the leaf's layout. All tensors have to be placed, and every module that
    `target_modules` lists has to have them: nothing is left out in silence.

    Args:
      folder: `adapter_config.json` and `adapter_model.safetensors`.
      params: the base.
      rules: a name map from the model's names to PyTorch's, before the default rules
        (`ws.io.read_map`).

    Returns:
      The adapter, its `train` and `fixed`, whose arrays are views of the mapped file until
      touched, and the configuration.

    Raises:
      WeightSpaceError: naming the folder and what is wrong: files missing or bad, a pickle, a
        kind of adapter or a field that is not known here and set, tensors that are missing, left
        over, or do not fit the model or the configuration.

    References:
      PEFT, https://github.com/huggingface/peft, whose files these are.

    Example:
        >>> import pathlib, tempfile, wslax as ws
        >>> factors = {
        ...     "base_model.model.fc.lora_A.weight": np.ones((1, 3), np.float32),
        ...     "base_model.model.fc.lora_B.weight": np.ones((2, 1), np.float32),
        ... }
        >>> params = {"fc": {"kernel": np.zeros((3, 2), np.float32)}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save(factors, f"{folder}/adapter_model.safetensors")
        ...     config = '{"peft_type": "LORA", "r": 1, "lora_alpha": 2}'
        ...     _ = pathlib.Path(folder, "adapter_config.json").write_text(config)
        ...     adapter, train, fixed, _ = read_peft(folder, params)
        ...     adapter.fuse(params, train, fixed)["fc"]["kernel"]
        Array([[2., 2.],
               [2., 2.],
               [2., 2.]], dtype=float32)
    """
    folder = pathlib.Path(folder)
    try:
        config = read_config(folder)
        with open_weights(folder) as tensors:
            stored = {name: tensors.read(name) for name in tensors}
        return _read(config, stored, params, rules)
    except WeightSpaceError as error:
        lead = "" if str(error).startswith(str(folder)) else f"{folder}: "
        raise WeightSpaceError(f"{lead}{error}") from error


def _stored(
    kind: Kind, config: Config, leaves: Mapping[str, _Leaf], train: Any, fixed: Any
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Tensors by PEFT's names, and the modules that they are of."""
    names = {leaf.name: name for name, leaf in leaves.items()}
    stored: dict[str, np.ndarray] = {}
    modules = []
    for leaf in train:
        if leaf not in names:
            raise WeightSpaceError(f"the adapter changes {leaf!r}, which the model lacks")
        module, _, last = names[leaf].rpartition(".")
        if last != "weight":
            raise WeightSpaceError(f"{leaf}: PEFT's adapters are of weights, and it is a {last}")
        host = ({part: np.asarray(x) for part, x in of[leaf].items()} for of in (train, fixed))
        modules.append(module)
        for part, value in kind.write(config, *host).items():
            stored[f"{PREFIX}{module}.{part}"] = value
    return stored, modules


def _ranks(kind: Kind, config: Config, stored: Arrays) -> dict[str, Any]:
    """The fields that say the ranks of factors."""
    part, axis = kind.rank
    found = {
        name.removeprefix(PREFIX).removesuffix(f".{part}"): value.shape[axis]
        for name, value in stored.items()
        if name.endswith(f".{part}")
    }
    rank = max(found.values(), default=config.get("r", 1))
    return {"r": rank, "rank_pattern": {m: r for m, r in found.items() if r != rank}}


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

    What is written is read back and compared before anything stands under the final name.

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
    kind, leaves = kind_of(config), _leaves(params, rules)
    stored, modules = _stored(kind, config, leaves, train, fixed)
    filled = {"task_type": None, "base_model_name_or_path": None, "inference_mode": True}
    filled |= config | targets(modules, [], leaves) | _ranks(kind, config, stored)
    theirs = _read(filled, stored, params, rules)
    _check_same(params, Peft(adapter, train, fixed, filled), theirs)
    write_folder(out, stored, filled)
