"""What a merge of checkpoints will do, known from headers alone."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.header import Spec
from wslax.io.reader import INDEX, SINGLE, Tensors, open_tensors
from wslax.merge.config import Recipe, members
from wslax.merge.method import Each, Method, matrix_of
from wslax.merge.registry import METHODS
from wslax.merge.resolve import positions, resolve

FLOATS = {np.dtype(d) for d in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)}
KEPT = 24_000_000  # bytes of room a thread has for values around thresholds


class Job(NamedTuple):
    """One tensor of the output.

    Attributes:
      name: its name.
      spec: dtype and shape as stored.
      compute: dtype of the arithmetic, float32 or float64; None for a tensor that is copied.
      params: the method's parameters for it.
      row: elements of a row, for a method that looks along rows or columns; else None.
    """

    name: str
    spec: Spec
    compute: np.dtype | None
    params: Mapping[str, Any]
    row: int | None = None


class Plan(NamedTuple):
    """A checked merge.

    Attributes:
      recipe: what was asked for.
      method: the method.
      models: the members, opened lazily, in the method's order.
      base: the base of the task vectors, or None.
      jobs: the output's tensors, in stored order.
      folder: where the base, or without one the first model, was read.
      read: bytes that the inputs hold.
      written: bytes of the output's tensors.
      peak: bytes of buffers that the engine will hold at most.
    """

    recipe: Recipe
    method: Method
    models: Sequence[Tensors]
    base: Tensors | None
    jobs: Sequence[Job]
    folder: pathlib.Path
    read: int
    written: int
    peak: int


def _open(path: str) -> Tensors:
    """Open a model by path, or by Hub id where the `hub` extra can find it."""
    if pathlib.Path(path).exists():
        return open_tensors(path)
    looks_like_id = (
        path.count("/") <= 1
        and not path.startswith((".", "/", "~"))
        and (pathlib.PurePath(path).suffix not in (".safetensors", ".bin", ".pt", ".json"))
    )
    if looks_like_id and path.count("/") == 1:
        try:
            import huggingface_hub
        except ImportError:
            raise WeightSpaceError(
                f"{path}: no such file or folder; for a Hub id pip install 'wslax[hub]', or pass "
                "the path of a folder with model.safetensors"
            ) from None
        try:
            patterns = ["*.safetensors", "*.json", "tokenizer*", "*.txt", "*.model"]
            return open_tensors(huggingface_hub.snapshot_download(path, allow_patterns=patterns))
        except WeightSpaceError:
            raise
        except Exception as error:
            raise WeightSpaceError(
                f"{path}: no such path, and the Hub gave {type(error).__name__}; pass the path of "
                "a folder with model.safetensors"
            ) from error
    raise WeightSpaceError(f"{path}: no such file or folder")


def _lists(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]!r}{more}"


def _check_names(first: Tensors, other: Tensors) -> None:
    missing = [name for name in first if name not in other]
    extra = [name for name in other if name not in first]
    if missing or extra:
        lacking, having = (other, first) if missing else (first, other)
        names = missing or extra
        if missing and extra:
            hint = did_you_mean(missing[0], extra)
        else:
            hint = (
                " A tied head is not stored: store it in all models or in none."
                if any("head" in name for name in names)
                else ""
            )
        raise WeightSpaceError(
            f"{lacking.path}: lacks {_lists(names)} that {having.path} has; nothing is dropped "
            f"silently.{hint}"
        )
    for name in first:
        a, b = first.infos[name].shape, other.infos[name].shape
        if a != b:
            rows = len(a) == len(b) > 1 and a[0] != b[0] and a[1:] == b[1:]
            hint = ". If these are vocabularies: none is cut, resize one model first" * rows
            raise WeightSpaceError(
                f"{name}: {list(b)} in {other.path}, {list(a)} in {first.path}; shapes must agree"
                f"{hint}"
            )


def _widest(dtypes: Sequence[np.dtype]) -> np.dtype:
    distinct = set(dtypes)
    if len(distinct) == 1:
        return dtypes[0]
    return np.dtype(np.float64 if np.dtype(np.float64) in distinct else np.float32)


def _job(name: str, sources: Sequence[Tensors], recipe: Recipe, position: float) -> Job:
    infos = [source.infos[name] for source in sources]
    dtypes = [info.dtype for info in infos]
    shape = infos[0].shape
    if all(dtype in FLOATS for dtype in dtypes):
        stored = recipe.out_dtype or recipe.dtype
        out = np.dtype(getattr(ml_dtypes, stored, stored)) if stored else _widest(dtypes)
        wide = np.float64 if np.dtype(np.float64) in dtypes else np.float32
        params = resolve(recipe, name, position)
        scope = METHODS[recipe.merge_method].scope(params)
        row = None if scope == "leaf" else matrix_of(shape, scope)[1]
        return Job(name, Spec(out, shape), np.dtype(wide), params, row)
    if any(dtype.name.startswith("float8") for dtype in dtypes):
        raise WeightSpaceError(
            f"{name}: {dtypes[0].name} weights mean nothing without their scales; dequantise first"
        )
    if len(set(dtypes)) != 1:
        raise WeightSpaceError(f"{name}: dtypes differ: {', '.join(d.name for d in dtypes)}")
    return Job(name, Spec(dtypes[0], shape), None, {})


def make_plan(recipe: Recipe, threads: int = 2) -> Plan:
    """Open every model and check everything that headers can tell.

    Args:
      recipe: a checked recipe.
      threads: how many tensors are worked on at a time, for the memory estimate.

    Returns:
      The plan.

    Raises:
      WeightSpaceError: a missing or bad file, names or shapes that differ between models, float8
        weights, a tensor without a parameter value. Nothing has been written then.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in "ab":
        ...         ws.io.save({"w": np.ones((2, 3), np.float32)}, f"{folder}/{name}.safetensors")
        ...     models = [{"model": f"{folder}/{name}.safetensors"} for name in "ab"]
        ...     recipe = ws.merge.config.parse_recipe({"merge_method": "linear", "models": models})
        ...     plan = make_plan(recipe)
        >>> plan.jobs[0].name, plan.jobs[0].params["coef"], plan.written
        ('w', (1.0, 1.0), 24)
    """
    method = METHODS[recipe.merge_method]
    opened: dict[str, Tensors] = {}
    for path in [*(m.model for m in recipe.models), *filter(None, [recipe.base_model])]:
        if path not in opened:
            opened[path] = _open(path)
    models = [opened[entry.model] for entry in members(recipe)]
    origin = recipe.base_model if method.base in ("required", "optional") else None
    base = opened[origin] if origin else None
    sources = [*models, *([base] if base is not None else [])]
    first = base if base is not None else models[0]
    for source in sources:
        if source is not first:
            _check_names(first, source)
    if not len(first):
        raise WeightSpaceError(f"{first.path}: holds no tensors")
    place = positions(list(first))
    jobs = [_job(name, sources, recipe, place[name]) for name in first]
    return Plan(
        recipe,
        method,
        models,
        base,
        jobs,
        opened[recipe.base_model or recipe.models[0].model].path.parent,
        sum(info.nbytes for source in opened.values() for info in source.infos.values()),
        sum(job.spec.nbytes for job in jobs),
        peak_bytes(jobs, len(sources), threads) + threads * _kept_bytes(method, jobs, len(models)),
    )


def sources_of(plan: Plan) -> list[Tensors]:
    """The members in the method's order, then the base of the task vectors if there is one."""
    return [*plan.models, *([plan.base] if plan.base is not None else [])]


