"""Sentences of nouns and adjectives, and what is to follow them."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np

MASKED = 3
COMMON = 20  # words of each kind in the head, and in the tail


class Vocabulary(NamedTuple):
    """Nouns `0 ... kind - 1`, commonest first, as many adjectives, copula and mask, unseen words.

    Every `ambiguous`-th noun and adjective is half of the time one of the other kind's ambiguous
    words.
    """

    kind: int
    unseen: int
    exponent: float
    ambiguous: int

    @property
    def first_unseen(self) -> int:
        """The first of the words that training never has."""
        return 2 * self.kind + 2

    @property
    def size(self) -> int:
        """Of all together."""
        return self.first_unseen + self.unseen


def _common(key: Any, of: Vocabulary, count: int, every: int = 1) -> Any:
    """Ranks by Zipf's law among each `every`-th."""
    rank = jnp.arange(every - 1, of.kind, every)
    return jr.choice(key, rank, (count,), p=(rank + 1.0) ** -of.exponent)


def pair(key: Any, of: Vocabulary, count: int, words: str = "seen") -> tuple[Any, Any]:
    """So many adjectives and nouns, `"seen"`, `"head"`, `"tail"` or `"unseen"`."""
    keys = jr.split(key, 2)
    if words == "unseen":
        half = of.unseen // 2
        one, other = (jr.randint(key, (count,), 0, half) for key in keys)
        return of.first_unseen + one, of.first_unseen + half + other
    if words != "seen":
        start = 0 if words == "head" else of.kind - COMMON
        rank = np.arange(start, start + COMMON)
        plain = jnp.asarray(rank[(rank + 1) % of.ambiguous != 0])
        adjective, noun = (plain[jr.randint(key, (count,), 0, len(plain))] for key in keys)
        return adjective + of.kind, noun
    found = []
    for key, mine in zip(keys, (of.kind, 0), strict=True):
        rank = _common(jr.fold_in(key, 0), of, count)
        other = _common(jr.fold_in(key, 1), of, count, of.ambiguous) + of.kind - mine
        turned = ((rank + 1) % of.ambiguous == 0) & jr.bernoulli(jr.fold_in(key, 2), 0.5, (count,))
        found.append(jnp.where(turned, other, rank + mine))
    return found[0], found[1]


def batch(
    key: Any, of: Vocabulary, count: int, words: str = "seen", swap: bool = False
) -> tuple[Any, Any, Any]:
    """Tokens `[count, 7]`, and the answers `[count, 3]` by context and by heart.

    Swapped, adjectives stand in the nouns' places and nouns in the adjectives': by context the
    first word is what its place says, by heart what it is.
    """
    adjective, noun = pair(jr.fold_in(key, 0), of, count, words)
    if swap:
        adjective, noun = noun, adjective
    copula, mask = (jnp.full(count, 2 * of.kind + i) for i in (0, 1))
    before, asked = (jr.bernoulli(jr.fold_in(key, i), 0.5, (count, 1)) for i in (1, 2))
    start = jnp.where(
        before, jnp.stack([copula, adjective, noun], 1), jnp.stack([noun, copula, adjective], 1)
    )
    query = jnp.where(asked[:, 0], adjective, noun)
    other = jnp.where(asked[:, 0], noun, adjective)
    tokens = jnp.concatenate([start, jnp.stack([query, mask, mask, mask], 1)], 1)
    alone, after = jnp.stack([query] * 3, 1), jnp.stack([other, query, query], 1)
    context = jnp.where(asked, alone, after)
    return tokens, context, jnp.where(asked, after, alone) if swap else context
