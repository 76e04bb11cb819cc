"""LoRA adapters from fine-tuned models on disk, in PEFT's folders."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wslax.adapt.factors import factorise
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.globs import matches, pick
from wslax.io.atomic import check_free
from wslax.io.peft import PREFIX, targets, whole_name, write_folder
from wslax.io.reader import Tensors, open_tensors

# Layers whose rows are tokens or positions: their changes have no low rank.
EMBEDDINGS = ("*embed*", "*wte*", "*wpe*", "*lm_head*", "shared*")


class Extracted(NamedTuple):
    """A changed module.

    Attributes:
      module: its name.
      rank: of its factors.
      lost: norm of what they leave out over the norm of the change.
    """

    module: str
    rank: int
    lost: float


class Extraction(NamedTuple):
    """What an extraction made.

    Attributes:
      out: the adapter's folder.
      written: bytes of tensors.
      modules: every module with factors.
      whole: names of the tensors stored as they are.
      unchanged: how many tensors are the same in both models.
    """

    out: str
    written: int
    modules: Sequence[Extracted]
    whole: Sequence[str]
    unchanged: int


def _names(
    model: Tensors, base: Tensors, include: Sequence[str], exclude: Sequence[str]
) -> list[str]:
    """The tensors to look at; both models have them."""
    names = list(dict.fromkeys([*model, *base]))
    chosen = pick(names, include or None)
    left_out = pick(names, exclude) if exclude else (False,) * len(names)
    names = [n for n, yes, no in zip(names, chosen, left_out, strict=True) if yes and not no]
    for name in names:
        for tensors, other in ((model, base), (base, model)):
            if name not in tensors:
                raise WeightSpaceError(
                    f"{name}: {other.path} has it, {tensors.path} has not; exclude it."
                    f"{did_you_mean(name, tensors)}"
                )
    return names


def _factored(
    model: Tensors, base: Tensors, names: Sequence[str], whole: Sequence[str]
) -> list[str]:
    """The matrices of which factors are taken."""
    if whole:
        pick(names, whole)
    found = []
    for name in names:
        ours, theirs = model.info(name).shape, base.info(name).shape
        stays = any(matches(name, glob) for glob in (*EMBEDDINGS, *whole))
        if stays or not name.endswith(".weight") or len(ours) != 2:
            continue
        if ours != theirs:
            raise WeightSpaceError(
                f"{name}: {list(ours)} in {model.path}, {list(theirs)} in {base.path}; exclude it"
            )
        found.append(name)
    return found


def _inputs_first(base: Tensors, names: Sequence[str]) -> bool:
    """Whether matrices are stored `[in, out]`, as GPT-2's are: their biases show it."""
    for name in names:
        bias = name.removesuffix("weight") + "bias"
        if bias in base:
            (rows, columns), count = base.info(name).shape, base.info(bias).size
            if rows != columns:
                return columns == count
    return False


def _same(model: Tensors, base: Tensors, name: str) -> bool:
    ours, theirs = model.info(name), base.info(name)
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    left, right = (t.read(name).reshape(-1).view(np.uint8) for t in (model, base))
    return np.array_equal(left, right)


def _change(model: Tensors, base: Tensors, name: str) -> np.ndarray:
    dtypes = [tensors.info(name).dtype for tensors in (model, base)]
    for dtype in dtypes:
        if dtype.kind not in "fV" or dtype.itemsize < 2:
            raise WeightSpaceError(f"{name}: changed, and {dtype} is no float of 16 bits or more")
    wide = np.float64 if np.dtype(np.float64) in dtypes else np.float32
    with np.errstate(all="ignore"):
        change = model.read(name).astype(wide) - base.read(name).astype(wide)
    if not np.isfinite(change).all():
        raise WeightSpaceError(f"{name}: one of the models holds NaN or infinity; exclude it")
    return change


def _module(
    name: str, change: np.ndarray, max_rank: int, sv_epsilon: float, dtype: np.dtype
) -> tuple[Extracted, dict[str, np.ndarray]]:
    """A module's factors as they are stored, and what they lose."""
    module = name.removesuffix(".weight")
    a, b = (x.astype(dtype) for x in factorise(change, max_rank, sv_epsilon))
    gap = change - b.astype(change.dtype) @ a.astype(change.dtype)
    lost = float(np.linalg.norm(gap) / np.linalg.norm(change))
    stored = f"{PREFIX}{module}.lora_"
    return Extracted(module, len(a), lost), {f"{stored}A.weight": a, f"{stored}B.weight": b}