def sample_of(size: int) -> tuple[int, float]:
    """How many blocks to sample for a threshold, and the band to keep around it.

    Returns:
      `(blocks, margin)`: the band holds a share of about `2 * margin` of the values.

    Example:
        >>> sample_of(1_000_000)
        (64, 0.01)
    """
    return (64, 0.01) if size < 1 << 25 else (512, 0.005)


def chunk_of(sources: int) -> int:
    """Elements at a time: large beside the cost of a call, small beside the last cache.

    Example:
        >>> chunk_of(4), chunk_of(64)
        (262144, 32768)
    """
    return (1 << 18) >> max(0, (sources - 1).bit_length() - 3)


def whole_rows(elements: int, row: int | None) -> int:
    """About so many elements, in whole rows.

    Example:
        >>> whole_rows(100, None), whole_rows(100, 30), whole_rows(100, 300)
        (100, 90, 300)
    """
    return max(1, elements // (row or 1)) * (row or 1)


def _kept_bytes(method: Method, jobs: Sequence[Job], members: int) -> int:
    """What a thread keeps of `Each` rounds: a bit an entry of every member of one tensor."""
    sizes = [
        job.spec.size
        for job in jobs
        if job.compute is not None
        and any(isinstance(r, Each) for r in method.rounds(job.params).values())
    ]
    return members * max(sizes, default=0) // 8


def peak_bytes(jobs: Sequence[Job], sources: int, threads: int) -> int:
    """An upper bound of the engine's buffers.

    A thread holds a chunk of every source as stored and as computed, some temporaries, and the
    values around the thresholds of the largest tensor.

    Example:
        >>> peak_bytes([], 4, 2)
        41943040
    """
    merged = [job for job in jobs if job.compute is not None]
    width = max((job.compute.itemsize for job in merged if job.compute), default=4)
    most = chunk_of(sources)
    chunk = max((whole_rows(most, job.row) for job in merged), default=most)
    chunk = max(chunk, most) * width * (2 * sources + 12)
    bands = (int(4 * sample_of(job.spec.size)[1] * job.spec.size) * width for job in merged)
    band = max(bands, default=0)
    return threads * (chunk + min(sources * band, max(KEPT, band)))


def carried_from(plan: Plan) -> pathlib.Path | None:
    """The folder whose config and tokenizer files go into the output: the base's or first model's.

    A file that does not have Hugging Face's name says nothing about its neighbours.
    """
    given = pathlib.Path(plan.recipe.base_model or plan.recipe.models[0].model)
    if given.is_file() and given.name not in (SINGLE, INDEX):
        return None
    return plan.folder
