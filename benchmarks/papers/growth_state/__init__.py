"""What becomes of an optimizer's state when a net grows: the jump after growth, and the end."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.papers.growth_state.training import RATES, Grown, grown
from benchmarks.papers.runner import Claim, Outcome

TITLE = "Optimizer state under growth"
PAPER = (
    "Chen et al., Net2Net, arXiv:1511.05641 (a new state); Evci et al., GradMax, arXiv:2201.05125, "
    "and Yao et al., MSG, arXiv:2305.02869 (zeros for new entries, the step count kept)"
)
ABOUT = """
An MLP 64-16-16-10 with GELU is trained on the 8 x 8 digits by 400 steps of Adam on batches of 128,
both hidden layers are widened to 32, and it is trained for 400 more steps on the same batches
whatever the policy. The spike is the largest loss on all training examples in the 50 steps after
growth less the one at growth; a net that is not grown has one too. Copies get a relative noise of
0.01. Warm-up is linear over 50 steps. "zero_pad" trains with `grow.scale_by_adam` from the start;
"zero_pad, count kept" has the moments of `zero_pad` and Optax's Adam, whose one count goes on.
"Wide from the start" trains the wide net for all 800 steps, with twice to three times the cost of
a step in the first half.
"""
CONTROLS = ("not grown", "wide from the start")
ONE_WORD = ("exact", "trajectory", "reset")


def _rows(found: Mapping[tuple[str, str], Grown]) -> list[dict[str, Any]]:
    return [
        {
            "method": method, "policy": policy, "spike": list(runs.spike), "loss": list(runs.loss),
            "test accuracy": list(runs.accuracy),
        }
        for (method, policy), runs in found.items()
    ]  # fmt: skip


def claims(found: Mapping[tuple[str, str], Grown], method: str) -> list[Claim]:
    """What each published habit costs, seeds paired."""

    def spikes(more: str, less: str) -> list[float]:
        pairs = zip(found[method, more].spike, found[method, less].spike, strict=True)
        return [a - b for a, b in pairs]

    return [
        Claim(
            "Growth that keeps the function goes on from where the net was",
            f"{method}: spike with a new state less that with exact moments",
            spikes("reset", "exact"),
            "> 0",
        ),
        Claim(
            "A new state needs a new warm-up",
            f"{method}: spike with a new state less that with a warm-up besides",
            spikes("reset", "reset, warm-up"),
            "> 0",
        ),
        Claim(
            "Zeros for new entries and a kept count are harmless",
            f"{method}: spike with a kept count less that with a count for each weight",
            spikes("zero_pad, count kept", "zero_pad"),
            "< 0.001",
        ),
    ]


def ranking(tables: Sequence[Mapping[tuple[str, str], Grown]]) -> list[dict[str, Any]]:
    """Each policy over all methods and rates, relative to the net that is not grown."""
    over: dict[str, list[tuple[float, float]]] = {}
    for found in tables:
        still = found["none", "not grown"]
        spike, loss = (statistics.fmean(x) for x in (still.spike, still.loss))
        for (_, policy), runs in found.items():
            if policy not in CONTROLS:
                pair = statistics.fmean(runs.spike) - spike, statistics.fmean(runs.loss) / loss
                over.setdefault(policy, []).append(pair)
    rows = []
    for policy, pairs in over.items():
        spike, loss = (statistics.fmean(column) for column in zip(*pairs, strict=True))
        rows.append({"policy": policy, "spike": spike, "loss": loss})
    return sorted(rows, key=lambda row: row["loss"])


def default(rows: Sequence[Mapping[str, Any]], jump: float = 0.01) -> str:
    """Of the policies that take no other optimizer, the best end among those that do not jump."""
    mine = [row for row in rows if row["policy"] in ONE_WORD and row["spike"] < jump]
    return min(mine, key=lambda row: row["loss"])["policy"] if mine else "none"


def measure(seeds: int) -> Outcome:
    tables, told, rank, skipped = {}, [], [], {}
    for rate in RATES:
        found, missing = grown(rate, seeds)
        tables[f"Learning rate {rate}"] = _rows(found)
        rank.append(found)
        skipped |= dict.fromkeys(missing)
        told += [
            claim._replace(what=f"{claim.what}, learning rate {rate}")
            for method in dict.fromkeys(m for m, policy in found if policy == "zero_pad")
            for claim in claims(found, method)
        ]
    rows = ranking(rank)
    title = f"All methods and rates; by this table the default is {default(rows)!r}"
    tables[title] = [
        {
            "policy": row["policy"],
            "spike less that of the net not grown": f"{row['spike']:.4f}",
            "loss over that of the net not grown": f"{row['loss']:.3f}",
        }
        for row in rows
    ]
    return Outcome(told, tables, list(skipped))
