"""Merge checkpoints on disk: check, stream, and leave a folder that says where it came from."""

import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wslax import __version__
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.globs import matches
from wslax.io.atomic import check_free, partial_name
from wslax.io.writer import FORMAT, write_tensors
from wslax.merge.files.config import parse_recipe, read_recipe
from wslax.merge.files.journal import open_journal
from wslax.merge.files.output import PROVENANCE, as_yaml, check_output, write_folder
from wslax.merge.files.plan import Job, Plan, make_plan
from wslax.merge.files.recipe import Recipe
from wslax.merge.files.references import read_json, split
from wslax.merge.files.stream import Check, execute
from wslax.random import STREAM_VERSION


class Parent(NamedTuple):
    """A source of a merge and how far the result lies from it.

    Attributes:
      path: the file or index that was read.
      distance: norm of the result minus the source.
    """

    path: str
    distance: float


class Report(NamedTuple):
    """What a merge did.

    Attributes:
      out: the output.
      method: the method's name.
      tensors: how many tensors were written.
      read: bytes that the inputs hold.
      written: bytes of tensors written.
      seconds: wall time.
      peak: most resident bytes of this process so far.
      norm: root of the squared merged weights.
      parents: every source.
    """

    out: str
    method: str
    tensors: int
    read: int
    written: int
    seconds: float
    peak: int
    norm: float
    parents: Sequence[Parent]


