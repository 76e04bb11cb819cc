"""Arithmetic along the units of one site, for host arrays and traced ones."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.gather import owners
from wslax.symmetry.types import Group, Groups, Site
from wslax.typing import Array


def space(*arrays: Any) -> Any:
    """`numpy` where all are host arrays or numbers, else `jax.numpy`."""
    host = all(isinstance(x, (np.ndarray, np.generic, int, float)) for x in arrays)
    return np if host else jnp


def by_unit(leaf: Array, site: Site) -> Array:
    """The elements of a site, `[outer, units, inner, *other axes]`."""
    apart = space(leaf).moveaxis(leaf, site.axis, 0)
    _, first, last = layout.bounds(site, len(apart))
    own = apart.reshape(site.outer, -1, *apart.shape[1:])[:, first:last]
    return own.reshape(site.outer, site.size, site.inner, *apart.shape[1:])


def check_mixable(name: str, leaf: Any) -> None:
    """Raise unless a leaf holds floats, of which sums make sense."""
    if not tree.is_float(leaf):
        raise WeightSpaceError(f"{name}: is {leaf.dtype}, expected floats, which can be mixed")


def multiplied(leaf: Array, site: Site, factors: Array) -> Array:
    """A leaf times a number for each unit of a site, half types by way of float32.

    Raises:
      WeightSpaceError: if the leaf holds no floating-point numbers.
    """
    if not tree.is_float(leaf):
        raise WeightSpaceError(
            f"{site.name}: is {leaf.dtype} and would have to be scaled; only floating-point leaves "
            "can be"
        )
    wide = tree.wide(leaf)
    spread = layout.spread(site, leaf.shape[site.axis], factors, space(factors))
    spread = layout.across(spread, site.axis, leaf.ndim).astype(wide)
    return (leaf.astype(wide) * spread).astype(leaf.dtype)


def summed(values: Array, index: Array, count: int) -> Array:
    """`[count]`: the sum of the values of all copies of each old unit."""
    if space(values, index) is np:
        return np.bincount(index, values, minlength=count)
    return jnp.zeros(count, values.dtype).at[index].add(values)


def owned_sums(groups: Groups, group: Group, site: Site, leaf: Array) -> Array:
    """The sum of what each unit owns, `[*sizes of per, size]`, in the dtype of the leaf."""
    owner = owners(groups, group, site)
    inner = tuple(a for a, n in enumerate(owner.shape) if n == 1)
    shape = (*(groups.all[id].size for id in group.per), group.size)
    count = math.prod(shape)
    values, owner = leaf.sum(inner).reshape(-1), owner.reshape(-1)
    if space(leaf) is np:
        sums = np.bincount(owner, values, minlength=count + 1).astype(leaf.dtype)
    else:
        sums = jax.ops.segment_sum(values, owner, count + 1)
    return sums[:-1].reshape(shape)
