"""What a merge of checkpoints will do, known from headers alone."""

import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from wslax.errors import WeightSpaceError
from wslax.io.header import Spec
from wslax.io.reader import Tensors
from wslax.merge.files.parts import Part, Promised, widest
from wslax.merge.files.recipe import Recipe, models_of
from wslax.merge.files.references import Model, open_model
from wslax.merge.files.resolve import resolve
from wslax.merge.files.targets import Stacked, Target, find_targets
from wslax.merge.files.vocabulary import Aligned, Vocabulary, align, make_vocabulary
from wslax.merge.method import Each, Method, matrix_of
from wslax.merge.registry import ON_DISK

FLOATS = {np.dtype(d) for d in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)}
KEPT = 24_000_000  # bytes of room a thread has for values around thresholds


class Job(NamedTuple):
    """One tensor of the output.

    Attributes:
      name: its name.
      spec: dtype and shape as stored.
      compute: dtype of the arithmetic, float32 or float64; None for a tensor that is copied.
      params: the method's parameters for it.
      parts: what it is made of: a part for each member, then the base's if there is one.
      parents: the model of each part, by its place in the plan's `models`.
      count: how many of the parts are members.
      row: elements that a chunk holds whole, for a method that looks along rows or columns or at
        the whole tensor; else None.
    """

    name: str
    spec: Spec
    compute: np.dtype | None
    params: Mapping[str, Any]
    parts: tuple[Part, ...]
    parents: tuple[int, ...]
    count: int
    row: int | None = None


class Plan(NamedTuple):
    """A checked merge.

    Attributes:
      recipe: what was asked for.
      method: the method.
      models: every model that the output is made of.
      donor: the model whose config and tokenizer the output carries: the base, or the first.
      stacked: how layers were stacked anew.
      vocabulary: the output's tokenizer, where the recipe asks for one.
      jobs: the output's tensors, in stored order.
      read: bytes that the inputs hold.
      written: bytes of the output's tensors.
      peak: bytes of buffers that the engine will hold at most.
    """

    recipe: Recipe
    method: Method
    models: Sequence[Model]
    donor: Model
    stacked: Sequence[Stacked]
    vocabulary: Vocabulary | None
    jobs: Sequence[Job]
    read: int
    written: int
    peak: int

    @property
    def base(self) -> str | None:
        """The base of the task vectors, as the recipe names it, or None."""
        return self.recipe.base_model if self.method.base in ("required", "optional") else None


def _check_shapes(target: Target) -> None:
    first = target.parts[0]
    for other in target.parts[1:]:
        a, b = first.shape, other.shape
        if a != b:
            rows = len(a) == len(b) > 1 and a[0] != b[0] and a[1:] == b[1:]
            hint = (
                ". If these are vocabularies: none is cut; tokenizer_source: union aligns them by "
                "their tokens" * rows
            )
            raise WeightSpaceError(
                f"{target.name}: {list(b)} in {other.path}, {list(a)} in {first.path}; shapes must "
                f"agree{hint}"
            )


def _job(target: Target, recipe: Recipe, places: Mapping[str, int]) -> Job:
    _check_shapes(target)
    name, parts, piece = target.name, target.parts, target.piece
    parents = tuple(places[entry.model] for entry in piece.sources)
    dtypes = [part.dtype for part in parts]
    shape = parts[0].shape
    if all(dtype in FLOATS for dtype in dtypes):
        method = ON_DISK[recipe.merge_method]
        stored = recipe.out_dtype or recipe.dtype
        out = np.dtype(getattr(ml_dtypes, stored, stored)) if stored else widest(dtypes)
        wide = np.float64 if np.dtype(np.float64) in dtypes else np.float32
        params = resolve(method, piece, name, target.inputs, target.position)
        scope = method.scope(params)
        spec = Spec(out, shape)
        row = spec.size if scope == "whole" else None
        if scope in ("row", "column"):
            row = matrix_of(shape, scope)[1]
        return Job(name, spec, np.dtype(wide), params, parts, parents, len(piece.members), row)
    if len(set(dtypes)) != 1:
        raise WeightSpaceError(f"{name}: dtypes differ: {', '.join(d.name for d in dtypes)}")
    return Job(name, Spec(dtypes[0], shape), None, {}, parts, parents, len(piece.members))


