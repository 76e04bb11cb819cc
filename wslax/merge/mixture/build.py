"""A mixture of experts, streamed from dense checkpoints."""

import json
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import yaml

from wslax.errors import WeightSpaceError
from wslax.io.atomic import check_free
from wslax.io.files import carry_files
from wslax.io.header import Spec
from wslax.io.reader import Tensors, open_tensors
from wslax.io.writer import TensorWriter, write_tensors
from wslax.merge.mixture.kinds import PARTS, Kind, choose_kind, config_of
from wslax.merge.mixture.recipe import Expert, MixtureRecipe, as_mixture
from wslax.merge.mixture.router import condition, normal, rows_of

_MLP = re.compile(r"model\.layers\.(\d+)\.mlp\.(gate_proj|up_proj|down_proj)\.weight")
_CHUNK = 1 << 20
NOTES = "wslax_moe.yaml"


class Mixed(NamedTuple):
    """What was made.

    Attributes:
      out: the folder.
      architecture: its class name.
      tensors: how many tensors it has.
      written: their bytes.
      condition: largest condition number of a router; above about 5 some experts see few tokens.
    """

    out: str
    architecture: str
    tensors: int
    written: int
    condition: float


class _Job(NamedTuple):
    """One tensor of the output: a part of a model, or an array."""

    spec: Spec
    source: Tensors | None
    name: str
    values: np.ndarray | None = None
    noise: float = 0.0
    scale: float = 1.0


