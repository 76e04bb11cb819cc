"""Embeddings of models with different tokenizers, row by row of one output tokenizer."""

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.merge.files.names import is_vocabulary
from wslax.merge.files.parts import Part, widest
from wslax.merge.files.recipe import Recipe, TokenizerRecipe, TokenSource
from wslax.merge.files.references import Model, locate
from wslax.merge.files.targets import Target
from wslax.merge.files.tokens import (
    Tokens,
    add,
    read_tokens,
    stripped,
    tokens_of,
    union,
    vocabulary_size,
)

ZERO, MEAN = -1, -2  # where a row comes from when it is no row of a model
BLOCK = 1 << 16  # elements that are summed at a time


class Vocabulary(NamedTuple):
    """The output's tokenizer and where the rows of every model are.

    Attributes:
      tokens: the tokenizer.
      rows: how many rows the output has: a row a token id, and the padding.
      own: model reference to the row of each output id, -1 where the model lacks the token.
      ids: model reference to its own tokens.
      sizes: model reference to the rows that its vocabulary has.
      sources: sources of single tokens by output id.
    """

    tokens: Tokens
    rows: int
    own: Mapping[str, np.ndarray]
    ids: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]
    sources: Mapping[int, TokenSource]


def make_vocabulary(recipe: Recipe, models: Mapping[str, Model], donor: Model) -> Vocabulary | None:
    """The output's tokenizer, or None where the recipe asks for none.

    Args:
      recipe: a checked recipe.
      models: every model that it names.
      donor: the base, or the first model.

    Raises:
      WeightSpaceError: a tokenizer or vocabulary size that is missing.
    """
    wanted = recipe.tokenizer
    if wanted is None:
        if recipe.tokenizer_source is None:
            return None
        wanted = TokenizerRecipe(recipe.tokenizer_source)
    sizes = {reference: vocabulary_size(model) for reference, model in models.items()}
    base = stripped(tokens_of(donor, None, sizes[donor.reference]), sizes[donor.reference])
    held = {
        reference: tokens_of(model, base, sizes[reference]) for reference, model in models.items()
    }
    held[donor.reference] = base
    out = add(_chosen(wanted.source, base, held, sizes), [{"content": t} for t in wanted.tokens])
    count = max(out.ids.values()) + 1
    pad = wanted.pad_to_multiple_of or 1
    own = {ref: _own(out.ids, held[ref].ids, sizes[ref], count) for ref in models}
    sources = {out.ids[token]: source for token, source in wanted.tokens.items()}
    ids = {reference: tokens.ids for reference, tokens in held.items()}
    rows = -(-count // pad) * pad
    return Vocabulary(out, rows, own, ids, sizes, sources)


def _chosen(
    source: str, base: Tokens, held: Mapping[str, Tokens], sizes: Mapping[str, int]
) -> Tokens:
    if source == "base":
        return base
    if source == "union":
        return union(base, [(t, sizes[ref]) for ref, t in held.items() if t is not base])
    if source in held:
        return held[source]
    path = locate(source)
    found = read_tokens(path if path.is_dir() else path.parent)
    if found is None:
        raise WeightSpaceError(f"tokenizer: {source} has no tokenizer.json")
    return found


def _own(out: Mapping[str, int], ids: Mapping[str, int], rows: int, count: int) -> np.ndarray:
    found = np.full(count, ZERO, np.int64)
    for token, i in out.items():
        own = ids.get(token, ZERO)
        found[i] = own if own < rows else ZERO
    return found


@dataclass
class Aligned:
    """A vocabulary's tensor of one model, in the output's rows.

    Attributes:
      parts: the tensor in each source of the piece.
      at: which of them this one is.
      donor: for each output row, the part that it comes from, `ZERO` or `MEAN`.
      row: for each output row, the row there.
      own: `[parts, rows]`: each part's row, -1 where it has none; means are over these.
      rows: rows of the output; those beyond `donor` are padding, the mean of all others.
    """

    parts: Sequence[Part]
    at: int
    donor: np.ndarray
    row: np.ndarray
    own: np.ndarray
    rows: int
    _padding: list[np.ndarray] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def path(self) -> Any:
        """The model's file or index."""
        return self.parts[self.at].path

    @property
    def name(self) -> str:
        """The tensor's name there."""
        return self.parts[self.at].name

    @property
    def dtype(self) -> np.dtype:
        """The widest of the parts'."""
        return widest([part.dtype for part in self.parts])

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's."""
        return (self.rows, *self.parts[self.at].shape[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of the model's own tensor."""
        return self.parts[self.at].nbytes

    @property
    def files(self) -> set[Any]:
        """The files of all sources."""
        return set().union(*(part.files for part in self.parts))

    def read(self, start: int, out: np.ndarray) -> None:
        """See `Part`."""
        width = int(np.prod(self.shape[1:]))
        first, last = start // width, -(-(start + out.size) // width)
        block = self._rows(first, min(last, self.donor.size), width, out.dtype)
        if last > self.donor.size:
            padding = np.broadcast_to(
                self._mean(width), (last - max(first, self.donor.size), width)
            )
            block = np.concatenate([block, padding.astype(out.dtype)])
        out[...] = block.reshape(-1)[start - first * width :][: out.size]

    def _rows(self, first: int, last: int, width: int, dtype: np.dtype) -> np.ndarray:
        found = np.zeros((max(last - first, 0), width), dtype)
        donor, row = self.donor[first:last], self.row[first:last]
        for j in np.unique(donor):
            at = np.flatnonzero(donor == j)
            if j >= 0:
                found[at] = _gather(self.parts[j], row[at], width, dtype)
            elif j == MEAN:
                own = self.own[:, first:last][:, at]
                for part, rows in zip(self.parts, own, strict=True):
                    has = rows >= 0
                    found[at[has]] += _gather(part, rows[has], width, dtype)
                found[at] /= (own >= 0).sum(0)[:, None]
        return found

    def _mean(self, width: int) -> np.ndarray:
        """The mean of all rows, computed once."""
        with self._lock:
            if not self._padding:
                total, count = np.zeros(width), self.donor.size
                step = max(1, BLOCK // width)
                for first in range(0, count, step):
                    last = min(first + step, count)
                    total += self._rows(first, last, width, np.dtype(np.float32)).sum(
                        0, dtype=float
                    )
                self._padding.append(total / count)
            return self._padding[0]


def _gather(part: Part, rows: np.ndarray, width: int, dtype: np.dtype) -> np.ndarray:
    """Rows of a tensor, by runs of neighbours."""
    found = np.empty((rows.size, width), dtype)
    edges = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *edges.tolist(), rows.size] if rows.size else [0]
    for begin, end in itertools.pairwise(bounds):
        part.read(int(rows[begin]) * width, found[begin:end].reshape(-1))
    return found


def align(vocabulary: Vocabulary, target: Target) -> Target:
    """A target whose parts have the output's rows, if its rows are tokens; else itself.

    Rows are tokens where a tensor outside the layers has the name of an embedding of tokens or of
    a head (`is_vocabulary`). A model that lacks a token gets its row
    from: what the recipe says for the token; the only source that has it; the base; the mean of the
    sources that have it; zeros where none has it.

    Args:
      vocabulary: of `make_vocabulary`.
      target: a tensor of the output.

    Raises:
      WeightSpaceError: if it does not have as many rows as the model's config says.
    """
    references = [entry.model for entry in target.piece.sources]
    if target.layered or not is_vocabulary(target.name):
        return target
    for part, reference in zip(target.parts, references, strict=True):
        if part.shape[0] != vocabulary.sizes[reference]:
            raise WeightSpaceError(
                f"{target.name}: {part.shape[0]} rows in {part.path}, and the config says "
                f"vocab_size {vocabulary.sizes[reference]}; whose rows they are is not known"
            )
    own = np.stack([vocabulary.own[reference] for reference in references])
    has = own >= 0
    donor = np.where(has.sum(0) == 0, ZERO, MEAN)
    if target.piece.named in references:
        at = references.index(target.piece.named)
        donor[has[at]] = at
    donor[has.sum(0) == 1] = has.argmax(0)[has.sum(0) == 1]
    row = np.take_along_axis(own, np.maximum(donor, 0)[None], 0)[0]
    force = np.zeros(donor.shape, bool)
    for i, source in vocabulary.sources.items():
        force[i] = source.force
        if source.source is not None:
            donor[i], row[i] = _asked(vocabulary, source.source, i, references)
    parts = []
    for j in range(len(references)):
        default = ~has[j] | force
        parts.append(
            Aligned(
                target.parts, j, np.where(default, donor, j), np.where(default, row, own[j]),
                own, vocabulary.rows,
            )
        )  # fmt: skip
    return target._replace(parts=tuple(parts))


def _asked(
    vocabulary: Vocabulary, source: str | dict[str, Any], i: int, references: Sequence[str]
) -> tuple[int, int]:
    """The part and row of a token that the recipe speaks of."""
    token = next(t for t, j in vocabulary.tokens.ids.items() if j == i)
    place = f"tokenizer.tokens.{token}"
    match source:
        case str():
            model, row = source, int(vocabulary.own.get(source, np.full(i + 1, ZERO))[i])
            wanted = token
        case {"kind": "zero"}:
            return ZERO, 0
        case {"kind": "model_token", "model": str() as model, "token_id": int() as row}:
            wanted = str(row)
        case {"kind": "model_token", "model": str() as model, "token": str() as wanted}:
            row = vocabulary.ids.get(model, {}).get(wanted, ZERO)
        case _:
            raise WeightSpaceError(
                f"{place}: a source is a model, {{kind: zero}} or {{kind: model_token, model, "
                f"token or token_id}}, got {source!r}"
            )
    if model not in references:
        raise WeightSpaceError(f"{place}: no such model here.{did_you_mean(model, references)}")
    if not 0 <= row < vocabulary.sizes[model]:
        raise WeightSpaceError(f"{place}: {model} has no token {wanted!r}")
    return references.index(model), row
