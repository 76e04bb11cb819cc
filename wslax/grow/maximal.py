"""`gradmax`: new units whose outgoing weights give their incoming ones the largest gradient."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from wslax import edit, tree
from wslax.errors import WeightSpaceError
from wslax.grow import reasons
from wslax.grow.added import unread
from wslax.grow.width import widened
from wslax.symmetry import layout
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Params


class _Place(NamedTuple):
    """Elements of units along the axis of a leaf, unit after unit."""

    name: str
    axis: int
    at: np.ndarray


def _places(groups: Groups, group: Group, role: str, *units: int) -> list[_Place]:
    def place(site: Site) -> _Place:
        owner = layout.units(site, groups.shape[site.name][site.axis])
        return _Place(
            site.name, site.axis, np.concatenate([np.flatnonzero(owner == k) for k in units])
        )

    return [place(site) for site in group.sites if site.role == role]


def _read(params: Params, places: list[_Place]) -> list[Array]:
    leaves = tree.named_leaves(params)
    return [jnp.take(jnp.asarray(leaves[p.name]), p.at, p.axis) for p in places]


def _written(params: Params, places: list[_Place], values: list[Array]) -> Params:
    by_name: dict[str, list[tuple[_Place, Array]]] = {}
    for place, value in zip(places, values, strict=True):
        by_name.setdefault(place.name, []).append((place, value))

    def write(name: str, leaf: Any) -> Any:
        for place, value in by_name.get(name, ()):
            at = (*[slice(None)] * place.axis, place.at)
            leaf = jnp.asarray(leaf).at[at].set(value.astype(leaf.dtype))
        return leaf

    return tree.map_named(write, params)


def _squares(params: Params, places: list[_Place], count: int) -> Array:
    """`[count]`: the sum of squares of the elements of each of as many units."""
    of = lambda x, axis: jnp.moveaxis(x, axis, 0).reshape(count, -1)
    values = zip(_read(params, places), places, strict=True)
    return jnp.stack([(of(x, place.axis) ** 2).sum(1) for x, place in values]).sum(0)


def _flat(values: list[Array]) -> tuple[Array, Any]:
    flat, shaped = ravel_pytree(values)
    return flat, shaped


def _outgoing(
    loss: Callable[[Params], Array], wide: Params, groups: Groups, id: int, old: int, scale: float
) -> Array:
    """`[new units, outgoing weights]` of one group, the rest of the model as it is."""
    group = groups.all[id]
    into, out = (_places(groups, group, role, old) for role in ("produced", "consumed"))
    u, shaped_u = _flat(_read(wide, into))
    v, shaped_v = _flat(_read(wide, out))

    def value(u: Array, v: Array) -> Array:
        params = _written(wide, into, shaped_u(u))
        return loss(_written(params, out, shaped_v(v)))

    def row(direction: Array) -> Array:
        return jax.jvp(lambda v: jax.grad(value)(u, v), (v,), (direction,))[1]

    mixed = jax.lax.map(row, jnp.eye(len(v), dtype=v.dtype), batch_size=64)
    if jnp.any(jax.grad(value, 1)(u, v) != 0):
        raise reasons.refuse(
            group, "gradmax",
            "units without incoming weights put out more than zero (an activation that is not 0 "
            "at 0, as a sigmoid, or a bias after it); use zero",
        )  # fmt: skip
    left, strength, _ = jnp.linalg.svd(mixed, full_matrices=False)
    if not strength[0] > 0:
        raise reasons.refuse(
            group, "gradmax",
            "new units would never learn: the gradient of their incoming weights is 0 whatever the "
            "outgoing ones (`jax.nn.relu` has slope 0 at 0; `jnp.maximum(x, 0)` has 0.5, GELU and "
            "tanh have some); use zero",
        )  # fmt: skip
    count = group.size - old
    if count > len(strength):
        raise WeightSpaceError(
            f"group {id}: gradmax gives at most {len(strength)} new units here, the rank of the "
            f"gradient between what feeds and what reads them, got {count}"
        )
    size = jnp.sqrt(_squares(wide, _places(groups, group, "consumed", *range(old)), old)).mean()
    return scale * size * left[:, :count].T


def gradmax(
    groups: Groups,
    sizes: Mapping[int, int],
    loss: Callable[[Params], Array],
    params: Params,
    *,
    scale: float = 0.5,
) -> edit.Edit:
    r"""Give groups more units that learn fastest: zero incoming weights, chosen outgoing ones.

    GradMax (Evci et al., arXiv:2201.05125): with incoming weights \(u = 0\) the function
    stays whatever the outgoing weights \(v\) are, and the gradient of \(u\) is linear in \(v\),
    \(\nabla_u = M^T v\) with \(M = \partial^2 L / \partial v\, \partial u\). Its norm is largest
    for the first left singular vectors of \(M\), one a new unit, here scaled to `scale` times the
    mean norm of old units' outgoing weights. \(M\) is taken by differentiating twice through the
    grown model, so any layer will do: convolutions, several producers or consumers.

    Args:
      groups: of the narrow model, of which `params` is the very tree.
      sizes: group id to its new number of units; static.
      loss: `params of the wide model -> scalar`, of a batch of data.
      params: of the narrow model.
      scale: of the outgoing weights; 0.5 as in the published code.

    Returns:
      An `Edit` as from `widen`. Its outgoing weights are those found here, whatever tree it is
      applied to; new units' moments are zero. One group's units are chosen with those of the others
      at zero.

    Raises:
      WeightSpaceError: where `widen(..., method="zero")` refuses, where activations are not 0 at 0
        or have no slope there, or for more units than the rank of \(M\).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from wslax import grow, symmetry
        >>> apply = lambda p, x: jnp.tanh(x @ p["a"]) @ p["b"]
        >>> draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
        >>> params, x = {"a": draw(0, 4, 5), "b": draw(1, 5, 3)}, draw(2, 16, 4)
        >>> groups = symmetry.infer(apply, params, x)
        >>> loss = lambda p: jnp.mean((apply(p, x) - 1) ** 2)
        >>> wide = grow.gradmax(groups, {groups.free[0].id: 7}, loss, params).apply(params)
        >>> bool(abs(loss(wide) - loss(params)) < 1e-6), bool((wide["a"][:, 5:] == 0).all())
        (True, True)
    """
    base = widened(groups, sizes, unread, 0, 0.0)
    wide = base.apply(params)
    found = []
    for id in sizes:
        group, old = base.groups.all[id], groups.all[id].size
        new = range(old, group.size)
        if not new:
            continue
        _, shaped = _flat(_read(wide, _places(base.groups, group, "consumed", old)))
        units = [shaped(row) for row in _outgoing(loss, wide, base.groups, id, old, scale)]
        places = _places(base.groups, group, "consumed", *new)
        parts = zip(*units, strict=True)
        values: list[Array] = [
            jnp.concatenate(x, p.axis) for x, p in zip(parts, places, strict=True)
        ]
        found.append((places, values))

    def apply(params: Params) -> Params:
        params = base.apply(params)
        for places, values in found:
            params = _written(params, places, values)
        return params

    return edit.from_map(apply, base.optimizer_state, base.groups)