def _config(
    base: str, ranks: Mapping[str, int], whole: Sequence[str], names: Sequence[str], turned: bool
) -> dict[str, Any]:
    """PEFT's `adapter_config.json`; alpha is the rank everywhere, so that the scale is one."""
    rank = max(ranks.values(), default=1)
    others = {module: r for module, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        **targets(list(ranks), whole, names),
        "fan_in_fan_out": turned,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "inference_mode": True,
    }


def extract(
    model: str | os.PathLike[str],
    base: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    max_rank: int = 128,
    sv_epsilon: float = 0.0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    whole: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Extraction:
    r"""Write what changed between two checkpoints as a PEFT LoRA adapter.

    Of every matrix that changed, \(D = X - W\) becomes factors \(B A\) (`factorise`), in the
    model's dtype. Embeddings and output heads, everything else that is no matrix (norms, biases)
    and what `whole` picks is stored as it is where it changed. Memory is one matrix in float32
    with its Gram matrix in float64, and the adapter.

    Args:
      model: the fine-tuned checkpoint: a safetensors file, an index or a folder.
      base: what it was tuned from.
      out: a new or empty folder.
      max_rank: greatest rank (128, mergekit's).
      sv_epsilon: singular values up to this are left out (0, mergekit's).
      include: globs of tensors to look at; all by default.
      exclude: globs of tensors to leave as they are in the base.
      whole: globs of matrices to store whole (`modules_to_save`), beside `EMBEDDINGS`.
      progress: told the bytes of the model done with, tensor by tensor.

    Returns:
      An `Extraction`, with what each module lost.

    Raises:
      WeightSpaceError: before any work if the output is taken, a glob picks nothing, or one model
        has a tensor or a shape that the other has not; later if a changed tensor holds NaN or has
        no place in an adapter, or nothing changed. Nothing stands under the final name then.

    References:
      Hu et al. 2021, "LoRA", arXiv:2106.09685.

    Example:
        >>> import tempfile, wslax as ws
        >>> change = {"q.weight": np.outer([1, 2], [3, 4, 5]).astype(np.float32)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save({"q.weight": np.ones((2, 3), np.float32)}, f"{folder}/base")
        ...     ws.io.save({"q.weight": 1 + change["q.weight"]}, f"{folder}/tuned")
        ...     made = extract(f"{folder}/tuned", f"{folder}/base", f"{folder}/adapter")
        >>> [(module.module, module.rank, module.lost < 1e-6) for module in made.modules]
        [('q', 1, True)]
    """
    out = pathlib.Path(out)
    if max_rank < 1 or not sv_epsilon >= 0:
        raise WeightSpaceError(
            f"expected max_rank >= 1 and sv_epsilon >= 0, got {max_rank} and {sv_epsilon}"
        )
    check_free(out)
    with open_tensors(model) as tuned, open_tensors(base) as before:
        names = _names(tuned, before, include, exclude)
        matrices = _factored(tuned, before, names, whole)
        turned, unchanged = _inputs_first(before, matrices), 0
        tensors: dict[str, np.ndarray] = {}
        modules: list[Extracted] = []
        rest: list[str] = []
        for name in names:
            if _same(tuned, before, name):
                unchanged += 1
            elif name not in matrices:
                rest.append(name)
            else:
                change = _change(tuned, before, name)
                found, pair = _module(
                    name,
                    change.T if turned else change,
                    max_rank,
                    sv_epsilon,
                    tuned.info(name).dtype,
                )
                modules += [found] if found.rank else []
                tensors |= pair if found.rank else {}
            if progress is not None:
                progress(tuned.info(name).nbytes)
        ranks = {module.module: module.rank for module in modules}
        tensors |= {whole_name(name, ranks): tuned.read(name) for name in rest}
        if not tensors:
            raise WeightSpaceError(f"{model}: nothing in it differs from {base}")
        written = write_folder(out, tensors, _config(str(base), ranks, rest, before.names, turned))
    return Extraction(str(out), written, modules, rest, unchanged)
