"""Fusion of estimates by their precision, and how sure the fused ones may be."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.papers.data import MAIZE, maize, told_missing
from benchmarks.papers.gated_fusion import views
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import ensemble

TITLE = "Fusion by inverse variance"
PAPER = "Inverse-variance fusion with a gate for each instance, arXiv:2511.08903"
ABOUT = """
Errors that are independent: the mean yield of a maize trial is estimated from 8, 16 and 32 of its
plots, drawn with replacement, each with the variance of its mean as the sample tells it; truth is
the mean of all plots; 20 draws for each trial of 100 plots or more. Errors that are shared: the
yield of a plot, in trials that were not trained on, is estimated by four ridge regressions, from
its plant, stand, grain and place (as in the experiment on gated fusion). Their variances are the
squared error on validation trials, one a member (fixed), or one for each plot by a ridge regression
of the log of squared residuals (by plot). What is random about a plot is in the error of all four,
and the formula takes it for four independent errors. A fused interval is 1.96 standard deviations
either way; it should cover the truth in 95 of 100 cases, and 0.93 is asked for. Errors are root
mean squares in t/ha. One regression on all views is the control that needs no fusion.
"""
SIZES, DRAWS, PLOTS, RIDGE = (8, 16, 32), 20, 100, 10.0


def scored(means: np.ndarray, variances: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Error and coverage of the fused `[N, cases]`."""
    fused = ensemble.inverse_variance(means, variances)
    gap = np.asarray(fused.mean) - truth
    inside = np.abs(gap) < 1.96 * np.sqrt(np.asarray(fused.variance))
    return float(np.sqrt(np.mean(gap**2))), float(inside.mean())


def rms(gap: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean(gap**2)))


def independent(trials: list[np.ndarray], seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    means, variances, known, pooled, truth = [], [], [], [], []
    for plots in trials * DRAWS:
        samples = [rng.choice(plots, size) for size in SIZES]
        means.append([s.mean() for s in samples])
        variances.append([s.var(ddof=1) / len(s) for s in samples])
        known.append([plots.var() / len(s) for s in samples])
        pooled.append(np.concatenate(samples).mean())
        truth.append(plots.mean())
    said, true = np.array(means).T, np.array(truth)
    error, covered = scored(said, np.array(variances).T, true)
    exact, covered_exact = scored(said, np.array(known).T, true)
    return {
        "fused": error,
        "fused, variances known": exact,
        "plain mean": rms(said.mean(0) - true),
        "best member": rms(said[-1] - true),
        "all plots at once": rms(np.array(pooled) - true),
        "covered": covered,
        "covered, variances known": covered_exact,
    }


def ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)


def shared(data: views.Views) -> dict[str, float]:
    """Members have the features of one view, and a constant."""
    train, validation, test = (
        tuple(np.asarray(a, np.float64) for a in part) for part in data.parts
    )
    means, fixed, by_plot, solo = [], [], [], []
    every = np.ones((1, data.columns.shape[1]), bool)
    for view, columns in enumerate([*np.asarray(data.columns), *every]):
        one = lambda part, c=columns: np.column_stack([part[0][:, c], np.ones(len(part[0]))])
        fit = ridge(one(train), train[2][:, 0])
        residual = lambda part, fit=fit, one=one: part[2][:, 0] - one(part) @ fit
        if view == len(data.columns):
            together = rms(residual(test))
            break
        log = ridge(one(train), np.log(residual(train) ** 2 + 1e-4)) @ one(test).T
        level = np.mean(residual(validation) ** 2)
        there = test[1][:, view] > 0
        means.append(np.where(there, one(test) @ fit, np.nan))
        fixed.append(np.full(len(there), level))
        by_plot.append(np.exp(log) * np.mean(residual(train) ** 2) / np.exp(log).mean())
        solo.append((level, rms(residual(test))))
    said, true = np.array(means), test[2][:, 0]
    error, covered = scored(said, np.array(fixed), true)
    error_by_plot, covered_by_plot = scored(said, np.array(by_plot), true)
    return {
        "fused": error,
        "fused, by plot": error_by_plot,
        "plain mean": rms(np.nanmean(said, 0) - true),
        "best member": min(solo)[1],
        "one regression": together,
        "covered": covered,
        "covered, by plot": covered_by_plot,
    }


def measure(seeds: int) -> Outcome:
    rows = maize()
    skipped = told_missing(rows, MAIZE)
    if rows is None:
        return Outcome([], {}, skipped)
    trial = np.array([row["env"] for row in rows])
    harvest = np.array([float(row["yield"]) for row in rows])
    trials = [harvest[trial == name] for name in np.unique(trial)]
    trials = [plots for plots in trials if len(plots) >= PLOTS]
    each = {
        "independent": [independent(trials, seed) for seed in range(seeds)],
        "shared": [shared(views.plots(seed)) for seed in range(seeds)],
    }
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    for kind, figures in each.items():
        found = {name: [of[name] for of in figures] for name in figures[0]}
        told += claims(kind, found)
        tables[f"Errors that are {kind}"] = [
            {"figure": name, "value": values} for name, values in found.items()
        ]
    return Outcome(told, tables, skipped)


def claims(kind: str, found: Mapping[str, list[float]]) -> list[Claim]:
    less = lambda a, b: [x - y for x, y in zip(found[a], found[b], strict=True)]
    of = f"{kind} errors: error of "
    told = [
        Claim(
            f"fusion by precision is better than {words}", f"{of}{other} less that of the fused",
            less(other, "fused"), "> 0",
        )
        for other, words in (
            ("plain mean", "equal weights"), ("best member", "the best source alone"),
        )
    ] + [
        Claim(
            "the fused variance says how sure the estimate is",
            f"{kind} errors: share of 95% intervals that cover the truth",
            found["covered"], "> 0.93",
        )
    ]  # fmt: skip
    if kind == "shared":
        told.append(
            Claim(
                "weights for each instance are better than fixed ones",
                f"{of}fixed weights less that of weights by plot",
                less("fused", "fused, by plot"), "> 0",
            )
        )  # fmt: skip
    return told
