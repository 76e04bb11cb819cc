"""MiniLM, whose embeddings are to tell praise and still to rank other sentences as before."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wslax as ws
from benchmarks.papers.data import shakespeare, sst2
from benchmarks.papers.lift.tuning import Case, Given, Rates
from benchmarks.papers.minilm import below, features, is_upper, load
from benchmarks.papers.minilm.tasks import checkpoint

LENGTH = 16  # tokens, none cut off
EXAMPLES, POOL, VALIDATION, TEST = 300, 1500, 150, 400  # sentences of praise, or not
LINES = (80, 100)  # of Shakespeare, for validation and test
WORDS = 6  # of a line, at least
LABELS, SCALE = ["bad", "good"], 20.0


def encoder(params: Any) -> Any:
    """Matrices `[in, out]` as the checkpoint has them, `[out, in]`; and back."""
    return jax.tree.map(jnp.transpose, params)


def embeddings(params: Any, x: Any, mask: Any) -> Any:
    """Of unit length, `[n, width]`, from what the lower layers give."""
    found = features(encoder(params), x, mask)
    return found / jnp.linalg.norm(found, axis=-1, keepdims=True)


def told(params: Any, fixed: Any, x: Any, mask: Any) -> Any:
    """Logits, by the cosines to the labels' own embeddings, `fixed`."""
    return SCALE * embeddings(params, x, mask) @ fixed.T


def loss(params: Any, fixed: Any, batch: Any) -> Any:
    *sentences, y = batch
    return ws.nets.cross_entropy(told(params, fixed, *sentences), y)


def ranks(x: Any) -> Any:
    """Of the cosines of all pairs."""
    pairs = (x @ x.T)[np.triu_indices(len(x), 1)]
    return jnp.argsort(jnp.argsort(pairs)).astype(jnp.float32)


def judge(params: Any, fixed: Any, held: Any) -> Any:
    """Accuracy, and the rank correlation of similarities with those of the base."""
    found = []
    for (*praise, y), (*others, before) in held:
        right = ws.nets.accuracy(told(params, fixed, *praise), y)
        now = ranks(embeddings(params, *others))
        found += [right, jnp.corrcoef(now, before)[0, 1]]
    return jnp.stack(found)


def tokenised(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids and masks of those with at most `LENGTH` tokens, and which they are."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    coded = [row.ids for row in tokenizer.encode_batch(texts)]
    fit = [i for i, row in enumerate(coded) if len(row) <= LENGTH]
    lengths = np.array([len(coded[i]) for i in fit])
    ids = np.array([np.pad(coded[i], (0, LENGTH - len(coded[i]))) for i in fit], np.int32)
    return ids, np.arange(LENGTH)[None] < lengths[:, None], np.array(fit)


def case() -> Case:
    where = ("encoder.*.self.*.weight", "encoder.*.dense.weight")
    return Case(
        "sentences", loss, judge, where=where, rank=32, lora_rank=13, batch=16,
        checks=(8, 16, 32), pulls=(1e-1, 1.0),
        rates=Rates((3e-5, 1e-4, 3e-4), (1e-3, 3e-3, 1e-2), (3e-4, 1e-3, 3e-3)),
    )  # fmt: skip


def praise(base: Any, part: str, count: int) -> tuple[Any, Any, Any]:
    """Hidden states, masks and labels of the first of a part of SST-2."""
    texts, y = sst2(part)
    ids, mask, fit = (x[:count] for x in tokenised(texts))
    return below(base, ids, mask), mask, y[fit]


def others(base: Any, upper: Any) -> list[tuple[Any, Any, Any]]:
    """Hidden states and masks of Shakespeare's lines, and ranks of their pairs, in two parts."""
    lines = sorted({line for line in shakespeare().splitlines() if len(line.split()) >= WORDS})
    lines = np.random.default_rng(0).permutation(lines)[: 2 * sum(LINES)].tolist()
    ids, mask, _ = tokenised(lines)
    first, last = LINES[0], sum(LINES)
    parts = [(ids[:first], mask[:first]), (ids[first:last], mask[first:last])]
    found = [(below(base, *part), part[1]) for part in parts]
    return [(*part, ranks(embeddings(upper, *part))) for part in found]


def given(seeds: int) -> Given:
    whole = load(checkpoint())
    upper = encoder({name: x for name, x in whole.items() if is_upper(name)})
    pool = praise(whole, "train", POOL)
    orders = [np.random.default_rng(seed).permutation(len(pool[0])) for seed in range(seeds)]
    rows = np.stack(orders)[:, :EXAMPLES]
    train = tuple(jnp.asarray(x)[rows] for x in pool)
    ids, mask, _ = tokenised(LABELS)
    fixed = embeddings(upper, below(whole, ids, mask), mask)
    tests = praise(whole, "dev", VALIDATION), praise(whole, "test", TEST)
    held = tuple(zip(tests, others(whole, upper), strict=True))
    return Given(upper, fixed, train, held)
