"""From a recipe to numbers: which value a parameter has for one tensor of one model.

Pure: recipe, tensor name and layer position in; one number per parameter (and member) out.
Precedence is mergekit's: a model's own parameters, then the recipe's, then the method's default.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from wslax.errors import WeightSpaceError
from wslax.merge.config import Recipe, members
from wslax.merge.method import Param
from wslax.merge.registry import METHODS


def layer_of(name: str) -> tuple[str, int | None]:
    """The stack a tensor belongs to and its layer: the first component that is a number.

    Example:
        >>> layer_of("model.layers.11.mlp.weight"), layer_of("lm_head.weight")
        (('model.layers', 11), ('', None))
    """
    parts = re.split(r"[./]", name)
    for i, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[:i]), int(part)
    return "", None


def positions(names: Sequence[str]) -> dict[str, float]:
    """Where each tensor lies in its stack of layers, 0 to 1, for gradients.

    Layer i of L is at i / (L - 1) (1 where L = 1, as in mergekit); tensors outside any stack are
    at 0. Layers and stacks are read from the names, so any architecture will do.

    Example:
        >>> positions(["embed", "h.0.w", "h.1.w", "h.2.w"])
        {'embed': 0.0, 'h.0.w': 0.0, 'h.1.w': 0.5, 'h.2.w': 1.0}
    """
    layers = {name: layer_of(name) for name in names}
    last: dict[str, int] = {}
    for stack, layer in layers.values():
        if layer is not None:
            last[stack] = max(last.get(stack, 0), layer)
    found = {}
    for name, (stack, layer) in layers.items():
        if layer is None:
            found[name] = 0.0
        else:
            found[name] = layer / last[stack] if last[stack] else 1.0
    return found


def at(values: Sequence[float], position: float) -> float:
    """A gradient's value: piecewise linear through `values` at equal distances.

    Example:
        >>> at([0.0, 1.0, 0.0], 0.25)
        0.5
    """
    scaled = position * (len(values) - 1)
    i = min(int(scaled), len(values) - 2) if len(values) > 1 else 0
    if len(values) == 1:
        return values[0]
    return values[i] + (scaled - i) * (values[i + 1] - values[i])


def _lookup(value: Any, name: str, position: float) -> Any:
    """The value for one tensor, or None where no filter matches."""
    match value:
        case {"value": inner, **rest}:
            wanted = rest.get("filter") or "*"
            return _lookup(inner, name, position) if wanted == "*" or wanted in name else None
        case [dict(), *_]:
            found = (_lookup(entry, name, position) for entry in value)
            return next((v for v in found if v is not None), None)
        case [bool(), *_]:
            return value[int(position * (len(value) - 1))]
        case list():
            return at([float(v) for v in value], position)
        case _:
            return value


def resolve(recipe: Recipe, name: str, position: float) -> dict[str, Any]:
    """Every parameter of the recipe's method for one tensor.

    Args:
      recipe: a checked recipe.
      name: the tensor.
      position: where its layer lies, from `positions`.

    Returns:
      Python parameter name to a number, a bool, or a tuple with one number a member.

    Raises:
      WeightSpaceError: if a parameter without a default has no value for this tensor.

    Example:
        >>> from wslax.merge.config import parse_recipe
        >>> recipe = parse_recipe({
        ...     "merge_method": "linear",
        ...     "models": [{"model": "a", "parameters": {"weight": 2}}, {"model": "b"}],
        ...     "parameters": {"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 3}]},
        ... })
        >>> resolve(recipe, "h.1.mlp.w", 0.5)["coef"], resolve(recipe, "h.1.attn.w", 0.5)["coef"]
        ((2.0, 0.5), (2.0, 3.0))
    """
    method = METHODS[recipe.merge_method]

    def find(param: Param, levels: Sequence[Mapping[str, Any]]) -> Any:
        for level in levels:
            if param.word in level:
                value = _lookup(level[param.word], name, position)
                if value is not None:
                    return param.kind(value if param.kind is bool else float(value))
        if param.default is None:
            raise WeightSpaceError(f"{name}: no value for {param.word}; add one without a filter")
        return param.default

    found: dict[str, Any] = {}
    for param in method.params:
        if param.per == "member":
            found[param.name] = tuple(
                find(param, (entry.parameters, recipe.parameters)) for entry in members(recipe)
            )
        else:
            found[param.name] = find(param, (recipe.parameters,))
    return found
