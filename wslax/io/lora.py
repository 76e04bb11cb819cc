"""LoRA adapters in PEFT's folders: read, checked against a base, applied to its tensors.

A folder holds `adapter_config.json` and `adapter_model.safetensors` with
`base_model.model.X.lora_A.weight` and `...lora_B.weight` for the base's `X.weight`.
"""

import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.peft import (
    CONFIG,
    check_rank,
    number_of,
    open_weights,
    read_config,
    sort_tensors,
)
from wslax.io.reader import Tensors

_LINEAR, _EMBEDDING = ("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")
_BIAS = "lora_B.bias"
# What these do to a model is no sum of a weight and a product.
_REFUSED = {
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "layer_replication": "layer replication",
    "target_parameters": "LoRA on bare parameters",
    "trainable_token_indices": "trained tokens",
}
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # those that leave the base as it is


class Factors(NamedTuple):
    """What is added to one tensor of the base: `scale * left @ right`.

    Attributes:
      a: stored name of A `[r, in]`; None where `b` is a bias, added by itself.
      b: stored name of B `[out, r]`.
      scale: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.
      transposed: whether the tensor is stored `[in, out]` (embeddings, GPT-2's layers).
    """

    a: str | None
    b: str
    scale: float
    transposed: bool


class Adapter(NamedTuple):
    """A LoRA adapter, unread.

    Attributes:
      tensors: its file.
      factors: name of the base's tensor to what is added.
      whole: name of the base's tensor to the stored name of the tensor that replaces it.
    """

    tensors: Tensors
    factors: Mapping[str, Factors]
    whole: Mapping[str, str]

    @property
    def names(self) -> set[str]:
        """The base's tensors that it changes."""
        return {*self.factors, *self.whole}


def check_lora(config: Mapping[str, Any]) -> None:
    """Refuse what is more than a weight and a product.

    Example:
        >>> check_lora({"use_rslora": True})
    """
    for key, what in _REFUSED.items():
        if config.get(key):
            raise WeightSpaceError(
                f"{key}: {what} is not read; merge the adapter into its base where it was trained"
            )
    start = config.get("init_lora_weights")
    if not any(start is known or start == known != 1 for known in _STARTS):
        raise WeightSpaceError(
            f"init_lora_weights: {start!r} starts from changed base weights; save the adapter with "
            "path_initial_model_for_weight_conversion"
        )


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    check_rank(config, module, rank)
    alpha = number_of(config, "lora_alpha", "alpha_pattern", module)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _sorted(tensors: Tensors) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    parts, whole = sort_tensors(tensors, (*_LINEAR, *_EMBEDDING, _BIAS))
    for stored in whole.values():
        if "lora_" in stored:
            raise WeightSpaceError(f"{stored}: DoRA and other variants are not read; merge the "
                                   "adapter into its base where it was trained")  # fmt: skip
    return parts, whole


