"""GENOME: a genetic algorithm whose crossover is a merge (Zhang et al. 2025, arXiv:2503.01155)."""

import jax.numpy as jnp

from wslax import random
from wslax.errors import WeightSpaceError
from wslax.evolve.breeding import breed
from wslax.evolve.crossover import Crossover, linear
from wslax.evolve.generation import State, crossed, planned, program, unborn
from wslax.evolve.selection import pairs
from wslax.evolve.strategy import Evaluation, Strategy, empty, members
from wslax.globs import hashable
from wslax.population import size
from wslax.population.members import as_key
from wslax.typing import Array, Key, Params, Population, Scalar, Where


def genome(
    *,
    cross_rate: float = 0.8,
    mutation_rate: float = 0.15,
    gene_rate: float = 0.01,
    sigma: Scalar = 0.01,
    elite: float = 0.02,
    tournament: int = 3,
    crossover: Crossover = linear,
    where: Where = None,
    chunk: int = 4,
) -> Strategy:
    r"""GENOME: fitness-weighted merges of two members, sparse Gaussian mutation, tournaments.

    A generation of N members makes, with counts rounded half up,

    - `cross_rate * floor(N / 2)` children of two distinct parents drawn by roulette, each merged
      with its parents' shares of fitness \(s_1/(s_1+s_2), s_2/(s_1+s_2)\);
    - mutants of `mutation_rate * N` members and of the same share of those children, each
      \(y = x + m\epsilon\), \(m\) hitting a weight with probability `gene_rate`,
      \(\epsilon \sim N(0, \sigma^2)\); the original stays.

    `tell` keeps `max(1, floor(elite * N))` elites of parents and children together and fills up by
    tournaments without replacement. The defaults are those of the authors' run script.

    It differs from the released code (ZhangYiqun018/GENOME) in this: numbers of children are fixed
    rather than binomial; at least one elite stays, where `int(0.02 * 10)` was none; a child's
    fitness is always its own; roulette stands zero, negative and NaN fitness (`shares`); hits of
    the mutation are spread evenly (`gaussian`).

    Args:
      cross_rate: share of the N/2 crossovers that happen; static, as all but `sigma`.
      mutation_rate: share of members and of children that get a mutant.
      gene_rate: share of a mutant's weights that change.
      sigma: absolute standard deviation of a change; in the state, so a sweep compiles once.
      elite: share of the population that survives by rank.
      tournament: how many compete for a place.
      crossover: `(key, pair, coef) -> params`.
      where: globs of the leaves that are crossed and mutated; others, and integer, bool and key
        leaves, come from the first parent (the one drawn first).
      chunk: how many children are made at a time. Bits do not depend on it, memory and speed do:
        4 is best on a CPU. Of an offloaded population so many are on the device.

    Returns:
      The strategy. Its state has `members`, `parents`, `next_id` and `sigma`. Peak memory of a
      generation is the population, plus the children, plus a few chunks, where the state is
      donated to `tell`.

    Raises:
      WeightSpaceError: if a rate is outside [0, 1] or a size is below 1; from `init`, if the
        population is so small that no child would be made.

    References:
      Zhang et al. 2025, Nature-Inspired Population-Based Evolution of Large Language Models,
      arXiv:2503.01155.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> target = jnp.linspace(-1, 1, 5)
        >>> fitness = lambda population: -jnp.square(population["w"] - target[None]).sum(1)
        >>> population = {"w": jax.random.normal(jax.random.key(1), (16, 5))}
        >>> strategy = ws.evolve.genome(mutation_rate=0.5, gene_rate=0.5, sigma=0.1)
        >>> end = ws.evolve.run(
        ...     strategy, population, fitness, key=0, generations=20, direction="maximize")
        >>> bool(end.members.fitness.max() > fitness(population).max())
        True
    """
    plan = planned(
        cross_rate=cross_rate,
        mutation_rate=mutation_rate,
        gene_rate=gene_rate,
        elite=elite,
        tournament=tournament,
        crossover=crossover,
        where=where,
        chunk=chunk,
    )

    def init(key: Key, population: Params, evaluation: Array | Evaluation) -> State:
        """The first state; draws nothing. `population` may share memory with it."""
        first = members(population, evaluation, served=True)
        next_id = jnp.asarray(size(population), jnp.uint32)
        return State(first, unborn(plan, population), next_id, jnp.asarray(sigma, jnp.float32))

    return Strategy(init, *program(plan))


def genome_init(
    key: Key,
    experts: Population,
    n: int,
    *,
    crossover: Crossover = linear,
    where: Where = None,
    chunk: int = 4,
) -> Params:
    r"""GENOME's first population: merges of random pairs of experts.

    All pairs of experts in random order, the first `n` of them (again from the start when they run
    out); each is merged with \(u_1/(u_1+u_2), u_2/(u_1+u_2)\), \(u \sim U(0, 1)\).

    Args:
      key: a JAX key or seed.
      experts: leaves `[K, ...]`, K at least 2.
      n: how many members; static.
      crossover: as in `genome`.
      where: as in `genome`; other leaves come from the expert of the lower index.
      chunk: as in `genome`.

    Returns:
      Leaves `[n, ...]`, unevaluated.

    Raises:
      WeightSpaceError: if there are fewer than two experts, or `n` is below 1.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> ws.evolve.genome_init(0, {"w": jnp.zeros((3, 5))}, 8)["w"].shape
        (8, 5)
    """
    if n < 1:
        raise WeightSpaceError(f"n: expected at least 1 member, got {n}")
    parents = pairs(key, size(experts), n)
    u = 1 - random.uniform(random.bits(key, "evolve/weights", 2 * n, xp=jnp)).reshape(n, 2)
    coef = u / u.sum(1, keepdims=True)
    make = crossed(crossover, hashable(where))
    shared = as_key(key), coef, jnp.arange(n, dtype=jnp.uint32)
    return breed(empty(experts, n), 0, parents, chunk, make, shared, experts)
