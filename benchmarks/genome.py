"""A GENOME generation against evosax's SimpleGA and against copying the population."""

import itertools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.runner import Row, peak
from wslax import evolve

TITLE = "A generation of GENOME"
ABOUT = """
`ask` and `tell` of one generation, without fitness: 64 members of 1.0 M float32 parameters (an MLP
of 12 leaves, 256 MB), the authors' default rates: 26 merges and 14 mutants with 1% of their weights
changed. Because SimpleGA adds noise to every weight of 64 children, "64 mutants" are taken too: the
same strategy with 64 children by dense mutation and no merge. evosax's SimpleGA (its defaults,
metrics dropped) on the same population, and copies of the population (`x + 1`) into fresh and into
donated memory, are taken in turn with it. CPU is time over all cores. Peak memory is what the
compiled programs ask for, over the population's bytes.
"""
MEMBERS = 64
WIDTHS = (256, 448, 448, 448, 448, 448, 190)


def population() -> dict[str, jax.Array]:
    """64 x 1.0 M parameters in 12 leaves."""
    shapes = {}
    for i, (a, b) in enumerate(itertools.pairwise(WIDTHS)):
        shapes |= {f"kernel{i}": (MEMBERS, a, b), f"bias{i}": (MEMBERS, b)}
    return {
        name: jax.random.normal(jax.random.key(i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


def timed(fn: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(fn())
    return time.perf_counter() - wall, time.process_time() - cpu


def ours(**options: Any) -> tuple[Callable[[], Any], float]:
    """One generation with donated state, and its peak over the population."""
    strategy = evolve.genome(**options)
    held = {"state": strategy.init(0, population(), jnp.arange(1.0, MEMBERS + 1)), "g": 0}
    key, size = (
        jax.random.key(0),
        4 * sum(x.size for x in jax.tree.leaves(held["state"].members.params)),
    )
    ask = jax.jit(strategy.ask, donate_argnums=1)
    tell = jax.jit(strategy.tell, donate_argnums=1)
    ask = ask.lower(key, held["state"]).compile()
    children, held["state"] = ask(key, held["state"])
    fitness = jnp.arange(1.0, len(children["bias0"]) + 1)
    tell = tell.lower(key, held["state"], children, fitness).compile()
    del children

    def generation() -> Any:
        now = jax.random.fold_in(key, held["g"])
        children, state = ask(now, held["state"])
        held["state"], _ = tell(now, state, children, fitness)
        held["g"] += 1
        return held["state"]

    return generation, max(peak(ask), peak(tell)) / size


def theirs() -> Callable[[], Any]:
    """One generation of evosax's SimpleGA; its population is one flat array."""
    from evosax.algorithms import SimpleGA

    start = population()
    algorithm = SimpleGA(MEMBERS, jax.tree.map(lambda x: x[0], start), metrics_fn=lambda *_: {})
    params = algorithm.default_params
    fitness = jnp.arange(1.0, MEMBERS + 1)
    key = jax.random.key(0)
    held = {"state": algorithm.init(key, start, fitness, params)}
    del start

    def generation() -> Any:
        children, state = algorithm.ask(key, held["state"], params)
        held["state"], _ = algorithm.tell(key, children, fitness, state, params)
        return held["state"]

    return generation


def copies() -> dict[str, Callable[[], Any]]:
    x = {"x": jnp.zeros(sum(leaf.size for leaf in jax.tree.leaves(population())))}
    fresh = jax.jit(lambda x: x + 1)
    donated = jax.jit(lambda x: x + 1, donate_argnums=0)

    def into_donated() -> Any:
        x["x"] = donated(x["x"])
        return x["x"]

    return {"fresh": lambda: fresh(x["x"]), "donated": into_donated}


def measure(repeats: int) -> list[Row]:
    sparse, sparse_peak = ours()
    dense, dense_peak = ours(cross_rate=0.0, mutation_rate=1.0, gene_rate=1.0)
    things = {"sparse": sparse, "dense": dense, "evosax": theirs(), **copies()}
    for fn in things.values():
        timed(fn)
    taken = [{name: timed(fn) for name, fn in things.items()} for _ in range(repeats)]

    def ratio(name: str, over: str, clock: int, target: str | None = None) -> list[float]:
        return [t[name][clock] / t[over][clock] for t in taken]

    return [
        Row("evosax SimpleGA over GENOME, wall", ratio("evosax", "sparse", 0), "x", ">= 3"),
        Row("evosax SimpleGA over GENOME, CPU", ratio("evosax", "sparse", 1), "x", ">= 3"),
        Row("GENOME over a fresh copy, CPU", ratio("sparse", "fresh", 1), "x"),
        Row("GENOME over a fresh copy, wall", ratio("sparse", "fresh", 0), "x"),
        Row("GENOME over a donated copy, wall", ratio("sparse", "donated", 0), "x"),
        Row("SimpleGA over 64 mutants, wall", ratio("evosax", "dense", 0), "x", ">= 3"),
        Row("SimpleGA over 64 mutants, CPU", ratio("evosax", "dense", 1), "x", ">= 3"),
        Row("64 mutants over a fresh copy, CPU", ratio("dense", "fresh", 1), "x"),
        Row("GENOME, wall", [t["sparse"][0] for t in taken], "s"),
        Row("evosax SimpleGA, wall", [t["evosax"][0] for t in taken], "s"),
        Row("peak memory over the population", [sparse_peak] * repeats, "x", "<= 2.1"),
        Row("peak memory of 64 mutants", [dense_peak] * repeats, "x"),
    ]
