"""The immutable description of a model's symmetry: sites, groups, and the groups of one model.

A *group* is one hidden dimension: a set of units, the same in number and order at every place of
the model that it runs through. A *site* is one such place: a stretch of one axis of one leaf.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wslax.errors import WeightSpaceError
from wslax.typing import Params

ROLES = ("produced", "consumed", "elementwise")
WINDOW = "the window of a convolution"  # how such a group's `frozen_by` begins
REDUCTIONS = ("sum", "mean", "variance", "softmax", "product", "scaled product")


@dataclass(frozen=True)
class Site:
    r"""Where along one axis of one leaf the units of a group lie.

    The axis is \(\text{outer} \times [\ldots \text{start} : \text{start} + \text{size} \ldots]
    \times \text{inner}\), major to minor: it falls into `outer` tiles of equal length, and in each
    tile unit \(u\) owns the `inner` elements from \((\text{start} + u)\,\text{inner}\) on. A whole
    axis is `outer=1, start=0, inner=1`. Examples for an axis of length L:

    | axis | group | outer | start | size | inner |
    |---|---|---|---|---|---|
    | `heads * head_dim` | the heads | 1 | 0 | heads | head_dim |
    | `heads * head_dim` | inside a head | heads | 0 | head_dim | 1 |
    | flattened `height * width * channels` | the channels | height * width | 0 | channels | 1 |
    | concatenation of `a` and `b` channels | the second | 1 | a | b | 1 |
    | four gates stacked, `4 * hidden` | the hidden units | 4 | 0 | hidden | 1 |

    Attributes:
      name: the leaf's canonical name (`wslax.tree.leaf_names`).
      axis: the axis of the leaf, from 0.
      outer: how many tiles the axis falls into.
      start: the first unit's place in a tile, counted in units of `inner` elements.
      size: the group's number of units.
      inner: how many elements of the axis belong to one unit of one tile.
      role: `"produced"`: the axis is the output axis of a product, so an element is an incoming
        weight of its unit; `"consumed"`: the axis is contracted with the units' activations, an
        outgoing weight; `"elementwise"`: the leaf meets the activations element by element (bias,
        scale, running statistics, depthwise kernel). A leaf that is both produced and consumed
        along one axis (a tied embedding) has two sites that differ in the role alone.

    Example:
        >>> Site("attention/out/kernel", 0, outer=8, size=16, role="consumed").inner
        1
    """

    name: str
    axis: int
    outer: int = 1
    start: int = 0
    size: int = field(kw_only=True)
    inner: int = 1
    role: str = field(kw_only=True)

    def __str__(self) -> str:
        outer = f"{self.outer} x " if self.outer > 1 else ""
        inner = f" x {self.inner}" if self.inner > 1 else ""
        piece = f"{outer}{self.start}:{self.start + self.size}{inner}"
        return f"{self.name}[{self.axis}: {piece}] {self.role}"


@dataclass(frozen=True)
class Average:
    """A mean over the units of a group, as in a norm, and what becomes of it.

    Attributes:
      of: `"values"`, `"squares"` (RMSNorm) or `"deviations"` (squared: a variance, LayerNorm).
      linear: whether the values are linear in what produces the units, with nothing between.
      whole: whether the mean is over the units of the group alone.
      alone: whether no other units are concatenated with these under the mean.
      eps: what is added to a mean of squares or deviations before its root.
      gains: the leaves that multiply what is divided by that root.
      divides: whether it only divides what it was taken of, and a gain multiplies that.
    """

    of: str
    linear: bool
    whole: bool
    alone: bool = True
    eps: float = 0.0
    gains: tuple[str, ...] = ()
    divides: bool = False


@dataclass(frozen=True)
class Group:
    """One hidden dimension and every place it runs through.

    Attributes:
      id: a stable integer; equals the place in `Groups.all`.
      size: the number of units.
      sites: where they lie; permuting all of them alike leaves the model's function unchanged when
        the group is free.
      per: ids of the groups (layers of a scan, heads, experts) at each unit of which this one may
        be permuted on its own: permutations have shape `[*sizes of per, size]`, and `[size]`
        means the same one everywhere.
      reductions: what the model computes over the units other than contracting them with a
        consumed leaf, a subset of `"sum"` (plain, no weight on the way), `"mean"` (also of
        squares), `"variance"`, `"softmax"`, `"product"` (two activations contracted with each
        other, as queries with keys), `"scaled product"` (the same, divided by the root of the
        number of units). All are blind to the order of units, not to copies of them.
      frozen_by: why the group may not be permuted (the operation and its source line), or None
        for a free group.
      scales: the independent scale symmetries, each one integer a site, in the order of `sites`:
        each unit may be multiplied at each site by a positive factor of its own to that power
        (`rescale`), and the model's function stays.
      signs: the same of the factor -1 (`permute`); 0 and 1.
      averages: what the reductions of kind mean and variance are in detail.
      levers: one a site, in the order of `sites`: for a consumed one the leaves that multiply or
        bias all that it reads, and nothing else reads that; empty where there are none.
    """

    id: int
    size: int
    sites: tuple[Site, ...]
    per: tuple[int, ...] = ()
    reductions: tuple[str, ...] = ()
    frozen_by: str | None = None
    scales: tuple[tuple[int, ...], ...] = ()
    signs: tuple[tuple[int, ...], ...] = ()
    averages: tuple[Average, ...] = ()
    levers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Groups:
    """The groups of one model, hashable data without arrays.

    Attributes:
      all: every group, in the order of ids.
      shapes: `(name, shape)` of each leaf that a group runs through.

    Example:
        >>> import numpy as np
        >>> params = {"hidden": {"kernel": np.zeros((3, 8)), "bias": np.zeros(8)},
        ...           "out": {"kernel": np.zeros((8, 2))}}
        >>> groups = Groups.from_sites(params, [[
        ...     ("hidden/kernel", 1, "produced"), ("hidden/bias", 0, "elementwise"),
        ...     ("out/kernel", 0, "consumed"),
        ... ]])
        >>> groups.free[0].size, [group.id for group in groups.at("out/kernel", 0)]
        (8, [0])
        >>> Groups.from_json(groups.to_json()) == groups
        True
    """

    all: tuple[Group, ...]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups whose permutation leaves the model's function unchanged."""
        return tuple(group for group in self.all if group.frozen_by is None)

    @functools.cached_property
    def shape(self) -> dict[str, tuple[int, ...]]:
        """Leaf name to shape."""
        return dict(self.shapes)

    def at(self, name: str, axis: int) -> tuple[Group, ...]:
        """The groups that run through an axis of a leaf, major to minor, then by position.

        Args:
          name: the leaf's canonical name.
          axis: the axis, from 0.

        Returns:
          Each group once; empty where none runs.
        """
        found = [
            (-site.inner, site.start, group.id)
            for group in self.all
            for site in group.sites
            if (site.name, site.axis) == (name, axis)
        ]
        return tuple(self.all[i] for i in dict.fromkeys(id for *_, id in sorted(found)))

    def owner(self, site: Site) -> Group:
        """The group that has a site.

        Example:
            >>> import numpy as np
            >>> groups = Groups.from_sites({"w": np.zeros((2, 3))}, [[("w", 1, "produced")]])
            >>> groups.owner(groups.all[0].sites[0]).id
            0
        """
        return next(group for group in self.all if site in group.sites)

    def table(self) -> str:
        """A table for people: id, size, whether free, and one line a site.

        Returns:
          Text; a frozen group shows what froze it.
        """
        rows = [f"{'id':>3} {'size':>6}  free  sites"]
        for group in self.all:
            lines = [self._line(site) for site in group.sites]
            notes = [f"per {', '.join(map(str, group.per))}"] if group.per else []
            notes += [f"reduced by {', '.join(group.reductions)}"] if group.reductions else []
            notes += [f"frozen by {group.frozen_by}"] if group.frozen_by is not None else []
            notes += [f"scales {', '.join(map(str, powers))}" for powers in group.scales]
            notes += [f"signs {', '.join(map(str, powers))}" for powers in group.signs]
            first, *rest = [*lines, *notes]
            free = "yes" if group.frozen_by is None else "no"
            rows.append(f"{group.id:>3} {group.size:>6}  {free:<4}  {first}")
            rows += [" " * 18 + line for line in rest]
        return "\n".join(rows)

    def _line(self, site: Site) -> str:
        whole = (site.outer, site.start, site.size) == (1, 0, self.shape[site.name][site.axis])
        return f"{site.name}[{site.axis}] {site.role}" if whole else str(site)

    def to_json(self) -> str:
        """The groups as JSON text; `from_json` reads it back to an equal value."""
        content = {"shapes": dict(self.shapes), "groups": [asdict(group) for group in self.all]}
        return json.dumps(content)

    @staticmethod
    def from_json(text: str) -> "Groups":
        """The groups that `to_json` wrote, validated.

        Args:
          text: JSON.

        Returns:
          The groups.

        Raises:
          WeightSpaceError: if the text is not what `to_json` writes, or the groups are unsound.
        """
        from wslax.symmetry.validate import validated

        try:
            content = json.loads(text)
            shapes = tuple((name, tuple(shape)) for name, shape in content["shapes"].items())
            groups = tuple(_group(entry) for entry in content["groups"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise WeightSpaceError(
                f"expected the JSON of Groups.to_json(), got {text[:60]!r} ({error})"
            ) from error
        return validated(Groups(groups, shapes))

    @staticmethod
    def from_sites(
        params: Params,
        groups: Sequence[Sequence[Site | tuple[str, int, str]]],
        *,
        per: Mapping[int, tuple[int, ...]] | None = None,
        reductions: Mapping[int, tuple[str, ...]] | None = None,
        frozen_by: Mapping[int, str] | None = None,
        scales: Mapping[int, tuple[tuple[int, ...], ...]] | None = None,
        signs: Mapping[int, tuple[tuple[int, ...], ...]] | None = None,
    ) -> "Groups":
        """Groups written by hand, checked against the parameters.

        Args:
          params: the parameters, or their `ShapeDtypeStruct`s; statistics count.
          groups: the sites of each group; the group's id is its place here. A site is a `Site`,
            or `(name, axis, role)` for a whole axis (counted from the end where negative).
          per: group id to `Group.per`; default none.
          reductions: group id to `Group.reductions`; default none.
          frozen_by: group id to `Group.frozen_by`; default all free.
          scales: group id to `Group.scales`; default none.
          signs: group id to `Group.signs`; default none.

        Returns:
          The groups.

        Raises:
          WeightSpaceError: naming the leaf, if it or the axis does not exist, a site does not fit
            its axis, sites overlap without one nesting in the other, sizes in a group differ, a
            role, reduction or id is unknown, a group is empty, or exponents do not fit its sites.
        """
        from wslax.symmetry.validate import resolve_site, shapes_of, validated

        shapes = shapes_of(params)
        per, reductions, frozen_by = per or {}, reductions or {}, frozen_by or {}
        scales, signs = scales or {}, signs or {}
        for option in (per, reductions, frozen_by, scales, signs):
            for i in option:
                if i not in range(len(groups)):
                    raise WeightSpaceError(f"no group {i}: {len(groups)} groups are given")
        made = []
        for i, sites in enumerate(groups):
            resolved = tuple(resolve_site(site, shapes) for site in sites)
            size = resolved[0].size if resolved else 0
            traits = (tuple(per.get(i, ())), tuple(reductions.get(i, ())), frozen_by.get(i))
            exponents = (scales.get(i, ()), signs.get(i, ()))
            made.append(Group(i, size, resolved, *traits, *exponents))
        used = {site.name for group in made for site in group.sites}
        return validated(Groups(tuple(made), tuple((n, shapes[n]) for n in shapes if n in used)))


def _average(entry: dict[str, Any]) -> Average:
    return Average(gains=tuple(entry.pop("gains")), **entry)


def _group(entry: dict[str, Any]) -> Group:
    sites = tuple(Site(**site) for site in entry.pop("sites"))
    per, reductions = tuple(entry.pop("per")), tuple(entry.pop("reductions"))
    lists: dict[str, Any] = {
        kind: tuple(map(tuple, entry.pop(kind))) for kind in ("scales", "signs", "levers")
    }
    averages = tuple(_average(a) for a in entry.pop("averages"))
    return Group(sites=sites, per=per, reductions=reductions, averages=averages, **lists, **entry)
