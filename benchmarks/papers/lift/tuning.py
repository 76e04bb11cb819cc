"""Ways to train a few weights of a model, each a line from what was known to what is learned."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import wslax as ws

DENSITY = 0.05
MASKS = ("LIFT", "random", "magnitude", "gradient", "saliency")
JUDGED = ("validation target", "validation source", "target", "source")


class Rates(NamedTuple):
    """Learning rates of all weights, of masks, and of LoRA."""

    full: tuple[float, ...]
    masks: tuple[float, ...]
    lora: tuple[float, ...]


class Case(NamedTuple):
    """What is trained and how; static.

    Attributes:
      loss: `(params, fixed, batch) -> scalar`.
      judge: `(params, fixed, held) -> [4]`, as `JUDGED`.
      where: globs of the matrices that are selected from.
      rank: of the part that LIFT's scores come from.
      lora_rank: with about as many numbers as the masks.
      checks: the steps after which a net is judged; the last one ends training.
      rates: as many of each.
      pulls: strengths of L2 to the start.
    """

    name: str
    loss: Callable[..., Any]
    judge: Callable[..., Any]
    where: tuple[str, ...]
    rank: int
    lora_rank: int
    batch: int
    checks: tuple[int, ...]
    rates: Rates
    pulls: tuple[float, ...]


class Given(NamedTuple):
    """What is trained from.

    Attributes:
      base: the parameters at the start.
      fixed: what the loss reads beside them.
      train: a seed's examples, `[seeds, n, ...]`.
      held: what nets are judged on.
    """

    base: Any
    fixed: Any
    train: Any
    held: Any


class Way(NamedTuple):
    """A way to train: what trains at first, the model that it makes, and the optimizer."""

    start: Any
    whole: Callable[[Any], Any]
    rule: optax.GradientTransformation


class Found(NamedTuple):
    """Of one arm.

    Attributes:
      settings: rates, or rates with strengths.
      lines: `[settings, seeds, 1 + checks, 4]`, as `JUDGED`, the start first.
      count: of trained numbers.
    """

    settings: list[str]
    lines: np.ndarray
    count: int


def adam(rate: Any) -> optax.GradientTransformation:
    return optax.adam(rate, b2=0.95)  # as LIFT's authors


def masks(case: Case, given: Given, train: Any, key: Any) -> dict[str, Any]:
    """The weights that each selection trains, by one gradient of all examples of a seed."""
    slopes = jax.grad(case.loss)(given.base, given.fixed, train)
    scores = ws.select.scores
    top = functools.partial(ws.select.masks.top, density=DENSITY, where=case.where)
    found = (
        ws.select.principal_mask(given.base, rank=case.rank, density=DENSITY, where=case.where),
        top(scores.random(given.base, key=key)),
        top(scores.magnitude(given.base)),
        top(scores.gradient(given.base, slopes)),
        top(scores.saliency(given.base, slopes)),
    )
    return dict(zip(MASKS, found, strict=True))


def line(case: Case, given: Given, train: Any, key: Any, way: Way, pull: Any) -> Any:
    """What is judged after each of `checks`, `[checks, 4]`."""
    count = len(jax.tree.leaves(train)[0])

    def loss(trained: Any, batch: Any) -> Any:
        away = jax.tree.map(lambda a, b: jnp.sum(jnp.square(a - b)), trained, way.start)
        return case.loss(way.whole(trained), given.fixed, batch) + pull / 2 * sum(
            jax.tree.leaves(away)
        )

    def turn(step: Any, carry: Any) -> Any:
        trained, state = carry
        rows = jr.randint(jr.fold_in(key, step), (case.batch,), 0, count)
        slopes = jax.grad(loss)(trained, jax.tree.map(lambda x: x[rows], train))
        change, state = way.rule.update(slopes, state, trained)
        return optax.apply_updates(trained, change), state

    def check(carry: Any, span: Any) -> tuple[Any, Any]:
        carry = jax.lax.fori_loop(*span, turn, carry)
        return carry, case.judge(way.whole(carry[0]), given.fixed, given.held)

    spans = jnp.array([0, *case.checks[:-1]]), jnp.array(case.checks)
    return jax.lax.scan(check, (way.start, way.rule.init(way.start)), spans)[1]


def keys_of(given: Given) -> Any:
    return jax.vmap(jr.key)(jnp.arange(len(jax.tree.leaves(given.train)[0])))


def lines(
    case: Case, given: Given, parts: Any, way: Callable[..., Way], rates: Any, pull: Any = 0.0
) -> Any:
    """Of `way(part, rate)` at all rates and seeds, `[rates, seeds, checks, 4]`."""
    seeds = keys_of(given), given.train, parts

    def of(rate: Any, seed: Any) -> Any:
        key, train, part = seed
        return line(case, given, train, key, way(part, rate), pull)

    return jax.lax.map(lambda rate: jax.lax.map(functools.partial(of, rate), seeds), rates)


@functools.partial(jax.jit, static_argnums=0)
def judged(case: Case, given: Given) -> Any:
    """The start, `[4]`."""
    return case.judge(given.base, given.fixed, given.held)


@functools.partial(jax.jit, static_argnums=0)
def selected(case: Case, given: Given) -> Any:
    """By selection its masks, `[seeds, ...]`."""
    of = lambda seed: masks(case, given, *seed)
    return jax.lax.map(of, (given.train, keys_of(given)))


@functools.partial(jax.jit, static_argnums=0)
def masked(case: Case, given: Given, mask: Any, rates: Any, pull: Any) -> Any:
    """Where masks `[seeds, ...]` are true; one program for all of them."""
    way = lambda mask, rate: Way(given.base, lambda x: x, ws.select.hold(adam(rate), mask))
    return lines(case, given, mask, way, rates, pull)


@functools.partial(jax.jit, static_argnums=0)
def adapted(case: Case, given: Given, rates: Any) -> Any:
    """LoRA's factors."""
    adapter = lora(case)

    def way(key: Any, rate: Any) -> Way:
        start, fixed = adapter.init(key, given.base)
        return Way(start, lambda train: adapter.fuse(given.base, train, fixed), adam(rate))

    return lines(case, given, keys_of(given), way, rates)


