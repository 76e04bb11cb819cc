"""Ways compared at their best, and by what they keep at an equal gain."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from benchmarks.papers.lift.tuning import Found
from wslax.recipes.tour.adapting import kept_at

SHARE = 0.9
TARGET, SOURCE = 0, 1  # columns, of validation data and then of test data


class Best(NamedTuple):
    """What each seed has on test data, and in which setting.

    Attributes:
      target: at the setting and the step of highest validation accuracy.
      kept: at the level of the seed, in the setting that keeps most on validation data.
    """

    target: list[float]
    target_setting: str
    kept: list[float]
    kept_setting: str


def level(lines: Mapping[str, np.ndarray]) -> float:
    """The target at `SHARE` of the least of the arms' best gains.

    Args:
      lines: `[..., 1 + checks, 2]`, target and source, the start first.
    """
    start = next(iter(lines.values()))[..., 0, TARGET].flat[0]
    least = min(line[..., TARGET].max() for line in lines.values())
    return float(start + SHARE * max(0.0, least - start))


def most_kept(lines: np.ndarray, at: float) -> int:
    """The number of the line, of `[settings, 1 + checks, 2]`, with most source at a level."""
    reach = [i for i, line in enumerate(lines) if line[:, TARGET].max() >= at]
    return max(reach, key=lambda i: kept_at(lines[i], at))


def compared(found: Mapping[str, Found]) -> dict[str, Best]:
    """By arm."""
    mean = {name: of.lines[..., :2].mean(1) for name, of in found.items()}
    at = level(mean)
    keeps = {name: most_kept(lines, at) for name, lines in mean.items()}
    tests = {name: of.lines[keeps[name], :, :, 2:] for name, of in found.items()}
    seeds = range(len(next(iter(tests.values()))))
    levels = [level({name: test[i] for name, test in tests.items()}) for i in seeds]
    best = {}
    for name, of in found.items():
        targets = mean[name][..., TARGET]
        setting, check = np.unravel_index(targets.argmax(), targets.shape)
        best[name] = Best(
            of.lines[setting, :, check, 2].tolist(), of.settings[setting],
            [kept_at(tests[name][i], levels[i]) for i in seeds], of.settings[keeps[name]],
        )  # fmt: skip
    return best
