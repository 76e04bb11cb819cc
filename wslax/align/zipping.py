"""ZipIt!: features merged within and across models, as deep as is wanted."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from wslax import tree
from wslax.align.features import standard
from wslax.align.greedy import zip_labels
from wslax.align.similarity import places
from wslax.errors import WeightSpaceError
from wslax.population.members import row_spec, size
from wslax.symmetry import layout
from wslax.symmetry.find import check_id, locate
from wslax.symmetry.gather import scatter
from wslax.symmetry.scaling import unit_shape
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Params, Population, Scalar

Activations = Mapping[int, Array | tuple[Array, ...]]
Touched = list[tuple[Group, Site, bool]]  # the zipped places of a leaf, and whether consumed there


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Zipped:
    """Models merged as far as they were zipped.

    Attributes:
      params: leaves that all models share have no member axis, others are `[N, ...]`.
      own: names of the leaves that each model keeps.
    """

    params: Params
    own: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @property
    def axes(self) -> Any:
        """0 or None a leaf, for `jax.vmap(apply, in_axes=(zipped.axes, None))`."""
        return tree.map_named(lambda name, _: 0 if name in self.own else None, self.params)


def _chosen(groups: Groups, ids: Sequence[int] | None) -> list[Group]:
    """The groups to zip; those at whose units another's order is chosen keep their order."""
    if ids is None:
        if not groups.free:
            raise WeightSpaceError("no group is free; `groups.table()` says what froze them")
        outer = {id for group in groups.free for id in group.per}
        return [group for group in groups.free if group.id not in outer]
    chosen = [check_id(groups, id) for id in ids]
    for group in chosen:
        if not set(group.per).isdisjoint(ids):
            raise WeightSpaceError(
                f"ids: group {group.id} is zipped at each unit of the groups {list(group.per)} on "
                "its own, so name it or them, not both"
            )
    return chosen


def _correlation(groups: Groups, group: Group, seen: Any, count: int) -> Array:
    """`[outer units, N * size, N * size]`, the mean over the places where a group is seen."""
    shape = unit_shape(groups, group)
    found = []
    for x in seen if isinstance(seen, tuple) else (seen,):
        if x.ndim < 2 or (len(x), *x.shape[2:]) != (count, *shape):
            expected = ", ".join(map(str, (count, "samples", *shape)))
            raise WeightSpaceError(
                f"activations: expected [{expected}] of group {group.id}, got {tree.aval(x)}"
            )
        x = standard(jnp.swapaxes(x, 0, 1))
        both = jnp.einsum("sm...i,sn...j->...minj", x, x)
        found.append(both.reshape(-1, count * group.size, count * group.size))
    return sum(found[1:], found[0]) / len(found)


def _touched(chosen: list[Group]) -> dict[str, Touched]:
    """Leaf by leaf the places of the groups to zip."""
    found: dict[str, Touched] = {}
    for group in chosen:
        for site in places(group):
            roles = {s.role for s in group.sites if layout.place(s) == layout.place(site)}
            if len(roles) > 1 and "consumed" in roles:
                raise WeightSpaceError(
                    f"{site.name}: its axis {site.axis} both makes and reads the units of group "
                    f"{group.id} (a tied leaf), and no one leaf does both after a zip; leave the "
                    "group out of ids"
                )
            found.setdefault(site.name, []).append((group, site, "consumed" in roles))
    return found


def _made(groups: Groups, touched: Touched) -> bool:
    """Whether the zipped groups produce a leaf, all of it."""
    made = [site for _, site, consumed in touched if not consumed]
    covered: dict[int, Any] = {}
    for site in made:
        units = layout.units(site, groups.shape[site.name][site.axis])
        covered[site.axis] = covered.get(site.axis, False) | (units >= 0)
    if made and not any(elements.all() for elements in covered.values()):
        raise WeightSpaceError(
            f"{made[0].name}: the groups in ids produce a part of it; name those of its "
            "other parts too"
        )
    return bool(made)


def _check_inputs(groups: Groups, name: str, chosen: list[Group]) -> None:
    """Raise if a shared leaf reads units that each model keeps in an order of its own."""
    known = {group.id for group in chosen} | {id for group in chosen for id in group.per}
    for group in groups.all:
        on_leaf = any(site.name == name for site in group.sites)
        roles = {site.role for site in group.sites}
        hidden = "consumed" in roles and len(roles) > 1
        if on_leaf and hidden and group.id not in known:
            raise WeightSpaceError(
                f"{name}: would be one for all models, but lies along group {group.id}, which each "
                f"model keeps as its own; add {group.id} to ids, or zip less deep"
            )


def _poured(groups: Groups, touched: Touched, leaf: Any, labels: dict[int, Array]) -> Any:
    """A leaf of one model in the units of the merged one, those of one label added up."""
    for group, site, _ in touched:
        leaf = scatter(groups, group, site, leaf, labels[group.id])
    return leaf


def _labels(
    groups: Groups, group: Group, similar: Array, count: int, alpha: Scalar, beta: Scalar
) -> Array:
    """`[N, *sizes of per, size]`: the merged unit of each unit of each model."""
    each = jax.lax.map(lambda one: zip_labels(one, count, alpha=alpha, beta=beta), similar)
    each = jnp.moveaxis(each.reshape(-1, count, group.size), 1, 0)
    return each.reshape(count, *unit_shape(groups, group))


