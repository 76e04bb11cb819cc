"""`ligo_width`: new units as learned linear combinations of old ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.grow.learned import Operator, uniform
from wslax.grow.method import Fill, Method, WidthMap
from wslax.grow.plan import Change, changed, through
from wslax.grow.treatment import Treatment, treated
from wslax.grow.width import named, planned
from wslax.symmetry import layout
from wslax.symmetry.along import by_unit, check_mixable
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Key, Params


def _nothing(group: Group, size: int, key: Key, xp: Any) -> WidthMap:
    fill = Fill(size - group.size, "zero", "zero")
    return WidthMap(xp.arange(group.size, dtype=np.int32), fill=fill)


def _bare(group: Group, sites: tuple[Site, ...], width_map: WidthMap, size: int) -> Treatment:
    return Treatment(None, None, "zero")


_EXTENSION = Method("ligo", lambda group, size: None, _nothing, "arXiv:2303.00980", exact=False)


def _plus(grown: Array, leaf: Array, change: Change, rows: Array) -> Array:
    """`rows @ old units`, for each further unit a row of numbers, added to the further units."""
    site, wide = change.site, tree.wide(leaf)
    check_mixable(site.name, leaf)
    new = jnp.einsum("ij,oj...->oi...", rows.astype(wide), by_unit(leaf, site).astype(wide))
    apart = jnp.moveaxis(grown, site.axis, 0)
    tiles = apart.reshape(site.outer, -1, *apart.shape[1:])
    new = new.reshape(site.outer, -1, *apart.shape[1:]).astype(grown.dtype)
    last = layout.bounds(site, leaf.shape[site.axis])[2]
    tiles = tiles.at[:, last : last + new.shape[1]].add(new)
    return jnp.moveaxis(tiles.reshape(apart.shape), 0, site.axis)


class WidthRows(NamedTuple):
    """For each group `[more units, units]`, a row of numbers for every further unit.

    Attributes:
      produced: for weights, biases and scales along the group.
      consumed: for weights that read it; empty where these use the same rows.
    """

    produced: dict[int, Array]
    consumed: dict[int, Array]


def _zeros(shapes: Mapping[int, tuple[int, int]]) -> dict[int, Array]:
    return {id: jnp.zeros(shape) for id, shape in shapes.items()}


def ligo_width(
    groups: Groups, sizes: Mapping[int, int], *, method: str | None = None, key: Key
) -> Operator:
    r"""A learned growth in width: new units are linear combinations of the old ones.

    LiGO (Wang et al., arXiv:2303.00980, section 3.2). Along each group that grows, a leaf becomes

    \[w' = \begin{pmatrix} I \\ B \end{pmatrix} w,\]

    with one \(B\) a group, so that a matrix with a growing group at either end is multiplied from
    both sides, \(W' = (I; B_\text{out})\, W\, (I; B_\text{in})^T\). Rows of \(B\) are uniform in
    [0, 1) and divided by their sum, as in the published code. The function is not kept: what reads
    the group sums over copies. With a `method`, the maps are that method's own instead and what is
    learned is added to its new units, rows of zeros at first, with rows of their own for what reads
    the group: an exact method's function is where learning begins.

    Args:
      groups: of the narrow model.
      sizes: group id to its new number of units; static.
      method: None for the paper's operator, or one of `METHODS` to begin from.
      key: of the rows, or of the method. May be traced.

    Returns:
      An `Operator` whose maps are a `WidthRows`. Learn them by `tune`, or your own loop; then the
      large model's training starts afresh, as in the paper. Half types are mixed in float32.

    Raises:
      WeightSpaceError: for an unknown method or group, a frozen group, fewer units, a group that
        the method refuses; from `materialise` for a tree of another model, or leaves along the
        group that are no floats.

    Example:
        >>> import jax, wslax as ws
        >>> net = ws.nets.mlp(4, [8], 3)
        >>> params, x = net.init(jax.random.key(0)), jax.numpy.ones((2, 4))
        >>> groups = ws.symmetry.infer(net.apply, params, x)
        >>> ligo = ws.grow.ligo_width(groups, {groups.free[0].id: 12}, key=1)
        >>> ligo.materialise(ligo.maps, params)["hidden_0"]["kernel"].shape
        (4, 12)
    """
    how, treat = (_EXTENSION, _bare) if method is None else (named(method), treated)
    plan, grown = planned(groups, sizes, how, key, 0.0, treat)
    shapes = {id: (size - groups.all[id].size, groups.all[id].size) for id, size in sizes.items()}
    if method is None:
        drawn = {id: uniform(key, f"{id}", *shape) for id, shape in shapes.items()}
        maps = WidthRows({id: x / x.sum(1, keepdims=True) for id, x in drawn.items()}, {})
    else:
        maps = WidthRows(_zeros(shapes), _zeros(shapes))

    def materialise(maps: WidthRows, params: Params) -> Params:
        def change(leaf: Array, one: Change) -> Array:
            of = maps.consumed if one.treatment.consumed and maps.consumed else maps.produced
            rows = of[one.groups.owner(one.site).id]
            return _plus(jnp.asarray(changed(leaf, one, plan)), jnp.asarray(leaf), one, rows)

        return through(params, plan, change)

    return Operator(maps, materialise, grown)
