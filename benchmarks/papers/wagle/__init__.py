"""Which weights to train so that something is forgotten and the rest stays."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.papers.runner import Claim, Outcome
from benchmarks.papers.wagle.unlearning import MUS, OTHERS, RATES, Found, measured
from wslax.recipes.tour.adapting import kept_at

TITLE = "Which weights forget"
PAPER = "Jia et al., WAGLE, arXiv:2410.17509"
ABOUT = """
An MLP of two hidden layers of 64 has learned 3,000 digits of MNIST (1,000 steps of 64, Adam at
1e-3). It is to forget a digit, another one for each seed, or 300 images drawn at random: for 60
steps Adam raises the loss on 64 images of what is to be forgotten and lowers that on 64 others.
What trains is all weights, or those of highest score among all together, 10, 40 or 80%; the updates
are masked. Scores are WAGLE's with the Hessian of its scripts (1e-6 for gradients that are summed
over batches, here of 32), the weight's size, the forget gradient's, its product with the retain
gradient, or none (random). Each way has seven rates from 1e-5 to 1e-2, a line from what was to what
is left: *forgotten* is the error on the images that were to be forgotten, *kept* the test accuracy,
for a digit on the others. Ways are compared at equal forgetting: the kept accuracy, along the line,
where 90% is forgotten of what every way reaches in that seed, or of what a net from scratch forgets
that never saw those images, if that is less. Each score has the density with the highest kept
validation accuracy, in the mean over seeds.
"""
PROBLEMS = ("a digit", "random images")
SHARE = 0.9
OURS = "WAGLE"


def levels(lines: Mapping[Any, np.ndarray], again: np.ndarray) -> np.ndarray:
    """How much is to be forgotten, of each seed.

    Args:
      lines: `[1 + rates, seeds, ...]` with what is forgotten first, and first the start.
      again: what the net from scratch forgets, `[seeds]`.
    """
    most = np.min([line[..., 0].max(0) for line in lines.values()], axis=0)
    start = next(iter(lines.values()))[0, :, 0]
    return start + SHARE * np.maximum(np.minimum(most, again) - start, 0)


def kept(line: np.ndarray, at: np.ndarray, column: int) -> list[float]:
    """What each seed keeps at its level."""
    return [kept_at(line[:, i][:, [0, column]], float(level)) for i, level in enumerate(at)]


def equal(found: Found) -> dict[str, tuple[str, list[float], list[float]]]:
    """By way its density, and what it keeps on test data and of the other training images."""
    at = levels(found.lines, found.again[:, 0])
    best: dict[str, Any] = {}
    for (name, density), line in found.lines.items():
        value = np.mean(kept(line, at, 1))
        if name not in best or value > best[name][0]:
            best[name] = value, density, kept(line, at, 2), kept(line, at, 3)
    return {name: (f"{100 * row[1]:.0f}%", *row[2:]) for name, row in best.items()}


def claims(problem: str, by: Mapping[str, Any], alike: np.ndarray) -> list[Claim]:
    ours = np.array(by[OURS][1])
    gaps = [
        Claim(
            "it forgets as much and keeps more",
            f"{problem}: accuracy kept by {OURS} less that by {name}, at equal forgetting",
            (ours - np.array(by[name][1])).tolist(), "> 0",
        )
        for name in by if name != OURS
    ]  # fmt: skip
    what = f"{problem}: rank correlation of its score with the two gradients' product"
    return [*gaps, Claim("the score weighs the weight itself", what, alike.tolist(), "< 0.9")]


def measure(seeds: int) -> Outcome:
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    for problem in PROBLEMS:
        found = measured(problem == PROBLEMS[0], seeds)
        by = equal(found)
        told += claims(problem, by, found.alike[0, 0])
        again = {
            "way": "from scratch without it",
            "density": "",
            "kept": found.again[:, 2].tolist(),
            "other training images": found.again[:, 3].tolist(),
        }
        tables[f"{problem}: accuracy kept at equal forgetting"] = [
            {"way": name, "density": row[0], "kept": row[1], "other training images": row[2]}
            for name, row in by.items()
        ] + [again]
        tables[f"{problem}: what is forgotten, and kept, at every rate"] = [
            {"way": name, "density": f"{100 * density:.0f}%"}
            | {f"{rate:g}": f"{1 - row[0]:.3f}, {row[2]:.3f}"
               for rate, row in zip(RATES, line[1:].mean(1), strict=True)}
            for (name, density), line in found.lines.items()
        ]  # fmt: skip
        tables[f"{problem}: rank correlation of WAGLE's score with others"] = [
            {"Hessian": f"{mu:g}"}
            | {name: row.tolist() for name, row in zip(OTHERS, part, strict=True)}
            for mu, part in zip(MUS, found.alike, strict=True)
        ]
    return Outcome(told, tables)
