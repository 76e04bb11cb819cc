"""Recipes of mixtures in mergekit-moe's YAML, read as hostile input."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wslax.errors import WeightSpaceError, did_you_mean
from wslax.io.safe_yaml import read_yaml
from wslax.merge.files.config import DTYPES

GATES = ("random", "uniform_random", "cheap_embed", "vectors")
_FORWARD = ("hidden", "hidden_avg", "hidden_last")


class Expert(NamedTuple):
    """One expert.

    Attributes:
      source_model: the checkpoint whose MLPs it is.
      positive_prompts: texts that should be routed to it.
      negative_prompts: texts that should not.
      noise_scale: standard deviation of Gaussian noise on its weights.
      residual_scale: factor of its output projections.
    """

    source_model: str
    positive_prompts: Sequence[str] = ()
    negative_prompts: Sequence[str] = ()
    noise_scale: float = 0.0
    residual_scale: float = 1.0


class MixtureRecipe(NamedTuple):
    """A mixture, as written.

    Attributes:
      base_model: the checkpoint of everything but MLPs.
      experts: the experts in order.
      gate_mode: where the router's rows come from, one of `GATES`.
      vectors: the file of rows for `vectors`.
      experts_per_token: how many experts a token goes to.
      shared_experts: at most one expert that every token goes to.
      architecture: the output's, or None for the first that can be.
      dtype: stored dtype; default: the base config's, else as stored.
    """

    base_model: str
    experts: Sequence[Expert]
    gate_mode: str = "hidden"
    vectors: str | None = None
    experts_per_token: int = 2
    shared_experts: Sequence[Expert] = ()
    architecture: str | None = None
    dtype: str | None = None


def _check_keys(place: str, given: Mapping[Any, Any], known: Sequence[str]) -> None:
    for key in given:
        if key not in known:
            raise WeightSpaceError(f"{place}: unknown key {key!r}.{did_you_mean(str(key), known)}")


def _texts(place: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise WeightSpaceError(f"{place}: expected a list of texts, got {value!r}")
    return tuple(value)


def _path(place: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise WeightSpaceError(f"{place}: expected the path of a checkpoint, got {value!r}")
    return value


def _number(place: str, value: Any, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise WeightSpaceError(f"{place}: expected a number, got {value!r}")
    return float(value)


def _expert(place: str, given: Any) -> Expert:
    if not isinstance(given, dict):
        raise WeightSpaceError(f"{place}: expected source_model and prompts, got {given!r}")
    _check_keys(place, given, Expert._fields)
    return Expert(
        _path(f"{place}.source_model", given.get("source_model")),
        _texts(f"{place}.positive_prompts", given.get("positive_prompts")),
        _texts(f"{place}.negative_prompts", given.get("negative_prompts")),
        _number(f"{place}.noise_scale", given.get("noise_scale"), 0.0),
        _number(f"{place}.residual_scale", given.get("residual_scale"), 1.0),
    )


def _experts(content: Mapping[str, Any], key: str) -> tuple[Expert, ...]:
    given = content.get(key) or []
    if not isinstance(given, list):
        raise WeightSpaceError(f"{key}: expected a list of experts, got {given!r}")
    return tuple(_expert(f"{key}.{i}", expert) for i, expert in enumerate(given))


def _choice(content: Mapping[str, Any], key: str, known: Sequence[str]) -> str | None:
    value = content.get(key)
    if value is not None and value not in known:
        hint = did_you_mean(str(value), known)
        raise WeightSpaceError(f"{key}: expected one of {', '.join(known)}, got {value!r}.{hint}")
    return value


def _check_gates(recipe: MixtureRecipe) -> None:
    if recipe.gate_mode in _FORWARD:
        raise WeightSpaceError(
            f"gate_mode: {recipe.gate_mode!r} runs the base model, which wslax does not; use "
            "cheap_embed (token embeddings of the prompts), random, or vectors with rows of your "
            "own, such as hidden states taken elsewhere"
        )
    if (recipe.gate_mode == "vectors") != (recipe.vectors is not None):
        raise WeightSpaceError("vectors: names the file of rows for gate_mode 'vectors', only then")
    if recipe.gate_mode != "cheap_embed":
        return
    for i, expert in enumerate(recipe.experts):
        if not expert.positive_prompts:
            raise WeightSpaceError(f"experts.{i}.positive_prompts: cheap_embed needs some")
    prompts = {(e.positive_prompts, e.negative_prompts) for e in recipe.experts}
    if len(prompts) == 1 < len(recipe.experts):
        raise WeightSpaceError("experts: all have the same prompts, so no token prefers one")


def parse_mixture(content: Any) -> MixtureRecipe:
    """A checked recipe from parsed YAML (or a dict of the same shape).

    Args:
      content: a mapping with mergekit-moe's keys, and `vectors`.

    Returns:
      The recipe.

    Raises:
      WeightSpaceError: unknown, missing or mistyped keys; a gate mode that needs a forward pass;
        experts without prompts where these make the router; more experts a token than there are.

    Example:
        >>> experts = [{"source_model": "a"}, {"source_model": "b"}]
        >>> content = {"base_model": "a", "gate_mode": "random", "experts": experts}
        >>> parse_mixture(content).experts_per_token
        2
    """
    if not isinstance(content, dict):
        raise WeightSpaceError("a mixture is a mapping of keys such as base_model and experts")
    _check_keys("a mixture", content, MixtureRecipe._fields)
    count = content.get("experts_per_token", 2)
    experts, shared = _experts(content, "experts"), _experts(content, "shared_experts")
    if type(count) is not int or not 1 <= count <= len(experts):
        raise WeightSpaceError(
            f"experts_per_token: expected 1 to {len(experts)}, the number of experts, got {count!r}"
        )
    if len(shared) > 1:
        raise WeightSpaceError(f"shared_experts: at most one, got {len(shared)}")
    vectors, wanted = content.get("vectors"), content.get("architecture")
    if wanted is not None and not isinstance(wanted, str):
        raise WeightSpaceError(f"architecture: expected a name, got {wanted!r}")
    recipe = MixtureRecipe(
        _path("base_model", content.get("base_model")),
        experts,
        _choice(content, "gate_mode", (*GATES, *_FORWARD)) or "hidden",
        None if vectors is None else _path("vectors", vectors),
        count,
        shared,
        wanted,
        _choice(content, "dtype", DTYPES),
    )
    _check_gates(recipe)
    return recipe


def as_mixture(config: Any) -> MixtureRecipe:
    """A recipe from a recipe, a mapping or a YAML file.

    Example:
        >>> as_mixture("missing.yaml")
        Traceback (most recent call last):
        ...
        wslax.errors.WeightSpaceError: missing.yaml: cannot be read ([Errno 2] No such file ...
    """
    if isinstance(config, MixtureRecipe):
        return config
    if isinstance(config, Mapping):
        return parse_mixture(dict(config))
    try:
        return parse_mixture(read_yaml(pathlib.Path(config).read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise WeightSpaceError(f"{config}: cannot be read ({error})") from error
    except WeightSpaceError as error:
        raise WeightSpaceError(f"{config}: {error}") from error
