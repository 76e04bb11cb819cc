"""Search of a method's parameters: a batch of merges a turn, each batch one program."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wslax import population as populations
from wslax.errors import WeightSpaceError, did_you_mean
from wslax.merge.memory import run
from wslax.merge.method import Method
from wslax.merge.registry import METHODS
from wslax.numerics.proposals import Proposer, ascent, cma_es, uniform
from wslax.tree import ByLeaf
from wslax.typing import Key, Params, Population


class Dial(NamedTuple):
    """A parameter, or what it is for the leaves of one glob.

    Attributes:
      name: the parameter's.
      glob: of the leaves, or None.
      low: least value.
      high: greatest value.
      count: how many numbers: N where the method declares one a member, else None for a number.
    """

    name: str
    glob: str | None
    low: float
    high: float
    count: int | None


Space = tuple[Dial, ...]


class Found(NamedTuple):
    """What a search found.

    Attributes:
      params: the best merged model.
      settings: its parameters, for `wslax.merge`'s function of the method.
      fitness: its fitness, as the function gave it.
      direction: of the search.
      candidates: `settings` of all candidates in order, with a leading axis.
      scores: `[E]`, their fitness.
    """

    params: Any
    settings: dict[str, Any]
    fitness: float
    direction: str
    candidates: dict[str, Any]
    scores: Any


def dials(method: Method, space: Mapping[str, Any], count: int) -> Space:
    """What a space of ranges has to be set.

    Args:
      method: declares the parameters.
      space: parameter to `(low, high)`, or `wslax.by_leaf` of that.
      count: of the members.

    Raises:
      WeightSpaceError: if a parameter is unknown or no float, or a range is not within its own.

    Example:
        >>> found = dials(METHODS["ties"], {"coef": (0, 2)}, 3)
        >>> found[0].count, found[0].high
        (3, 2.0)
    """
    known = {param.name: param for param in method.params if param.kind is float}
    found = []
    for name, given in space.items():
        if name not in known:
            hint = did_you_mean(name, list(known))
            raise WeightSpaceError(f"space: {method.name} has no number {name!r}.{hint}")
        param = known[name]
        for glob, ends in given.rules if isinstance(given, ByLeaf) else ((None, given),):
            if np.shape(ends) != (2,) or not -np.inf < ends[0] < ends[1] < np.inf:
                raise WeightSpaceError(f"space: {name}: expected (low, high), got {ends}")
            low, high = map(float, ends)
            over = param.high is not None and high > param.high
            if over or (param.low is not None and low < param.low):
                raise WeightSpaceError(f"space: {name}: expected {param.legal}, got {ends}")
            found.append(Dial(name, glob, low, high, count if param.per == "member" else None))
    if not found:
        raise WeightSpaceError("space: expected a range of at least one parameter, got none")
    return tuple(found)


def width(space: Space) -> int:
    """How many numbers there are to set.

    Example:
        >>> width((Dial("coef", None, 0.0, 1.0, 3), Dial("lam", None, 0.0, 1.0, None)))
        4
    """
    return sum(dial.count or 1 for dial in space)


def settings_of(space: Space, points: Any) -> dict[str, Any]:
    """The parameters that points `[..., size]` of the unit cube stand for.

    Example:
        >>> import numpy as np
        >>> settings_of((Dial("lam", None, 0.0, 2.0, None),), np.array([0.25]))
        {'lam': array(0.5)}
    """
    found: dict[str, Any] = {}
    start = 0
    for dial in space:
        stop = start + (dial.count or 1)
        value = dial.low + (dial.high - dial.low) * points[..., start:stop]
        value = value if dial.count else value[..., 0]
        if dial.glob is None:
            found[dial.name] = value
        else:
            rules = found.get(dial.name, ByLeaf(())).rules
            found[dial.name] = ByLeaf((*rules, (dial.glob, value)))
        start = stop
    return found


@functools.partial(jax.jit, static_argnames=("method", "fitness", "space", "flags", "slopes"))
def _evaluate(
    method: Method, fitness: Any, space: Space, flags: Any, slopes: bool,
    population: Any, base: Any, numbers: Any, key: Any, points: Any,
) -> Any:  # fmt: skip
    """The fitness of every point, and its gradients."""

    def one(point: Any) -> Any:
        given = dict(flags) | numbers | settings_of(space, point)
        return fitness(run(method, population, base, given, key=key))

    return jax.vmap(jax.value_and_grad(one) if slopes else one)(points)


def _proposer(strategy: Any, batch: int) -> Proposer:
    known = {"random": uniform, "cma_es": cma_es, "gradient": ascent}
    if isinstance(strategy, Proposer):
        return strategy
    if callable(strategy):
        return from_evosax(strategy, batch)
    if strategy not in known:
        raise WeightSpaceError(
            f"strategy: expected one of {', '.join(known)}, a Proposer or an algorithm of evosax, "
            f"got {strategy!r}"
        )
    return known[strategy](batch)


def from_evosax(algorithm: Callable[..., Any], batch: int) -> Proposer:
    """A distribution-based algorithm of evosax, begun in the middle of the cube.

    Args:
      algorithm: `(population_size=, solution=) -> algorithm`, such as `evosax.algorithms.CMA_ES`;
        its defaults hold. Points are put back to the nearest point of the cube.
      batch: its population size.
    """

    def init(seed: int, size: int) -> Any:
        made = algorithm(population_size=batch, solution=jnp.zeros(size))
        key, first = jax.random.split(jax.random.key(seed))
        return made, key, made.init(first, jnp.full(size, 0.5), made.default_params)

    def ask(state: Any) -> Any:
        made, key, inner = state
        key, now = jax.random.split(key)
        points, inner = made.ask(now, inner, made.default_params)
        return np.clip(np.asarray(points, float), 0, 1), (made, key, inner)

    def tell(state: Any, points: Any, fitness: Any, slopes: Any) -> Any:
        made, key, inner = state
        key, now = jax.random.split(key)
        cost = jnp.asarray(-np.asarray(fitness), jnp.float32)  # evosax minimises
        points = jnp.asarray(points, jnp.float32)
        inner, _ = made.tell(now, points, cost, inner, made.default_params)
        return made, key, inner

    return Proposer(init, ask, tell)


def search(
    method: str | Method,
    population: Population,
    base: Params | None,
    fitness: Callable[[Params], Any],
    *,
    space: Mapping[str, Any],
    budget: int,
    direction: str,
    strategy: Any = "cma_es",
    batch: int = 16,
    given: Mapping[str, Any] | None = None,
    seed: int = 0,
    key: Key | None = None,
) -> Found:
    r"""The parameters of a method that are best by a function of the merged model.

    A strategy proposes a batch of candidates, one compiled program merges and evaluates them all,
    the strategy is told. Memory is that of `batch` models.

    Args:
      method: a name or entry of `merge.METHODS`.
      population: N members.
      base: the model they came from, or None.
      fitness: `params -> number`, traceable, on data held out from training. NaN never wins. Keep
        one function object: the compiled program belongs to it.
      space: parameter to `(low, high)`, or `wslax.by_leaf` of that, for each glob its own numbers.
        Parameters that the method takes for each member get N numbers.
      budget: evaluations; as many whole batches are made as fit.
      direction: `"maximize"` or `"minimize"`.
      strategy: `"cma_es"` (sigma 1/6 of the range from its middle, as in mergekit-evolve),
        `"random"`, `"gradient"` (Adam from `batch` starts; each gradient counts as one
        evaluation), an algorithm of evosax (`evosax.algorithms.SNES`), or a
        `numerics.proposals.Proposer`.
      batch: candidates a turn, at least 2.
      given: the other parameters: numbers, `[N]` arrays or flags. What is neither here nor in
        `space` has the method's default.
      seed: of the strategy.
      key: of a random method, the same for all candidates.

    Returns:
      `Found(params, settings, fitness, direction, candidates, scores)`.

    Raises:
      WeightSpaceError: if a range, the direction or the strategy is unknown or wrong, or the budget
        is below one batch.

    References:
      Akiba et al. 2024, Evolutionary optimization of model merging recipes, arXiv:2403.13187.

    Example:
        >>> import jax.numpy as jnp, wslax as ws
        >>> experts = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
        >>> loss = lambda p: ((p["w"] - jnp.array([0.2, 0.9])) ** 2).sum()
        >>> found = ws.merge.search(
        ...     "task_arithmetic", experts, {"w": jnp.zeros(2)}, loss,
        ...     space={"coef": (0, 1)}, budget=640, direction="minimize",
        ... )
        >>> found.settings["coef"].round(2).tolist()
        [0.2, 0.9]
    """
    if isinstance(method, str):
        if method not in METHODS:
            hint = did_you_mean(method, list(METHODS))
            raise WeightSpaceError(f"no merging method is called {method!r}.{hint}")
        method = METHODS[method]
    if direction not in ("maximize", "minimize"):
        raise WeightSpaceError(f"direction: expected maximize or minimize, got {direction!r}")
    if batch < 2 or budget < batch:
        raise WeightSpaceError(
            f"budget: expected at least a batch, at least 2; got {budget} and {batch}"
        )
    made, proposer = dials(method, space, populations.size(population)), _proposer(strategy, batch)
    given = dict(given or {})
    fixed = {param.name for param in method.params if param.kind is not float}
    flags = tuple((n, v) for n, v in given.items() if n in fixed)
    numbers = {n: v for n, v in given.items() if n not in dict(flags)}
    sign = 1 if direction == "maximize" else -1
    evaluate = functools.partial(
        _evaluate, method, fitness, made, flags, proposer.slopes, population, base, numbers, key
    )

    state, seen, scores = proposer.init(seed, width(made)), [], []
    for _ in range(budget // batch):
        points, state = proposer.ask(state)
        result = evaluate(jnp.asarray(points, jnp.float32))
        score, slopes = result if proposer.slopes else (result, None)
        score = np.asarray(score, float)
        slopes = None if slopes is None else sign * np.asarray(slopes, float)
        worth = np.where(np.isnan(score), -np.inf, sign * score)
        state = proposer.tell(state, points, worth, slopes)
        seen.append(points)
        scores.append(score)
    points, score = np.concatenate(seen), np.concatenate(scores)
    best = int(np.argmax(np.where(np.isnan(score), -np.inf, sign * score)))
    settings = settings_of(made, points[best])
    params = run(method, population, base, given | settings, key=key)
    return Found(params, settings, float(score[best]), direction, settings_of(made, points), score)
