"""Recipes in mergekit's YAML, read as hostile input.

`read_recipe` and `parse_recipe` report everything wrong at once; `wslax.merge.files.resolve` turns
a recipe into numbers.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.safe_yaml import read_documents
from wslax.merge.files.recipe import (
    ModelEntry,
    Module,
    Recipe,
    Slice,
    TokenizerRecipe,
    TokenSource,
    pieces,
)
from wslax.merge.files.values import problems_of_value
from wslax.merge.method import Method
from wslax.merge.registry import ON_DISK

DTYPES = ("bfloat16", "float16", "float32", "float64")
_LIMIT = 1_000_000  # bytes of a recipe's file
_IGNORED = {"int8_mask"}  # changes the dtype of mergekit's masks, never a result
_UNUSED = {"residual_weight"}  # of a slice: mergekit reads it and does nothing with it


def _reference(value: Any) -> Any:
    """Mergekit's long form of a model, `{model: {path, revision}, lora: ...}`, as its short one."""
    match value:
        case {"model": model, **rest} if set(rest) <= {"lora", "override_architecture"}:
            lora = rest.get("lora")
            return f"{_path(model)}+{_path(lora)}" if lora else _path(model)
        case {"path": _, **rest} if set(rest) <= {"revision"}:
            return _path(value)
        case _:
            return value


