"""Which tensors of two models are the same one: prefixes that differ, heads that are tied."""

import re
from collections.abc import Collection, Mapping, Sequence

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.merge.files.layers import address_of
from wslax.merge.files.parts import Part
from wslax.merge.files.references import Model

_TOKENS = re.compile(
    r"(^|[._])(embed_tokens|wte|word_embeddings?|tok_embeddings|embed_in|shared)\b"
    r"|(^|\.)embeddings\.weight$"
)
_HEAD = re.compile(r"(^|[._])(lm_head|embed_out|predictions)\b|^output\.(weight|bias)$")


def is_vocabulary(name: str) -> bool:
    """Whether a tensor's rows are tokens, by its name: an embedding of tokens, a head, its bias.

    Example:
        >>> names = ("model.embed_tokens.weight", "lm_head.weight", "wpe.weight", "norm.weight")
        >>> [is_vocabulary(name) for name in names]
        [True, True, False, False]
    """
    lower = name.lower()
    if "norm" in lower or ".dense." in lower or "transform" in lower.rpartition("predictions")[2]:
        return False
    return bool(_TOKENS.search(name) or _HEAD.search(name))


def is_embedding(name: str) -> bool:
    """Whether a tensor outside the layers stands before them, by its name.

    Example:
        >>> [is_embedding(n) for n in ("model.embed_tokens.weight", "transformer.wte", "lm_head.w")]
        [True, True, False]
    """
    marks = ("emb", "wte", "wpe", "rotary", "relative", "patch", "shared.", "conv", "cls_token")
    return any(mark in name for mark in marks)


def _pattern(names: Collection[str], stacks: Collection[str]) -> set[str]:
    """Names with every layer's number replaced, so that depth does not matter."""
    found = set()
    for name in names:
        stack, layer, rest = address_of(name, stacks)
        found.add(name if layer is None else f"{stack}.#.{rest}")
    return found


def prefix_between(
    first: Collection[str], other: Collection[str], stacks: Collection[str]
) -> tuple[str, str]:
    """What to take off the names of `first` and to put before them, to get those of `other`.

    A model may be stored with its class's prefix (`bert.encoder...`) and another without. Only a
    prefix that makes all names agree counts; otherwise both are `""`.

    Example:
        >>> prefix_between(["bert.h.0.w", "bert.e"], ["h.0.w", "e"], ())
        ('bert.', '')
    """
    a, b = _pattern(first, stacks), _pattern(other, stacks)
    if a == b or not a or not b:
        return "", ""
    one = max(a, key=len)
    for name in b:
        if name.endswith("." + one):
            put = name.removesuffix(one)
            if {put + n for n in a} == b:
                return "", put
        if one.endswith("." + name):
            off = one.removesuffix(name)
            if all(n.startswith(off) for n in a) and {n.removeprefix(off) for n in a} == b:
                return off, ""
    return "", ""


class Spelling(dict[str, str]):
    """How a model spells the donor's names: itself, with a prefix more or less."""

    def __init__(self, off: str, put: str) -> None:
        super().__init__()
        self.off, self.put = off, put

    def __missing__(self, name: str) -> str:
        return self.put + name.removeprefix(self.off)


def tied_head(model: Model, name: str, shape: tuple[int, ...]) -> Part | None:
    """What a head that a model does not store is: the embedding that it is tied to.

    Only where the model's config ties them, and it has one embedding of tokens of that width.
    """
    if len(shape) != 2 or not name.endswith("head.weight"):
        return None
    config = model.config
    text = config.get("text_config")
    tied = config.get("tie_word_embeddings", isinstance(text, Mapping) and text.get(
        "tie_word_embeddings", False))  # fmt: skip
    if tied is not True:
        return None
    found = [
        part
        for other, part in model.parts.items()
        if part.shape[1:] == shape[1:] and len(part.shape) == 2 and _TOKENS.search(other)
    ]
    return found[0] if len(found) == 1 else None


def find(model: Model, name: str, shape: tuple[int, ...]) -> Part | None:
    """A model's tensor of that name, or what a head of that name and shape is tied to."""
    return model.parts.get(name) or tied_head(model, name, shape)


def check_same(
    shapes: Mapping[str, tuple[int, ...]], donor: Model, other: Model, theirs: Sequence[str],
    spelled: Spelling,
) -> None:  # fmt: skip
    """Refuse models that do not have the same tensors.

    Args:
      shapes: the tensors that the other model has to have, as the donor spells them.
      donor: the model whose names count.
      other: the other model.
      theirs: those of the other model that have to be among them.
      spelled: the donor's names as the other model spells them.
    """
    missing = [n for n, shape in shapes.items() if find(other, spelled[n], shape) is None]
    expected = {spelled[name] for name in shapes}
    extra = [name for name in theirs if name not in expected]
    if not missing and not extra:
        return
    lacking, having = (other, donor) if missing else (donor, other)
    found = missing or extra
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    if missing and extra:
        hint = did_you_mean(missing[0], extra)
    else:
        hint = (
            " A tied head is not stored: store it in all models or in none, or keep the "
            "config.json that ties it beside the weights."
            if any("head" in name for name in found)
            else ""
        )
    raise WeightSpaceError(
        f"{lacking.path}: lacks {found[0]!r}{more} that {having.path} has; nothing is dropped "
        f"silently.{hint}"
    )
