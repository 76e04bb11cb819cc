"""Tokenizers as their `tokenizer.json` says: tokens and ids, and the union of several."""

import copy
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wslax.errors import WeightSpaceError
from wslax.merge.files.references import Model, read_json

FILE = "tokenizer.json"
SLOW = ("vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "tokenizer.model",
        "spiece.model", "sentencepiece.bpe.model")  # fmt: skip


class Tokens(NamedTuple):
    """A tokenizer.

    Attributes:
      path: its `tokenizer.json`.
      content: what stands there.
      ids: token to id, added tokens included.
    """

    path: pathlib.Path
    content: dict[str, Any]
    ids: dict[str, int]


def read_tokens(folder: pathlib.Path) -> Tokens | None:
    """Read a folder's `tokenizer.json`; None where there is none.

    Raises:
      WeightSpaceError: if the file is not what the `tokenizers` library writes.

    Example:
        >>> read_tokens(pathlib.Path("no-such-folder"))
    """
    path = folder / FILE
    content = read_json(path)
    if not content:
        return None
    try:
        vocab = content["model"]["vocab"]
        if isinstance(vocab, list):  # Unigram: [token, score] by id
            ids = {token: i for i, (token, _) in enumerate(vocab)}
        else:
            ids = dict(vocab)
        ids |= {entry["content"]: entry["id"] for entry in content.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError) as error:
        raise WeightSpaceError(f"{path}: has no vocabulary of tokens and ids") from error
    for token, i in ids.items():
        if not isinstance(token, str) or type(i) is not int or not 0 <= i < 2**31:
            raise WeightSpaceError(f"{path}: {token!r} has the id {i!r}")
    if len(set(ids.values())) != len(ids):
        raise WeightSpaceError(f"{path}: two tokens have one id")
    return Tokens(path, content, ids)


def tokens_of(model: Model, like: Tokens | None, rows: int) -> Tokens:
    """A model's tokenizer; where it has none, the base's if the vocabularies are of one size.

    Args:
      model: the model.
      like: the base's tokenizer, or None for the base itself.
      rows: the model's vocabulary size.
    """
    found = read_tokens(model.folder) if model.folder is not None else None
    if found is not None:
        return found
    slow = [n for n in SLOW if model.folder is not None and (model.folder / n).exists()]
    if like is not None and not slow and max(like.ids.values()) < rows:
        return like
    raise WeightSpaceError(
        f"{model.reference}: has no {FILE} beside its weights; save it with transformers' "
        "tokenizer.save_pretrained"
    )


def vocabulary_size(model: Model) -> int:
    """How many rows a model's vocabulary has, as its config says."""
    config = model.config
    text = config.get("text_config")
    for place in (config, text if isinstance(text, Mapping) else {}):
        size = place.get("vocab_size")
        if type(size) is int and size > 0:
            return size
    raise WeightSpaceError(
        f"{model.reference}: its config.json says no vocab_size, so the rows that belong to tokens "
        "are not known"
    )


def stripped(tokens: Tokens, rows: int) -> Tokens:
    """Without tokens that have no row in the model, and without merges that need them."""
    unused = {token for token, i in tokens.ids.items() if i >= rows}
    if not unused:
        return tokens
    content = copy.deepcopy(tokens.content)
    if content["model"].get("type") != "BPE":
        raise WeightSpaceError(
            f"{tokens.path}: {len(unused)} tokens lie beyond the model's {rows} rows, and only a "
            "BPE tokenizer can do without some of its tokens"
        )
    content["model"]["vocab"] = {
        token: i for token, i in content["model"]["vocab"].items() if token not in unused
    }
    content["model"]["merges"] = [
        merge
        for merge in content["model"].get("merges", [])
        if not unused & set(merge.split(" ") if isinstance(merge, str) else merge)
    ]
    content["added_tokens"] = [e for e in content.get("added_tokens") or () if e["id"] < rows]
    kept = {token: i for token, i in tokens.ids.items() if token not in unused}
    return Tokens(tokens.path, content, kept)


def add(tokens: Tokens, entries: Sequence[Mapping[str, Any]]) -> Tokens:
    """Add tokens with the next free ids; one that is known becomes an added token at its id.

    Args:
      tokens: a tokenizer; it is not changed.
      entries: as in `added_tokens`, where `content` is enough.

    Returns:
      The longer tokenizer.

    Example:
        >>> content = {"model": {"vocab": {"a": 0}}, "added_tokens": []}
        >>> add(Tokens(pathlib.Path("t"), content, {"a": 0}), [{"content": "b"}]).ids
        {'a': 0, 'b': 1}
    """
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "special": False}
    content, ids = copy.deepcopy(tokens.content), dict(tokens.ids)
    added = content.setdefault("added_tokens", [])
    known = {entry["content"] for entry in added}
    last = max(ids.values(), default=-1)
    for entry in entries:
        token = entry["content"]
        if token in known:
            continue
        if token not in ids:
            last += 1
            ids[token] = last
        special = bool(entry.get("special"))
        added.append({**plain, "normalized": not special, **entry, "id": ids[token]})
        known.add(token)
    added.sort(key=lambda entry: entry["id"])
    return Tokens(tokens.path, content, ids)


def union(base: Tokens, others: Sequence[tuple[Tokens, int]]) -> Tokens:
    """The base's tokens with their ids, then those of the others that it lacks.

    Args:
      base: its ids stay.
      others: each tokenizer with the rows of its model; tokens beyond these are left out.

    Returns:
      The union: new plain tokens in the order of models and ids, then new added tokens.
    """
    plain: dict[str, Any] = {}
    marked: dict[str, Any] = {}
    entries = [(base, 2**31), *others]
    for tokens, rows in entries:
        own = {e["content"]: e for e in tokens.content.get("added_tokens") or ()}
        for token, i in sorted(tokens.ids.items(), key=lambda pair: pair[1]):
            if i < rows:
                (marked if token in own else plain).setdefault(token, own.get(token))
    fresh = [{"content": t} for t in plain if t not in marked and t not in base.ids]
    return add(
        base, [*fresh, *({k: v for k, v in e.items() if k != "id"} for e in marked.values())]
    )
