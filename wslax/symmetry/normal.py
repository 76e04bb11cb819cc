"""A normal form up to order and sign: are two checkpoints one model?"""

import collections
import math

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.symmetry import layout
from wslax.symmetry.actions import permute
from wslax.symmetry.balancing import balance
from wslax.symmetry.find import locate
from wslax.symmetry.gather import owners
from wslax.symmetry.scaling import powers, unit_shape
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Params


def _extremes(groups: Groups, group: Group, site: Site, leaf: Array) -> tuple[Array, Array]:
    """The largest and the smallest weight that each unit owns, `[*sizes of per, size]`."""
    shape = unit_shape(groups, group)
    count = math.prod(shape)
    owner = np.broadcast_to(owners(groups, group, site), groups.shape[site.name]).reshape(-1)
    values = jnp.asarray(leaf).reshape(-1).astype(tree.wide(leaf))
    high, low = (
        take(values, owner, count + 1)[:-1].reshape(shape)
        for take in (jax.ops.segment_max, jax.ops.segment_min)
    )
    return high, low


def _order(params: Params, groups: Groups, group: Group, found: dict[str, str]) -> Array:
    """The order of a group's units by the largest and smallest weights they own, leaf by leaf."""
    leaves = tree.named_leaves(params)
    keys: list[Array] = []
    for site in {layout.place(s): s for s in group.sites}.values():
        for name, original in found.items():
            if original == site.name and tree.is_float(leaves[name]):
                keys += _extremes(groups, group, site, leaves[name])
    return jnp.lexsort(keys[::-1], -1) if keys else jnp.arange(group.size)


def _anchors(groups: Groups, present: set[str]) -> list[tuple[Group, int, list[Site]]]:
    """The sign symmetries in an order, each with sites whose signs those after it leave alone."""
    odd: dict[tuple[int, int], dict[tuple[str, int], list[Site]]] = {}
    for group in groups.free:
        for site, exponents in powers(group, signs=True).items():
            for k in range(len(exponents)):
                if exponents[k] and site.name in present:
                    along = odd.setdefault((group.id, k), {})
                    along.setdefault((site.name, site.axis), []).append(site)
    anchors = []
    while odd:
        meets = collections.Counter(name for along in odd.values() for name, _ in along)
        alone = ((key, a) for key, along in odd.items() for a in along if meets[a[0]] == 1)
        key, at = next(alone, next((key, a) for key, along in odd.items() for a in along))
        anchors.append((groups.all[key[0]], key[1], odd.pop(key)[at]))
    return anchors


def _upright(params: Params, groups: Groups, found: dict[str, str]) -> Params:
    """Units with the sign in which the largest magnitude at some sites of theirs is positive."""
    names = {original: name for name, original in reversed(found.items())}
    for group, k, sites in _anchors(groups, set(names)):
        leaf = tree.named_leaves(params)[names[sites[0].name]]
        each = [_extremes(groups, group, site, leaf) for site in sites]
        high, low = (jnp.stack(one) for one in zip(*each, strict=True))
        high, low = high.max(0), low.min(0)
        signs = jnp.ones((len(group.signs), *high.shape), high.dtype)
        signs = signs.at[k].set(jnp.where(-low > high, -1, 1))
        params = permute(params, groups, {}, {group.id: signs})
    return params


def canonical(params: Params, groups: Groups) -> Params:
    r"""A normal form up to order and sign: models that differ in these alone become one.

    First each unit with sign symmetries gets the sign in which, along one axis of one leaf, its
    weight of largest magnitude is positive. The leaf is one that no symmetry changes that is still
    undecided; where each of them hangs on another one, the form is not unique. Then the units of
    each free group, in the order of ids, are sorted by what does not depend on the order of any
    units: for each leaf, the largest and the smallest weight that a unit owns there, compared leaf
    by leaf. These are exact numbers, so permuted and flipped copies give the same bits, unless two
    units own the same extremes at every leaf or a unit's extremes are opposite. Scales stay;
    `balance` before it brings these to one, too.

    Args:
      params: the tree that the groups were made for.
      groups: the groups.

    Returns:
      The tree with its units in that order, with those signs. Works under `jax.jit` and `jax.vmap`.

    Raises:
      WeightSpaceError: if the groups do not fit the parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.array([[1.0, 3.0, 2.0]])}
        >>> groups = Groups.from_sites(params, [[("w", 1, "produced")]])
        >>> canonical(params, groups)["w"]
        Array([[1., 2., 3.]], dtype=float32)
    """
    found = locate(params, groups)
    params = _upright(params, groups, found)
    for group in groups.free:
        params = permute(params, groups, {group.id: _order(params, groups, group, found)})
    return params


def same_function(a: Params, b: Params, groups: Groups, *, rtol: float = 1e-5) -> Array:
    r"""Whether two checkpoints are one model up to the order, signs and scales of its units.

    Compares the normal forms, `canonical` after `balance`: \(|a - b| \le \text{rtol} \max|a|\) at
    every leaf. Models that compute the same in yet another way are told apart.

    Args:
      a: parameters.
      b: parameters of the same structure.
      groups: of the model.
      rtol: as a share of the largest magnitude of each leaf; 1e-5 allows for rounding.

    Returns:
      A scalar bool.

    Raises:
      WeightSpaceError: if the trees differ in structure, or the groups do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> a = {"w": jnp.array([[1.0, 3.0, 2.0]])}
        >>> groups = Groups.from_sites(a, [[("w", 1, "produced")]])
        >>> bool(same_function(a, {"w": jnp.array([[3.0, 2.0, 1.0]])}, groups))
        True
    """
    tree.check_like(b, a, "b", "a")

    def close(x: Array, y: Array) -> Array:
        if not tree.is_float(x):
            return jnp.all(x == y)
        x, y = x.astype(tree.wide(x)), y.astype(tree.wide(y))
        return jnp.all(jnp.abs(x - y) <= rtol * jnp.max(jnp.abs(x), initial=0.0))

    pairs = jax.tree.map(close, *(canonical(balance(p, groups), groups) for p in (a, b)))
    return jnp.all(jnp.stack(jax.tree.leaves(pairs)))
