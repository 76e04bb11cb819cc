"""Which units of a group have the highest scores."""

import jax
import jax.numpy as jnp
import numpy as np

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.symmetry.types import Group, Groups
from wslax.typing import Array


def checked(groups: Groups, group: Group, scores: Array) -> Array:
    """Scores of one group, on the host unless they are traced.

    Raises:
      WeightSpaceError: if they are not one a unit, or not all numbers.

    Example:
        >>> groups = Groups.from_sites({"w": np.zeros((1, 2))}, [[("w", 1, "produced")]])
        >>> checked(groups, groups.all[0], jnp.ones(2))
        array([1., 1.], dtype=float32)
    """
    traced = isinstance(scores, jax.core.Tracer)
    scores = scores if traced else np.asarray(scores)
    outer = tuple(groups.all[i].size for i in group.per)
    if scores.shape not in ((group.size,), (*outer, group.size)):
        each = f" or {[*outer, group.size]}" if outer else ""
        raise WeightSpaceError(
            f"group {group.id} ({group.sites[0]}): expected scores of shape [{group.size}]{each}, "
            f"got {tree.aval(scores)}"
        )
    if not traced and np.isnan(scores).any():
        raise WeightSpaceError(f"group {group.id} ({group.sites[0]}): scores are not all numbers")
    return scores


def best(scores: Array, size: int) -> Array:
    """The units of the highest scores in their old order; of equal ones the first.

    Example:
        >>> best(np.array([3.0, 1.0, 4.0, 4.0]), 2).tolist()
        [2, 3]
    """
    xp = jnp if isinstance(scores, jax.core.Tracer) else np
    return xp.sort(xp.argsort(-scores, -1, stable=True)[..., :size], -1)
