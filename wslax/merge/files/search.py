"""Search of a recipe's numbers with a fitness that sees merged checkpoints.

Where a recipe has `{low: 0, high: 1}` in place of a number, that number is searched.
"""

import copy
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.atomic import remove
from wslax.merge.files.config import parse_recipe
from wslax.merge.files.disk import changed_last, run_plan
from wslax.merge.files.hooks import fitness_of
from wslax.merge.files.plan import make_plan
from wslax.merge.files.recipe import Recipe
from wslax.numerics.proposals import Proposer, cma_es, uniform

STRATEGIES: Mapping[str, Callable[[int], Proposer]] = {"cma_es": cma_es, "random": uniform}
LOG = "candidates.jsonl"


class Dial(NamedTuple):
    """A number that is searched.

    Attributes:
      path: keys and indices that lead to it in the recipe.
      low: its least value.
      high: its greatest.
    """

    path: tuple[Any, ...]
    low: float
    high: float

    @property
    def name(self) -> str:
        """Its path as one word."""
        return ".".join(map(str, self.path))


class Candidate(NamedTuple):
    """A recipe that was tried.

    Attributes:
      values: its numbers by path.
      fitness: what the function said; NaN is the worst.
    """

    values: dict[str, float]
    fitness: float


class Search(NamedTuple):
    """What a search found.

    Attributes:
      recipe: the best recipe, without ranges.
      best: the best candidate.
      direction: `"maximize"` or `"minimize"`.
      candidates: all, in the order in which they were tried.
    """

    recipe: Recipe
    best: Candidate
    direction: str
    candidates: list[Candidate]


def find_dials(content: Any) -> list[Dial]:
    """The ranges of a recipe as it stands in YAML.

    Example:
        >>> find_dials({"parameters": {"t": {"low": 0, "high": 1}}})
        [Dial(path=('parameters', 't'), low=0.0, high=1.0)]
    """
    return list(_dials(content, ()))


def _dials(content: Any, path: tuple[Any, ...]) -> Iterator[Dial]:
    if isinstance(content, Mapping):
        if set(content) == {"low", "high"}:
            low, high = content["low"], content["high"]
            numbers = all(
                isinstance(x, (int, float)) and not isinstance(x, bool) for x in (low, high)
            )
            if not numbers or not -np.inf < low < high < np.inf:
                name = ".".join(map(str, path))
                raise WeightSpaceError(f"{name}: expected low below high, got {low!r} and {high!r}")
            yield Dial(path, float(low), float(high))
            return
        for key, value in content.items():
            yield from _dials(value, (*path, key))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _dials(value, (*path, i))


def filled(content: Any, dials: list[Dial], point: Any) -> Any:
    """The recipe with numbers in place of ranges; `point` lies in the unit cube.

    Example:
        >>> content = {"parameters": {"t": {"low": 0, "high": 2}}}
        >>> filled(content, find_dials(content), [0.25])
        {'parameters': {'t': 0.5}}
    """
    found = copy.deepcopy(content)
    for dial, x in zip(dials, point, strict=True):
        place = found
        for key in dial.path[:-1]:
            place = place[key]
        place[dial.path[-1]] = dial.low + (dial.high - dial.low) * float(x)
    return found