def lora(case: Case) -> ws.adapt.Adapter:
    return ws.adapt.lora(case.lora_rank, where=case.where)


def found(case: Case, given: Given) -> dict[str, Found]:
    """Lines of all arms."""
    seeds, start = len(keys_of(given)), np.asarray(judged(case, given))
    full, sparse, thin = (jnp.array(rates) for rates in case.rates)
    every = jax.tree.map(lambda x: jnp.ones((seeds, *x.shape), bool), given.base)
    chosen = selected(case, given)
    train = jax.eval_shape(lora(case).init, jr.key(0), given.base)[0]
    names = lambda rates: [f"{rate:g}" for rate in rates.tolist()]
    run = lambda mask, rates, pull: masked(case, given, mask, rates, pull)
    size = lambda mask: sum(int(x[0].sum()) for x in jax.tree.leaves(mask))

    def of(settings: list[str], runs: Any, count: int) -> Found:
        first = np.broadcast_to(start, (len(settings), seeds, 1, len(start)))
        return Found(settings, np.concatenate([first, np.asarray(runs)], 2), count)

    arms = {"full": of(names(full), run(every, full, 0.0), size(every))}
    held = [run(every, full, pull) for pull in case.pulls]
    both = [f"{rate}, {pull:g}" for pull in case.pulls for rate in names(full)]
    arms["full, L2 to start"] = of(both, jnp.concatenate(held), size(every))
    arms["LoRA"] = of(names(thin), adapted(case, given, thin), ws.tree.size(train))
    for name in MASKS:
        arms[name] = of(names(sparse), run(chosen[name], sparse, 0.0), size(chosen[name]))
    return arms
