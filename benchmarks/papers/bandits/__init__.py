"""The best of many members on a quarter of the evaluations."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from benchmarks.papers.bandits import nets
from benchmarks.papers.runner import Claim, Outcome
from wslax.contrib import bandit

TITLE = "The best member on a quarter of the evaluations"
PAPER = (
    "Sclar et al., FormatSpread, arXiv:2310.11324; Jamieson and Talwalkar, Non-stochastic best arm "
    "identification, arXiv:1502.07943"
)
ABOUT = """
64 members are to be compared on many items, each right or wrong on each. Regret is the accuracy on
all items of the best member less that of the chosen one, in points. Simulated members are right on
1,000 items of varying difficulty with a chance that is logistic in ability less difficulty; their
accuracies have a standard deviation of about 4 points (wide) or 2 (narrow). Real members are MLPs
with 16 hidden units on MNIST at 14 x 14, after 150 steps of Adam with rates from 1e-4 to 1e-2 (many
rates), or with one rate, so that chance alone tells them apart; items are 2,000 images that no net
was trained on. Each seed has new members; its figure is the mean over 20 orders of the items.
Scores are looked up in a table of all evaluations, and what a rule was shown is counted. Rules are
`bandit.halving`, `bandit.thompson` (batches of 20, as FormatSpread), the same draws with the best
mean as the answer (FormatSpread's rule), the first items shown to all members (uniform), and a
member at random.
"""
MEMBERS, ORDERS = 64, 20
BUDGETS = (0.05, 0.125, 0.25)
SPREADS = {"wide": 0.3, "narrow": 0.12}  # of abilities


def simulated(seed: int, spread: float) -> Any:
    rng = np.random.default_rng(seed)
    ability, hard = rng.normal(0, spread, (MEMBERS, 1)), rng.normal(-1, 2, (1, 1000))
    return jnp.asarray(rng.random((MEMBERS, 1000)) < 1 / (1 + np.exp(hard - ability)))


def real(seed: int, kind: str, data: Any) -> Any:
    train, items = data
    members = nets.trained(jr.key(seed), nets.rates(kind, MEMBERS), *train)
    return nets.losses(members, *items)[1]


def look_up(right: Any, chosen: Any) -> Any:
    return right[:, chosen]


@functools.partial(jax.jit, static_argnames="budget")
def chosen(right: Any, keys: Any, budget: float) -> dict[str, Any]:
    """The member that each rule chooses `[orders]`, and the share of evaluations spent."""
    how = {"items": right.shape[1], "budget": budget}

    def one(key: Any) -> Any:
        halved = bandit.halving(look_up, key=key, **how).judge(right)
        drawn = bandit.thompson(look_up, key=key, prior=right.mean(), **how).judge(right)
        prefix = jr.permutation(key, right.shape[1])[: int(budget * right.shape[1])]
        found = {
            "halving": halved.fitness,
            "thompson": drawn.fitness,
            "thompson, best mean": jnp.nan_to_num(drawn.means),
            "uniform": right[:, prefix].mean(1),
            "random": jr.uniform(key, MEMBERS),
        }
        spent = {"halving": halved.counts.sum(), "thompson": drawn.counts.sum()}
        best = {name: jnp.argmax(fitness) for name, fitness in found.items()}
        return best, jax.tree.map(lambda n: n / right.size, spent)

    return jax.vmap(one)(keys)


def regrets(right: Any, seed: int, budget: float) -> tuple[dict[str, float], dict[str, float]]:
    """In points, the mean over orders; and what was spent."""
    truth = right.mean(1)
    best, spent = chosen(right, jr.split(jr.key(seed), ORDERS), budget)
    mean = lambda at: 100 * float((truth.max() - truth[at]).mean())
    return jax.tree.map(mean, best), jax.tree.map(lambda s: float(s.mean()), spent)


def measure(seeds: int) -> Outcome:
    data = nets.digits()
    kinds = {f"simulated, {k}": lambda s, v=v: simulated(s, v) for k, v in SPREADS.items()}
    kinds |= {f"MNIST, {k}": lambda s, k=k: real(s, k, data) for k in ("many rates", "one rate")}
    told: list[Claim] = []
    tables: dict[str, Any] = {}
    for name, make in kinds.items():
        members = [make(seed) for seed in range(seeds)]
        spread = [100 * float(right.mean(1).std()) for right in members]
        rows = []
        for budget in BUDGETS:
            pairs = [regrets(right, seed, budget) for seed, right in enumerate(members)]
            found = {rule: [regret[rule] for regret, _ in pairs] for rule in pairs[0][0]}
            spent = {rule: [share[rule] for _, share in pairs] for rule in pairs[0][1]}
            shares = {f"spent, {rule}": values for rule, values in spent.items()}
            rows.append({"budget": f"{budget}", "spread": spread} | found | shares)
        tables[f"Regret in points, {name}"] = rows
        told += claims(name, found)
    return Outcome(told, tables)


def claims(name: str, found: Mapping[str, list[float]]) -> list[Claim]:
    """At the last budget, a quarter."""
    less = [a - b for a, b in zip(found["uniform"], found["halving"], strict=True)]
    return [
        Claim(
            "a small budget finds the best member",
            f"{name}: regret of {rule} in points at a quarter of the evaluations",
            found[rule], "< 1",
        )
        for rule in ("halving", "thompson")
    ] + [
        Claim(
            "better than as many evaluations spread evenly",
            f"{name}: regret of uniform less that of halving, in points", less, "> 0",
        )
    ]  # fmt: skip