def _config(tensors: Tensors) -> dict[str, Any]:
    file = tensors.path.parent / "config.json"
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightSpaceError(f"{file}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise WeightSpaceError(f"{file}: expected a JSON object")
    return found


def _size(config: Mapping[str, Any], key: str, path: pathlib.Path) -> int:
    value = config.get(key)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise WeightSpaceError(f"{path}: config.json's {key} is {value!r}, expected a whole number")
    return value


def _stored_dtype(recipe: MixtureRecipe, config: Mapping[str, Any]) -> np.dtype | None:
    """What everything is stored in: the recipe's, or the base config's; None keeps what is."""
    word = recipe.dtype or config.get("dtype") or config.get("torch_dtype")
    if word not in ("bfloat16", "float16", "float32", "float64"):
        return None
    return np.dtype(getattr(ml_dtypes, word, word))


def _spec(tensors: Tensors, name: str, dtype: np.dtype | None) -> Spec:
    info = tensors.info(name)
    if info.dtype.kind not in "fV" or info.dtype.itemsize < 2:
        raise WeightSpaceError(f"{name}: expected floats in {tensors.path}, got {info.dtype.name}")
    return Spec(dtype or info.dtype, info.shape)


def _from_base(base: Tensors, kind: Kind, dtype: np.dtype | None) -> dict[str, _Job]:
    """Everything but MLPs."""
    jobs = {}
    for name in base:
        if _MLP.fullmatch(name):
            continue
        if ".mlp." in name or ".block_sparse_moe." in name:
            raise WeightSpaceError(f"{name}: no part of a dense model's MLP that experts have")
        allowed = kind.biases is None or not name.endswith(".bias")
        if not allowed and not name.endswith(tuple(kind.biases or ("\n",))):
            raise WeightSpaceError(f"{name}: {kind.name} has no such bias")
        jobs[name] = _Job(_spec(base, name, dtype), base, name)
    return jobs


def _zero_biases(kind: Kind, jobs: Mapping[str, _Job], layers: int) -> dict[str, _Job]:
    """Biases of queries, keys and values where the architecture has them and the base has not."""
    made = {}
    for layer in range(layers if kind.biases else 0):
        for end in kind.biases or ():
            name = f"model.layers.{layer}.self_attn.{end}"
            weight = name.removesuffix("bias") + "weight"
            if name not in jobs and weight in jobs:
                spec = jobs[weight].spec
                zeros = np.zeros(spec.shape[:1], spec.dtype)
                made[name] = _Job(Spec(spec.dtype, zeros.shape), None, name, zeros)
    return made


def _from_expert(
    expert: Expert, source: Tensors, base: Tensors, target: Callable[[str, int], str],
    layers: int, dtype: np.dtype | None,
) -> dict[str, _Job]:  # fmt: skip
    """An expert's MLPs under their new names; `target` is given the part and the layer."""
    jobs = {}
    for layer in range(layers):
        for part in PARTS:
            name = f"model.layers.{layer}.mlp.{part}.weight"
            ours, theirs = base.info(name).shape, source.info(name).shape
            if ours != theirs:
                raise WeightSpaceError(
                    f"{name}: {list(theirs)} in {source.path}, {list(ours)} in {base.path}"
                )
            scale = expert.residual_scale if part == "down_proj" else 1.0
            spec = _spec(source, name, dtype)
            jobs[target(part, layer)] = _Job(spec, source, name, None, expert.noise_scale, scale)
    return jobs


def _routers(kind: Kind, rows: np.ndarray, experts: int, dtype: np.dtype) -> dict[str, _Job]:
    found = {}
    for layer, values in enumerate(rows.astype(dtype)):
        names = [(kind.router, values[:experts])]
        if kind.shared_router is not None:
            names.append((kind.shared_router, values[experts:]))
        for name, part in names:
            found[name.format(layer=layer)] = _Job(Spec(dtype, part.shape), None, name, part)
    return found


def _named(kind: Kind, pattern: str, expert: int) -> Callable[[str, int], str]:
    words = dict(zip(PARTS, kind.parts, strict=True))
    return lambda part, layer: pattern.format(layer=layer, expert=expert, part=words[part])


def _write(writer: TensorWriter, target: str, job: _Job, seed: int) -> None:
    if job.source is None:
        assert job.values is not None
        writer.write(target, 0, job.values)
        return
    stored = job.source.info(job.name).dtype
    buffer = np.empty(min(_CHUNK, job.spec.size), stored)
    for start in range(0, job.spec.size, _CHUNK):
        x = job.source.read_into(job.name, start, buffer[: job.spec.size - start])
        if job.noise or job.scale != 1.0:
            x = x.astype(np.float64 if stored == np.float64 else np.float32)
            if job.noise:
                x += np.float32(job.noise) * normal(seed, target, x.size, start)
            x *= x.dtype.type(job.scale)
        with np.errstate(over="ignore"):
            out = x.astype(job.spec.dtype, copy=False)
        if not np.isfinite(out).all():
            raise WeightSpaceError(f"{target}: {job.source.path} gives NaN or infinity there")
        writer.write(target, start, out)


def _plain(recipe: MixtureRecipe) -> dict[str, Any]:
    """The recipe as YAML has it, without what is as by default."""

    def kept(value: Any) -> dict[str, Any]:
        return {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in value._asdict().items()
            if v != type(value)._field_defaults.get(k)
        }

    lists = {"experts": recipe.experts, "shared_experts": recipe.shared_experts}
    experts = {key: [kept(expert) for expert in some] for key, some in lists.items() if some}
    return {**kept(recipe), **experts}


def mixture(
    config: Any,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    shard_bytes: int | None = None,
) -> Mixed:
    """Make a mixture of experts of dense checkpoints: attention and norms of one, MLPs of all.

    Everything is known from headers and configs before a byte is written; then tensors stream, a
    few MB at a time. Noise and scales are applied in float32.

    Args:
      config: a path of a YAML recipe (mergekit-moe's keys), a mapping, or a `MixtureRecipe`.
      out: a new or empty folder. It gets weights, `config.json`, the base's tokenizer files and the
        recipe.
      seed: of routers that are drawn, and of noise.
      shard_bytes: greatest file, in bytes.

    Returns:
      What was made.

    Raises:
      WeightSpaceError: a bad recipe, a gate mode that needs a forward pass, models unlike each
        other or unlike what the architecture is made of, a tokenizer that is missing; NaN or
        infinity as soon as they are met. Nothing stands under the final name then.

    References:
      Komatsuzaki et al. 2022, "Sparse upcycling", arXiv:2212.05055; Sukhbaatar et al. 2024,
      "Branch-Train-MiX", arXiv:2403.07816.

    Example:
        >>> import tempfile, wslax as ws
        >>> config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 2}
        >>> mlp = {f"model.layers.0.mlp.{part}.weight": np.ones((2, 2)) for part in PARTS}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in "ab":
        ...         ws.io.save({"model.norm.weight": np.ones(2), **mlp}, f"{folder}/{name}")
        ...         _ = pathlib.Path(folder, name, "config.json").write_text(json.dumps(config))
        ...     experts = [{"source_model": f"{folder}/{name}"} for name in "ab"]
        ...     recipe = {"base_model": f"{folder}/a", "experts": experts, "gate_mode": "random"}
        ...     mixture(recipe, f"{folder}/out").architecture
        'MixtralForCausalLM'
    """
    recipe = as_mixture(config)
    check_free(out)
    with ExitStack() as stack:
        paths = [recipe.base_model, *(e.source_model for e in recipe.experts)]
        paths += [e.source_model for e in recipe.shared_experts]
        opened = {p: stack.enter_context(open_tensors(p)) for p in dict.fromkeys(paths)}
        kind, dense = _agreed(recipe, opened)
        base = opened[recipe.base_model]
        jobs, rows = _jobs(recipe, kind, dense, opened, seed)
        specs = {name: job.spec for name, job in jobs.items()}
        with write_tensors(out, specs, shard_bytes=shard_bytes) as (writer, partial):
            carry_files(base.path.parent, partial)
            text = json.dumps(config_of(kind, dense, recipe), indent=2)
            (partial / "config.json").write_text(text, "utf-8")
            (partial / NOTES).write_text(yaml.safe_dump(_plain(recipe), sort_keys=False), "utf-8")
            for name, job in jobs.items():
                _write(writer, name, job, seed)
    written = sum(spec.nbytes for spec in specs.values())
    return Mixed(str(out), kind.architecture, len(jobs), written, condition(rows))


def _agreed(recipe: MixtureRecipe, opened: Mapping[str, Tensors]) -> tuple[Kind, dict[str, Any]]:
    """The architecture and the base's config; all models are of one type."""
    dense = _config(opened[recipe.base_model])
    for path, tensors in opened.items():
        found = _config(tensors).get("model_type")
        if found != dense.get("model_type"):
            raise WeightSpaceError(
                f"{path}: is a {found!r}, {recipe.base_model} a {dense.get('model_type')!r}; "
                "experts are of the base's type"
            )
    return choose_kind(recipe, dense.get("model_type")), dense


def _jobs(
    recipe: MixtureRecipe, kind: Kind, dense: Mapping[str, Any], opened: Mapping[str, Tensors],
    seed: int,
) -> tuple[dict[str, _Job], np.ndarray]:  # fmt: skip
    """Every tensor of the output, and the routers' rows."""
    base = opened[recipe.base_model]
    layers, hidden = (_size(dense, k, base.path) for k in ("num_hidden_layers", "hidden_size"))
    found = {int(match[1]) for name in base if (match := _MLP.fullmatch(name))}
    if found != set(range(layers)):
        raise WeightSpaceError(
            f"{base.path}: config.json has {layers} layers, the tensors have MLPs in {len(found)}"
        )
    dtype = _stored_dtype(recipe, dense)
    jobs = _from_base(base, kind, dtype)
    jobs |= _zero_biases(kind, jobs, layers)
    for i, expert in enumerate(recipe.experts):
        source, target = opened[expert.source_model], _named(kind, kind.expert, i)
        jobs |= _from_expert(expert, source, base, target, layers, dtype)
    for expert in recipe.shared_experts:
        source, target = opened[expert.source_model], _named(kind, kind.shared or "", 0)
        jobs |= _from_expert(expert, source, base, target, layers, dtype)
    gated = [*recipe.experts, *(recipe.shared_experts if kind.shared_router else ())]
    rows = rows_of(recipe, base, gated, layers, hidden, seed)
    first = base.info("model.layers.0.mlp.up_proj.weight")
    if first.shape[1:] != (hidden,):
        raise WeightSpaceError(f"{base.path}: config.json's hidden_size is not {first.shape[1:]}")
    return jobs | _routers(kind, rows, len(recipe.experts), dtype or first.dtype), rows
