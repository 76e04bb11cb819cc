"""Figures of how task vectors lie to each other."""

from typing import Any

import numpy as np

from wslax.recipes.result import Figure, Series


def _heat(name: str, title: str, alt: str, matrix: Any) -> Figure:
    values = np.abs(np.asarray(matrix, float))
    names = tuple(f"member {i}" for i in range(len(values)))
    rows = tuple(
        Series(label, tuple(map(float, row))) for label, row in zip(names, values, strict=True)
    )
    return Figure(name, "heat", title, alt, rows, categories=names)


def figures(report: Any, most: int = 12) -> tuple[Figure, ...]:
    """A `merge.Report` as figures for `plots.svg`.

    Args:
      report: of `merge.report`.
      most: leaves to show, those with the most interference.

    Returns:
      Absolute cosines, agreement of signs, overlap of the largest entries, interference by leaf.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[3.0, 0.0, 1.0], [0.0, 2.0, -1.0]])}
        >>> [f.kind for f in figures(ws.merge.report(experts, {"w": jnp.zeros(3)}))]
        ['heat', 'heat', 'heat', 'dots']
    """
    worst = sorted(report.interference.items(), key=lambda row: -float(row[1]))[:most]
    leaves, shares = zip(*worst, strict=True)
    return (
        _heat(
            "cosines",
            "Cosines of task vectors, absolute",
            "A square of absolute cosines between task vectors.",
            report.cosine,
        ),
        _heat(
            "signs",
            "Entries changed the same way",
            "A square of shares of entries whose signs agree.",
            report.agreement,
        ),
        _heat(
            "largest",
            f"Largest {report.density:.0%} of entries in common",
            "A square of shares of largest entries in common.",
            report.overlap,
        ),
        Figure(
            "interference",
            "dots",
            "Change that cancels in the sum",
            "One dot a leaf: the share of change that cancels.",
            (Series("cancelled", tuple(map(float, shares))),),
            categories=tuple(leaves),
        ),
    )
