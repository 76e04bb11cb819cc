"""Generations against evosax's SimpleGA and against copying the population."""

import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.runner import Row, peak
from wslax import evolve

TITLE = "A generation"
ABOUT = """
`ask` and `tell` of one generation, without fitness, of 64 members of 1.0 M float32 parameters (an
MLP of 12 leaves, 256 MB) and of 16 members of 10 M (627 MB). GENOME has the authors' default rates:
of 64 members 26 merges and 14 mutants with 1% of their weights changed. *Crossover* makes a child
of each couple by `linear`, as many as members, all by `genetic_algorithm`; then with a normal
number added to one weight in ten, and to each. evosax's SimpleGA (its defaults, metrics dropped),
which adds noise to every weight of as many children, and copies of the population (`x + 1`) into
fresh and into donated memory are taken in turn with it. CPU is time over all cores. Peak memory is
what the compiled programs ask for, over the population's bytes, the state donated.
"""
SMALL = (64, (256, 448, 448, 448, 448, 448, 190))
LARGE = (16, (784, 1448, 1448, 1448, 1448, 1448, 190))
Size = tuple[int, Sequence[int]]


def population(size: Size) -> dict[str, jax.Array]:
    """Members of an MLP of 12 leaves."""
    members, widths = size
    shapes = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        shapes |= {f"kernel{i}": (members, a, b), f"bias{i}": (members, b)}
    return {
        name: jax.random.normal(jax.random.key(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def timed(fn: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(fn())
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(size: Size, strategy: evolve.Strategy) -> tuple[Callable[[], Any], float]:
    """One generation with donated state, and its peak over the population."""
    start = population(size)
    held = {"state": strategy.init(0, start, jnp.arange(1.0, size[0] + 1)), "g": 0}
    key, size_ = jax.random.key(0), 4 * sum(x.size for x in jax.tree.leaves(start))
    del start
    # As `evolve.run` has it: the state first, so that it gets its own memory back.
    ask = jax.jit(lambda key, state: strategy.ask(key, state)[::-1], donate_argnums=1)
    tell = jax.jit(strategy.tell, donate_argnums=1)
    ask = ask.lower(key, held["state"]).compile()
    held["state"], children = ask(key, held["state"])
    fitness = jnp.arange(1.0, len(children["bias0"]) + 1)
    tell = tell.lower(key, held["state"], children, fitness).compile()
    del children

    def generation() -> Any:
        now = jax.random.fold_in(key, held["g"])
        state, children = ask(now, held["state"])
        held["state"], _ = tell(now, state, children, fitness)
        held["g"] += 1
        return held["state"]

    return generation, max(peak(ask), peak(tell)) / size_


def theirs(size: Size) -> Callable[[], Any]:
    """One generation of evosax's SimpleGA; its population is one flat array."""
    from evosax.algorithms import SimpleGA

    start = population(size)
    algorithm = SimpleGA(size[0], jax.tree.map(lambda x: x[0], start), metrics_fn=lambda *_: {})
    params = algorithm.default_params
    fitness = jnp.arange(1.0, size[0] + 1)
    key = jax.random.key(0)
    held = {"state": algorithm.init(key, start, fitness, params)}
    del start

    def generation() -> Any:
        children, state = algorithm.ask(key, held["state"], params)
        held["state"], _ = algorithm.tell(key, children, fitness, state, params)
        return held["state"]

    return generation


def copies(size: Size) -> dict[str, Callable[[], Any]]:
    x = {"x": jnp.zeros(sum(leaf.size for leaf in jax.tree.leaves(population(size))))}
    fresh = jax.jit(lambda x: x + 1)
    donated = jax.jit(lambda x: x + 1, donate_argnums=0)

    def into_donated() -> Any:
        x["x"] = donated(x["x"])
        return x["x"]

    return {"fresh": lambda: fresh(x["x"]), "donated": into_donated}


def crossing(rate: float | None) -> evolve.Strategy:
    """A child for each member, by crossover and Gaussian mutation at a rate."""
    mutate = None if rate is None else functools.partial(evolve.gaussian, sigma=0.01, rate=rate)
    return evolve.genetic_algorithm(mutate=mutate)


STRATEGIES = {
    "GENOME": evolve.genome(),
    "crossover": crossing(None),
    "crossover, one weight in ten mutated": crossing(0.1),
    "crossover, every weight mutated": crossing(1.0),
}
TARGETS = dict(zip(list(STRATEGIES)[1:], ("<= 2", "<= 3", "<= 6"), strict=True))


def taken(size: Size, names: Sequence[str], repeats: int) -> tuple[list[Any], dict[str, float]]:
    """Seconds `(wall, CPU)` of everything, in turn, and peaks of ours."""
    made = {name: ours(size, STRATEGIES[name]) for name in names}
    things = {name: fn for name, (fn, _) in made.items()}
    things |= {"evosax": theirs(size), **copies(size)}
    for fn in things.values():
        timed(fn)
    found = [{name: timed(fn) for name, fn in things.items()} for _ in range(repeats)]
    return found, {name: peak for name, (_, peak) in made.items()}


def measure(repeats: int) -> list[Row]:
    rows = []
    sizes = {"64 x 1 M": (SMALL, list(STRATEGIES)), "16 x 10 M": (LARGE, ["GENOME"])}
    for label, (size, names) in sizes.items():
        found, peaks = taken(size, names, repeats)

        def ratio(a: str, b: str, clock: int, found: list[Any] = found) -> list[float]:
            return [t[a][clock] / t[b][clock] for t in found]

        rows += [
            Row(f"{label}: evosax SimpleGA over GENOME, wall", ratio("evosax", "GENOME", 0), "x",
                ">= 3"),
            Row(f"{label}: evosax SimpleGA over GENOME, CPU", ratio("evosax", "GENOME", 1), "x"),
            Row(f"{label}: GENOME over a fresh copy, CPU", ratio("GENOME", "fresh", 1), "x"),
            Row(f"{label}: GENOME over a donated copy, wall", ratio("GENOME", "donated", 0), "x"),
            Row(f"{label}: GENOME, wall", [t["GENOME"][0] for t in found], "s"),
            Row(f"{label}: evosax SimpleGA, wall", [t["evosax"][0] for t in found], "s"),
            *(Row(f"{label}: {name}, over a fresh copy, CPU", ratio(name, "fresh", 1), "x", bound)
              for name, bound in TARGETS.items() if name in names),
            *(Row(f"{label}: peak memory of {name}", [peaks[name]] * repeats, "x", "<= 2.1")
              for name in names),
        ]  # fmt: skip
    return rows