def _shape_of(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        raise WeightSpaceError(f"the base has no tensor {name!r}.{did_you_mean(name, shapes)}")
    return shapes[name]


def _pair(
    tensors: Tensors, module: str, parts: Mapping[str, str], config: Mapping[str, Any],
    shape: tuple[int, ...],
) -> Factors:  # fmt: skip
    embedding = any(part in parts for part in _EMBEDDING)
    pair = _EMBEDDING if embedding else _LINEAR
    if set(parts) - {_BIAS} != set(pair):
        found = [part.removeprefix("lora_").removesuffix(".weight") for part in sorted(parts)]
        raise WeightSpaceError(f"{module}: expected one A and one B, got {found}")
    a, b = (parts[part] for part in pair)
    first, second = tensors.info(a).shape, tensors.info(b).shape
    if len(first) < 2 or len(second) != len(first) or math.prod(second[1:]) != first[0]:
        raise WeightSpaceError(
            f"{module}: A {list(first)} and B {list(second)} are not [r, in] and [out, r]"
        )
    made = (second[0], *first[1:])
    # Shapes tell where they can: PEFT resets the flag when one of several layers is a Linear.
    turned = shape == made[::-1] and (shape != made or bool(config.get("fan_in_fan_out")))
    transposed = embedding or turned
    if shape != (made[::-1] if transposed else made):
        raise WeightSpaceError(
            f"{module}.weight: the base has {list(shape)}, the adapter gives {list(made)}"
        )
    return Factors(a, b, _scale(config, module, first[0]), transposed)


def _checked(
    tensors: Tensors, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> Adapter:
    check_lora(config)
    for name, info in tensors.infos.items():
        if info.dtype.kind not in "fV":
            raise WeightSpaceError(f"{name}: expected floats, got {info.dtype}")
    parts, whole = _sorted(tensors)
    factors: dict[str, Factors] = {}
    for module, found in parts.items():
        target = f"{module}.weight"
        made = _pair(tensors, module, found, config, _shape_of(shapes, target))
        factors[target] = made
        if _BIAS in found:
            factors[f"{module}.bias"] = Factors(None, found[_BIAS], made.scale, False)
    plain = {name: made.b for name, made in factors.items() if made.a is None}
    for name, stored in {**whole, **plain}.items():
        shape, got = _shape_of(shapes, name), tensors.info(stored).shape
        if shape != got:
            raise WeightSpaceError(f"{stored}: {list(got)} in place of {list(shape)} of the base")
    return Adapter(tensors, factors, whole)


def read_adapter(folder: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]]) -> Adapter:
    """Open a PEFT LoRA folder and check all of it against a base; no data is read.

    Ranks and alphas follow `r`, `lora_alpha`, `rank_pattern`, `alpha_pattern` and `use_rslora`.
    `modules_to_save` and trained biases replace the base's tensors, `lora_B.bias` is added.

    Args:
      folder: `adapter_config.json` and `adapter_model.safetensors`.
      shapes: the base's tensor names to their shapes.

    Returns:
      The adapter, to be closed through `adapter.tensors.close()`.

    Raises:
      WeightSpaceError: naming the folder and what is wrong: files missing or bad, a pickle, another
        kind of adapter (DoRA and the like), starts that change the base (PiSSA), factors without
        their partner, ranks unlike the config's, names or shapes unlike the base's.

    References:
      Hu et al. 2021, "LoRA", arXiv:2106.09685; Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA).

    Example:
        >>> import pathlib, tempfile, wslax as ws
        >>> factors = {
        ...     "base_model.model.fc.lora_A.weight": np.ones((1, 3), np.float32),
        ...     "base_model.model.fc.lora_B.weight": np.ones((2, 1), np.float32),
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     ws.io.save(factors, f"{folder}/adapter_model.safetensors")
        ...     config = '{"peft_type": "LORA", "r": 1, "lora_alpha": 2}'
        ...     _ = pathlib.Path(folder, "adapter_config.json").write_text(config)
        ...     adapter = read_adapter(folder, {"fc.weight": (2, 3), "fc.bias": (2,)})
        ...     apply_adapter(adapter, "fc.weight", 0, np.zeros((2, 3), np.float32))
        array([[2., 2., 2.],
               [2., 2., 2.]], dtype=float32)
    """
    folder = pathlib.Path(folder)
    try:
        config = read_config(folder)
        if config.get("peft_type") != "LORA":
            found = config.get("peft_type")
            raise WeightSpaceError(f"{folder / CONFIG}: expected peft_type 'LORA', got {found!r}")
        return _checked(open_weights(folder), config, shapes)
    except WeightSpaceError as error:
        lead = "" if str(error).startswith(str(folder)) else f"{folder}: "
        raise WeightSpaceError(f"{lead}{error}") from error


def _rows(adapter: Adapter, made: Factors, first: int, last: int, dtype: np.dtype) -> np.ndarray:
    """Rows of what is added, as they lie in the base's tensor."""
    b = adapter.tensors.read(made.b)
    if made.a is None:
        return b[first:last].astype(dtype)
    a = adapter.tensors.read(made.a)
    left, right = b.reshape(len(b), -1), a.reshape(len(a), -1)
    if made.transposed:
        left, right = right.T, left.T
    return left[first:last].astype(dtype) @ right.astype(dtype)


def apply_adapter(adapter: Adapter, name: str, start: int, values: np.ndarray) -> np.ndarray:
    r"""A piece of the base's tensor with the adapter in it: \(W + s B A\), or what replaces W.

    Arithmetic and result are in the dtype of `values`; any piece gives what the whole would, up to
    the rounding of the product.

    Args:
      adapter: of `read_adapter`.
      name: a tensor of the base; one that the adapter does not change comes back unchanged.
      start: index of the first element in the flat tensor.
      values: the base's elements from there on, float32 or float64, any shape.

    Returns:
      The elements, shaped as `values`.

    Example:
        See `read_adapter`.
    """
    stop, dtype = start + values.size, values.dtype
    if name in adapter.whole:
        piece = adapter.tensors.view(adapter.whole[name], start, stop)
        values = piece.astype(dtype).reshape(values.shape)
    if name not in adapter.factors or values.size == 0:
        return values
    made = adapter.factors[name]
    b = adapter.tensors.info(made.b)
    width = 1
    if made.a is not None:
        a = adapter.tensors.info(made.a)
        width = b.shape[0] if made.transposed else a.size // a.shape[0]
    first, last = start // width, -(-stop // width)
    rows = _rows(adapter, made, first, last, dtype).reshape(-1)
    added = rows[start - first * width : stop - first * width].reshape(values.shape)
    return values + dtype.type(made.scale) * added