def _digest(file: pathlib.Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _files(plan: Plan) -> list[pathlib.Path]:
    return sorted({file for job in plan.jobs for part in job.parts for file in part.files})


def changed_last(plan: Plan) -> dict[str, int]:
    """When everything that the output depends on was changed last."""
    beside = ("config.json", "tokenizer.json", "tokenizer_config.json")
    folders = [model.folder for model in plan.models if model.folder is not None]
    texts = [folder / name for folder in folders for name in beside]
    files = [*_files(plan), *(file for file in texts if file.exists())]
    return {str(file): file.stat().st_mtime_ns for file in files}


def _provenance(
    plan: Plan, seed: int, digests: bool, documents: Sequence[Recipe]
) -> dict[str, Any]:
    recipes = [as_yaml(recipe) for recipe in documents or [plan.recipe]]
    return {
        "wslax": __version__,
        "numpy": importlib.metadata.version("numpy"),
        "random_stream": STREAM_VERSION,
        "seed": seed,
        "recipe": recipes[0] if len(recipes) == 1 else recipes,
        "inputs": [
            {"file": str(file), "bytes": file.stat().st_size}
            | ({"sha256": _digest(file)} if digests else {})
            for file in _files(plan)
        ],
    }


def check_out(out: str | os.PathLike[str]) -> None:
    """Refuse an output that exists: a file, or a folder that is not empty.

    Example:
        >>> check_out("no-such-folder")
    """
    path = pathlib.Path(out)
    try:
        if path.is_symlink():
            raise WeightSpaceError(f"{path}: is a link; name what it leads to")
        if path.suffix == ".safetensors" and path.exists():
            raise WeightSpaceError(f"{path}: exists already; name another output or remove it")
        check_free(path)
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise WeightSpaceError(f"{path}: {above} is a file")
    except (OSError, ValueError) as error:
        if isinstance(error, WeightSpaceError):
            raise
        raise WeightSpaceError(f"{str(path)[:80]!r}: cannot be written ({error})") from error


def _check_apart(plan: Plan, out: pathlib.Path) -> None:
    """Refuse an output that lies in a model's folder, or whose temporary name is an input."""
    partial = partial_name(out).resolve()
    for model in plan.models:
        held = {model.path, *((model.folder is not None and [model.folder]) or [])}
        if any(partial == p.resolve() or partial in p.resolve().parents for p in held):
            raise WeightSpaceError(f"{partial}: is an input, and the place of unfinished output")
        folder = pathlib.Path(split(model.reference)[0])
        if folder.is_dir() and folder.resolve() in [out.resolve(), *out.resolve().parents]:
            raise WeightSpaceError(f"{out}: lies in the input {folder}; name another output")


def _check_globs(plan: Plan, globs: Sequence[str]) -> None:
    names = [job.name for job in plan.jobs]
    for glob in globs:
        if not any(matches(name, glob) for name in names):
            hint = did_you_mean(glob, names)
            raise WeightSpaceError(f"--allow-nonfinite {glob!r} matches no tensor.{hint}")


def peak() -> int:
    """The most bytes of memory this process has held so far.

    Linux's own mark is read where there is one: `getrusage` reports the parent's peak if that was
    higher when this process began.

    Example:
        >>> peak() > 1_000_000
        True
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _report(plan: Plan, out: pathlib.Path, checks: Mapping[str, Check], seconds: float) -> Report:
    distances = np.zeros(len(plan.models))
    for job in plan.jobs:
        np.add.at(distances, list(job.parents), checks[job.name].distances)
    parents = [
        Parent(str(model.path), float(distance))
        for model, distance in zip(plan.models, np.sqrt(distances), strict=True)
    ]
    norm = math.sqrt(sum(check.square for check in checks.values()))
    return Report(
        str(out), plan.method.name, len(plan.jobs), plan.read, plan.written, seconds, peak(), norm,
        parents,
    )  # fmt: skip


def as_recipe(config: Any) -> Recipe:
    """A recipe from a recipe, a mapping or a YAML file.

    Example:
        >>> as_recipe({"merge_method": "linear", "models": [{"model": "a"}]}).merge_method
        'linear'
    """
    if isinstance(config, Recipe):
        return config
    return parse_recipe(config) if isinstance(config, Mapping) else read_recipe(config)


def was_made(plan: Plan, out: str | os.PathLike[str], seed: int = 0, digests: bool = False) -> bool:
    """Whether a folder is what the plan would write, by its notes.

    Raises:
      WeightSpaceError: if it is the output of another merge.
    """
    notes = read_json(pathlib.Path(out) / PROVENANCE)
    if not notes:
        return False
    notes.pop("crc32", None)
    made = _provenance(plan, seed, digests, ()) | {"changed": changed_last(plan)}
    if notes != json.loads(json.dumps(made)):
        raise WeightSpaceError(f"{out}: was made by another merge, or of other files; remove it")
    return True


def run_plan(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    threads: int = 2,
    shard_bytes: int | None = None,
    allow_nonfinite: Sequence[str] = (),
    digests: bool = False,
    resume: bool = False,
    documents: Sequence[Recipe] = (),
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Carry out a plan; see `checkpoints`. `documents` are the whole file's, to be kept with it."""
    begin, out = time.perf_counter(), pathlib.Path(out)
    check_out(out)
    if shard_bytes is not None and shard_bytes < 1:
        raise WeightSpaceError(f"shard_bytes: expected at least 1, got {shard_bytes}")
    _check_apart(plan, out)
    _check_globs(plan, allow_nonfinite)
    check_output(plan)
    specs = {job.name: job.spec for job in plan.jobs}
    provenance = _provenance(plan, seed, digests, documents)
    changed = changed_last(plan)
    notes = {**FORMAT, "wslax": json.dumps(provenance)}
    with (
        open_journal(partial_name(out), resume, changed) as journal,
        write_tensors(out, specs, notes, shard_bytes, resume) as (writer, partial),
    ):
        done = journal.verified(writer)

        def told(job: Job, check: Check) -> None:
            journal.add(job.name, check)
            if progress is not None:
                progress(job.spec.nbytes)

        if progress is not None:
            progress(sum(specs[name].nbytes for name in done))
        checks = execute(
            plan, writer, seed=seed, threads=threads, allow_nonfinite=tuple(allow_nonfinite),
            done=done, told=told,
        )  # fmt: skip
        if partial.is_dir():
            crc32 = {name: f"{check.crc32:08x}" for name, check in checks.items()}
            write_folder(plan, partial, {**provenance, "changed": changed, "crc32": crc32})
    return _report(plan, out, checks, time.perf_counter() - begin)


def checkpoints(
    config: Any,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    threads: int = 2,
    shard_bytes: int | None = None,
    allow_nonfinite: Sequence[str] = (),
    digests: bool = False,
    resume: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Merge checkpoints on disk, in memory that does not depend on their size.

    Arithmetic is in float32 (float64 for float64 tensors) whatever the stored dtype. The output
    folder gets `model.safetensors` (or shards), the config and tokenizer files of the base (or of
    the first model) with what the merge changes in them, a model card, `mergekit_config.yml` (the
    recipe, ready to run again) and `wslax_merge.json` (recipe, inputs, versions, checksums).

    Args:
      config: a path of a YAML recipe, a mapping with the same keys, or a `Recipe`.
      out: a new or empty folder, or a name ending in `.safetensors`.
      seed: of random methods. The same seed gives the same bits as the method in memory with
        `key=seed`.
      threads: tensors worked on at a time.
      shard_bytes: greatest shard of a folder.
      allow_nonfinite: globs of tensors that may hold NaN or infinity: they are copied, and must be
        the same in all inputs.
      digests: keep the SHA-256 of every input file; reads each file once more.
      resume: go on where an earlier call with the same inputs and settings was stopped, after the
        last tensor that is whole by its checksum; and keep what is written if this one is stopped.
      progress: told the bytes written, tensor by tensor.

    Returns:
      A `Report`: bytes, seconds, norms and the distance to each parent.

    Raises:
      WeightSpaceError: anything wrong with recipe, files, names, shapes or dtypes before a byte is
        written; NaN, infinity and a full disk as soon as they are met. Nothing stands under the
        final name then.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name, value in {"a": 1.0, "b": 3.0}.items():
        ...         ws.io.save({"w": np.full(2, value)}, f"{folder}/{name}.safetensors")
        ...     models = [{"model": f"{folder}/{name}.safetensors"} for name in "ab"]
        ...     report = checkpoints({"merge_method": "linear", "models": models}, f"{folder}/out")
        ...     merged = {k: v.copy() for k, v in ws.io.load(f"{folder}/out").items()}
        >>> merged, [round(parent.distance, 3) for parent in report.parents]
        ({'w': array([2., 2.])}, [1.414, 1.414])
    """
    plan = make_plan(as_recipe(config), threads)
    return run_plan(
        plan, out, seed=seed, threads=threads, shard_bytes=shard_bytes,
        allow_nonfinite=allow_nonfinite, digests=digests, resume=resume, progress=progress,
    )  # fmt: skip
