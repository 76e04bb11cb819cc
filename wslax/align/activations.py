"""Activation matching: the order of units in which two models' activations agree most."""

from collections.abc import Mapping

import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.numerics.assignment import assignment
from wslax.symmetry.find import check_id
from wslax.symmetry.types import Groups
from wslax.typing import Array


def activation_matching(
    a: Mapping[int, Array], b: Mapping[int, Array], groups: Groups
) -> dict[int, Array]:
    r"""Permutations of `b`'s units whose activations correlate most with `a`'s.

    For each group on its own the assignment of largest total correlation over samples,
    \(\arg\max_p \sum_i \operatorname{corr}(a_i, b_{p_i})\) (Li et al., arXiv:1511.07543; the
    matching of Git Re-Basin, arXiv:2209.04836, section 3.1, has inner products in its place, which
    units of large activations dominate). A unit that never varies correlates with none.

    Args:
      a: group id to activations `[samples, *sizes of per, size]` of the first model.
      b: the same of the second, on the same samples.
      groups: of the model.

    Returns:
      Group id to int32 `[*sizes of per, size]`, for `symmetry.permute(second, groups, ...)`. Works
      under `jax.jit` and `jax.vmap`.

    Raises:
      WeightSpaceError: if a group is frozen or unknown, or shapes do not fit it.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> groups = Groups.from_sites({"w": np.zeros((2, 2))}, [[("w", 1, "produced")]])
        >>> seen = jnp.array([[1.0, 5.0], [2.0, 3.0], [3.0, 4.0]])
        >>> activation_matching({0: seen}, {0: seen[:, ::-1]}, groups)[0].tolist()
        [1, 0]
    """
    if a.keys() != b.keys():
        raise WeightSpaceError(
            f"b: expected activations of groups {sorted(a)} as in a, got {sorted(b)}"
        )
    orders: dict[int, Array] = {}
    for id in a:
        group = check_id(groups, id)
        shape = (*(groups.all[other].size for other in group.per), group.size)
        for name, seen in (("a", a[id]), ("b", b[id])):
            if seen.shape[1:] != shape or len(seen) != len(a[id]):
                expected = ", ".join(map(str, (len(a[id]), *shape)))
                raise WeightSpaceError(
                    f"{name}: expected activations [{expected}] of group {id}, got "
                    f"{tree.aval(seen)}"
                )
        x, y = standard(a[id]), standard(b[id])
        orders[id] = assignment(jnp.einsum("s...i,s...j->...ij", x, y))
    return orders


def standard(seen: Array) -> Array:
    """Mean 0 and length 1 over samples; 0 where nothing varies."""
    seen = jnp.asarray(seen).astype(tree.wide(seen))
    seen = seen - seen.mean(0, keepdims=True)
    length = jnp.sqrt((seen**2).sum(0, keepdims=True))
    return jnp.where(length > 0, seen / jnp.where(length > 0, length, 1), 0)
