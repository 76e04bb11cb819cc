"""An adapter's parts after its base was pruned."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from wslax import tree
from wslax.errors import WeightSpaceError
from wslax.symmetry import layout
from wslax.symmetry.actions import checked_index
from wslax.symmetry.types import Groups
from wslax.typing import Array

# Which axis of a part runs along which axis of its leaf `[in, out]`.
ALONG: Mapping[str, Mapping[int, int]] = {
    "down": {0: 0}, "up": {1: 1}, "change": {0: 0, 1: 1},
}  # fmt: skip


def _sliced(name: str, parts: Mapping[str, Any], axis: int, source: Array) -> dict[str, Any]:
    """The parts of a leaf of which entries `source` are kept along an axis."""
    found = {}
    for part, x in parts.items():
        if part not in ALONG:
            raise WeightSpaceError(
                f"{name}: no units run through its {part!r}; fuse the adapter before "
                f"its base is pruned, or use one whose parts are among {', '.join(ALONG)}"
            )
        at = ALONG[part].get(axis)
        found[part] = x if at is None else jnp.take(x, source, at)
    return found


def take(parts: Any, groups: Groups, indices: Mapping[int, Array]) -> Any:
    r"""Keep the given units of groups in an adapter's parts, as `symmetry.take` does in its base.

    Of a thin product \(D U\) the rows of \(D\) and the columns of \(U\) are kept, so that fusing
    what was taken is taking from what was fused. Any adapter of such parts follows: `lora`,
    `splora`, `sppara`.

    Args:
      parts: `train` or `fixed`; an optimizer state of it goes through
        `tree.map_like(lambda t: take(t, groups, indices), state, train)`.
      groups: the groups of the base.
      indices: group id to integers `[count]`, as for `symmetry.take`.

    Returns:
      The parts with axes of other lengths.

    Raises:
      WeightSpaceError: if a group is missing or frozen, a unit that is not traced does not exist,
        indices differ between outer units, or a part does not run along its leaf.

    References:
      Hedegaard et al. 2022, "Structured Pruning Adapters", arXiv:2211.10155, section 4.

    Example:
        >>> import jax, numpy as np, wslax as ws
        >>> params = {"a": np.ones((2, 3), np.float32), "b": np.ones((3, 2), np.float32)}
        >>> groups = ws.symmetry.Groups.from_sites(
        ...     params, [[("a", 1, "produced"), ("b", 0, "consumed")]])
        >>> train, _ = ws.adapt.splora(1).init(jax.random.key(0), params)
        >>> jax.tree.map(jax.numpy.shape, take(train, groups, {0: np.array([2, 0])}))
        {'a': {'down': (2, 1), 'up': (1, 2)}, 'b': {'down': (2, 1), 'up': (1, 2)}}
    """
    parts = dict(parts)
    for id, index in indices.items():
        index = checked_index(groups, id, index, permutation=False)
        if index.ndim > 1:
            raise WeightSpaceError(
                f"group {id}: expected one index [count] for all outer units, got "
                f"{tree.aval(index)}; a part of an adapter is the same for all of them"
            )
        for now, sites in layout.steps(groups, id, index.shape[0]):
            site = sites[0]
            if site.name in parts:
                length = now.shape[site.name][site.axis]
                source = layout.along(site, length, index, jnp)
                parts[site.name] = _sliced(site.name, parts[site.name], site.axis, source)
        groups = layout.resize(groups, {id: index.shape[0]})
    return parts
