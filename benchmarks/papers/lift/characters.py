"""A transformer of Shakespeare's characters that is to learn those of reviews."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.data import shakespeare, sst2
from benchmarks.papers.lift.tuning import Case, Given, Rates

WIDTH, DEPTH, HEADS, LENGTH = 144, 4, 6, 64
STEPS, BATCH, RATE = 1000, 32, 3e-3
EXAMPLES, VALIDATION, TEST = 400, 32, 64  # windows
Texts = dict[str, np.ndarray]


def shapes(characters: int) -> dict[str, tuple[int, ...]]:
    square = dict.fromkeys(("query", "key", "value", "out"), (WIDTH, WIDTH))
    block = {**square, "up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    blocks = {f"block_{i}/{name}": shape for i in range(DEPTH) for name, shape in block.items()}
    ends = {"embed": (characters, WIDTH), "position": (LENGTH, WIDTH), "head": (WIDTH, characters)}
    return {**blocks, **ends, "norms": (2 * DEPTH + 1, WIDTH)}


def init(characters: int, key: Any) -> dict[str, Any]:
    """Gaussian matrices, of variance one over their rows, and norms of ones."""
    every = shapes(characters)
    cuts = np.cumsum([rows * columns for rows, columns in every.values()])
    parts = jnp.split(jr.normal(key, (cuts[-1],)), cuts[:-1])  # one draw compiles far faster
    drawn = {
        name: part.reshape(shape) * shape[0] ** -0.5
        for part, (name, shape) in zip(parts, every.items(), strict=True)
    }
    return drawn | {"norms": jnp.ones(every["norms"])}


def normed(x: Any, scale: Any) -> Any:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale[None, None]


def logits(params: Any, x: Any) -> Any:
    """Of the character after each of `[B, LENGTH]`, by pre-normalised blocks."""
    h = params["embed"][x] + params["position"][None]
    for i in range(DEPTH):
        at = lambda name, i=i: params[f"block_{i}/{name}"]
        inside = normed(h, params["norms"][2 * i])
        split = [
            (inside @ at(name)).reshape(*h.shape[:2], HEADS, -1)
            for name in ("query", "key", "value")
        ]
        mixed = jax.nn.dot_product_attention(*split, is_causal=True)
        h = h + mixed.reshape(h.shape) @ at("out")
        inside = normed(h, params["norms"][2 * i + 1])
        h = h + jax.nn.relu(inside @ at("up")) @ at("down")
    return normed(h, params["norms"][-1]) @ params["head"]


def loss(params: Any, fixed: None, windows: Any) -> Any:
    return ws.nets.cross_entropy(logits(params, windows[:, :-1]), windows[:, 1:])


def accuracy(params: Any, windows: Any) -> Any:
    return ws.nets.accuracy(logits(params, windows[:, :-1]), windows[:, 1:])


def judge(params: Any, fixed: None, held: Any) -> Any:
    return jnp.stack([accuracy(params, windows) for windows in held])


@jax.jit
def pretrained(key: Any, text: Any, first: Any) -> Any:
    """The base, after `STEPS` of Adam on windows drawn at random."""
    rule = optax.adam(optax.warmup_cosine_decay_schedule(0.0, RATE, STEPS // 10, STEPS))

    def turn(step: Any, carry: Any) -> Any:
        params, state = carry
        starts = jr.randint(jr.fold_in(key, step), (BATCH, 1), 0, len(text) - LENGTH)
        windows = text[starts + jnp.arange(LENGTH + 1)[None]]
        change, state = rule.update(jax.grad(loss)(params, None, windows), state)
        return optax.apply_updates(params, change), state

    return jax.lax.fori_loop(0, STEPS, turn, (first, rule.init(first)))[0]


def windows(codes: np.ndarray, count: int) -> np.ndarray:
    """So many from the beginning, one after the other, `[count, LENGTH + 1]`."""
    return codes[: count * (LENGTH + 1)].reshape(count, LENGTH + 1)


def reviews(known: str, seeds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Windows `[seeds, n, ...]` of training sentences in random order, of dev and of test."""
    parts = [sst2(part) for part in ("train", "dev", "test")]
    if None in parts:
        return None
    there = set(known)
    coded = lambda texts: np.searchsorted(
        list(known), [c for c in "\n".join(texts) if c in there]
    ).astype(np.int32)
    train, dev, test = (texts for texts, _ in parts)
    orders = [np.random.default_rng(seed).permutation(len(train)) for seed in range(seeds)]
    own = [windows(coded([train[i] for i in order[:EXAMPLES]]), EXAMPLES) for order in orders]
    return np.stack(own), windows(coded(dev), VALIDATION), windows(coded(test), TEST)


def case() -> Case:
    return Case(
        "characters", loss, judge, where=("block_*",), rank=16, lora_rank=5, batch=8,
        checks=(6, 12, 24, 48), pulls=(1e-1, 1.0),
        rates=Rates((3e-5, 1e-4, 3e-4), (3e-4, 1e-3, 3e-3), (3e-4, 1e-3, 3e-3)),
    )  # fmt: skip


def given(seeds: int) -> Given | None:
    """The base and both texts; None if one is missing."""
    text = shakespeare()
    found = None if text is None else reviews(known := "".join(sorted(set(text))), seeds)
    if found is None:
        return None
    codes = np.searchsorted(list(known), list(text)).astype(np.int32)
    train, *held = np.split(codes, [len(codes) * part // 20 for part in (18, 19)])
    own, dev, test = found
    base = pretrained(jr.key(1), train, init(len(known), jr.key(0)))
    kept = windows(held[0], VALIDATION), windows(held[1], TEST)
    return Given(base, None, jnp.array(own), (dev, kept[0], test, kept[1]))
