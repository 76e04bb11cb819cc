r"""What a merging method is: rounds of measures over one leaf, then an elementwise combination.

A method is written once, for one leaf, in terms of *one member at a time*, and generic in the array
namespace. In memory (`wslax.merge.memory`) the leaf is whole and the namespace `jax.numpy`; on disk
(`wslax.merge.stream`) the same lines run under numpy on a few hundred kilobytes at a time, once a
round and once for the combination. So a measure must be one of a closed vocabulary that both can
carry: `Total` (sums of elementwise terms), `Kth` (k-th largest), `Gram` (inner products between
members). A later round, and the combination, may read the earlier ones.

Nothing here imports JAX.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple


class Member(NamedTuple):
    """One member's part of a leaf, or of the chunk of it at hand.

    Attributes:
      x: the member's weights, float32 (float64 where stored so).
      base: the base model's weights, the same shape and dtype, or None.
      index: position among the members, 0 to N - 1 (may be traced).
      params: per-member and shared parameters by name, each a scalar for this member and leaf.
      measured: what earlier rounds measured of this member, by round name.
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
      count: the number of members.
      size: the number of elements of the *whole* leaf.
      base: the base model's weights, or None.
      params: the shared parameters, scalars for this leaf.
      measured: leaf-level results of earlier rounds (`Gram`), by round name.
      sum: `sum(fn)` is the sum over members of `fn(member)`, an array, a scalar or a tuple of them.
    """

    xp: Any
    count: int
    size: int
    base: Any
    params: Mapping[str, Any]
    measured: Mapping[str, Any]
    sum: Callable[[Callable[[Member], Any]], Any]


class Total(NamedTuple):
    """Sums over the leaf of elementwise terms; the result is a tuple of scalars a member."""

    terms: Callable[[Any, Member], tuple[Any, ...]]


class Kth(NamedTuple):
    """The k-th largest of non-negative values over the leaf; a scalar a member.

    Attributes:
      values: `(xp, member) -> array`.
      count: `(xp, member, size) -> k`, of the parameters alone; a k below 1 gives infinity,
        so that nothing reaches it.
    """

    values: Callable[[Any, Member], Any]
    count: Callable[[Any, Member, int], Any]


class Gram(NamedTuple):
    """Inner products between members' vectors over the leaf; `[N, N]`, in `Leaf.measured`."""

    vector: Callable[[Any, Member], Any]


Measure = Total | Kth | Gram


class Param(NamedTuple):
    """A declared parameter of a method.

    Attributes:
      name: the keyword argument in Python.
      about: one line for tables and `--help`.
      default: its value when not given; None for a parameter that must be given.
      per: `"member"`: one value a member (and leaf); `"leaf"`: one value a leaf.
      kind: `float` or `bool`; bools are static.
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


class Method(NamedTuple):
    """A merging method.

    Attributes:
      name: as in `METHODS` and in YAML.
      about: one line for tables.
      source: the paper.
      combine: `Leaf -> array`: the merged leaf in the compute dtype.
      rounds: `params -> {name: Measure}`: what to measure first; `params` has the static bools.
      params: the declared parameters.
      base: `"required"`: task vectors are taken from it; `"first"`: the base is the member that
        comes first; `"member"`: a base named in YAML is one more member.
      least: fewest members (without a required base).
      most: most members, or None.
      random: whether it draws random words.
    """

    name: str
    about: str
    source: str
    combine: Callable[[Leaf], Any]
    rounds: Callable[[Mapping[str, Any]], Mapping[str, Measure]]
    params: tuple[Param, ...]
    base: Literal["required", "first", "member"]
    least: int = 1
    most: int | None = None
    random: bool = False


def no_rounds(params: Mapping[str, Any]) -> Mapping[str, Measure]:
    """The rounds of a method that measures nothing.

    Example:
        >>> no_rounds({})
        {}
    """
    return {}
