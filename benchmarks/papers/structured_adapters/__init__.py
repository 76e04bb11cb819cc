"""Structured pruning adapters: thin changes that are learned while units are pruned."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.papers.merging.families import Family, available, halved
from benchmarks.papers.runner import Claim, Outcome
from benchmarks.papers.structured_adapters.transfer import (
    ARMS,
    BEFORE,
    EXAMPLES,
    RATES,
    SHARES,
    STEPS,
    Found,
    bases,
    learned,
    tried,
)

TITLE = "Adapters that are pruned with their base"
PAPER = "Hedegaard et al., Structured Pruning Adapters, arXiv:2211.10155"
ABOUT = """
An MLP of two hidden layers of 256 learns 1,500 digits of MNIST (14x14) or 6,000 images of
CIFAR-10-JPEG (8x8), 1,000 steps of 64, Adam at 1e-3. It then learns other images, turned by 90
degrees, from 1,000 examples that each seed draws, while units of the hidden layers go: 60 steps
with all units, then four cuts down to the share that is kept, each by the same factor and each with
60 steps after it, then 60 steps more; 360 steps of Adam on 50, the rate falling to 0 by a cosine.
In each layer the units of lowest Taylor score go, the sum of |weight x gradient| over all that is a
unit's own, of the adapted weights on all 1,000 examples; in a control they go at random. Biases and
the head train in every arm. The two hidden matrices train whole (fine-pruning); as SPLoRA of rank 8
(the authors' start, no scale) or 32; at random places, of which as many lie between kept units as
SPLoRA of rank 8 learns numbers; or not at all. Each arm has for each share its own rate of six from
3e-4 to 1e-1, the one with the highest validation accuracy in the mean over seeds. Lost units are
zeros in a net of full size, which trains as the smaller one does.
"""
OURS, OTHER = "SPLoRA", "fine-pruning"
FEW = (0.3, 0.2, 0.1)


def chosen(found: Found) -> np.ndarray:
    """The rate of each share, by number."""
    return found.validation.mean(1).argmax(0)


def figures(found: Found) -> np.ndarray:
    """Test accuracy at the chosen rates in points, `[shares, seeds]`."""
    return 100 * found.test[chosen(found), :, np.arange(len(SHARES))]


def claims(name: str, found: Mapping[str, Found]) -> list[Claim]:
    by = {arm: dict(zip(SHARES, figures(of), strict=True)) for arm, of in found.items()}

    def less(says: str, other: str, shares: tuple[float, ...], bound: str) -> Claim:
        gap = np.mean([by[OURS][share] - by[other][share] for share in shares], 0)
        kept = " and ".join(f"{100 * share:.0f}%" for share in shares)
        what = f"{name}, {kept} of units kept: accuracy of {OURS} less that of {other}, points"
        return Claim(says, what, gap.tolist(), bound)

    return [
        *(less("many units pruned: it is more accurate", OTHER, (s,), "> 0") for s in FEW),
        *(less("fewer pruned: about as accurate", OTHER, (s,), "> -1") for s in (1.0, 0.5)),
        less("more than a matter of count", "random places", FEW, "> 0"),
        less("units go by a score of the adapted weights", "SPLoRA, random units", FEW, "> 0"),
    ]


def tables(name: str, features: int, found: Mapping[str, Found]) -> dict[str, Any]:
    heads = [f"{100 * share:.0f}%" for share in SHARES]

    def numbers(arm: str, of: Found) -> dict[str, str]:
        cells = [
            f"{learned(arm, features, share):,} at {RATES[rate]:g}"
            for share, rate in zip(SHARES, chosen(of), strict=True)
        ]
        return {"arm": arm} | dict(zip(heads, cells, strict=True))

    return {
        f"{name}: test accuracy by share of units kept, points": [
            {"arm": arm} | dict(zip(heads, figures(of).tolist(), strict=True))
            for arm, of in found.items()
        ],
        f"{name}: numbers learned and kept, and the rate": [
            numbers(arm, of) for arm, of in found.items()
        ],
    }


def flat(part: Any) -> tuple[Any, Any]:
    """Images of half the side as rows."""
    x, y = part
    return jnp.asarray(halved(x).reshape(len(x), -1), jnp.float32), jnp.asarray(y)


def measured(of: Family, seeds: int, before: int = BEFORE, steps: int = STEPS) -> dict[str, Found]:
    """Every arm on the first view of a family."""
    keys = jax.vmap(jr.key)(jnp.arange(seeds))
    based = bases(keys, *flat(of.base), before)
    pool, *held = (flat((x[0], y[0])) for x, y in (of.train, of.validation, of.test))
    rows = jax.vmap(lambda key: jr.permutation(jr.fold_in(key, 6), len(pool[1]))[:EXAMPLES])(keys)
    data = tuple(part[rows] for part in pool)
    run = lambda arm: tried(arm, keys, based, data, held, jnp.array(RATES), steps)
    return {arm: jax.tree.map(np.asarray, run(arm)) for arm in ARMS}


def measure(seeds: int) -> Outcome:
    families, skipped = available()
    told: list[Claim] = []
    shown: dict[str, Any] = {}
    for of in families:
        found = measured(of, seeds)
        told += claims(of.name, found)
        shown |= tables(of.name, flat(of.base)[0].shape[1], found)
    same = "SPPaRA: of a matrix it is fine-pruning from a start within 1e-4 of the base"
    return Outcome(told, shown, [*skipped, same])
