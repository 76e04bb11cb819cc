"""Configurations of recipes: frozen dataclasses, checked by pydantic, given as YAML."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.safe_yaml import read_yaml

T = TypeVar("T")


def _unknown(kind: Any, given: Mapping[Any, Any], path: str = "") -> Iterator[str]:
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for key, value in given.items():
        if key not in fields:
            yield f"{path}{key}: no such key.{did_you_mean(str(key), fields)}"
        elif dataclasses.is_dataclass(fields[key]) and isinstance(value, Mapping):
            yield from _unknown(fields[key], value, f"{path}{key}.")


def parse(kind: type[T], given: Any, source: str = "config") -> T:
    """A configuration from plain data; all errors at once.

    Args:
      kind: a frozen dataclass, its fields annotated with types and ranges (`annotated_types`);
        fields may be such dataclasses themselves.
      given: a mapping, nested as `kind` is; what is missing keeps its default.
      source: what to call it in errors.

    Returns:
      A `kind`.

    Raises:
      WeightSpaceError: with one line for each unknown key (and the nearest known one), wrong type
        and value out of range.

    Example:
        >>> import dataclasses
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     steps: int = 10
        >>> parse(Config, {"step": 5})
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: config: step: no such key. Did you mean 'steps'?
    """
    import pydantic

    if not isinstance(given, Mapping):
        raise WeightSpaceError(f"{source}: expected keys and values, got {given!r}")
    problems = list(_unknown(kind, given))
    if not problems:
        try:
            return pydantic.TypeAdapter(kind).validate_python(dict(given))
        except pydantic.ValidationError as error:
            problems = [
                f"{'.'.join(map(str, e['loc']))}: {e['msg'][0].lower()}{e['msg'][1:]}, got "
                f"{e['input']!r}"
                for e in error.errors()
            ]
    raise WeightSpaceError(f"{source}: " + "; ".join(problems))


def read(path: str | os.PathLike[str]) -> Any:
    """The content of a YAML file.

    Args:
      path: the file.

    Returns:
      Plain data; an empty file is `{}`.

    Raises:
      WeightSpaceError: if it cannot be read or is no YAML.

    Example:
        >>> read("no-such.yaml")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: no-such.yaml: no such file
    """
    try:
        return read_yaml(pathlib.Path(path).read_text("utf-8")) or {}
    except FileNotFoundError as error:
        raise WeightSpaceError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise WeightSpaceError(f"{path}: cannot be read ({error})") from error
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{path}: {error}") from error


def merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers of settings as one; `high` wins, key by key.

    Example:
        >>> merged({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}})
        {'a': {'x': 1, 'y': 3}}
    """
    out = dict(low)
    for key, value in high.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def flat(given: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key to value.

    Example:
        >>> flat({"a": {"x": 1}, "b": 2})
        {'a.x': 1, 'b': 2}
    """
    out: dict[str, Any] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{path}{key}.")
        else:
            out[f"{path}{key}"] = list(value) if isinstance(value, tuple) else value
    return out


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two settings, a phrase a key; at most three are named.

    Example:
        >>> differences({"a": {"x": 1}}, {"a": {"x": 2}})
        ['a.x is 1 there and 2 here']
    """
    left, right = flat(old), flat(new)
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    more = [f"{len(keys) - 3} more differ"] if len(keys) > 3 else []
    return [f"{key} is {left.get(key)} there and {right.get(key)} here" for key in keys[:3]] + more
