"""Several recipes in one file: later ones merge the results of earlier ones by name."""

import dataclasses
import graphlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from wslax.errors import WeightSpaceError
from wslax.merge.files.plan import Plan, make_plan, promised
from wslax.merge.files.recipe import Recipe
from wslax.merge.files.references import Model, split


class Step(NamedTuple):
    """One merge of a file of several.

    Attributes:
      recipe: with the paths of earlier results in place of their names.
      out: where its result goes.
      needs: the results of earlier steps that it merges.
    """

    recipe: Recipe
    out: pathlib.Path
    needs: frozenset[str]


def _named(reference: str) -> tuple[str, str]:
    """A reference's model name, and what follows it."""
    model = split(reference)[0].partition("@")[0]
    return model, reference.removeprefix(model)


def _references(value: Any, change: Callable[[str], str], key: str = "") -> Any:
    """A recipe with every reference to a model changed."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {k: _references(v, change, k) for k, v in vars(value).items()}
        return dataclasses.replace(value, **changed)
    if isinstance(value, list):
        return [_references(v, change, key) for v in value]
    if isinstance(value, dict):
        if key == "parameters":
            return value
        return {k: _references(v, change, k) for k, v in value.items()}
    is_reference = key in ("model", "base_model", "tokenizer_source", "source")
    return change(value) if is_reference and isinstance(value, str) else value


def in_order(recipes: Sequence[Recipe], out: pathlib.Path, folder: pathlib.Path) -> list[Step]:
    """The merges of a file, each after those that it needs.

    Args:
      recipes: its documents. The final one has no name, or is the only one that none needs.
      out: where the final result goes.
      folder: where the others go, by name.

    Raises:
      WeightSpaceError: names that stand twice or are no plain file names, recipes that need each
        other, no final recipe or several.

    Example:
        >>> from wslax.merge.files.recipe import ModelEntry
        >>> first = Recipe("linear", [ModelEntry("a"), ModelEntry("b")], name="ab")
        >>> last = Recipe("linear", [ModelEntry("ab"), ModelEntry("c")])
        >>> steps = in_order([last, first], pathlib.Path("out"), pathlib.Path("parts"))
        >>> [(str(step.out), step.recipe.models[0].model) for step in steps]
        [('parts/ab', 'a'), ('out', 'parts/ab')]
    """
    names = [recipe.name for recipe in recipes]
    for name in filter(None, names):
        if names.count(name) > 1:
            raise WeightSpaceError(f"name: two recipes are called {name!r}")
        odd = set(name) & set("\0+@") or name in (".", "..") or len(name) > 200
        if odd or pathlib.PurePath(name).name != name:
            raise WeightSpaceError(f"name: {name!r} is no plain name of a folder")
    needs = {
        i: {names.index(n) for r in _every_reference(recipe) if (n := _named(r)[0]) in names}
        for i, recipe in enumerate(recipes)
    }
    final = _final(names, needs)
    try:
        order = list(graphlib.TopologicalSorter(needs).static_order())
    except graphlib.CycleError as error:
        circle = " needs ".join(str(names[i] or "the last") for i in error.args[1][::-1])
        raise WeightSpaceError(f"recipes need each other: {circle}") from error
    places = {n: folder / n for i, n in enumerate(names) if n is not None and i != final}

    def placed(reference: str) -> str:
        model, rest = _named(reference)
        return f"{places[model]}{rest}" if model in places else reference

    return [
        Step(
            _references(dataclasses.replace(recipes[i], name=None), placed),
            out if i == final else places[str(names[i])],
            frozenset(str(places[str(names[j])]) for j in needs[i]),
        )
        for i in order
    ]


def _every_reference(recipe: Recipe) -> list[str]:
    found: list[str] = []
    _references(recipe, lambda reference: found.append(reference) or reference)
    return found


def _final(names: Sequence[str | None], needs: dict[int, set[int]]) -> int:
    """Which recipe gives the output."""
    unnamed = [i for i, name in enumerate(names) if name is None]
    needed = set().union(*needs.values())
    last = unnamed or [i for i in range(len(names)) if i not in needed]
    if len(last) > 1:
        raise WeightSpaceError(
            f"{len(last)} recipes could give the output; leave one without a name"
        )
    return last[0] if last else len(names) - 1


def plans_of(steps: Sequence[Step], threads: int = 2) -> dict[pathlib.Path, Plan]:
    """The plans of the merges, each from headers and from what earlier ones will write.

    After a merge that makes a new vocabulary nothing can be said of those that need it.
    """
    plans: dict[pathlib.Path, Plan] = {}
    made: dict[str, Model] = {}
    for step in steps:
        if step.needs <= made.keys():
            plans[step.out] = plan = make_plan(step.recipe, threads, made)
            if plan.vocabulary is None:
                made[str(step.out)] = promised(plan, step.out)
    return plans