def _merged(groups: Groups, touched: Touched, leaf: Any, labels: dict[int, Array]) -> Any:
    r"""\(\sum_x M^x W^x U^x\), where nothing is produced the mean over models."""
    made = [place for place in touched if not place[2]]
    ones = jnp.ones(leaf.shape[1:], leaf.dtype)
    parts = jax.vmap(lambda labels: _poured(groups, made, ones, labels))(labels).sum(0)
    whole = jax.vmap(lambda x, labels: _poured(groups, touched, x, labels))(leaf, labels).sum(0)
    return whole / jnp.maximum(parts, 1)


def zipit(
    population: Population,
    activations: Activations,
    groups: Groups,
    *,
    ids: Sequence[int] | None = None,
    alpha: Scalar = 0.3,
    beta: Scalar = 0.125,
) -> Zipped:
    r"""Merge the features of N models that correlate, across models and within each.

    ZipIt! (Stoica et al., arXiv:2305.03053, section 4). The N * size features of a group are merged
    greedily into size, most correlated first. With the 0/1 matrix \(U^x\) from features of model x
    to merged ones and \(M^x\), its transpose with rows divided by the number of features (of all
    models) merged there, a leaf becomes

    \[W = \sum_x M^x_\text{out}\, W^x\, U^x_\text{in}\]

    where units are produced (or meet the leaf element by element) and where they are consumed. The
    official code lets one merge within a model pass where `beta` allows none.

    Merged units count once in what the model reduces over (`Group.reductions`: norms, attention),
    and statistics of a normalisation are averaged; the official code resets them on data.

    Args:
      population: leaves `[N, ...]`.
      activations: group id to `[N, samples, *sizes of per, size]` on the same samples, or a tuple
        of such, one a place: `activations` under `vmap`. Correlations are averaged over places.
      groups: of one member. Groups at whose units another one is zipped on its own (`Group.per`)
        keep their order: bring it into line first, with `weight_matching`.
      ids: which groups to zip, those up to some depth: leaves that none of them produces stay each
        model's own, and read the merged units. None: all, and those leaves are averaged.
      alpha: a merged feature's similarity to others is multiplied by it, 0 to 1; 0.3 as in the
        official code.
      beta: at most this share of the merges falls within models, 0 to 1; 0.125 as there.

    Returns:
      `Zipped(params, own)`. If all is zipped `params` is one model. Integers and the like are the
      first model's where shared. Works under `jax.jit` (`groups` and `ids` static) and `jax.vmap`.

    Raises:
      WeightSpaceError: if a group is frozen or unknown, activations do not fit it, a leaf in it is
        tied or no float, or a shared leaf lies along units that each model keeps.

    Example:
        >>> import jax, jax.numpy as jnp, wslax as ws
        >>> net = ws.nets.mlp(4, [8], 3)
        >>> population = ws.population.init(net.init, jax.random.key(0), 2)
        >>> x = jax.random.normal(jax.random.key(1), (50, 4))
        >>> groups = ws.symmetry.infer(net.apply, ws.population.member(population, 0), x)
        >>> read = lambda params: ws.align.activations(net.apply, params, groups, x)
        >>> zipped = zipit(population, jax.vmap(read)(population), groups, ids=[groups.free[0].id])
        >>> zipped.own
        ('out/bias', 'out/kernel')
        >>> jax.vmap(net.apply, in_axes=(zipped.axes, None))(zipped.params, x).shape
        (2, 50, 3)
    """
    count = size(population)
    found = locate(row_spec(population), groups)
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not isinstance(value, jax.core.Tracer) and not 0 <= value <= 1:
            raise WeightSpaceError(f"{name}: expected a number from 0 to 1, got {value}")
    chosen = _chosen(groups, ids)
    touched = _touched(chosen)
    own = []
    for name, leaf in tree.named_leaves(population).items():
        mine = touched.get(found.get(name, ""), [])
        if mine and not tree.is_float(leaf):
            raise WeightSpaceError(
                f"{name}: {tree.aval(leaf)} lies along a zipped group, and only floats are merged"
            )
        if ids is not None and not _made(groups, mine):
            own.append(name)
        elif ids is not None:
            _check_inputs(groups, found[name], chosen)
    missing = [group.id for group in chosen if group.id not in activations]
    if missing:
        raise WeightSpaceError(f"activations: expected those of all zipped groups, lacks {missing}")
    labels = {}
    for group in chosen:
        similar = _correlation(groups, group, activations[group.id], count)
        labels[group.id] = _labels(groups, group, similar, count, alpha, beta)

    def merge(name: str, leaf: Any) -> Any:
        if not tree.is_float(leaf):
            return leaf if name in own else leaf[0]
        mine = touched.get(found.get(name, ""), [])
        wide = jnp.asarray(leaf).astype(tree.wide(leaf))
        if name in own:
            pour = lambda x, labels: _poured(groups, mine, x, labels)
            return tree.cast_like(jax.vmap(pour)(wide, labels), leaf)
        return tree.cast_like(_merged(groups, mine, wide, labels), leaf)

    return Zipped(tree.map_named(merge, population), tuple(own))