def _path(value: Any) -> Any:
    match value:
        case {"path": path, **rest} if set(rest) <= {"revision"}:
            return f"{path}@{rest['revision']}" if rest.get("revision") else path
        case _:
            return value


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with references in short form, and without what is empty or unused."""
    found = {k: v for k, v in content.items() if v is not None and k not in _UNUSED}
    for key in ("base_model", "tokenizer_source"):
        if key in found:
            found[key] = _reference(found[key])
    for key in ("models", "sources", "slices"):
        if isinstance(found.get(key), list):
            found[key] = [_plain(e) if isinstance(e, Mapping) else e for e in found[key]]
    if isinstance(found.get("modules"), Mapping):
        found["modules"] = {
            k: _plain(v) if isinstance(v, Mapping) else v for k, v in found["modules"].items()
        }
    if "model" in found:
        found["model"] = _reference(found["model"])
    if isinstance(found.get("tokenizer"), Mapping):
        found["tokenizer"] = _plain_tokenizer(found["tokenizer"])
    for key in ("dtype", "out_dtype"):
        if isinstance(found.get(key), str):
            found[key] = found[key].removeprefix("torch.")
    for key in ("layers", "prefix"):
        if isinstance(found.get(key), str):
            found[key] = [found[key]]
    return found


def _plain_tokenizer(content: Mapping[str, Any]) -> dict[str, Any]:
    found = {k: v for k, v in content.items() if v is not None}
    if "source" in found:
        found["source"] = _reference(found["source"])
    if isinstance(found.get("tokens"), Mapping):
        found["tokens"] = {
            token: {k: _token_source(v) if k == "source" else v for k, v in entry.items()}
            if isinstance(entry, Mapping) else entry
            for token, entry in found["tokens"].items()
        }  # fmt: skip
    return found


def _token_source(value: Any) -> Any:
    if isinstance(value, Mapping) and "kind" in value:
        return {k: _reference(v) if k == "model" else v for k, v in value.items() if v is not None}
    return _reference(value)


def _typed(content: Any) -> tuple[Recipe | None, list[str]]:
    """The recipe, or a sentence for every missing, extra or mistyped key by its path."""
    import pydantic

    config = pydantic.ConfigDict(extra="forbid")
    for kind in (ModelEntry, Slice, Module, TokenSource, TokenizerRecipe, Recipe):
        kind.__pydantic_config__ = config  # type: ignore[attr]
    try:
        return pydantic.TypeAdapter(Recipe).validate_python(content), []
    except pydantic.ValidationError as error:
        return None, list(dict.fromkeys(_sentence(problem) for problem in error.errors()))


def _sentence(problem: Any) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    kind = problem["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = [f.name for f in _fields(problem["loc"])]
        return f"unknown key {path!r}.{did_you_mean(str(problem['loc'][-1]), known)}"
    if kind in ("missing", "missing_argument"):
        return f"{path}: is missing"
    shown = repr(problem["input"])
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    return f"{path}: {problem['msg'][0].lower()}{problem['msg'][1:]}, got {shown}"


def _fields(path: Sequence[Any]) -> Any:
    kinds = {"models": ModelEntry, "sources": ModelEntry, "slices": Slice, "modules": Module,
             "tokenizer": TokenizerRecipe, "tokens": TokenSource}  # fmt: skip
    kind = next((kinds[part] for part in reversed(path[:-1]) if part in kinds), Recipe)
    return dataclasses.fields(kind)


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
    if not isinstance(content, Mapping):
        raise WeightSpaceError("a recipe is a mapping of keys such as merge_method and models")
    content = _plain(content)
    recipe, problems = _typed(content)
    method, unknown = _method(content.get("merge_method"))
    problems += unknown
    if method is not None:
        problems += _problems_of_parameters(method, content)
    if recipe is not None:
        found = _problems_of_keys(recipe)
        problems += found or _problems_of_pieces(recipe, method)
    if recipe is None or problems:
        raise WeightSpaceError("; ".join(problems))
    return recipe


def read_recipes(path: str | os.PathLike[str]) -> list[Recipe]:
    """Read a recipe file, every document of it; model paths stay relative to the working directory.

    Example:
        >>> read_recipes("missing.yaml")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: missing.yaml: no such file
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise WeightSpaceError(f"{path}: no such file")
    try:
        if path.stat().st_size > _LIMIT:
            raise WeightSpaceError(f"{path.stat().st_size:,} bytes are no recipe")
        documents = [d for d in read_documents(path.read_text("utf-8")) if d is not None]
        if not documents:
            raise WeightSpaceError("holds no recipe")
        return [parse_recipe(document) for document in documents]
    except UnicodeDecodeError as error:
        raise WeightSpaceError(f"{path}: not a text file") from error
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{path}: {error}") from error


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a file that holds one recipe; see `read_recipes`.

    Example:
        >>> read_recipe("missing.yaml")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: missing.yaml: no such file
    """
    recipes = read_recipes(path)
    if len(recipes) > 1:
        raise WeightSpaceError(f"{path}: holds {len(recipes)} recipes, expected one")
    return recipes[0]


def _method(name: Any) -> tuple[Method | None, list[str]]:
    if not isinstance(name, str):
        return None, []  # the types are reported elsewhere
    if name not in ON_DISK:
        hint = did_you_mean(name, ON_DISK)
        return None, [f"merge_method: no method is called {name!r}.{hint}"]
    return ON_DISK[name], []


def _problems_of_keys(recipe: Recipe) -> list[str]:
    problems = []
    given = [key for key in ("models", "slices", "modules") if getattr(recipe, key)]
    if len(given) != 1:
        found = "none" if not given else " and ".join(given)
        problems.append(f"give exactly one of models, slices and modules, got {found}")
    for name, module in recipe.modules.items():
        if bool(module.models) == bool(module.slices):
            problems.append(f"modules.{name}: give either models or slices")
    for place, part in _slices(recipe):
        problems += _problems_of_slice(place, part)
    if recipe.tokenizer is not None and recipe.tokenizer_source is not None:
        problems.append("give either tokenizer or tokenizer_source")
    pad = recipe.tokenizer.pad_to_multiple_of if recipe.tokenizer is not None else None
    if pad is not None and pad < 1:
        problems.append("tokenizer.pad_to_multiple_of: expected at least 1")
    for key in ("dtype", "out_dtype"):
        value = getattr(recipe, key)
        if value is not None and value not in DTYPES:
            problems.append(f"{key}: unknown dtype {value!r}.{did_you_mean(value, DTYPES)}")
    return problems


def _problems_of_pieces(recipe: Recipe, method: Method | None) -> list[str]:
    if method is None:
        return []
    try:
        pieces(recipe)
    except WeightSpaceError as error:
        return [str(error)]
    return []


def _slices(recipe: Recipe) -> Iterator[tuple[str, Slice]]:
    for i, part in enumerate(recipe.slices):
        yield f"slices.{i}", part
    for name, module in recipe.modules.items():
        for i, part in enumerate(module.slices):
            yield f"modules.{name}.slices.{i}", part


def _problems_of_slice(place: str, part: Slice) -> list[str]:
    problems = [] if part.sources else [f"{place}: has no sources"]
    lengths = set()
    for i, entry in enumerate(part.sources):
        if entry.layer_range is None:
            problems.append(f"{place}.sources.{i}: needs a layer_range")
            continue
        begin, end = entry.layer_range
        if not 0 <= begin < end:
            problems.append(
                f"{place}.sources.{i}.layer_range: expected 0 <= first < end, got [{begin}, {end}]"
            )
        lengths.add(end - begin)
    if len(lengths) > 1:
        found = ", ".join(map(str, sorted(lengths)))
        problems.append(f"{place}: every source gives the same number of layers, got {found}")
    return problems


def _parameters(content: Mapping[str, Any]) -> Iterator[tuple[str, bool, Any]]:
    """Every `parameters` of a recipe: its place, whether it is one model's own, and the mapping."""
    yield "parameters", False, content.get("parameters")
    for key in ("models", "sources", "slices"):
        entries = content.get(key)
        for i, entry in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(entry, Mapping):
                for place, _, given in _parameters(entry):
                    own = key != "slices" or place != "parameters"
                    yield f"{key}.{i}.{place}", own, given
    modules = content.get("modules")
    for name, module in modules.items() if isinstance(modules, Mapping) else ():
        if isinstance(module, Mapping):
            for place, own, given in _parameters(module):
                yield f"modules.{name}.{place}", own, given


