"""What a recipe says: mergekit's YAML as plain data, and its one normal form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wslax.errors import WeightSpaceError
from wslax.merge.method import Method
from wslax.merge.registry import ON_DISK


@dataclass(frozen=True)
class ModelEntry:
    """One model of a recipe, its own parameters and, in a slice, the layers that are taken.

    Attributes:
      model: a path or Hub id, `PATH[@revision][+LORA]`.
      parameters: its own parameters.
      layer_range: first layer and the one after the last; None for all.
    """

    model: str
    parameters: dict[str, Any] = field(default_factory=dict)
    layer_range: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """Layers of the output: the same number of layers from each source."""

    sources: list[ModelEntry]
    base_model: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    """A part of a model, such as its vision tower.

    Attributes:
      models: whole models, or
      slices: slices of them.
      parameters: parameters of this module.
      prefix: how the names of its tensors begin; by default those that have the module's name as a
        component, and for one module without any, the tensors that no other module has.
    """

    models: list[ModelEntry] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    prefix: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TokenSource:
    """Where the embedding of one token comes from.

    Attributes:
      source: a model; `{"kind": "zero"}`; or `{"kind": "model_token"}` with `model` and `token` or
        `token_id`; None for the rule of all tokens.
      force: replace the row in every model, also where it has the token.
    """

    source: str | dict[str, Any] | None = None
    force: bool = False


@dataclass(frozen=True)
class TokenizerRecipe:
    """The output's tokenizer.

    Attributes:
      source: `"union"`, `"base"` or a model.
      tokens: sources of single tokens, which are added where they are new.
      pad_to_multiple_of: rows that round the vocabulary up.
    """

    source: str = "union"
    tokens: dict[str, TokenSource] = field(default_factory=dict)
    pad_to_multiple_of: int | None = None


@dataclass(frozen=True)
class Recipe:
    """A merge, as written.

    Attributes:
      merge_method: a name that `wslax methods` lists.
      models: the models in order, or
      slices: layers stacked to a new model, or
      modules: either of them for each part of the model.
      base_model: the base, or None.
      parameters: parameters for all models.
      dtype: stored dtype of the result where `out_dtype` is not given.
      out_dtype: stored dtype of the result; default: the widest of the inputs'.
      tokenizer_source: short for `tokenizer` with this source.
      tokenizer: the output's tokenizer; None carries the base's over.
      chat_template: `"auto"`, a name such as `"chatml"`, or Jinja text.
      layers: names of the stacks that count as layers, such as `model.layers`; by default what
        stands before the first number in a tensor's name.
      name: by which later documents of a file refer to the result.
    """

    merge_method: str
    models: list[ModelEntry] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    modules: dict[str, Module] = field(default_factory=dict)
    base_model: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    tokenizer: TokenizerRecipe | None = None
    chat_template: str | None = None
    layers: list[str] = field(default_factory=list)
    name: str | None = None


class Piece(NamedTuple):
    """Layers of the output and where they come from: the normal form of models and slices.

    Attributes:
      members: the models that the method combines, in its order.
      base: the base of the task vectors, or None.
      levels: parameters for all members, nearest first.
      place: where it stands in the recipe, for messages.
      named: the model that the recipe calls the base here, whatever the method makes of it.
    """

    members: list[ModelEntry]
    base: ModelEntry | None
    levels: tuple[Mapping[str, Any], ...]
    place: str
    named: str | None = None

    @property
    def sources(self) -> list[ModelEntry]:
        """The members, then the base if there is one."""
        return [*self.members, *([self.base] if self.base is not None else [])]


def pieces(recipe: Recipe) -> dict[str, list[Piece]]:
    """The pieces of every module in the output's order; a recipe without modules has one, `""`.

    Whole models are one piece of all layers, to which the base is added where it is not listed. In
    slices a base has to be listed, because its layers could not be known.

    Raises:
      WeightSpaceError: a model listed twice, too few or too many models, a base that is missing.

    Example:
        >>> recipe = Recipe("slerp", [ModelEntry("a"), ModelEntry("b")], base_model="b")
        >>> [entry.model for entry in pieces(recipe)[""][0].members]
        ['b', 'a']
    """
    modules = recipe.modules or {"": Module(recipe.models, recipe.slices)}
    return {
        name: _module_pieces(recipe, module, f"modules.{name}." * bool(name))
        for name, module in modules.items()
    }


def _module_pieces(recipe: Recipe, module: Module, prefix: str) -> list[Piece]:
    levels = (module.parameters, recipe.parameters)
    if module.models:
        return [_piece(recipe, module.models, recipe.base_model, levels, f"{prefix}models", True)]
    return [
        _piece(
            recipe, part.sources, part.base_model or recipe.base_model,
            (part.parameters, *levels), f"{prefix}slices.{i}", False,
        )
        for i, part in enumerate(module.slices)
    ]  # fmt: skip


def _piece(
    recipe: Recipe, entries: Sequence[ModelEntry], base: str | None,
    levels: tuple[Mapping[str, Any], ...], place: str, whole: bool,
) -> Piece:  # fmt: skip
    method = ON_DISK[recipe.merge_method]
    paths = [entry.model for entry in entries]
    if len(set(paths)) != len(paths):
        raise WeightSpaceError(f"{place}: a model is listed twice")
    if method.base == "required" and base is None:
        raise WeightSpaceError(f"base_model: {method.name} needs one")
    own = next((entry for entry in entries if entry.model == base), None)
    if own is None and base is not None and whole:
        own = ModelEntry(base)
    if own is None and base is not None and method.base != "member":
        raise WeightSpaceError(
            f"{place}: the base {base} is not among its sources; list it with its layer_range"
        )
    members, origin = _ordered(method, list(entries), own)
    if len(members) < method.least or (method.most is not None and len(members) > method.most):
        most = "" if method.most is None else f" and at most {method.most}"
        raise WeightSpaceError(
            f"{place}: {method.name} takes at least {method.least}{most}, got {len(members)}"
        )
    return Piece(members, origin, levels, place, base)


def _ordered(
    method: Method, entries: list[ModelEntry], base: ModelEntry | None
) -> tuple[list[ModelEntry], ModelEntry | None]:
    """The members in the method's order, and the base of the task vectors."""
    if base is None:
        return entries, None
    others = [entry for entry in entries if entry.model != base.model]
    if method.base in ("required", "optional"):
        return others, base
    if method.base == "first":
        return [base, *others], None
    return entries if base in entries else [*others, base], None


def models_of(recipe: Recipe) -> list[str]:
    """Every model that a recipe names, once, in the order of first mention; the base comes last.

    Example:
        >>> models_of(Recipe("ties", [ModelEntry("a")], base_model="b"))
        ['a', 'b']
    """
    found = [e.model for parts in pieces(recipe).values() for p in parts for e in p.sources]
    return list(dict.fromkeys([*found, *filter(None, [recipe.base_model])]))
