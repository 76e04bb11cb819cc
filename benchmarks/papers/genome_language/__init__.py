"""Language experts bred from 200 examples: GENOME as on images, on characters and sentences."""

from typing import Any

from benchmarks.papers.data import SHAKESPEARE, SST2, told_missing
from benchmarks.papers.genome import Case, compared
from benchmarks.papers.genome_language.texts import plays, reviews
from benchmarks.papers.merging.methods import controls
from benchmarks.papers.merging.training import trained
from benchmarks.papers.runner import Outcome
from wslax.errors import WeightSpaceError

TITLE = "Language experts bred from 200 examples"
PAPER = (
    "Zhang et al., GENOME, arXiv:2503.01155; Feng et al., Model Swarms, arXiv:2410.11163, for "
    "comparison"
)
ABOUT = """
As "Experts bred from 200 examples", with the same claims, bounds, models and choices, on language.
Plays of Shakespeare: an MLP of two hidden layers of 128 tells a character from the 12 before it;
the base reads four plays (486,000 characters, 3,000 steps of Adam, 100 windows each), the experts
300 steps of one play each: Coriolanus, Romeo and Juliet, The Winter's Tale and The Taming of the
Shrew, the unseen one is The Tempest. A play goes from the first speech of its lead to the last, its
last two fifths are validation and test part. Reviews of SST-2: an MLP of two hidden layers of 64
tells praise from which of 1,000 words a sentence has; the base reads 3,000 sentences (200 steps of
50), the experts 50 steps of one kind each: with a word of contrast, else with a negation, else of
fewer than 16 words, else longer. The unseen condition is every other word left out, of all kinds.
Fitness is the accuracy on 200 validation examples, 50 of each task: windows with one character to
tell, or sentences. Figures are accuracies. Trials were on seeds 98 and 99, not among the recorded:
1,000 to 4,000 steps of the plays' base, beside them a transformer of width 32, which had the same
loss after 4,000 steps and took ten times as long, both before any merge was made; all other
settings are the first tried. The paper's members are LoRA adapters of one Gemma-2-2b; here all
weights of small nets trained from nothing are crossed. A base has read more than an expert, and is
in the second table.
"""
KEPT = ("base", "experts, each on its own task", "ensemble of the experts")


def without_merging(cases: list[Case], seeds: int) -> list[dict[str, Any]]:
    """Controls of every seed: no merge, or not one model."""
    found = {
        one.whole.name: [controls(one.few, trained(one.whole, seed)) for seed in range(seeds)]
        for one in cases
    }
    mean = lambda rows, name: [float(row[name].mean()) for row in rows]
    return [{"model": n, **{data: mean(rows, n) for data, rows in found.items()}} for n in KEPT]


def measure(seeds: int) -> Outcome:
    characters, sentences = plays(), reviews()
    missing = told_missing(characters, SHAKESPEARE) + told_missing(sentences, SST2)
    cases = [one for one in (characters, sentences) if one is not None]
    if not cases:
        raise WeightSpaceError("genome_language: nothing can be run: " + "; ".join(missing))
    outcome = compared(cases, seeds, missing)
    tables = {**outcome.tables, "Without merging": without_merging(cases, seeds)}
    return outcome._replace(tables=tables)