def _problems_of_parameters(method: Method, content: Mapping[str, Any]) -> list[str]:
    places = [(p, own, given) for p, own, given in _parameters(content) if isinstance(given, dict)]
    problems = [p for place in places for p in _problems_of_values(*place, method)]
    for param in method.params:
        if param.default is None and not any(param.word in given for _, _, given in places):
            problems.append(f"parameters: {method.name} needs {param.word} ({param.about})")
    return problems


def _ignored(method: Method) -> set[str]:
    """Words of other methods, which mergekit passes over, and those that change nothing."""
    every = {param.word for other in ON_DISK.values() for param in other.params}
    return _IGNORED | (every - {param.word for param in method.params})


def ignored(recipe: Recipe) -> list[str]:
    """The parameters of a recipe that its method does not have.

    Example:
        >>> content = {"merge_method": "linear", "models": [{"model": "a"}]}
        >>> ignored(parse_recipe({**content, "parameters": {"density": 0.5}}))
        ['density']
    """
    found = [
        word
        for parts in pieces(recipe).values()
        for piece in parts
        for level in (*piece.levels, *(entry.parameters for entry in piece.sources))
        for word in level
    ]
    return sorted(set(found) & (_ignored(ON_DISK[recipe.merge_method]) - _IGNORED))


def _problems_of_values(
    place: str, own: bool, given: Mapping[str, Any], method: Method
) -> list[str]:
    known, passed = {param.word: param for param in method.params}, _ignored(method)
    problems = []
    for word, value in given.items():
        if word in passed:
            continue
        if word not in known:
            hint = did_you_mean(str(word), known)
            problems.append(f"{place}.{word}: {method.name} has no such parameter.{hint}")
        elif own and known[word].per == "leaf":
            problems.append(f"{place}.{word}: is one value for all models; move it to parameters")
        else:
            found = problems_of_value(known[word], value)
            problems += [f"{place}.{word}: {problem}" for problem in found]
    return problems
