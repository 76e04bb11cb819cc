"""Rows of routers: drawn, from token embeddings of prompts, or given."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.io.reader import Tensors, open_tensors
from wslax.merge.mixture.recipe import Expert, MixtureRecipe
from wslax.random import bits, uniform

EMBEDDING = "model.embed_tokens.weight"


def normal(seed: int, name: str, size: int, start: int = 0) -> np.ndarray:
    """Standard normal float32, numbers `start` to `start + size` of a named stream.

    `wslax.random.normal` without JAX: the same cells, the inverse distribution by SciPy.

    Example:
        >>> bool((normal(0, "w", 4)[2:] == normal(0, "w", 2, start=2)).all())
        True
    """
    from scipy.special import ndtri

    middle = ((bits(seed, name, size, start=start) >> np.uint32(9)) + 0.5) * 2.0**-23
    return ndtri(middle).astype(np.float32)


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8")) if file.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise WeightSpaceError(f"{file}: not JSON ({error})") from error
    return found if isinstance(found, dict) else {}


def _start(folder: pathlib.Path) -> str:
    """The token that begins every text, or nothing."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _read_json(folder / name).get("bos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return token
    return ""


def tokens_of(folder: pathlib.Path) -> Callable[[str], Sequence[int]]:
    """The tokenizer of a Hugging Face folder: text to token ids, its beginning token first.

    Raises:
      WeightSpaceError: if there is no `tokenizer.json`, or the `tokenizers` package is missing.

    Example:
        >>> tokens_of(pathlib.Path("no-such-folder"))
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: no-such-folder: has no tokenizer.json, which cheap_embed ...
    """
    file = folder / "tokenizer.json"
    if not file.exists():
        raise WeightSpaceError(
            f"{folder}: has no tokenizer.json, which cheap_embed reads prompts with; copy it from "
            "the model's repository, or use gate_mode random or vectors"
        )
    try:
        import tokenizers
    except ImportError:
        raise WeightSpaceError(
            "cheap_embed needs the tokenizers package: pip install 'wslax[hub]', or use gate_mode "
            "random or vectors"
        ) from None
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # its own kind is a plain Exception
        raise WeightSpaceError(f"{file}: not a tokenizer ({error})") from error
    start = _start(folder)
    return lambda text: tokenizer.encode(start + text, add_special_tokens=False).ids


def _direction(embedding: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    if any(not 0 <= i < len(embedding) for i in ids):
        raise WeightSpaceError(
            f"{EMBEDDING}: has {len(embedding)} rows, a prompt has token {max(ids)}; the tokenizer "
            "is another model's"
        )
    total = embedding[list(ids)].astype(np.float32).sum(0)
    return total / max(np.linalg.norm(total), 1e-8)


def _prompted(base: Tensors, expert: Expert, tokens: Callable[[str], Sequence[int]]) -> np.ndarray:
    embedding = base.read(EMBEDDING)
    row = _direction(embedding, [i for text in expert.positive_prompts for i in tokens(text)])
    if expert.negative_prompts:
        row -= _direction(embedding, [i for text in expert.negative_prompts for i in tokens(text)])
    return row / max(np.linalg.norm(row), 1e-8)


def _given(path: str, shape: tuple[int, int, int]) -> np.ndarray:
    with open_tensors(path) as tensors:
        info = tensors.info("router")
        if info.shape != shape or info.dtype.kind not in "fV":
            raise WeightSpaceError(
                f"{path}: router is {info.dtype}{list(info.shape)}, expected floats of "
                f"{list(shape)}, a row of the hidden size for every layer and expert (and last the "
                "shared expert where it is gated)"
            )
        rows = tensors.read("router").astype(np.float32)
    if not np.isfinite(rows).all():
        raise WeightSpaceError(f"{path}: router holds NaN or infinity")
    return rows


def rows_of(
    recipe: MixtureRecipe, base: Tensors | None, gated: Sequence[Expert],
    layers: int, hidden: int, seed: int,
) -> np.ndarray:  # fmt: skip
    r"""The routers' rows, float32 `[layers, experts, hidden]`.

    `random` draws from N(0, 1), `uniform_random` from \(U(-h^{-1/2}, h^{-1/2})\), PyTorch's for a
    linear layer. `cheap_embed` sums the token embeddings of the positive prompts and scales the sum
    to length 1, takes the same of the negative prompts away and scales again: one row in all
    layers. `vectors` reads tensor `router` of a safetensors file.

    Args:
      recipe: the mixture.
      base: its base model, of which `cheap_embed` reads the embedding.
      gated: the experts that have rows, a gated shared one last.
      layers: how many layers.
      hidden: the hidden size.
      seed: of the random modes.

    Returns:
      The rows.

    Raises:
      WeightSpaceError: if a tokenizer, an embedding or the file of rows is missing or does not fit.

    Example:
        >>> recipe = MixtureRecipe("base", [Expert("a"), Expert("b")], "uniform_random")
        >>> rows = rows_of(recipe, None, recipe.experts, 3, 16, seed=0)
        >>> rows.shape, bool(abs(rows).max() <= 0.25)
        ((3, 2, 16), True)
    """
    shape = (layers, len(gated), hidden)
    size = layers * len(gated) * hidden
    if recipe.gate_mode == "random":
        return normal(seed, "router", size).reshape(shape)
    if recipe.gate_mode == "uniform_random":
        bound = np.float32(hidden**-0.5)
        return (2 * bound * uniform(bits(seed, "router", size)) - bound).reshape(shape)
    if recipe.gate_mode == "vectors":
        return _given(str(recipe.vectors), shape)
    assert base is not None
    tokens = tokens_of(base.path.parent)
    if base.info(EMBEDDING).shape[1:] != (hidden,):
        raise WeightSpaceError(f"{EMBEDDING}: expected rows of {hidden} numbers")
    rows = np.stack([_prompted(base, expert, tokens) for expert in gated])
    return np.broadcast_to(rows, shape)


def condition(rows: np.ndarray) -> float:
    """The largest condition number of a layer's router; large where experts have alike rows.

    Example:
        >>> condition(np.eye(2, 3)[None])
        1.0
    """
    return float(max(np.linalg.cond(layer) for layer in rows))