def search(
    content: Any,
    fitness: Callable[[str], Any],
    folder: str | os.PathLike[str],
    *,
    budget: int,
    direction: str,
    strategy: str = "cma_es",
    batch: int = 8,
    seed: int = 0,
    threads: int = 2,
    resume: bool = False,
    told: Callable[[Candidate], None] | None = None,
) -> Search:
    """The numbers of a recipe that are best by a function of the merged checkpoint.

    Each candidate is merged into `folder`, judged, and removed. Tried candidates are written down,
    so a search that was stopped goes on with `resume` as if it had not been.

    Args:
      content: a recipe as in YAML, with `{low, high}` in place of the numbers that are searched.
      fitness: path of a merged folder to a number, or to several with a `score`; NaN never wins.
      folder: holds the candidate at hand and `candidates.jsonl`; new, but to go on.
      budget: candidates; as many whole batches are made as fit.
      direction: `"maximize"` or `"minimize"`.
      strategy: `"cma_es"` (begins in the middle with a sixth of each range) or `"random"`.
      batch: candidates a turn, at least 2.
      seed: of the strategy, and of random methods.
      threads: as for a merge.
      resume: do not try again what is written down.
      told: called with each candidate.

    Raises:
      WeightSpaceError: no range, a bad recipe at either end of the ranges, an unknown strategy or
        direction, a budget below one batch, a log of another search.

    Example:
        >>> import numpy as np, tempfile, wslax as ws
        >>> with tempfile.TemporaryDirectory() as d:
        ...     for name, value in {"a": 0.0, "b": 1.0}.items():
        ...         ws.io.save({"w": np.full(2, value)}, f"{d}/{name}.safetensors")
        ...     models = [{"model": f"{d}/{name}.safetensors"} for name in "ab"]
        ...     models[1]["parameters"] = {"weight": {"low": 0, "high": 1}}
        ...     content = {"merge_method": "linear", "models": models,
        ...                "parameters": {"weight": 1, "normalize": False}}
        ...     far = lambda path: float(np.abs(ws.io.load(path)["w"][0] - 0.25))
        ...     found = search(content, far, f"{d}/s", budget=64, direction="minimize")
        >>> abs(found.recipe.models[1].parameters["weight"] - 0.25) < 0.01
        True
    """
    dials, proposer, changed = _checked(content, budget, direction, strategy, batch)
    folder = pathlib.Path(folder)
    log = folder / LOG
    if log.exists() and not resume:
        raise WeightSpaceError(f"{log}: is of an earlier search; go on with resume, or remove it")
    name = f"{fitness.__module__}:{fitness.__qualname__}"
    asked = {"recipe": content, "fitness": name, "direction": direction, "strategy": strategy,
             "batch": batch, "seed": seed, "changed": changed}  # fmt: skip
    known = _read_log(log, json.dumps(asked, default=str))
    folder.mkdir(parents=True, exist_ok=True)
    lines = [asked, *(c._asdict() for c in known)]
    log.write_text("".join(json.dumps(x, default=str) + "\n" for x in lines), "utf-8")
    candidates: list[Candidate] = []
    sign, state = 1.0 if direction == "maximize" else -1.0, proposer.init(seed, len(dials))
    with log.open("a", encoding="utf-8") as file:
        for _ in range(budget // batch):
            points, state = proposer.ask(state)
            for point in points:
                values = {
                    d.name: d.low + (d.high - d.low) * float(x)
                    for d, x in zip(dials, point, strict=True)
                }
                at = len(candidates)
                if at < len(known):
                    candidates.append(known[at])
                    continue
                recipe = parse_recipe(filled(content, dials, point))
                candidates.append(Candidate(values, _try(recipe, folder, fitness, seed, threads)))
                file.write(json.dumps(candidates[-1]._asdict()) + "\n")
                file.flush()
                if told is not None:
                    told(candidates[-1])
            scores = [sign * c.fitness for c in candidates[-batch:]]
            worth = np.array([-np.inf if np.isnan(s) else s for s in scores])
            state = proposer.tell(state, points, worth, None)
    if all(np.isnan(c.fitness) for c in candidates):
        raise WeightSpaceError(f"the fitness was no number for any of {len(candidates)} candidates")
    best = max(candidates, key=lambda c: -np.inf if np.isnan(c.fitness) else sign * c.fitness)
    point = [(best.values[d.name] - d.low) / (d.high - d.low) for d in dials]
    return Search(parse_recipe(filled(content, dials, point)), best, direction, candidates)


def _checked(
    content: Any, budget: int, direction: str, strategy: str, batch: int
) -> tuple[list[Dial], Proposer, dict[str, int]]:
    """What is searched and how, and when the inputs were changed last."""
    if strategy not in STRATEGIES:
        hint = did_you_mean(strategy, STRATEGIES)
        raise WeightSpaceError(f"strategy: no strategy is called {strategy!r}.{hint}")
    if direction not in ("maximize", "minimize"):
        raise WeightSpaceError(f"direction: expected maximize or minimize, got {direction!r}")
    if batch < 2 or budget < batch:
        raise WeightSpaceError(
            f"budget: expected at least a batch, and that at least 2; got {budget} and {batch}"
        )
    dials = find_dials(content)
    if not dials:
        raise WeightSpaceError(
            "nothing is searched: put {low: 0, high: 1} in place of a number in the recipe"
        )
    plan, _ = (
        make_plan(parse_recipe(filled(content, dials, [end] * len(dials)))) for end in (0.0, 1.0)
    )
    return dials, STRATEGIES[strategy](batch), changed_last(plan)


def _try(
    recipe: Recipe, folder: pathlib.Path, fitness: Callable[[str], Any], seed: int, threads: int
) -> float:
    out = folder / "candidate"
    remove(out)
    run_plan(make_plan(recipe, threads), out, seed=seed, threads=threads)
    try:
        return fitness_of(fitness, str(out))
    finally:
        remove(out)


def _read_log(log: pathlib.Path, asked: str) -> list[Candidate]:
    """The candidates of a log that begins with the same question; one cut short ends it."""
    found: list[Candidate] = []
    lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
    if lines and lines[0] != asked:
        raise WeightSpaceError(f"{log}: is of another search, or of other files; remove it")
    for line in lines[1:]:
        try:
            row = json.loads(line)
            found.append(Candidate(dict(row["values"]), float(row["fitness"])))
        except (ValueError, TypeError, KeyError):
            break
    return found
