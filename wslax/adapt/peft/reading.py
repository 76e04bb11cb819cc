"""PEFT's folders, read as adapters."""

import glob
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from wslax import tree
from wslax.adapt.leaves import whole
from wslax.adapt.peft.fields import kind_of
from wslax.adapt.peft.kind import AXES, Arrays, Config, Kind, Module
from wslax.adapt.peft.own import ia3_of_modules
from wslax.adapter import Adapter, chain
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.layout import Rule, plan
from wslax.io.peft import open_weights, read_config, sort_tensors
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


class Leaf(NamedTuple):
    """A leaf of the model under PyTorch's name: `turned` if it lies as Flax lays it."""

    name: str
    shape: tuple[int, ...]
    turned: bool


def leaves_of(params: Params, rules: Sequence[Rule]) -> dict[str, Leaf]:
    """PyTorch's name to leaf.

    Example:
        >>> leaves_of({"fc": {"kernel": np.zeros((3, 2))}}, ())
        {'fc.weight': Leaf(name='fc/kernel', shape=(3, 2), turned=True)}
    """
    named = tree.named_leaves(params)
    steps = plan({name: tuple(np.shape(leaf)) for name, leaf in named.items()}, "torch", rules)
    return {step.target: Leaf(step.source, step.shape, step.axes == (1, 0)) for step in steps}


def rows_of(leaf: Leaf, config: Config) -> int:
    """Which axis of a matrix is of its inputs; `fan_in_fan_out` is of GPT-2's layers."""
    return 0 if leaf.turned or config.get("fan_in_fan_out") else 1


def _leaf(leaves: Mapping[str, Leaf], name: str) -> Leaf:
    if name not in leaves:
        raise WeightSpaceError(f"the model has no tensor {name!r}.{did_you_mean(name, leaves)}")
    return leaves[name]


def _check_targets(
    config: Config, modules: Collection[str], replaced: Collection[str], leaves: Mapping[str, Leaf]
) -> None:
    """Refuse what PEFT passes over in silence: modules stored and not targeted, or not stored."""
    ends = config.get("target_modules")
    if not isinstance(ends, list):
        return
    picked = lambda module: any(module == end or module.endswith(f".{end}") for end in ends)
    for module in modules:
        if not picked(module):
            raise WeightSpaceError(f"{module}: stored, and target_modules {ends} leaves it out")
    if config.get("exclude_modules") or config.get("layers_to_transform") is not None:
        return
    for name in (name for name in leaves if name not in replaced):
        module, _, last = name.rpartition(".")
        if last == "weight" and picked(module) and module not in modules:
            raise WeightSpaceError(f"{module}: is of target_modules {ends}, and nothing is stored")


def _check_parts(module: str, parts: Arrays, kind: Kind) -> None:
    if set(parts) not in map(set, kind.parts):
        expected = " or ".join(", ".join(names) for names in kind.parts)
        raise WeightSpaceError(f"{module}: expected {expected}, got {', '.join(sorted(parts))}")
    for part, value in parts.items():
        if value.ndim not in AXES.get(part, (2,)):
            raise WeightSpaceError(f"{module}: a {part} {list(value.shape)} is none")


def _modules(
    kind: Kind, config: Config, stored: Arrays, leaves: Mapping[str, Leaf]
) -> tuple[dict[str, Module], list[list[tuple[str, int, str]]], dict[str, Any]]:
    """Leaf to module, the sites of their matrices, and leaf to what replaces it."""
    shared = {
        part: stored[name] for part in kind.shared if (name := f"base_model.{part}") in stored
    }
    own = [name for name in stored if name.removeprefix("base_model.") not in shared]
    found, replaced = sort_tensors(own, {part for parts in kind.parts for part in parts})
    _check_targets(config, found, replaced, leaves)
    modules: dict[str, Module] = {}
    sites = []
    for module, names in found.items():
        parts = {part: stored[name] for part, name in names.items()} | shared
        _check_parts(module, parts, kind)
        leaf = _leaf(leaves, f"{module}.weight")
        if len(leaf.shape) != 2:
            raise WeightSpaceError(f"{leaf.name}: expected a matrix, got {list(leaf.shape)}")
        rows = rows_of(leaf, config)
        shape = (leaf.shape[rows], leaf.shape[1 - rows])
        modules[leaf.name] = kind.read(config, module, parts, shape)
        sites += [[(leaf.name, rows, "consumed")], [(leaf.name, 1 - rows, "produced")]]
    return modules, sites, {name: stored[other] for name, other in replaced.items()}


