r"""What a merging method is: rounds of measures over one leaf, then an elementwise combination.

A method is written once, for one leaf, in terms of *one member at a time*, and generic in the array
namespace. In memory (`wslax.merge.memory`) the leaf is whole and the namespace `jax.numpy`; on disk
(`wslax.merge.files.stream`) the same lines run under numpy on a few hundred kilobytes at a time,
once a round and once for the combination. So a measure must be one of a closed vocabulary that both
can carry: `Total` (sums of elementwise terms), `Kth` (k-th largest), `Gram` (inner products between
members), `Each` and `Across` (arrays, of one member or from all). A later round, and the
combination, may read the earlier ones.

A method of row or column scope sees a leaf as a matrix: its rows are the vectors along the last
axis, or its columns those along the first. A chunk then holds whole rows; of a method of whole
scope it holds the leaf, in its shape.

Nothing here imports JAX.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple


class Member(NamedTuple):
    """One member's part of a leaf, or of the chunk of it at hand.

    Attributes:
      x: the member's weights, float32 (float64 where stored so).
      base: the base model's weights, the same shape and dtype, or None.
      index: position among the members, 0 to N - 1 (may be traced).
      params: per-member and shared parameters by name, each a scalar for this member and leaf.
      measured: what earlier rounds measured of this member or of the leaf, by round name.
      words: `words(label)` draws uint32 random words for these elements, the same whatever the
        chunking; different labels are independent.
    """

    x: Any
    base: Any
    index: Any
    params: Mapping[str, Any]
    measured: Mapping[str, Any]
    words: Callable[[str], Any]

    @property
    def delta(self) -> Any:
        """The task vector, `x - base`."""
        return self.x - self.base


class Leaf(NamedTuple):
    """A leaf of all members, or a chunk of it.

    Attributes:
      xp: the array namespace, `numpy` or `jax.numpy`.
      name: the leaf's name, or `""` in memory where no method needs it.
      count: the number of members.
      size: the number of elements of the *whole* leaf.
      base: the base model's weights, or None.
      params: the shared parameters, scalars for this leaf.
      measured: results of earlier rounds that belong to all members, by round name.
      sum: `sum(fn)` is the sum over members of `fn(member)`, an array, a scalar or a tuple of them.
      stack: `stack(fn)` is `fn(member)` of all members along a new first axis.
      repeat: `repeat(times, step, state)` applies `state = step(state)` that often.
    """

    xp: Any
    name: str
    count: int
    size: int
    base: Any
    params: Mapping[str, Any]
    measured: Mapping[str, Any]
    sum: Callable[[Callable[[Member], Any]], Any]
    stack: Callable[[Callable[[Member], Any]], Any]
    repeat: Callable[[int, Callable[[Any], Any], Any], Any]


Per = Literal["member", "leaf"]
Scope = Literal["leaf", "row", "column", "whole"]


class Total(NamedTuple):
    """Sums over the leaf of elementwise terms; the result is a tuple of scalars.

    Attributes:
      terms: `(xp, member) -> arrays`; bools are counted.
      per: `"leaf"` where the terms are the same for every member: they are summed once.
    """

    terms: Callable[[Any, Member], tuple[Any, ...]]
    per: Per = "member"


class Kth(NamedTuple):
    """The k-th largest of non-negative values over the leaf, for one or more k; a tuple of scalars.

    Attributes:
      values: `(xp, member) -> array`.
      ranks: `(xp, member, size) -> ks`, of the parameters and the number of values alone; a k below
        1 gives infinity, so that nothing reaches it, one above the size gives 0.
      per: `"leaf"` where the values are the same for every member.
      positive: whether zeros do not count among the values.
    """

    values: Callable[[Any, Member], Any]
    ranks: Callable[[Any, Member, Any], tuple[Any, ...]]
    per: Per = "member"
    positive: bool = False


class Gram(NamedTuple):
    """Inner products between members' vectors, over what the method's scope says.

    `[N, N]` over the leaf, `[N, N, rows, 1]` over its rows, `[N, N, 1, columns]` over its columns.
    """

    vector: Callable[[Any, Member], Any]


class Each(NamedTuple):
    """An array of each member, `values(xp, member)`, that is dear enough to be kept between passes.

    Elementwise bools, of which the engine keeps bits, or one number a row.
    """

    values: Callable[[Any, Member], Any]


class Across(NamedTuple):
    """An array like the leaf, `values(leaf)`, computed element by element from all members."""

    values: Callable[[Leaf], Any]


Measure = Total | Kth | Gram | Each | Across


class Made(dict[str, Any]):
    """Results that are made when they are first asked for.

    Example:
        >>> found = Made({"two": lambda: 2})
        >>> found["two"], dict(found)
        (2, {'two': 2})
    """

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        super().__init__()
        self.makers = makers

    def __missing__(self, name: str) -> Any:
        self[name] = value = self.makers[name]()
        return value


class Param(NamedTuple):
    """A declared parameter of a method.

    Attributes:
      name: the keyword argument in Python.
      about: one line for tables and `--help`.
      default: its value when not given; None for a parameter that must be given.
      per: `"member"`: one value a member (and leaf); `"leaf"`: one value a leaf.
      kind: `float`, `bool` or `int`; bools and ints are static.
      low: least legal value, or None.
      high: greatest legal value, or None.
      yaml: mergekit's word in YAML where it differs from `name`.
    """

    name: str
    about: str
    default: float | bool | None
    per: Literal["member", "leaf"] = "leaf"
    kind: type = float
    low: float | None = None
    high: float | None = None
    yaml: str = ""

    @property
    def word(self) -> str:
        """The word in YAML."""
        return self.yaml or self.name

    @property
    def legal(self) -> str:
        """The legal numbers, in words."""
        if self.low is None:
            return "a finite number"
        return f"at least {self.low}" if self.high is None else f"{self.low} to {self.high}"


def no_rounds(params: Mapping[str, Any]) -> Mapping[str, Measure]:
    """The rounds of a method that measures nothing.

    Example:
        >>> no_rounds({})
        {}
    """
    return {}


def over_leaf(params: Mapping[str, Any]) -> Scope:
    """The scope of a method that looks at a leaf as one vector.

    Example:
        >>> over_leaf({})
        'leaf'
    """
    return "leaf"


def over_rows(params: Mapping[str, Any]) -> Scope:
    """The scope of a method that looks along the last axis.

    Example:
        >>> over_rows({})
        'row'
    """
    return "row"


def matrix_of(shape: tuple[int, ...], scope: Scope) -> tuple[int, ...]:
    """The shape in which a method sees a leaf: a matrix where rows or columns count.

    Example:
        >>> [matrix_of((2, 3, 4), scope) for scope in ("leaf", "row", "column")]
        [(2, 3, 4), (6, 4), (2, 12)]
    """
    if scope in ("leaf", "whole"):
        return shape
    cut = len(shape) - 1 if scope == "row" else 1
    return math.prod(shape[:cut]), math.prod(shape[max(cut, 0) :])


class Method(NamedTuple):
    """A merging method.

    Attributes:
      name: as in `METHODS` and in YAML.
      about: one line for tables.
      source: the paper.
      combine: `Leaf -> array`: the merged leaf in the compute dtype.
      rounds: `params -> {name: Measure}`: what to measure first; `params` has the static values.
      params: the declared parameters.
      base: `"required"`: task vectors are taken from it; `"optional"`: they are where there is one;
        `"first"`: the base is the member that comes first; `"member"`: a base named in YAML is one
        more member.
      least: fewest members (without a required base).
      most: most members, or None.
      random: whether it draws random words.
      scope: `params -> `: what a `Gram` spans, and what a chunk holds whole.
      formula: what it computes, in LaTeX for tables.
    """

    name: str
    about: str
    source: str
    combine: Callable[[Leaf], Any]
    rounds: Callable[[Mapping[str, Any]], Mapping[str, Measure]]
    params: tuple[Param, ...]
    base: Literal["required", "optional", "first", "member"]
    least: int = 1
    most: int | None = None
    random: bool = False
    scope: Callable[[Mapping[str, Any]], Scope] = over_leaf
    formula: str = ""
