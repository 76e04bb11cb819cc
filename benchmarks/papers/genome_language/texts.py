"""Families of language tasks: the next character of plays, and the praise in kinds of sentences."""

import collections
from collections.abc import Sequence

import jax
import numpy as np

import wslax as ws
from benchmarks.papers.data import shakespeare, sst2
from benchmarks.papers.genome import Case, case
from benchmarks.papers.merging.families import Family, Part

EARLIER = ("BUCKINGHAM", "KING RICHARD II", "WARWICK", "DUKE VINCENTIO")  # plays by their leads
LEADS, LATER = ("MENENIUS", "ROMEO", "LEONTES", "PETRUCHIO"), "PROSPERO"
CONTEXT = 12  # characters
WORDS, FIRST, SHORT = 1000, 3000, 16  # known; sentences of the base; words in a short sentence
CONTRAST = {"but", "though", "although", "yet", "however", "despite", "while", "instead"}
NEGATION = {"not", "n't", "no", "never", "nothing", "neither", "nor", "without", "hardly", "none"}


def span(text: str, lead: str) -> tuple[int, int]:
    """From the first speech of a play's lead to the last."""
    heading = f"\n{lead}:\n"
    return text.index(heading), text.rindex(heading)


def windows(codes: np.ndarray, step: int = 1) -> Part:
    """Contexts, and the character after each."""
    found = np.lib.stride_tricks.sliding_window_view(codes, CONTEXT + 1)[::step]
    return found[:, :-1], found[:, -1]


def even(parts: Sequence[Part]) -> Part:
    """As many examples of every task as the task with fewest has, in random order."""
    count = min(len(y) for _, y in parts)
    rows = [np.random.default_rng(0).permutation(len(y))[:count] for _, y in parts]
    pick = lambda side: np.stack([part[side][r] for part, r in zip(parts, rows, strict=True)])
    return pick(0), pick(1)


def plays() -> Case | None:
    """Nine plays: four are the base's, four have experts, and one has none."""
    text = shakespeare()
    if text is None:
        return None
    known = sorted(set(text))
    codes = np.searchsorted(known, list(text)).astype(np.int32)
    play = lambda lead: codes[slice(*span(text, lead))]
    size = len(known)
    inner = ws.nets.mlp(CONTEXT * size, (128, 128), size)
    net = ws.nets.Net(inner.init, lambda params, x: inner.apply(params, jax.nn.one_hot(x, size)))
    cut = [np.split(one, [len(one) * 6 // 10, len(one) * 8 // 10]) for one in map(play, LEADS)]
    train, validation, test = zip(*cut, strict=True)
    x, y = zip(*(windows(play(lead)) for lead in EARLIER), strict=True)
    whole = Family(
        "plays", net, (np.concatenate(x), np.concatenate(y)), even([*map(windows, train)]),
        *(even([windows(one, CONTEXT) for one in part]) for part in (validation, test)),
        before=3000, steps=300, batch=100,
    )  # fmt: skip
    return case(whole, windows(play(LATER), CONTEXT))


def kind(words: Sequence[str]) -> int:
    """With a contrast; else with a negation; else short; else long."""
    there = set(words)
    return 0 if there & CONTRAST else 1 if there & NEGATION else 2 if len(words) < SHORT else 3


def bags(sentences: Sequence[Sequence[str]], known: Sequence[str]) -> np.ndarray:
    """Which known words each sentence has, `[n, words]`."""
    return np.array([[w in there for w in known] for there in map(set, sentences)], np.float32)


def kinds(sentences: Sequence[Sequence[str]], y: np.ndarray, known: Sequence[str]) -> Part:
    """Sentences of every kind."""
    of, x = np.array([*map(kind, sentences)]), bags(sentences, known)
    return even([(x[of == i], y[of == i]) for i in range(4)])


def reviews() -> Case | None:
    """Sentences of SST-2 as bags of words; a half of the words is what no expert has seen."""
    found = [sst2(part) for part in ("train", "dev", "test")]
    if None in found:
        return None
    parts = [([text.split() for text in texts], y) for texts, y in found]
    train, y = parts[0]
    counts = collections.Counter(word for words in train[:FIRST] for word in words)
    known = [word for word, _ in counts.most_common(WORDS)]
    later = ((train[FIRST:], y[FIRST:]), *parts[1:])
    whole = Family(
        "reviews", ws.nets.mlp(WORDS, (64, 64), 2), (bags(train[:FIRST], known), y[:FIRST]),
        *(kinds(*part, known) for part in later), before=200, steps=50, batch=50,
    )  # fmt: skip
    sentences, praise = parts[2]
    return case(whole, (bags([words[::2] for words in sentences], known), praise))