def _adapters(
    modules: Mapping[str, Module], params: Params, groups: Groups, leaves: Mapping[str, Leaf]
) -> list[tuple[Adapter, Any, Any]]:
    """Adapters of leaves, those of equal settings as one, with their parts."""
    alike: dict[Any, list[str]] = {}
    for name, module in modules.items():
        alike.setdefault((module.make, module.settings), []).append(name)
    made = []
    for (make, settings), names in alike.items():
        where = [glob.escape(name) for name in names]
        more = {"biases": _biases(names, leaves)} if make is ia3_of_modules else {}
        adapter = make(where=where, groups=groups, **dict(settings), **more)
        train, fixed = (
            {name: getattr(modules[name], what) for name in names} for what in ("train", "fixed")
        )
        if None in fixed.values():
            fixed = adapter.init(0, params)[1]
        made.append((adapter, train, fixed))
    return made


def _biases(names: Sequence[str], leaves: Mapping[str, Leaf]) -> tuple[tuple[str, str], ...]:
    """The leaves that are weights with the leaves that are biases of the same modules."""
    called = {leaf.name: name.removesuffix(".weight") + ".bias" for name, leaf in leaves.items()}
    return tuple((name, leaves[called[name]].name) for name in names if called[name] in leaves)


def _changes(
    modules: Mapping[str, Module], replaced: Arrays, leaves: Mapping[str, Leaf], params: Params
) -> dict[str, Any]:
    """Leaf to what is added to it, for leaves that are replaced and biases that change."""
    named = tree.named_leaves(params)
    changes = {}
    for name, new in replaced.items():
        leaf = _leaf(leaves, name)
        new = new.T if leaf.turned else new
        if new.shape != leaf.shape:
            raise WeightSpaceError(f"{name}: {list(new.shape)} in place of {list(leaf.shape)}")
        old = np.asarray(named[leaf.name])
        changes[leaf.name] = new.astype(tree.wide(old)) - old.astype(tree.wide(old))
    called = {leaf.name: name for name, leaf in leaves.items()}
    for name, module in modules.items():
        if module.bias is None:
            continue
        bias = _leaf(leaves, called[name].removesuffix("weight") + "bias")
        if module.bias.shape != bias.shape or bias.name in changes:
            raise WeightSpaceError(f"{bias.name}: one bias {list(bias.shape)} is expected")
        changes[bias.name] = module.bias
    for name in modules.keys() & changes.keys():
        raise WeightSpaceError(f"{name}: is both adapted and replaced")
    return changes


def understood(
    config: dict[str, Any], stored: Arrays, params: Params, rules: Sequence[Rule]
) -> Peft:
    """What a configuration and tensors are to a model; the work of `read_peft`."""
    kind = kind_of(config)
    for name, value in stored.items():
        if value.dtype.kind not in ("iu" if name.endswith(".shira_indices") else "fV"):
            raise WeightSpaceError(f"{name}: expected floats, got {value.dtype}")
    leaves = leaves_of(params, rules)
    modules, sites, replaced = _modules(kind, config, stored, leaves)
    made = _adapters(modules, params, Groups.from_sites(params, sites), leaves)
    if changes := _changes(modules, replaced, leaves, params):
        where = [glob.escape(name) for name in changes]
        train = {name: {"change": change} for name, change in changes.items()}
        made.append((whole(where=where), train, {name: {} for name in changes}))
    if not made:
        raise WeightSpaceError("holds no tensors")
    adapters, train, fixed = zip(*made, strict=True)
    if len(made) == 1:
        (adapter,), (train,), (fixed,) = adapters, train, fixed
    else:
        adapter = chain(*adapters)
    jax.eval_shape(adapter.fuse, params, train, fixed)  # says what does not fit
    return Peft(adapter, train, fixed, config)


def read_peft(folder: str | os.PathLike[str], params: Params, rules: Sequence[Rule] = ()) -> Peft:
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
        return understood(config, stored, params, rules)
    except WeightSpaceError as error:
        lead = "" if str(error).startswith(str(folder)) else f"{folder}: "
        raise WeightSpaceError(f"{lead}{error}") from error
