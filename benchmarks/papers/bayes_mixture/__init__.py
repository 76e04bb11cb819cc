"""Sequential prediction by a Bayesian mixture of nets."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.papers.bandits import nets
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import ensemble

TITLE = "A Bayesian mixture of nets, item by item"
PAPER = "Universality lens, arXiv:2506.07661"
ABOUT = """
64 nets (MLPs with 16 hidden units on MNIST at 14 x 14, 150 steps of Adam) predict 2,000 images,
none of them seen in training, one after another, in a random order of each seed. `ensemble.mixture`
weighs them by Bayes' rule from a uniform prior. Regret is its loss in nats, summed over the items,
less that of the net that is best in hindsight; log 64 = 4.16 is the theorem's bound, which only
rounding in float32 could break, so what is claimed here is more. Half of it at most: near the best
net others are almost as good, and their prior mass counts together. Less loss than the mean of all
nets' probabilities with equal weights: that is what weighing is for. Nets have rates from 1e-4 to
1e-2 (many rates, a third of them hardly trained) or one rate. Warmer posteriors (T = 10, 100) are
compared. With 192 nets that know nothing beside the 64 the regret grows by log 4 = 1.39 at most,
which again is the theorem.
"""
MEMBERS, IGNORANT = 64, 192
TEMPERATURES = (1.0, 10.0, 100.0)


def figures(losses: Any) -> dict[str, float]:
    """Losses `[members, items]`: sums over the items in nats, less the best member's."""
    best = losses.sum(1).min()
    uniform = -(jax.nn.logsumexp(-losses, 0) - jnp.log(len(losses))).sum()
    found = {"equal weights": uniform - best}
    for temperature in TEMPERATURES:
        mixed = ensemble.mixture(losses, temperature=temperature)
        found[f"mixture, T = {temperature:g}"] = mixed.regret
        if temperature == 1:
            left = mixed.weights[:, -1]
            found["members left"] = 1 / jnp.square(left).sum()
    know_nothing = jnp.full((IGNORANT, losses.shape[1]), jnp.log(10.0))
    found["with the ignorant"] = ensemble.mixture(jnp.concatenate([losses, know_nothing])).regret
    found["best member, a item"] = best / losses.shape[1]
    return {name: float(value) for name, value in found.items()}


def measure(seeds: int) -> Outcome:
    train, items = nets.digits()
    told: list[Claim] = []
    table = []
    for kind in ("many rates", "one rate"):
        each = []
        for seed in range(seeds):
            members = nets.trained(jr.key(seed), nets.rates(kind, MEMBERS), *train)
            order = jr.permutation(jr.key(seed), len(items[1]))
            each.append(figures(nets.losses(members, *items)[0][:, order]))
        found = {name: [of[name] for of in each] for name in each[0]}
        told += claims(kind, found)
        table.append({"nets": kind} | found)
    return Outcome(told, {"Nats more than the best net, over 2,000 items": table})


def claims(kind: str, found: Mapping[str, list[float]]) -> list[Claim]:
    of = {name: np.array(values) for name, values in found.items()}
    bayes = of["mixture, T = 1"]
    return [
        Claim(
            "regret is at most the logarithm of the number of members",
            f"{kind}: regret over its bound, log {MEMBERS}",
            (bayes / np.log(MEMBERS)).tolist(), "< 1.001",
        ),
        Claim(
            "regret is small where prior mass near the best is not",
            f"{kind}: regret over its bound, log {MEMBERS}",
            (bayes / np.log(MEMBERS)).tolist(), "< 0.5",
        ),
        Claim(
            "a mixture by posterior predicts better than one of equal weights",
            f"{kind}: loss an item with equal weights less that of the mixture",
            ((of["equal weights"] - bayes) / 2000).tolist(), "> 0",
        ),
        Claim(
            "a warmer posterior keeps more members and predicts better",
            f"{kind}: loss an item of the mixture less that with T = 100",
            ((bayes - of["mixture, T = 100"]) / 2000).tolist(), "> 0",
        ),
    ]  # fmt: skip
