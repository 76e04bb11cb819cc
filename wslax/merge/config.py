"""Recipes in mergekit's YAML, read as hostile input.

`read_recipe` and `parse_recipe` report everything wrong at once; `wslax.merge.resolve` turns a
recipe into numbers.
"""

import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.safe_yaml import read_yaml
from wslax.merge.method import Method, Param
from wslax.merge.registry import METHODS

DTYPES = ("bfloat16", "float16", "float32", "float64")
_LATER = {
    "slices": "layer ranges",
    "modules": "several modules",
    "tokenizer": "tokenizer merging",
    "tokenizer_source": "tokenizer merging",
    "chat_template": "chat templates",
}
_IGNORED = {"int8_mask"}  # changes the dtype of mergekit's masks, never a result


@dataclass(frozen=True)
class ModelEntry:
    """One model of a recipe and its own parameters."""

    model: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A merge, as written.

    Attributes:
      merge_method: a name in `METHODS`.
      models: the models in order.
      base_model: the base, or None.
      parameters: parameters for all models.
      dtype: stored dtype of the result where `out_dtype` is not given.
      out_dtype: stored dtype of the result; default: the widest of the inputs'.
    """

    merge_method: str
    models: list[ModelEntry]
    base_model: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None


def _typed(content: Any) -> tuple[Recipe | None, list[str]]:
    """The recipe, or a sentence for every missing, extra or mistyped key by its path."""
    import pydantic

    config = pydantic.ConfigDict(extra="forbid")
    ModelEntry.__pydantic_config__ = Recipe.__pydantic_config__ = config  # type: ignore[attr]
    try:
        return pydantic.TypeAdapter(Recipe).validate_python(content), []
    except pydantic.ValidationError as error:
        return None, [_sentence(problem) for problem in error.errors()]


def _sentence(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    kind = problem["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        key = str(problem["loc"][-1])
        if key in _LATER and len(problem["loc"]) == 1:
            return f"{path}: {_LATER[key]} of mergekit are not done by this version"
        known = [f.name for f in _fields(problem["loc"])]
        return f"unknown key {path!r}.{did_you_mean(key, known)}"
    if kind in ("missing", "missing_argument"):
        return f"{path}: is missing"
    return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {problem['input']!r}"


def _fields(path: Sequence[Any]) -> Any:
    import dataclasses

    return dataclasses.fields(ModelEntry if path[0] == "models" else Recipe)


def parse_recipe(content: Any) -> Recipe:
    """A checked recipe from parsed YAML (or a dict of the same shape).

    Args:
      content: a mapping with mergekit's keys.

    Returns:
      The recipe.

    Raises:
      WeightSpaceError: one sentence a problem: unknown, missing or mistyped keys, an unknown method
        or parameter with the nearest valid name, values out of range, a missing base.

    Example:
        >>> parse_recipe({"merge_method": "tis", "models": [{"model": "a"}]})
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: merge_method: no method is called 'tis'. Did you mean 'ties'?
    """
    if not isinstance(content, dict):
        raise WeightSpaceError("a recipe is a mapping of keys such as merge_method and models")
    if isinstance(content.get("base_model"), dict):
        raise WeightSpaceError("base_model: give a path")
    models = content.get("models")
    if isinstance(models, list):
        models = [
            {**m, "parameters": m.get("parameters") or {}} if isinstance(m, dict) else m
            for m in models
        ]
        content = {**content, "models": models}
    content = {**content, "parameters": content.get("parameters") or {}}
    recipe, problems = _typed(content)
    method, unknown = _method(content.get("merge_method"))
    problems += unknown
    if method is not None:
        problems += _problems_of_parameters(method, content)
        if recipe is not None:
            problems += _problems_of_models(method, recipe)
    if recipe is None or problems:
        raise WeightSpaceError("; ".join(problems))
    return recipe


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file; relative model paths stay relative to the working directory.

    Example:
        >>> read_recipe("missing.yaml")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: missing.yaml: no such file
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightSpaceError(f"{path}: no such file")
    try:
        return parse_recipe(read_yaml(path.read_text("utf-8")))
    except UnicodeDecodeError as error:
        raise WeightSpaceError(f"{path}: not a text file") from error
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{path}: {error}") from error


def members(recipe: Recipe) -> list[ModelEntry]:
    """The models that a method combines, in its order: without a required base, or base first.

    Example:
        >>> recipe = Recipe("slerp", [ModelEntry("a"), ModelEntry("b")], "b", {"t": 0.5})
        >>> [entry.model for entry in members(recipe)]
        ['b', 'a']
    """
    method, base = METHODS[recipe.merge_method], recipe.base_model
    others = [entry for entry in recipe.models if entry.model != base]
    if base is None or method.base in ("required", "optional"):
        return others
    own = [entry for entry in recipe.models if entry.model == base] or [ModelEntry(base)]
    if method.base == "first":
        return own + others
    return recipe.models if own[0] in recipe.models else others + own


def _method(name: Any) -> tuple[Method | None, list[str]]:
    if not isinstance(name, str):
        return None, []  # the types are reported elsewhere
    if name not in METHODS:
        hint = did_you_mean(name, METHODS)
        return None, [f"merge_method: no method is called {name!r}.{hint}"]
    return METHODS[name], []


def _problems_of_models(method: Method, recipe: Recipe) -> list[str]:
    problems = []
    paths = [entry.model for entry in recipe.models]
    if len(set(paths)) != len(paths):
        problems.append("models: a model is listed twice")
    if method.base == "required" and recipe.base_model is None:
        problems.append(f"base_model: {method.name} needs one")
    count = len(members(recipe))
    if count < method.least or (method.most is not None and count > method.most):
        most = "" if method.most is None else f" and at most {method.most}"
        problems.append(f"models: {method.name} takes at least {method.least}{most}, got {count}")
    for key in ("dtype", "out_dtype"):
        value = getattr(recipe, key)
        if value is not None and value not in DTYPES:
            problems.append(f"{key}: unknown dtype {value!r}.{did_you_mean(value, DTYPES)}")
    return problems


def _problems_of_parameters(method: Method, content: Mapping[str, Any]) -> list[str]:
    places = [("parameters", content["parameters"])]
    models = content.get("models")
    for i, entry in enumerate(models if isinstance(models, list) else []):
        if isinstance(entry, dict):
            places.append((f"models.{i}.parameters", entry["parameters"]))
    places = [(place, given) for place, given in places if isinstance(given, dict)]
    problems = [p for place, given in places for p in _problems_of_values(place, given, method)]
    for param in method.params:
        if param.default is None and not any(param.word in given for _, given in places):
            problems.append(f"parameters: {method.name} needs {param.word} ({param.about})")
    return problems


def _ignored(method: Method) -> set[str]:
    return _IGNORED | ({"density", "rescale"} if method.name == "task_arithmetic" else set())


def _problems_of_values(place: str, given: Mapping[str, Any], method: Method) -> list[str]:
    known = {param.word: param for param in method.params}
    problems = []
    for word, value in given.items():
        if word in _ignored(method):
            continue
        if word not in known:
            hint = did_you_mean(str(word), known)
            problems.append(f"{place}.{word}: {method.name} has no such parameter.{hint}")
        elif place != "parameters" and known[word].per == "leaf":
            problems.append(f"{place}.{word}: is one value for all models; move it to parameters")
        else:
            problems += [
                f"{place}.{word}: {problem}" for problem in _problems_of_value(known[word], value)
            ]
    return problems


def _problems_of_value(param: Param, value: Any) -> list[str]:
    match value:
        case {"value": inner, **rest} if set(rest) <= {"filter"} and not isinstance(inner, dict):
            if not isinstance(rest.get("filter") or "*", str):
                return ["a filter is a part of a tensor name"]
            return _problems_of_value(param, inner)
        case [dict(), *_] if all(isinstance(entry, dict) for entry in value):
            return [p for entry in value for p in _problems_of_value(param, entry)]
        case [_, *_] if not any(isinstance(entry, (dict, list)) for entry in value):
            return [p for entry in value for p in _problems_of_value(param, entry)]
        case bool():
            return [] if param.kind is bool else [f"expected a number, got {value}"]
        case int() | float() | str() if param.kind is not bool and _is_number(value):
            low, high, number = param.low, param.high, float(value)
            if param.kind is int and not number.is_integer():
                return [f"expected a whole number, got {value}"]
            below = low is not None and not number >= low
            above = high is not None and not number <= high
            if below or above or not math.isfinite(number):
                return [f"expected {param.legal}, got {value}"]
            return []
        case _:
            wanted = "true or false" if param.kind is bool else "a number"
            return [f"expected {wanted}, a list of them, or value and filter; got {value!r}"]


def _is_number(value: Any) -> bool:
    """Whether it is a number, or a string that is one: YAML reads `1e-5` as a string."""
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True
