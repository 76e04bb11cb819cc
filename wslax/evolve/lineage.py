"""Who descends from whom: read from the history of a run."""

from typing import NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError
from wslax.evolve.runs import Run


class Birth(NamedTuple):
    """One individual that a run has seen.

    Attributes:
      id: unique over the run.
      generation: 0 for the first population, then from 1.
      parents: ids without repeats: two from a crossover, one from a mutation or a move, none in the
        first population.
      fitness: in the direction of the run; NaN where it failed.
      survived: whether it entered the population.
    """

    id: int
    generation: int
    parents: tuple[int, ...]
    fitness: float
    survived: bool


def births(run: Run) -> dict[int, Birth]:
    """All individuals of a run by id, those that never entered the population too.

    Example:
        See `ancestry`.
    """
    founders = run.founders
    found = {
        int(id_): Birth(int(id_), 0, (), float(fitness), True)
        for id_, fitness in zip(founders.ids, founders.fitness, strict=True)
    }
    if run.history is None:
        return found
    rows = zip(*(run.history[:4]), strict=True)
    for generation, (ids, parents, fitness, slots) in enumerate(rows, 1):
        for id_, of, value, slot in zip(ids, parents, fitness, slots, strict=True):
            known = tuple(dict.fromkeys(int(p) for p in np.atleast_1d(of)))
            found[int(id_)] = Birth(int(id_), generation, known, float(value), int(slot) >= 0)
    return found


def ancestry(run: Run, id: int | None = None) -> list[Birth]:
    """A member and all of its ancestors, the oldest first.

    Args:
      run: what `run` returned.
      id: of the member; default the best of the last population.

    Returns:
      Births in the order of generations, then ids; the member itself is the last.

    Raises:
      WeightSpaceError: if the run knows no such id.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> end = ws.evolve.run(
        ...     ws.evolve.genome(), {"w": jnp.arange(8.0)}, lambda p: -jnp.square(p["w"] - 2.4),
        ...     key=0, generations=3, direction="maximize")
        >>> family = ws.evolve.ancestry(end)
        >>> family[0].generation, family[-1].fitness == float(end.members.fitness.max())
        (0, True)
    """
    known = births(run)
    if id is None:
        fitness = np.asarray(run.members.fitness)
        pick = np.nanargmin if run.direction == "minimize" else np.nanargmax
        id = int(np.asarray(run.members.ids)[pick(fitness)])
    if id not in known:
        raise WeightSpaceError(f"id: the run knows no individual {id}")
    family, open_ = {id}, [id]
    while open_:
        for parent in known[open_.pop()].parents:
            if parent not in family:
                family.add(parent)
                open_.append(parent)
    return sorted((known[i] for i in family), key=lambda birth: (birth.generation, birth.id))
