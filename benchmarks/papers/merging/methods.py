"""Every merge of a seed's experts, its one coefficient chosen on the validation parts."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wslax as ws
from benchmarks.papers.merging.families import Family
from benchmarks.papers.merging.training import Trained

GRID = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
KEPT = 0.2  # of a task vector, in TIES, DARE and AdaMerging++
EXAMPLES = 200  # a task, for Gram matrices
FISHER = 20  # a task, for Fisher information
UNSURE = (100, 16)  # steps and unlabelled examples a task and step, for AdaMerging


class Measures(NamedTuple):
    """A family's compiled measures; `part` is `(x[T, n, ...], y[T, n])`."""

    tasks: Any  # `(params, part) -> accuracy [T]`
    own: Any  # `(experts, part) -> accuracy [T]`, each on its own task
    ensemble: Any  # `(experts, part) -> accuracy [T]` of the mean of their probabilities
    chosen: Any  # `(merged, base, part) -> params`, as far from the base as is best
    information: Any  # `(experts, x[T, n, ...]) -> fishers`
    grams: Any  # `(experts, x[T, n, ...]) -> grams`
    logits: Any  # `(params, x[T, n, ...]) -> logits`, for AdaMerging
    groups: Any


def scaled(merged: Any, base: Any, lam: Any) -> Any:
    r"""\(B + \lambda (Y - B)\): what a \(\lambda\) is in every method that has one."""
    return ws.merge.task_arithmetic(ws.population.stack([merged]), base, lam=lam)


@functools.cache
def measures(family: Family) -> Measures:
    apply, accuracy = family.net.apply, ws.nets.accuracy

    def tasks(params: Any, part: Any) -> Any:
        return jax.vmap(lambda x, y: accuracy(apply(params, x), y))(*part)

    def own(experts: Any, part: Any) -> Any:
        return jax.vmap(lambda params, x, y: accuracy(apply(params, x), y))(experts, *part)

    def ensemble(experts: Any, part: Any) -> Any:
        said = lambda x: jax.vmap(lambda params: jax.nn.softmax(apply(params, x)))(experts).mean(0)
        return jax.vmap(lambda x, y: accuracy(said(x), y))(*part)

    def chosen(merged: Any, base: Any, part: Any) -> Any:
        grid = jnp.array(GRID)
        found = jax.lax.map(lambda lam: tasks(scaled(merged, base, lam), part).mean(), grid)
        return scaled(merged, base, grid[found.argmax()])

    def log_prob(params: Any, x: Any) -> Any:
        return jax.nn.log_softmax(apply(params, x[None])[0])

    def information(experts: Any, x: Any) -> Any:
        return jax.vmap(lambda p, x: ws.merge.fisher_information(log_prob, p, x))(experts, x)

    def grams(experts: Any, x: Any) -> Any:
        read = lambda params, x: ws.trace.taps(apply, params, x, read="gram")
        return jax.vmap(read)(experts, x)

    def logits(params: Any, x: Any) -> Any:
        return jax.vmap(lambda x: apply(params, x))(x)

    spec = jax.eval_shape(family.net.init, jax.random.key(0))
    groups = ws.symmetry.infer(apply, spec, family.base[0][:2])
    compiled = map(jax.jit, (tasks, own, ensemble, chosen, information, grams))
    return Measures(*compiled, logits, groups)


@functools.cache
def adam() -> Any:
    return optax.adam(1e-2)


def without_coefficient(family: Family, nets: Trained, seed: int) -> dict[str, Any]:
    """Merges that have nothing to choose."""
    of, (base, experts, _) = measures(family), nets
    rng = np.random.default_rng(seed)
    x = family.train[0]
    rows = lambda count: rng.integers(x.shape[1], size=count)
    batches = family.validation[0]
    picks = rng.integers(batches.shape[1], size=UNSURE)
    batches = np.moveaxis(batches[:, picks], 1, 0)
    sure = functools.partial(
        ws.merge.adamerging, experts, base, of.logits, batches, optimizer=adam()
    )
    grams = of.grams(experts, x[:, rows(EXAMPLES)])
    return {
        "simple average": ws.merge.linear(experts),
        "task arithmetic, 0.3": ws.merge.task_arithmetic(experts, base, lam=0.3),
        "model stock": ws.merge.model_stock(experts, base),
        "Fisher": ws.merge.fisher(experts, of.information(experts, x[:, rows(FISHER)])),
        "RegMean": ws.merge.regmean(experts, grams),
        "AdaMerging, task-wise": sure(per_leaf=False).params,
        "AdaMerging": sure().params,
        "AdaMerging++": sure(density=KEPT).params,
    }


def with_coefficient(family: Family, nets: Trained, seed: int) -> dict[str, Any]:
    r"""Merges at the \(\lambda\) that does best on the validation parts."""
    of, (base, experts, _), merge = measures(family), nets, ws.merge
    groups, key = of.groups, jax.random.key(seed)
    total = merge.task_arithmetic(experts, base)
    found = {
        "task arithmetic": total,
        "task arithmetic, calibrated": merge.calibrate(total, experts, base, groups=groups),
        "TIES": merge.ties(experts, base, density=KEPT),
        "DARE-TIES": merge.dare_ties(experts, base, key=key, density=KEPT),
        "consensus": merge.consensus(experts, base),
        "PCB": merge.pcb(experts, base, lam=1.0),
        "TSV-M": merge.tsv_m(experts, base, groups=groups),
        "Iso-C": merge.iso_c(experts, base, groups=groups),
        "Iso-CTS": merge.iso_cts(experts, base, groups=groups),
        "WUDI": merge.wudi(experts, base, groups=groups),
        "WUDI, 300 steps": merge.wudi(experts, base, steps=300, groups=groups),
    }
    return {name: of.chosen(merged, base, family.validation) for name, merged in found.items()}


def controls(family: Family, nets: Trained) -> dict[str, Any]:
    """Mean accuracies of what is no merge."""
    of, test, (base, experts, joint) = measures(family), family.test, nets
    held = jax.lax.map(lambda p: of.tasks(p, family.validation).mean(), experts)
    stored = ws.merge.emr(experts, base)
    rebuilt = jax.vmap(lambda i: ws.merge.emr_member(stored, base, i))(jnp.arange(family.tasks))
    return {
        "experts, each on its own task": of.own(experts, test),
        "EMR (a mask for each task, not one model)": of.own(rebuilt, test),
        "trained on all tasks": of.tasks(joint, test),
        "ensemble of the experts": of.ensemble(experts, test),
        "best expert on all tasks": of.tasks(ws.population.member(experts, held.argmax()), test),
        "base": of.tasks(base, test),
    }


def accuracies(family: Family, nets: Trained, seed: int) -> dict[str, float]:
    """Mean accuracy over the tasks' test parts of every control and merge."""
    merged = without_coefficient(family, nets, seed) | with_coefficient(family, nets, seed)
    tasks = measures(family).tasks
    found = controls(family, nets) | {n: tasks(p, family.test) for n, p in merged.items()}
    return {name: float(accuracy.mean()) for name, accuracy in found.items()}
