"""A normal form up to permutation: are two checkpoints one model?"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.symmetry import layout
from wslax.symmetry.actions import permute
from wslax.symmetry.find import locate
from wslax.symmetry.gather import outer_units
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array, Params


def _owners(groups: Groups, group: Group, site: Site) -> tuple[np.ndarray, int]:
    """For each element of a leaf the flat index into `[*sizes of per, size]` of who owns it.

    An element that no unit owns has the index after the last.
    """
    shape = groups.shape[site.name]

    def over(axis: int, values: np.ndarray) -> np.ndarray:
        return values.reshape([-1 if a == axis else 1 for a in range(len(shape))])

    own = over(site.axis, layout.units(site, shape[site.axis]))
    index, inside = np.zeros((1,) * len(shape), int), own >= 0
    for id in group.per:
        axis, units = outer_units(groups, site, id, np.arange(shape[site.axis]))
        index = index * groups.all[id].size + over(axis, units)
        inside = inside & (over(axis, units) >= 0)
    count = math.prod(groups.all[id].size for id in group.per) * group.size
    return np.broadcast_to(np.where(inside, index * group.size + own, count), shape), count


def _order(params: Params, groups: Groups, group: Group, found: dict[str, str]) -> Array:
    """The order of a group's units by the largest and smallest weights they own, leaf by leaf."""
    leaves = tree.named_leaves(params)
    shape = (*(groups.all[id].size for id in group.per), group.size)
    keys = []
    for site in {layout.place(s): s for s in group.sites}.values():
        for name, original in found.items():
            if original != site.name or not tree.is_float(leaves[name]):
                continue
            owners, count = _owners(groups, group, site)
            values = jnp.asarray(leaves[name]).reshape(-1).astype(tree.wide(leaves[name]))
            for take in (jax.ops.segment_max, jax.ops.segment_min):
                keys.append(take(values, owners.reshape(-1), count + 1)[:-1].reshape(shape))
    return jnp.lexsort(keys[::-1], -1) if keys else jnp.arange(group.size)


def canonical(params: Params, groups: Groups) -> Params:
    r"""A normal form up to permutation: models that differ in the order of units become one.

    The units of each free group, in the order of ids, are sorted by what does not depend on the
    order of any units: for each leaf, the largest and the smallest weight that a unit owns there,
    compared leaf by leaf. These are exact numbers, so permuted copies give the same bits, unless
    two units own the same extremes at every leaf.

    Args:
      params: the tree that the groups were made for.
      groups: the groups.

    Returns:
      The tree with its units in that order. Works under `jax.jit` and `jax.vmap`.

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
    for group in groups.free:
        params = permute(params, groups, {group.id: _order(params, groups, group, found)})
    return params


def same_function(a: Params, b: Params, groups: Groups, *, rtol: float = 1e-5) -> Array:
    r"""Whether two checkpoints are one model up to the order of its units.

    Compares the normal forms: \(|a - b| \le \text{rtol} \max|a|\) at every leaf. Models that
    compute the same in another way (another sign, another scale) are told apart.

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

    pairs = jax.tree.map(close, canonical(a, groups), canonical(b, groups))
    return jnp.all(jnp.stack(jax.tree.leaves(pairs)))
