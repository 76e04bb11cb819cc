"""Embeddings that are forgotten: what a small transformer learns in context and what in weights."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.forgetting.words import MASKED, Vocabulary, batch
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import forgetting

TITLE = "Embeddings that are forgotten for a while"
PAPER = "Anand et al., Dual process learning, arXiv:2406.00053; Chen et al., arXiv:2307.01163"
ABOUT = """
The paper's task: *copula adjective noun* or *noun copula adjective*, then one of the two words
again and three masks. An adjective is to be followed by itself three times, a noun by the adjective
and twice by itself. What a word is can be learnt by heart, or be read off the first three places.
200 nouns and 200 adjectives by Zipf's law (exponent 1.2), of which every tenth is now and then of
the other kind; a causal transformer of two blocks of width 32 with a tied head, 4,000 steps of 64
with AdamW at 1e-3 and decay 0.01, counting steps by weight (`wslax.grow.scale_by_adam`). *Active*
draws all embeddings anew every 100 steps (`wslax.contrib.forgetting`), *temporary* does so until
step 1,500. Words are *unseen* if their embeddings, as drawn at first, never trained: only the
context tells what they are. On *swapped* words nouns are in the adjectives' places and adjectives
in the nouns', and an answer can be the one by context or the one by heart; the head is the 20
commonest words of each kind, the tail the 20 rarest, none of them ambiguous. An answer is right if
all three words are. Everything is measured 20 times in training, before embeddings are drawn anew.
"""
WORDS = Vocabulary(kind=200, unseen=40, exponent=1.2, ambiguous=10)
STEPS, CHECKS, BATCH, TESTED = 4000, 20, 64, 500
ARMS = {"vanilla": (100, 0), "active": (100, STEPS + 1), "temporary": (100, 1500)}  # k and N
NET = ws.nets.transformer(WORDS.size, 7, width=32, heads=2, depth=2)
PLACES = ("head", "unseen", "swapped head, in context", "swapped head, by heart",
          "swapped tail, in context", "swapped tail, by heart")  # fmt: skip
RULE = optax.chain(
    ws.grow.scale_by_adam(), optax.add_decayed_weights(0.01), optax.scale_by_learning_rate(1e-3)
)


def answers(params: Any, tokens: Any) -> Any:
    """Logits of the three masked places."""
    return NET.apply(params, tokens)[:, -MASKED:]


def share(params: Any, tokens: Any, wanted: Any) -> Any:
    """How often all three words are the wanted ones."""
    return jnp.mean(jnp.all(jnp.argmax(answers(params, tokens), -1) == wanted, -1))


def tested(key: Any, params: Any, first: Any) -> Any:
    """Shares at the six `PLACES`."""
    unseen = jnp.arange(WORDS.size)[:, None] >= WORDS.first_unseen
    table = params["embedding"]["embedding"]
    blank = jnp.where(unseen, first["embedding"]["embedding"], table)
    fresh = params | {"embedding": {"embedding": blank}}
    of = lambda i, words, swap=False: batch(jr.fold_in(key, i), WORDS, TESTED, words, swap)
    tokens, context, _ = of(0, "head")
    found = [share(params, tokens, context)]
    tokens, context, _ = of(1, "unseen")
    found.append(share(fresh, tokens, context))
    for i, words in ((2, "head"), (3, "tail")):
        tokens, context, heart = of(i, words, True)
        found += [share(params, tokens, context), share(params, tokens, heart)]
    return jnp.stack(found)


@functools.partial(jax.jit, static_argnames=("steps", "checks"))
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None))
def trained(key: Any, every: Any, until: Any, steps: int, checks: int) -> Any:
    """`[checks, places]` along training."""
    first = NET.init(jr.fold_in(key, 0))

    def turn(carry: Any, step: Any) -> tuple[Any, None]:
        params, state = forgetting.periodic(
            *carry, jr.fold_in(key, 1), step,
            init=NET.init, where="embedding/*", every=every, until=until,
        )  # fmt: skip
        tokens, wanted, _ = batch(jr.fold_in(jr.fold_in(key, 2), step), WORDS, BATCH)
        loss = lambda p: ws.nets.cross_entropy(answers(p, tokens), wanted)
        change, state = RULE.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, change), state), None

    def check(carry: Any, at: Any) -> tuple[Any, Any]:
        carry, _ = jax.lax.scan(turn, carry, at)
        return carry, tested(jr.fold_in(jr.fold_in(key, 3), at[0]), carry[0], first)

    at = jnp.arange(steps).reshape(checks, -1)
    return jax.lax.scan(check, (first, RULE.init(first)), at)[1]


def measured(seeds: int, steps: int = STEPS, checks: int = CHECKS) -> dict[str, np.ndarray]:
    """By arm `[seeds, checks, places]`."""
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    return {
        name: np.asarray(trained(keys, *schedule, steps, checks)) for name, schedule in ARMS.items()
    }


def claims(found: dict[str, np.ndarray]) -> list[Claim]:
    at = lambda place: {name: x[:, :, PLACES.index(place)] for name, x in found.items()}
    unseen, heart = at("unseen"), at("swapped head, by heart")
    less = lambda of, one, other: (of[one][:, -1] - of[other][:, -1]).tolist()
    keeps = "forgetting keeps structural in-context learning"
    both = "temporary forgetting keeps both"
    return [
        Claim(
            "structural in-context learning is transient",
            "vanilla: highest accuracy on unseen words less that at the end",
            (unseen["vanilla"].max(1) - unseen["vanilla"][:, -1]).tolist(), "> 0.2",
        ),
        Claim(
            keeps, "active: accuracy on unseen words at the end",
            unseen["active"][:, -1].tolist(), "> 0.8",
        ),
        Claim(
            keeps, "accuracy on unseen words at the end of active less that of vanilla",
            less(unseen, "active", "vanilla"), "> 0.2",
        ),
        Claim(
            "active forgetting removes what is known by heart",
            "swapped head, answers by heart of active less those of vanilla",
            less(heart, "active", "vanilla"), "< -0.2",
        ),
        Claim(
            both, "accuracy on unseen words at the end of temporary less that of vanilla",
            less(unseen, "temporary", "vanilla"), "> 0.2",
        ),
        Claim(
            both, "swapped head, answers by heart of temporary less those of active",
            less(heart, "temporary", "active"), "> 0.2",
        ),
    ]  # fmt: skip


def measure(seeds: int) -> Outcome:
    found = measured(seeds)
    rows = lambda check: [
        {"run": name} | {place: x[:, check, i].tolist() for i, place in enumerate(PLACES)}
        for name, x in found.items()
    ]
    tables = {
        f"Accuracy after {(check + 1) * STEPS // CHECKS:,} steps": rows(check)
        for check in (1, CHECKS // 4, CHECKS // 2, CHECKS - 1)
    }
    return Outcome(claims(found), tables)
