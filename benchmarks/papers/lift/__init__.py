"""When principal weights win: LIFT's masks against others, LoRA and full fine-tuning."""

from collections.abc import Mapping
from typing import Any

from benchmarks.papers.data import SHAKESPEARE, SST2, told_missing
from benchmarks.papers.lift import characters, sentences
from benchmarks.papers.lift.comparing import Best, compared
from benchmarks.papers.lift.tuning import Case, Found, Given, found
from benchmarks.papers.minilm.tasks import missing
from benchmarks.papers.runner import Claim, Outcome
from wslax.errors import WeightSpaceError

TITLE = "When principal weights win"
PAPER = "Liu et al., LIFT, arXiv:2506.00772"
ABOUT = """
*Characters*: a transformer of 1.02 M parameters (four pre-normalised blocks of width 144, six
heads, 64 characters of context) has learned Shakespeare (1,000 steps of 32, Adam, up to 3e-3 after
a warm-up, then a cosine) and learns reviews: SST-2's sentences one after another, without the
characters that Shakespeare lacks. A seed has 400 windows of 65 characters, other sentences for
each, and 48 steps of 8. *Target* and *source* are the accuracies of the next character in held-out
reviews and in held-out Shakespeare, in 64 windows each for test and 32 for validation. *Sentences*:
all-MiniLM-L6-v2, the two upper of its six layers (3.5 M parameters) trained to tell praise: the
logits of an embedding are 20 times its cosines to the base's embeddings of "bad" and "good", which
stay as they are. A seed has 300 of 1,500 sentences of SST-2 of at most 16 tokens, and 32 steps of
16. *Target* is the accuracy on 400 test sentences (150 for validation); *source* the rank
correlation of the cosines of all pairs of 100 lines of Shakespeare (80 for validation, of six words
or more) with those of the base, which is 1 at the start. All seeds share the base, its text and the
held-out data. *Masks* train 5% of each matrix of the blocks, all else is frozen: the principal
weights (LIFT, of the part of rank 16 for characters and 32 for sentences), those of the highest
score (the gradient and its product with the weight are those of a seed's examples together), or
some at random, other ones for each seed. They are chosen once, at the start. LoRA adapts the same
matrices with rank 5 and 13, the nearest count. *Full* trains all weights of the blocks with norms,
biases and, for characters, embeddings and head; *L2 to start* adds half of 0.1 or of 1 times the
squared distance to the start to its loss. Adam, beta 0.95 for squares as LIFT's authors, constant
rates: 3e-5, 1e-4 or 3e-4 for full, 3e-4, 1e-3 or 3e-3 for LoRA and for masks on characters, 1e-3,
3e-3 or 1e-2 for masks on sentences. A seed has the same batches in all runs. Nets are judged at the
start and after 6, 12, 24 and 48 steps, or 8, 16 and 32, which makes a line of a run. *Target* in
the table is that of the rate and step of highest validation target, *source at equal gain* what a
line keeps, its points joined, where 90% is gained of what that arm gains that gains least at its
best. For the latter an arm has the rate that keeps most so on validation data, in the mean over
seeds; on test data the level is each seed's own. Grids were set after one trial of full, L2,
LIFT, random and LoRA on a seed's examples that is not recorded, with the same held-out data. On
sentences all masks and full keep most at the lowest rate of their grids. Run afterwards with a
lower one (1e-5 for full, 3e-4 for masks; it is not in the tables), gradient and saliency keep more
at it, 0.9923 ± 0.0090 and 0.9962 ± 0.0035, so that nothing below says that LIFT keeps more than
they do; the others keep most at the same rates as below. The paper tunes language models of
billions of parameters with thousands of examples.
"""
OURS = "LIFT"


def claims(case: str, best: Mapping[str, Best]) -> list[Claim]:
    """Two for each other arm."""
    less = lambda a, b: [x - y for x, y in zip(a, b, strict=True)]
    ours = best[OURS]
    return [
        claim
        for name, of in best.items()
        if name != OURS
        for claim in (
            Claim(
                "it learns the target better",
                f"{case}: target at its best of {OURS} less that of {name}",
                less(ours.target, of.target), "> 0",
            ),
            Claim(
                "it keeps more of the source",
                f"{case}: source at equal gain of {OURS} less that of {name}",
                less(ours.kept, of.kept), "> 0",
            ),
        )
    ]  # fmt: skip


def tables(case: Case, arms: Mapping[str, Found], best: Mapping[str, Best]) -> dict[str, Any]:
    start = next(iter(arms.values())).lines[0, :, 0]
    accuracies = [
        {
            "way": name, "target": best[name].target,
            "source at equal gain": best[name].kept, "trained numbers": f"{of.count:,}",
            "rate for the target": best[name].target_setting,
            "rate for the source": best[name].kept_setting,
        }
        for name, of in arms.items()
    ]  # fmt: skip
    row = lambda way, setting, line: {
        "way": way, "rate": setting, "target": line[:, 2].tolist(), "source": line[:, 3].tolist(),
    }  # fmt: skip
    last = [
        row(name, setting, line[:, -1])
        for name, of in arms.items()
        for setting, line in zip(of.settings, of.lines, strict=True)
    ]
    return {
        f"{case.name}: accuracies": accuracies,
        f"{case.name}: before, and after the last step": [row("before", "", start), *last],
    }


def cases(seeds: int) -> tuple[list[tuple[Case, Given]], list[str]]:
    """Those that can be run, and what cannot."""
    given = characters.given(seeds)
    if given is None:
        raise WeightSpaceError(f"lift: nothing can be run without {SHAKESPEARE}; {SST2}")
    found = [(characters.case(), given)]
    lacking = missing()
    if lacking:
        return found, told_missing(None, "; ".join(lacking))
    return [*found, (sentences.case(), sentences.given(seeds))], []


def measure(seeds: int) -> Outcome:
    told: list[Claim] = []
    shown: dict[str, Any] = {}
    runs, skipped = cases(seeds)
    for case, given in runs:
        arms = found(case, given)
        best = compared(arms)
        told += claims(case.name, best)
        shown |= tables(case, arms, best)
    return Outcome(told, shown, skipped)
