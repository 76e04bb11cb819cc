"""One model from experts of one initialisation: the order in which papers put the methods."""

import sys
from collections.abc import Mapping, Sequence

from benchmarks.papers.merging.families import available
from benchmarks.papers.merging.methods import accuracies
from benchmarks.papers.merging.training import trained
from benchmarks.papers.runner import Claim, Outcome

TITLE = "One model from experts of several tasks"
PAPER = (
    "Ilharco et al., task arithmetic, arXiv:2212.04089; Yadav et al., TIES, arXiv:2306.01708; Yang "
    "et al., AdaMerging, arXiv:2310.02575; Jin et al., RegMean, arXiv:2212.09849; Gargiulo et al., "
    "TSV-M, arXiv:2412.00081; Marczak et al., Iso-C, arXiv:2502.04959"
)
ABOUT = """
A base, an MLP of two hidden layers of 128, is trained by Adam (1e-3) on MNIST digits or images of
CIFAR-10-JPEG (at 16 x 16) as they are, and from it four experts, each on other images, seen a
quarter turn round, upside down, in negative, or with the columns (MNIST) or the colours (CIFAR) in
another order. Figures are accuracies on the tasks' test parts, the mean of the four tasks. The head
is shared, unlike in the papers, whose CLIP models have one for each task; their tasks are also
closer to the base than these, which a base solves hardly better than by chance. TIES, DARE and
AdaMerging++ keep 0.2 of a task vector; RegMean reads 200 examples a task, Fisher 20; AdaMerging
takes 100 steps of Adam at 1e-2 (papers: 500 at 1e-3) on 16 examples a task without their labels, of
the validation parts and not, as in the paper, of the test parts. Methods with a factor before the
merged task vector have it chosen on the validation parts, from 9 values of 0.1 to 3. On CIFAR
task-wise AdaMerging ends at the base's accuracy: sureness is no guide from so far away.
"""
EARLIER, LATER = ("AdaMerging", "RegMean"), ("TSV-M", "Iso-C")
ORDER = (
    ("simple average", "task arithmetic"),
    ("task arithmetic", "TIES"),
    *(("TIES", name) for name in EARLIER),
    *((less, more) for less in EARLIER for more in LATER),
)


def claims(data: str, found: Mapping[str, Sequence[float]]) -> list[Claim]:
    """The papers' order, pair by pair, seeds paired."""
    return [
        Claim(
            f"{more} is better than {less}",
            f"{data}: accuracy of {more} less that of {less}",
            [b - a for a, b in zip(found[less], found[more], strict=True)],
            "> 0",
        )
        for less, more in ORDER
    ]


def measure(seeds: int) -> Outcome:
    mine, missing = available()
    for text in missing:
        print(text, file=sys.stderr)
    told, columns = [], {}
    for family in mine:
        rows = [accuracies(family, trained(family, seed), seed) for seed in range(seeds)]
        columns[family.name] = {name: [row[name] for row in rows] for name in rows[0]}
        told += claims(family.name, columns[family.name])
    names = next(iter(columns.values()))
    table = [{"model": n, **{data: column[n] for data, column in columns.items()}} for n in names]
    return Outcome(told, {"Mean accuracy on four tasks": table}, missing)
