"""From a recipe to numbers: which value a parameter has for one tensor of one model.

Pure: names and a layer's position in; one number per parameter (and member) out. Precedence is
mergekit's: a model's own parameters, then its slice's, its module's, the recipe's, and last the
method's default.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from wslax.errors import WeightSpaceError
from wslax.merge.files.recipe import Piece
from wslax.merge.method import Method, Param


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


def resolve(
    method: Method, piece: Piece, name: str, inputs: Sequence[str], position: float
) -> dict[str, Any]:
    """Every parameter of a method for one tensor.

    Args:
      method: the recipe's.
      piece: the piece of the recipe that the tensor belongs to.
      name: the tensor; filters of shared parameters look at it.
      inputs: its name in each member; filters of members' parameters look at these.
      position: where its layer lies, 0 to 1.

    Returns:
      Python parameter name to a number, a bool, or a tuple with one number a member.

    Raises:
      WeightSpaceError: if a parameter without a default has no value for this tensor.

    Example:
        >>> from wslax.merge.files.config import parse_recipe
        >>> from wslax.merge.files.recipe import pieces
        >>> from wslax.merge.registry import METHODS
        >>> recipe = parse_recipe({
        ...     "merge_method": "linear",
        ...     "models": [{"model": "a", "parameters": {"weight": 2}}, {"model": "b"}],
        ...     "parameters": {"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 3}]},
        ... })
        >>> piece, name = pieces(recipe)[""][0], "h.1.mlp.w"
        >>> resolve(METHODS["linear"], piece, name, [name] * 2, 0.5)["coef"]
        (2.0, 0.5)
    """

    def value(param: Param, levels: Sequence[Mapping[str, Any]], name: str) -> Any:
        for level in levels:
            if param.word in level:
                found = _lookup(level[param.word], name, position)
                if found is not None:
                    return param.kind(found if param.kind is bool else float(found))
        if param.default is None:
            raise WeightSpaceError(f"{name}: no value for {param.word}; add one without a filter")
        return param.default

    found: dict[str, Any] = {}
    for param in method.params:
        if param.per == "member":
            found[param.name] = tuple(
                value(param, (entry.parameters, *piece.levels), spelled)
                for entry, spelled in zip(piece.members, inputs, strict=False)
            )
        else:
            found[param.name] = value(param, piece.levels, name)
    return found