def make_plan(
    recipe: Recipe, threads: int = 2, made: Mapping[str, Model] = MappingProxyType({})
) -> Plan:
    """Open every model and check everything that headers can tell.

    Args:
      recipe: a checked recipe.
      threads: how many tensors are worked on at a time, for the memory estimate.
      made: models by path that need not be opened, of `promised`.

    Returns:
      The plan.

    Raises:
      WeightSpaceError: a missing or bad file, names or shapes that differ between models, layers
        that are not there, vocabularies that cannot be aligned, a tensor without a parameter
        value. Nothing has been written then.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> from wslax.merge.files.config import parse_recipe
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in "ab":
        ...         ws.io.save({"w": np.ones((2, 3), np.float32)}, f"{folder}/{name}.safetensors")
        ...     models = [{"model": f"{folder}/{name}.safetensors"} for name in "ab"]
        ...     plan = make_plan(parse_recipe({"merge_method": "linear", "models": models}))
        >>> plan.jobs[0].name, plan.jobs[0].params["coef"], plan.written
        ('w', (1.0, 1.0), 24)
    """
    method = ON_DISK[recipe.merge_method]
    opened = {reference: open_model(reference, made) for reference in models_of(recipe)}
    donor = opened[recipe.base_model or next(iter(opened))]
    if not donor.parts:
        raise WeightSpaceError(f"{donor.path}: holds no tensors")
    targets, stacked = find_targets(recipe, opened, donor)
    vocabulary = make_vocabulary(recipe, opened, donor)
    if vocabulary is not None:
        targets = [align(vocabulary, target) for target in targets]
        if not any(isinstance(part, Aligned) for target in targets for part in target.parts):
            raise WeightSpaceError(
                f"{donor.path}: no tensor has the name of an embedding of tokens, so there is "
                "nothing for a tokenizer to align"
            )
    used = list(dict.fromkeys(entry.model for t in targets for entry in t.piece.sources))
    places = {reference: i for i, reference in enumerate(used)}
    jobs = [_job(target, recipe, places) for target in targets]
    return Plan(
        recipe,
        method,
        [opened[reference] for reference in used],
        donor,
        stacked,
        vocabulary,
        jobs,
        sum(part.nbytes for job in jobs for part in job.parts),
        sum(job.spec.nbytes for job in jobs),
        peak_bytes(jobs, threads) + threads * _kept_bytes(method, jobs),
    )


def promised(plan: Plan, out: pathlib.Path) -> Model:
    """The model that a plan will write, as far as headers go."""
    tensors = Tensors(out, {}, {})
    parts = {
        job.name: Promised(out, job.name, job.spec.dtype, job.spec.shape, job.spec.nbytes, set())
        for job in plan.jobs
    }
    return Model(str(out), tensors, parts, plan.donor.folder)


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


def _kept_bytes(method: Method, jobs: Sequence[Job]) -> int:
    """What a thread keeps of `Each` rounds: a bit an entry of every member of one tensor."""
    sizes = [
        job.count * job.spec.size
        for job in jobs
        if job.compute is not None
        and any(isinstance(r, Each) for r in method.rounds(job.params).values())
    ]
    return max(sizes, default=0) // 8


def most_sources(jobs: Sequence[Job]) -> int:
    """The most parts that one tensor has.

    Example:
        >>> most_sources([])
        1
    """
    return max((len(job.parts) for job in jobs), default=1)


def peak_bytes(jobs: Sequence[Job], threads: int) -> int:
    """An upper bound of the engine's buffers.

    A thread holds a chunk of every source as stored and as computed, some temporaries, and the
    values around the thresholds of the largest tensor.

    Example:
        >>> peak_bytes([], 2)
        29360128
    """
    merged, sources = [job for job in jobs if job.compute is not None], most_sources(jobs)
    width = max((job.compute.itemsize for job in merged if job.compute), default=4)
    most = chunk_of(sources)
    chunk = max((whole_rows(most, job.row) for job in merged), default=most)
    chunk = max(chunk, most) * width * (2 * sources + 12)
    bands = (int(4 * sample_of(job.spec.size)[1] * job.spec.size) * width for job in merged)
    band = max(bands, default=0)
    return threads * (chunk + min(sources * band, max(KEPT, band)))
